"""PyTorch modules of every kind: several inputs, outputs that are no tensors, other ranks, zoos, and their weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from networks import tiny_resnet
from safetensors.torch import save_file
from torch import nn

import fmx
from fmx.errors import ModelError
from fmx_adapters._torch import tensors_in

# -- inputs ----------------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    """Tokens, and a keyword that scales."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor, *, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden, _ = self.lstm(self.table(tokens))
        return {"scores": self.fc(hidden[:, -1]) * scale, "hidden": hidden}


def test_several_inputs_one_of_them_by_keyword() -> None:
    net = TwoInputs()
    model = fmx.load(net, input_shape={"tokens": ("int64", 5), "scale": (1,)})
    assert [(i.name, i.dtype, i.shape) for i in model.inputs] == [("tokens", "int64", (5,)), ("scale", "float32", (1,))]
    tokens, scale = np.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]), np.array([[2.0], [3.0]], np.float32)
    with model.session(["table", "lstm", "fc", "mul"], outputs=True) as session:
        got = session.run({"tokens": tokens, "scale": scale})
        with pytest.raises(ModelError, match="tokens, scale"):
            session.run({"tokens": tokens})
        with pytest.raises(ModelError, match="as scale takes samples of shape 1"):
            session.run({"tokens": tokens, "scale": np.ones((2, 2), np.float32)})
    with torch.no_grad():
        hidden, _ = net.lstm(net.table(torch.from_numpy(tokens)))
        scores = net.fc(hidden[:, -1])
    np.testing.assert_allclose(got["lstm"], hidden.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["fc"], scores.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["mul"], scores.numpy() * scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.outputs["output.hidden"], hidden.numpy(), rtol=1e-5, atol=1e-6)
    assert [layer.dims for layer in model.layers] == [("token", "channel")] * 2 + [("channel",)] * 2


@pytest.mark.parametrize(
    ("net", "shape", "dims", "native"),
    [
        (nn.Conv1d(4, 6, 3), (4, 256), ("channel", "x"), (6, 254)),
        (nn.Conv2d(1, 6, 3), (1, 224, 224), ("channel", "y", "x"), (6, 222, 222)),
        (nn.Conv3d(2, 3, 3), (2, 16, 112, 112), ("channel", "z", "y", "x"), (3, 14, 110, 110)),
        (nn.Linear(7, 3), (7,), ("channel",), (3,)),
        (nn.GRU(4, 5, batch_first=True), (16, 4), ("token", "channel"), (16, 5)),
        (nn.Embedding(9, 5), (16,), ("token", "channel"), (16, 5)),
    ],
)
def test_input_is_told_from_the_first_weight(
    net: nn.Module, shape: tuple[int, ...], dims: tuple[str, ...], native: tuple[int, ...]
) -> None:
    model = fmx.load(nn.Sequential(net))
    assert model.inputs[0].shape == shape
    assert model.inputs[0].assumed
    assert (model.layers[0].dims, model.layers[0].shape) == (dims, native)


def test_size_that_the_model_takes_is_found() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 4))
    assert fmx.load(net).inputs[0].shape == (3, 28, 28)


def test_model_that_runs_on_nothing_says_how_to_help() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(7, 4))
    with pytest.raises(ModelError, match=r"3×224×224 \(and 9 other sizes\).*--input-shape"):
        _ = fmx.load(net).layers


# -- outputs ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Record:
    maps: torch.Tensor
    extra: Any


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Branches(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        z = y + 1
        return {
            "tuple": (y, [z, None]),
            "dict": {"maps": y, "aux": z},
            "dataclass": Record(y, {"z": z}),
            "named tuple": Pair(y, z),
        }[self.form]


@pytest.mark.parametrize(
    ("form", "name"),
    [("tuple", "0[1.0]"), ("dict", "0[aux]"), ("dataclass", "0[extra.z]"), ("named tuple", "0[right]")],
)
def test_modules_that_put_out_several_tensors(form: str, name: str) -> None:
    class Take(nn.Module):
        def forward(self, value: Any) -> torch.Tensor:
            return next(tensor for _, tensor in tensors_in(value))

    net = nn.Sequential(Branches(form), Take())
    model = fmx.load(net, input_shape=(3, 4, 4))
    batch = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    with model.session(["0", name]) as session:
        got = session.run(batch)
    np.testing.assert_allclose(got[name], got["0"] + 1, rtol=1e-6)
    assert [layer.name for layer in model.layers][:3] == ["0.conv", "0.add", "0"]


def test_tensors_are_found_where_they_lie() -> None:
    a, b = torch.zeros(1), torch.ones(1)
    found = dict(tensors_in({"x": [a, (None, {"y": b})], "n": 3}))
    assert list(found) == ["x.0", "x.1.1.y"]
    assert found["x.1.1.y"] is b
    assert [place for place, _ in tensors_in(a)] == [""]


# -- zoos ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "layer", "shape"),
    [
        ("torchvision:vgg11.features", "features.0", None),
        ("torchvision:r3d_18", "layer4", (3, 16, 112, 112)),
        ("torchvision:lraspp_mobilenet_v3_large", "backbone[low]", None),
        ("torchvision:fasterrcnn_mobilenet_v3_large_fpn.backbone", "fpn", None),
        ("timm:resnet10t", "layer1.0.conv1", (3, 176, 176)),
    ],
)
def test_models_of_the_zoos(source: str, layer: str, shape: tuple[int, ...] | None) -> None:
    model = fmx.load(source)
    names = [info.name for info in model.layers]
    assert layer.removeprefix("features.") in names or any(name.startswith(layer.partition("[")[0]) for name in names)
    assert "random weights" in model.notes
    if shape:
        assert model.inputs[0].shape == shape


def test_timm_says_how_its_pictures_are_prepared() -> None:
    import timm

    model = fmx.load("timm:resnet18")
    config = timm.data.resolve_model_data_config(timm.create_model("resnet18"))
    assert model.preprocessing is not None
    assert tuple(model.preprocessing["mean"]) == config["mean"]
    assert model.preprocessing["crop"] == [224, 224]
    assert model.preprocessing["resize"] == int(224 / config["crop_pct"])


@pytest.mark.parametrize("source", ["torchvision:resnet19", "timm:resnet19"])
def test_unknown_names_are_met_with_near_ones(source: str) -> None:
    with pytest.raises(ModelError, match=r"resnet18|resnet1"):
        fmx.load(source)


# -- weights ---------------------------------------------------------------------------------------


def saved(folder: Path, form: str) -> Path:
    state = tiny_resnet().state_dict()
    if form == "safetensors":
        save_file(state, folder / "weights.any")
    else:
        wrapped: dict[str, Any] = {
            "plain": state,
            "state_dict": {"state_dict": state, "epoch": 3},
            "model": {"model": state},
            "prefix": {f"module.{k}": v for k, v in state.items()},
            "all": {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}},
        }
        torch.save(wrapped[form], folder / "weights.any", _use_new_zipfile_serialization=form != "model")
    return folder / "weights.any"


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "prefix", "all", "safetensors"])
def test_state_dicts_in_every_wrapping(form: str, tmp_path: Path) -> None:
    net = tiny_resnet()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    fmx.load(net, weights=saved(tmp_path, form), input_shape=(3, 32, 32))
    expected = tiny_resnet().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())


class Versioned(nn.Module):
    """Loads by the version that saved, as torchvision's MNASNet does, which takes no weights without one."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *more: Any) -> None:
        if metadata.get("version") not in {1, 2}:
            raise ValueError("no version")
        self.loaded = metadata["version"]
        super()._load_from_state_dict(state, prefix, metadata, *more)


@pytest.mark.parametrize(("form", "version"), [("plain", 1), ("wrapped", 1), ("prefix", 1), ("none", 2), ("odd", 2)])
def test_modules_are_told_the_version_that_saved(form: str, version: int, tmp_path: Path) -> None:
    """It is kept beside the tensors; what keeps none, such as safetensors, is taken for the module's own."""
    net = Versioned()
    net._version = 1
    state = nn.ModuleDict({"module": net}).state_dict() if form == "prefix" else net.state_dict()
    if form == "odd":
        state._metadata = {"": "1", 3: None, "fc": {"version": "two"}}
    torch.save({"plain": state, "prefix": state, "odd": state}.get(form, {"state_dict": state}), tmp_path / "w.pth")
    if form == "none":
        save_file(dict(state), tmp_path / "w.pth")
    found = Versioned()
    fmx.load(found, weights=tmp_path / "w.pth", input_shape=(3,))
    assert found.loaded == version
    assert torch.equal(found.fc.weight, net.fc.weight)


def test_weights_are_loaded_whole_or_on_request_in_part(tmp_path: Path) -> None:
    state = tiny_resnet().state_dict()
    changed = {("head" if k == "fc.weight" else k): v for k, v in state.items()}
    changed["stem.0.weight"] = torch.zeros(1)
    torch.save(changed, tmp_path / "part.pth")
    net = tiny_resnet()
    nn.init.ones_(net.fc.bias)
    with pytest.raises(ModelError) as told:
        fmx.load(net, weights=tmp_path / "part.pth")
    words = str(told.value)
    assert all(
        w in words for w in ("1 missing (fc.weight)", "1 unexpected (head)", "1 of another shape (stem.0.weight)")
    )
    assert "--allow-partial" in words
    assert torch.equal(net.fc.bias, torch.ones(5))
    model = fmx.load(net, weights=tmp_path / "part.pth", allow_partial=True, input_shape=(3, 32, 32))
    assert torch.equal(net.fc.bias, state["fc.bias"])
    assert "1 missing (fc.weight)" in model.notes


def test_weights_of_something_else_are_refused_even_in_part(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="does not fit"):
        fmx.load(tiny_resnet(), weights=tmp_path / "other.pth", allow_partial=True)


def test_safetensors_as_a_model_is_met_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="weights without the network"):
        fmx.load(saved(tmp_path, "safetensors"))
