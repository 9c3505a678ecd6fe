"""Fixtures that several test modules share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REAL = Path(__file__).parents[2] / "shared" / "real"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow_wanted = "slow" in (config.option.markexpr or "")
    for item in items:
        if item.get_closest_marker("real") and not REAL.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the real models and pictures beside the checkout"))
        if item.get_closest_marker("slow") and not slow_wanted:
            item.add_marker(pytest.mark.skip(reason="run by hand with -m slow"))


@pytest.fixture(scope="session")
def real() -> Path:
    """Folder of real models and pictures."""
    return REAL


FORMATS = (
    "module",
    "traced",
    "scripted",
    "traced file",
    "scripted file",
    "legacy onnx",
    "dynamo onnx",
    "dynamo onnx 1",
)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, tuple[int, ...], str], Any]:
    """Give a network in any of FORMATS, as something that fmx.load opens; exports once a network and format."""
    folder = tmp_path_factory.mktemp("exported")
    made: dict[tuple[int, str], Any] = {}

    def make(net: Any, shape: tuple[int, ...], form: str) -> Any:
        if (id(net), form) not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[id(net), form] = _export(net, shape, form, folder / f"{id(net)}-{form.replace(' ', '-')}")
        return made[id(net), form]

    return make


def _export(net: Any, shape: tuple[int, ...], form: str, file: Path) -> Any:
    import torch

    if form == "module":
        return net
    batch = torch.rand(1 if form.endswith(" one") else 2, *shape)
    training = net.training
    net.eval()
    try:
        if form.startswith("traced"):
            script = torch.jit.trace(net, batch)
        elif form.startswith("scripted"):
            script = torch.jit.script(net)
        elif form == "legacy onnx":
            torch.onnx.export(net, (batch,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
            return file
        else:
            free = None if form.endswith(" one") else ({0: torch.export.Dim("n")},)
            torch.onnx.export(net, (batch,), file, dynamo=True, dynamic_shapes=free, external_data=False, verbose=False)
            return file
        if form.endswith("file"):
            torch.jit.save(script, file)
            return file
        return script
    finally:
        net.train(training)
