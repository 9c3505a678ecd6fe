"""Recording in a training loop: the right values with the right labels, and a loop that is none the wiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_resnet
from torch import nn

import fmx
from fmx.errors import DataError, FmxError, LayerError, ModelError, StoreError


def batches(count: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand(6, 3, 32, 32, generator=generator), torch.randint(0, 5, (6,), generator=generator))
        for _ in range(count)
    ]


def train(net: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], epochs: Any = range(2)) -> list[float]:
    """Train, and give the losses."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    net.train()
    torch.manual_seed(0)
    for _ in epochs:
        for x, y in data:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.item())
    return losses


def expected(net: nn.Module, data: list[tuple[torch.Tensor, torch.Tensor]], every: int) -> list[np.ndarray[Any, Any]]:
    """A slow reference: a plain hook on one layer, kept for every so many-th step."""
    kept: list[np.ndarray[Any, Any]] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        kept.append(output.detach().clone().numpy())

    hook = net.get_submodule("stem").register_forward_hook(keep)
    train(net, data)
    hook.remove()
    return kept[::every]


@pytest.mark.parametrize("flush", [64 * 2**20, 60_000], ids=["one write", "many writes"])
def test_values_and_labels(flush: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.extraction.recorder._FLUSH_BYTES", flush)
    data = batches()
    wanted = expected(tiny_resnet(), data, 3)
    net = tiny_resnet()
    with fmx.Recorder(net, "stem,layer1.0.add,fc", to=tmp_path / "a.zarr", every=3, meta={"run": "7"}) as recorder:

        def counted() -> Any:
            for recorder.epoch in range(2):
                yield recorder.epoch

        train(net, data, counted())
    store = recorder.store
    assert store.attributes["completeness"] == "complete"
    assert store.attributes["meta"] == {"run": "7"}
    assert [info.name for info in store.layers] == ["stem", "layer1.0.add", "fc"]
    stem = store.activation("stem")
    np.testing.assert_array_equal(stem.values[:, 0, 0], np.concatenate(wanted))
    steps = [step for step in range(1, 21, 3) for _ in range(6)]
    assert stem["step"].values.tolist() == steps
    assert stem["epoch"].values.tolist() == [0 if step <= 10 else 1 for step in steps]
    last = stem.isel(sample=stem["step"].values == 19)
    assert last.sizes["sample"] == 6


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    data = batches()
    plain, watched = tiny_resnet(), tiny_resnet()
    losses = train(plain, data)
    before = torch.random.get_rng_state()
    with fmx.Recorder(watched, to=tmp_path / "a.zarr", every=4):
        assert train(watched, data) == losses
    assert torch.equal(before, torch.random.get_rng_state())
    for one, two in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())
    assert watched.training


def test_skipped_passes_have_no_hooks_below_the_root(tmp_path: Path) -> None:
    net = tiny_resnet().train()
    seen: list[int] = []
    net.stem.register_forward_hook(
        lambda *_: seen.append(sum(len(m._forward_hooks) for m in net.modules() if m is not net))
    )
    with fmx.Recorder(net, "stem", to=tmp_path / "a.zarr", every=3):
        for x, _ in batches(4):
            net(x)
    # The first is the pass that finds out the layers.
    assert [count > 1 for count in seen] == [True, True, False, False, True]


def test_evaluation_is_left_out_unless_wanted(tmp_path: Path) -> None:
    net, data = tiny_resnet(), batches(3)
    with fmx.Recorder(net, "fc", to=tmp_path / "a.zarr") as recorder:
        net.eval()(data[0][0])
        net.train()(data[1][0])
    assert recorder.step == 1
    with fmx.Recorder(net, "fc", to=tmp_path / "b.zarr", training_only=False, samples=2) as recorder:
        net.eval()(data[0][0])
        net.train()(data[1][0])
    assert recorder.store.samples == ["step 1 #0", "step 1 #1", "step 2 #0", "step 2 #1"]


def test_what_was_recorded_survives_an_error(tmp_path: Path) -> None:
    net = tiny_resnet().train()
    with pytest.raises(RuntimeError, match="loop"), fmx.Recorder(net, "fc", to=tmp_path / "a.zarr") as recorder:
        net(batches(1)[0][0])
        raise RuntimeError("loop")
    assert len(recorder.store.samples) == 6
    with pytest.raises(ModelError, match="does not run"), fmx.Recorder(net, "fc", to=tmp_path / "b.zarr"):
        net(torch.rand(2, 7, 32, 32))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_several_inputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.left(a) + self.right(b)

    net = Two().train()
    with fmx.Recorder(net, "left,right", to=tmp_path / "a.zarr") as recorder:
        a, b = torch.rand(6, 3), torch.rand(6, 5)
        net(a, b=b)
    got = recorder.store.activation("right").values[:, 0, 0]
    np.testing.assert_array_equal(got, net.right(b).detach().numpy())


def test_mistakes(tmp_path: Path) -> None:
    net = tiny_resnet().train()
    x = batches(1)[0][0]
    with pytest.raises(DataError, match="every so many-th"):
        fmx.Recorder(net, to=tmp_path / "a.zarr", every=0)
    with pytest.raises(LayerError, match="stem"), fmx.Recorder(net, "stemm", to=tmp_path / "a.zarr"):
        net(x)
    with pytest.raises(DataError, match="another size"), fmx.Recorder(net, "stem", to=tmp_path / "b.zarr"):
        net(x)
        net(x[:, :, :16, :16])
    with pytest.raises(StoreError, match="is there already"):
        fmx.Recorder(net, "stem", to=tmp_path / "b.zarr")
    with pytest.raises(ModelError, match="Only torch modules"):
        fmx.Recorder(torch.export.export(net.eval(), (x,)), to=tmp_path / "c.zarr")
    with pytest.raises(FmxError):
        _ = fmx.Recorder(net, to=tmp_path / "d.zarr").store
