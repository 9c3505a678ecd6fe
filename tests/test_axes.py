"""Names of axes: what the algebra says against coordinates that really move, and all formats against each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
import xarray as xr
from onnx import TensorProto, helper
from torch import nn
from torchvision.models.convnext import CNBlockConfig

import fmx
from fmx.layers import native_dims
from fmx_adapters import _axes
from fmx_adapters._torch import layer_info
from fmx_adapters._torch_axes import AxisTracker

FORMS = ("module", "traced file", "scripted file", "exported", "legacy onnx", "dynamo onnx")
ROLES = ("sample", "channel", "y", "x")
SHAPE = (2, 12, 4, 6)


# -- the algebra -----------------------------------------------------------------------------------


def moving(coordinates: np.ndarray[Any, Any], axis: int) -> set[str]:
    """Say which of the original axes one goes along on an axis, by looking at what its elements once were."""
    steps = np.diff(coordinates, axis=1 + axis)
    return {role for role, step in zip(ROLES, steps, strict=True) if step.any()}


def roles_along(axis: tuple[tuple[str, int], ...]) -> set[str]:
    return {role for role, n in axis if n > 1}


def some_shape(rng: np.random.Generator, left: int) -> list[int]:
    shape = []
    while left > 1:
        shape.append(int(rng.choice([n for n in range(1, left + 1) if left % n == 0])))
        left //= shape[-1]
    return shape or [1]


@pytest.mark.parametrize("seed", range(200))
def test_moved_and_reshaped_axes_are_what_their_elements_were(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes: _axes.Axes | None = tuple(((role, n),) for role, n in zip(ROLES, SHAPE, strict=True))
    coordinates = np.indices(SHAPE)
    for _ in range(rng.integers(1, 5)):
        order = rng.permutation(len(axes))
        axes = tuple(axes[i] for i in order)
        coordinates = coordinates.transpose(0, *(1 + order))
        shape = some_shape(rng, math.prod(SHAPE))
        moved = _axes.reshaped(axes, shape)
        if moved is None:  # the lengths cut across each other
            continue
        axes, coordinates = moved, coordinates.reshape(4, *shape)
        assert [_axes.length(axis) for axis in axes] == shape
        for i, axis in enumerate(axes):
            assert {role.replace("head", "channel") for role in roles_along(axis)} == moving(coordinates, i)


def test_windows_come_and_go() -> None:
    maps = ((("sample", 2),), (("y", 56),), (("x", 56),), (("channel", 96),))
    split = _axes.reshaped(maps, (2, 8, 7, 8, 7, 96))
    windows = _axes.reshaped(tuple(split[i] for i in (0, 1, 3, 2, 4, 5)), (2, 64, 49, 96))
    assert native_dims((64, 49, 96), "", _axes.roles_of(windows)) == ("window", "token", "channel")
    back = _axes.reshaped(windows, (2, 8, 8, 7, 7, 96))
    whole = _axes.reshaped(tuple(back[i] for i in (0, 1, 3, 2, 4, 5)), (2, 56, 56, 96))
    assert native_dims((56, 56, 96), "", _axes.roles_of(whole)) == ("y", "x", "channel")


def test_lengths_that_do_not_come_out_tell_nothing() -> None:
    assert _axes.reshaped(((("y", 6),), (("channel", 5),)), (5, 6)) is None
    assert _axes.reshaped(((("y", 6),),), (5,)) is None
    assert _axes.broadcast([((("y", 6),),)], (5,)) is None


# -- torch operators -------------------------------------------------------------------------------


def dims_of(function: Callable[..., torch.Tensor], *shape: int, layout: str = "") -> tuple[str, ...]:
    batch = torch.rand(2, *shape)
    info = fmx.adapter.InputInfo("x", shape, layout=layout)
    with torch.no_grad(), AxisTracker([info], {"x": batch}) as axes:
        value = function(batch)
    return layer_info("f", "f", value, axes.roles(value)).dims


MAPS = (6, 8, 10)


@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (lambda x: x + 1, ("channel", "y", "x")),
        (lambda x: x.permute(0, 2, 3, 1), ("y", "x", "channel")),
        (lambda x: x.movedim(1, -1).contiguous(), ("y", "x", "channel")),
        (lambda x: x.transpose(1, 2), ("y", "channel", "x")),
        (lambda x: x.flatten(2), ("channel", "token")),
        (lambda x: x.flatten(2).mT, ("token", "channel")),
        (lambda x: x.flatten(1), ("channel",)),
        (lambda x: x.mean(1), ("y", "x")),
        (lambda x: x.amax((2, 3)), ("channel",)),
        (lambda x: x.mean((2, 3), keepdim=True), ("channel", "y", "x")),
        (lambda x: x[:, :, 3], ("channel", "x")),
        (lambda x: x[:, 1:3, ::2].roll(1, 2), ("channel", "y", "x")),
        (lambda x: torch.cat([x, x[:, :, :2]], 2).mT, ("channel", "x", "y")),
        (lambda x: torch.stack([x, x], -1), ("channel", "y", "x", "dim_3")),
        (lambda x: x.unflatten(1, (2, 3)), ("head", "channel", "y", "x")),
        (lambda x: x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2), ("channel", "y", "x")),
        (lambda x: nn.functional.pad(x, (1, 1)).mT, ("channel", "x", "y")),
        (lambda x: nn.functional.pixel_shuffle(x[:, :4], 2), ("channel", "y", "x")),
        (lambda x: x.movedim(1, -1) @ torch.rand(6, 5), ("y", "x", "channel")),
        (lambda x: nn.functional.linear(x.movedim(1, -1), torch.rand(5, 6)), ("y", "x", "channel")),
        # What mixes positions leaves the channels where they are.
        (lambda x: nn.functional.linear(x, torch.rand(5, 10)), ("channel", "y", "x")),
        (lambda x: torch.einsum("ncyx,oc->nyxo", x, torch.rand(5, 6)), ("y", "x", "channel")),
        (lambda x: (q := x.flatten(2).mT) @ q.mT, ("token", "key")),
        (lambda x: torch.softmax((q := x.flatten(2).mT) @ q.mT, -1) @ q, ("token", "channel")),
        (lambda x: nn.functional.embedding((x[:, 0, 0] * 3).long(), torch.rand(3, 7)), ("x", "channel")),
        (lambda x: x.movedim(1, -1).clone().relu_(), ("y", "x", "channel")),
        (lambda x: x.as_strided((2, 3), (1, 1)), ("channel",)),
    ],
)
def test_operators(function: Callable[..., torch.Tensor], dims: tuple[str, ...]) -> None:
    assert dims_of(function, *MAPS, layout="CHW") == dims


@pytest.mark.parametrize(
    ("module", "shape", "dims"),
    [
        (nn.Conv1d(4, 3, 3), (4, 9), ("channel", "x")),
        (nn.Conv3d(4, 3, 3), (4, 9, 9, 9), ("channel", "z", "y", "x")),
        (nn.BatchNorm1d(4), (4, 9), ("channel", "x")),
        (nn.Linear(9, 3), (4, 9), ("token", "channel")),
        (nn.Linear(9, 3), (5, 4, 9), ("y", "x", "channel")),
        (nn.LayerNorm(9), (6, 5, 4, 9), ("z", "y", "x", "channel")),
        (nn.LayerNorm((4, 9)), (4, 9), ("token", "channel")),
        (nn.Sequential(nn.Linear(9, 4), nn.Unflatten(1, (5, 4)), nn.ReLU()), (20, 9), ("y", "x", "channel")),
    ],
)
def test_inputs_of_unknown_axes(module: nn.Module, shape: tuple[int, ...], dims: tuple[str, ...]) -> None:
    assert dims_of(module.eval(), *shape) == dims


def test_pictures_with_their_channels_last() -> None:
    assert dims_of(lambda x: x * 2, 8, 10, 3, layout="HWC") == ("y", "x", "channel")
    assert dims_of(lambda x: x.permute(0, 3, 1, 2) * 2, 8, 10, 3, layout="HWC") == ("channel", "y", "x")


# -- whole networks in every format ----------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(torch.relu(self.conv(x)).transpose(1, 2))[0]).mean(1)


class Mixer(nn.Module):
    """Mixes tokens with a linear layer, then channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.tokens = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(8)
        self.channels = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2)
        x = self.norm(self.tokens(x).transpose(1, 2))
        return self.channels(x).mean(1)


class Moved(nn.Module):
    """The same maps, channels first and last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.act = nn.ReLU()
        self.act_last = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.act(x).mean((2, 3)) + self.act_last(x.permute(0, 2, 3, 1)).mean((1, 2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.soft = nn.Softmax(-1)
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.soft(torch.matmul(q, k.transpose(-2, -1)))
        return self.out(torch.matmul(weights, v).transpose(1, 2).flatten(2)).mean(1)


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    swin = torchvision.models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [2, 2], num_classes=5)
    convnext = torchvision.models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=5)
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 16, num_classes=5)
    video = nn.Sequential(nn.Conv3d(3, 4, 3), nn.GroupNorm(2, 4), nn.MaxPool3d(2), nn.Flatten(2), nn.ReLU())
    return {
        "swin": (swin, (3, 32, 32)),
        "convnext": (convnext, (3, 32, 32)),
        "vit": (vit, (3, 32, 32)),
        "video": (video, (3, 6, 16, 16)),
        "recurrent": (Recurrent(), (4, 20)),
        "mixer": (Mixer(), (3, 16, 16)),
        "attention": (Attention(), (9, 8)),
    }


EXPECTED = {
    "swin": {
        "features.0.0": "channel y x",
        "features.0": "y x channel",
        "features.1.0.norm1": "y x channel",
        "features.1.0.mlp.0": "y x channel",
        "features.2.reduction": "y x channel",
        "features.3": "y x channel",
        "avgpool": "channel y x",
        "head": "channel",
    },
    "convnext": {
        "features.0.1": "channel y x",
        "features.1.0.block.0": "channel y x",
        "features.1.0.block.2": "y x channel",
        "features.1.0.block.3": "y x channel",
        "features.1": "channel y x",
    },
    "vit": {"conv_proj": "channel y x", "cat": "token channel", "encoder": "token channel", "heads.head": "channel"},
    "video": {"1": "channel z y x", "3": "channel token", "4": "channel token"},
    "recurrent": {"conv": "channel x", "relu": "channel x", "lstm": "x channel", "fc": "x channel"},
    "mixer": {
        "patches": "channel y x",
        "tokens": "channel token",
        "norm": "token channel",
        "channels": "token channel",
    },
    "attention": {
        "norm": "token channel",
        "matmul": "head token key",
        "soft": "head token key",
        "matmul_1": "head token channel",
        "out": "token channel",
    },
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("form", FORMS)
def test_networks(name: str, form: str, networks: Any, export: Callable[..., Any]) -> None:
    if (name, form) == ("vit", "traced file"):
        pytest.skip("torch.jit.trace takes other paths with and without gradients, and fails on its own check")
    net, shape = networks[name]
    model = fmx.load(export(net, shape, form), input_shape=shape)
    found = {layer.name: " ".join(layer.dims) for layer in model.layers}
    expected = EXPECTED[name]
    absent = {"soft", "3", "head", "heads.head", "4"}  # outputs, and what is drawn into its neighbour
    assert {layer: found[layer] for layer in expected if layer in found or layer not in absent} == {
        layer: dims for layer, dims in expected.items() if layer in found or layer not in absent
    }
    own = {layer.name: " ".join(layer.dims) for layer in fmx.load(net, input_shape=shape).layers}
    assert {layer: dims for layer, dims in found.items() if own.get(layer, dims) != dims} == {}


@pytest.mark.parametrize("form", FORMS)
def test_labels_say_where_the_values_are(form: str, export: Callable[..., Any]) -> None:
    net, shape = MOVED, (3, 9, 12)
    model = fmx.load(export(net, shape, form), input_shape=shape)
    batch = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    dims = {layer.name: layer.dims for layer in model.layers}
    with model.session(["act", "act_last"]) as session:
        one, two = (xr.DataArray(values, dims=("sample", *dims[name])) for name, values in session.run(batch).items())
    assert one.dims != two.dims
    xr.testing.assert_allclose(one, two.transpose(*one.dims), rtol=1e-5)


MOVED = Moved()


# -- ONNX that no PyTorch made ---------------------------------------------------------------------


def test_convolutions_between_transposes(tmp_path: Path) -> None:
    """As converters of channels-last frameworks write them."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 1, 1), np.ones(12, np.float32))
    nodes = [
        helper.make_node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["conv"]),
        helper.make_node("Transpose", ["conv"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["last"], ["relu"]),
        helper.make_node("ReduceMean", ["relu", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last_axis"], ["end"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, (1,), [3])
    last_axis = helper.make_tensor("last_axis", TensorProto.INT64, (1,), [3])
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes, "g", [value("x", shape=["n", 8, 6, 3])], [value("end", shape=None)], [weight, axes, last_axis]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    found = {layer.name: layer.dims for layer in fmx.load(tmp_path / "m.onnx").layers}
    assert found == {
        "first": ("channel", "y", "x"),
        "conv": ("channel", "y", "x"),
        "last": ("y", "x", "channel"),
        "relu": ("y", "x", "channel"),
        "mean": ("y", "x"),
        "end": ("y", "x", "channel"),
    }


# -- what exporters merge --------------------------------------------------------------------------


class Windows(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // self.size, self.size, w // self.size, self.size)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, self.size**2, c)


class Whole(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, g, p, c = x.shape
        g, p = int(g**0.5), int(p**0.5)
        x = x.reshape(n, g, g, p, p, c).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(n, c, g * p, g * p)


class Windowed(nn.Module):
    """Puts windows together and takes the maps apart again, as MaxViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.parts = nn.ModuleList([Windows(2), Windows(4)])
        self.wholes = nn.ModuleList([Whole(), Whole()])
        self.fc = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for part, fc, whole in zip(self.parts, self.fc, self.wholes, strict=True):
            x = whole(fc(part(x)))
        return x * 2


WINDOWED = Windowed()


@pytest.mark.parametrize("form", FORMS)
def test_a_name_never_stands_for_a_value_of_another_shape(form: str, export: Callable[..., Any]) -> None:
    if form == "scripted file":
        pytest.skip("int() of a power is not what TorchScript knows")
    own = {layer.name: layer for layer in fmx.load(WINDOWED, input_shape=(3, 16, 16)).layers}
    assert own["wholes.0"].shape == (4, 16, 16)
    assert own["parts.1"].dims == ("window", "token", "channel")
    found = fmx.load(export(WINDOWED, (3, 16, 16), form), input_shape=(3, 16, 16)).layers
    assert all(layer.shape == own[layer.name].shape and layer.dims == own[layer.name].dims for layer in found)
    missing = set(own) - {layer.name for layer in found}
    # The newer exporter merges the reshapes on either side, so that the first one's value is nowhere.
    assert missing == ({"wholes.0"} if form == "dynamo onnx" else set())
