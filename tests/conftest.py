"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Workers share the processors: with threads for all of them in each, these would mostly wait.
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(share, 1)))

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
    "dynamo onnx one",
    "exported",
    "exported one",
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
        elif form.startswith("exported"):
            free = None if form.endswith(" one") else ({0: torch.export.Dim("n")},)
            torch.export.save(torch.export.export(net, (batch,), dynamic_shapes=free), file.with_suffix(".pt2"))
            return file.with_suffix(".pt2")
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


@dataclass(frozen=True)
class Ran:
    """What a command came to: its exit code and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ``fmx`` with the given words in this process, where a warning of any library is an error."""
    from fmx.cli import main

    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fmx", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Ran(int(end.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory, export: Callable[[Any, tuple[int, ...], str], Any]) -> Path:
    """A folder with the tiny ResNet in every format, class folders of pictures, and an array; only to be read."""
    import numpy as np
    import torch
    from networks import tiny_resnet
    from PIL import Image

    folder = tmp_path_factory.mktemp("kit")
    net = tiny_resnet()
    names = {"traced file": "traced.pt", "legacy onnx": "legacy.onnx", "dynamo onnx": "dynamo.onnx"}
    for form, name in names.items():
        shutil.copy(export(net, (3, 32, 32), form), folder / name)
    torch.save(net.state_dict(), folder / "weights.pth")
    rng = np.random.default_rng(3)
    np.save(folder / "inputs.npy", rng.random((5, 3, 32, 32), dtype=np.float32))
    for label in ("cat", "dog"):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{i}.png")
    return folder


@pytest.fixture
def place(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the parts of the kit, as the current one."""
    for part in kit.iterdir():
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    return tmp_path
