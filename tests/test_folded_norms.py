"""Batch norms folded into convolutions, for layers that are known beforehand: not to be seen in any value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import tiny_resnet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fmx
from fmx.errors import LayerError, ModelError

SHAPE = (3, 16, 16)
# torch's exporters to ONNX fold batch norms themselves.
WITH_NORMS = ["module", "traced", "scripted", "exported"]
FORMATS = [*WITH_NORMS, "legacy onnx", "dynamo onnx"]


class Awkward(nn.Module):
    """Batch norms behind convolutions that somebody else reads, too, and one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1))
        self.after_block = nn.BatchNorm2d(4)
        self.added = nn.Conv2d(4, 4, 1)
        self.after_added = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.after_twice = nn.BatchNorm2d(4)
        self.shared = nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.after_plain = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)
        self.after_last = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.after_block(self.block(x))
        y = self.added(x)
        x = self.after_added(y) + y
        x = self.after_twice(self.twice(x)) + self.twice(-x)
        x = self.shared(x) + self.shared(self.plain(-x))
        x = torch.relu_(self.after_plain(self.plain(x)))
        y = self.last(x)
        return self.after_last(y), y


def unlike_new(net: nn.Module) -> nn.Module:
    """Give batch norms something to do."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, mean in ((module.running_mean, 0), (module.running_var, 2), (module.weight, 1)):
                values.data.copy_(mean + torch.rand(values.shape, generator=generator) - 0.5)
    return net.eval()


@contextmanager
def counted_norms() -> Iterator[list[str]]:
    """Count the batch norms that are computed inside."""
    names: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.extend([func.__name__] if "batch_norm" in func.__name__ else [])
            return func(*args, **(kwargs or {}))

    with Count():
        yield names


def both(plain: Any, folded: Any, names: list[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Give the values of layers, the output, and the gradients at the input of all of them, from two modules."""
    batch = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = []
    for module in (plain, folded):
        x = batch.clone().requires_grad_()
        output, values = module.forward_with(x, names)
        first = output if isinstance(output, Tensor) else output[0]
        weighed = sum(value.square().mean() for value in (*values.values(), first))
        found.append({**values, "output": first, "gradient": torch.autograd.grad(weighed, x)[0]})
    for name in found[0]:
        yield name, found[0][name].detach(), found[1][name].detach()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", [tiny_resnet, Awkward])
def test_every_layer_is_what_it_was(form: str, make: Any, export: Any) -> None:
    model = fmx.load(export(NETS[make], SHAPE, form), input_shape=SHAPE)
    every = [layer.name for layer in model.layers]
    plain = model.torch_module()
    for names in (every, *([name] for name in every)):
        folded = model.torch_module(layers=names)
        assert folded.layer_names == names
        for name, wanted, got in both(plain, folded, names):
            assert torch.isclose(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max())).all(), (names, name)


NETS = {make: unlike_new(make()) for make in (tiny_resnet, Awkward)}


@pytest.mark.parametrize("form", WITH_NORMS)
def test_norms_are_gone_where_nobody_sees_it(form: str, export: Any) -> None:
    batch = torch.rand(2, *SHAPE)

    def norms(make: Any, names: list[str] | None, wanted: str) -> int:
        model = fmx.load(export(NETS[make], SHAPE, form), input_shape=SHAPE)
        module = model.torch_module(layers=names)
        module.capture(batch, [wanted])
        with counted_norms() as computed:
            module.capture(batch, [wanted])
        return len(computed)

    assert norms(tiny_resnet, None, "layer1") == 5
    assert norms(tiny_resnet, ["layer1"], "layer1") == 0
    assert norms(tiny_resnet, ["stem.1"], "stem.1") == 0
    last = "after_last"
    # In a graph each call is for itself; modules stay where one of their calls does, or where the network shows it.
    assert norms(Awkward, [last], last) == (7 if form == "module" else 2)


@pytest.mark.parametrize("form", WITH_NORMS)
def test_the_folded_engine_leaves_what_others_read(form: str, export: Any) -> None:
    model = fmx.load(export(NETS[Awkward], SHAPE, form), input_shape=SHAPE)
    batch = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    for name in [layer.name for layer in model.layers]:
        with model.session([name]) as session:
            wanted = session.run(batch)[name]
        try:
            with model.session([name], engine="folded") as session:
                got = session.run(batch)[name]
        except ModelError as error:
            assert "no batch norm can be folded" in str(error)
            continue
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def test_norms_of_onnx_files_are_folded() -> None:
    """Of other exporters than torch's."""
    rng = np.random.default_rng(0)
    sizes = {"w": (4, 3, 3, 3), "v": (4, 4, 1, 1), **{f"{name}{i}": (4,) for name in ("g", "b", "m") for i in (1, 2)}}
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights |= {f"var{i}": rng.uniform(0.5, 2, 4).astype(np.float32) for i in (1, 2)}
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["conv1"], name="conv1"),
        onnx.helper.make_node("BatchNormalization", ["conv1", "g1", "b1", "m1", "var1"], ["norm1"], name="norm1"),
        onnx.helper.make_node("Relu", ["norm1"], ["relu"], name="relu"),
        onnx.helper.make_node("Conv", ["relu", "v", "b1"], ["conv2"], name="conv2"),
        onnx.helper.make_node("BatchNormalization", ["conv2", "g2", "b2", "m2", "var2"], ["norm2"], name="norm2"),
        onnx.helper.make_node("Add", ["norm2", "conv2"], ["sum"], name="sum"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", count, None, None])
        for name, count in (("x", 3), ("sum", 4))
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    model = fmx.load(proto, input_shape=SHAPE)
    every = [layer.name for layer in model.layers]
    plain = model.torch_module()
    for names in (every, *([name] for name in every)):
        for name, wanted, got in both(plain, model.torch_module(layers=names), names):
            assert torch.isclose(got, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max())).all(), (names, name)
    for module, count in ((plain, 1), (model.torch_module(layers=["relu"]), 0)):
        with counted_norms() as computed:
            module.capture(torch.rand(2, *SHAPE), ["relu"])
        assert len(computed) == count


def test_norms_with_hooks_stay() -> None:
    net = unlike_new(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)))
    net[1].register_forward_hook(lambda _module, _inputs, value: value * 2)
    model = fmx.load(net, input_shape=SHAPE)
    for _, wanted, got in both(model.torch_module(), model.torch_module(layers=["2"]), ["2"]):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("form", ["module", "traced", "exported", "dynamo onnx"])
def test_other_layers_are_not_there(form: str, export: Any) -> None:
    model = fmx.load(export(NETS[tiny_resnet], SHAPE, form), input_shape=SHAPE)
    module = model.torch_module(layers=["layer1"])
    with pytest.raises(LayerError, match=r"No layer is called stem"):
        module.capture(torch.rand(2, *SHAPE), ["stem"])
