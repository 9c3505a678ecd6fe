"""TorchScript: the names and values of the PyTorch adapter, whatever the graph does, and nothing that a file wants."""

from __future__ import annotations

import copy
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import pytest
import torch
import torchvision
from networks import tiny_resnet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import fmx
from fmx.adapter import Model
from fmx.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")

SHAPE = (3, 8, 8)
zoo = torchvision.models


# -- networks --------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Takes one of two branches by its data, and another by an attribute that is fixed in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = True
        self.left, self.right, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.extra = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.left(x)) + 1 if bool(x.min() >= 0) else self.right(x)
        if self.wide:
            y = self.act(self.extra(y))
        if self.training:
            y = F.dropout(y)
        return self.last(y)


class SameModule(nn.Module):
    """Calls the same module in both branches, and once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.min() >= 0):
            x = self.conv(x) - 1
        return torch.relu(self.conv(x))


class Loops(nn.Module):
    """Calls a block in a loop as often as its data says."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        for i in range(int(x.max()) + 2):
            x = self.block(x) + i
        return x.mean([2, 3])


class Codec(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.squeeze(x))

    @torch.jit.export
    def decode(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.up(x))

    @torch.jit.export
    def squeeze(self, x: Tensor) -> Tensor:
        return self.down(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class Methods(nn.Module):
    """Calls a submodule through several methods, and as itself."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = Codec()

    def forward(self, x: Tensor) -> Tensor:
        return self.codec(self.codec.decode(self.codec.encode(x)))


def scaled(x: Tensor, by: float) -> Tensor:
    return torch.relu(x) * by


class Functions(nn.Module):
    """Calls functions of its own and of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = scaled(self.conv(x), 0.5)
        y = F.max_pool2d(F.relu(y - 0.1), 2)
        return F.adaptive_avg_pool2d(y, 1)


class Shared(nn.Module):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.inner = nn.Sequential(self.first, nn.ReLU())
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.inner(self.first(x)))


# TorchScript can't read the annotations of a class here, as they are strings.
Pair = NamedTuple("Pair", [("low", Tensor), ("high", Optional[Tensor])])  # noqa: UP014, UP045


class Low(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Pair:
        y = self.conv(x)
        return Pair(y, y.neg() if self.conv.out_channels > 4 else None)


class Several(nn.Module):
    """Modules that give named tuples, mappings, lists, and LSTM's nested tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.low = Low()
        self.mapped, self.listed = Mapped(), Listed()
        self.lstm = nn.LSTM(8, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.low(x).low
        y = self.mapped(y)["b"]
        z = self.listed(y)[0]
        z.add_(1)
        out, (hidden, _) = self.lstm(z.flatten(1, 2))
        return out.mean(1) + hidden[0]


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.act(x), "b": x * 2}


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.LeakyReLU()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.act(x), x]


class Layer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.jit.interface(Layer)


class Chosen(nn.Module):
    """Picks a module from a list by its data."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Low3() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first: Layer = self.blocks[int(x.max()) + 1]
        last: Layer = self.blocks[-1 - int(x.max())]
        return last.forward(first.forward(x)) + 1


class EagerChosen(Chosen):
    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[-1 - int(x.max())](self.blocks[int(x.max()) + 1](x)) + 1


class Low3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Counting(nn.Module):
    """Counts its passes, in an attribute and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.passes = 0
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        self.total.add_(1)
        return self.conv(x) * (2 if self.passes > 0 else 1)


SMALL: dict[str, Callable[[], nn.Module]] = {
    c.__name__: c for c in (Branches, SameModule, Loops, Methods, Functions, Shared, Several, Counting)
}
TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "densenet": (lambda: zoo.DenseNet(4, (2, 2), 8, num_classes=5), 64, "scripted traced"),
    "googlenet": (lambda: zoo.googlenet(aux_logits=False, init_weights=False), 64, "scripted traced"),
    "googlenet_aux": (lambda: zoo.googlenet(aux_logits=True, init_weights=False), 64, "scripted"),
    "inception_v3": (lambda: zoo.inception_v3(init_weights=False), 96, "scripted"),
    "shufflenet_v2": (zoo.shufflenet_v2_x0_5, 64, "scripted traced"),
    "mobilenet_v3_small": (zoo.mobilenet_v3_small, 64, "scripted traced"),
    "vision_transformer": (lambda: zoo.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5), 32, "scripted traced"),
    "lraspp": (
        lambda: zoo.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None),
        64,
        "scripted",
    ),
}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def data(shape: tuple[int, ...] = SHAPE, count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((count, *shape), dtype=np.float32)


def scripted(net: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(net)


def traced(net: nn.Module, shape: tuple[int, ...] = SHAPE, device: str = "cpu") -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, torch.from_numpy(data(shape)).to(device), check_trace=False)


def assert_same(model: Model, reference: Model, batch: NDArray[np.float32]) -> None:
    """The same layers with the same shapes, kinds and values, within 1e-4 of the largest."""
    assert [(x.name, x.kind, x.shape) for x in model.layers] == [(x.name, x.kind, x.shape) for x in reference.layers]
    names = [layer.name for layer in reference.layers]
    with model.session(names) as session, reference.session(names) as other:
        got, expected = session.run(batch), other.run(batch)
    for name in names:
        largest = max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-4 * largest, err_msg=name)


# -- names and values ------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_same_as_pytorch(name: str, saved: bool, tmp_path: object) -> None:
    net = seeded(SMALL[name])
    source = scripted(net)
    if saved:
        torch.jit.save(source, f"{tmp_path}/net.pt")
        source = f"{tmp_path}/net.pt"
    assert_same(fmx.load(source, input_shape=SHAPE), fmx.load(net, input_shape=SHAPE), data())


@pytest.mark.parametrize("name", ["Methods", "Shared"])
def test_same_as_pytorch_where_traced(name: str) -> None:
    net = seeded(SMALL[name])
    assert_same(fmx.load(traced(net), input_shape=SHAPE), fmx.load(net, input_shape=SHAPE), data())


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, (_, _, forms) in TORCHVISION.items() for f in forms.split()])
def test_same_as_pytorch_on_torchvision(name: str, form: str) -> None:
    build, size, _ = TORCHVISION[name]
    shape = (3, size, size)
    net = seeded(build)
    source = scripted(net) if form == "scripted" else traced(net, shape)
    assert_same(fmx.load(source, input_shape=shape), fmx.load(net, input_shape=shape), data(shape, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_module_chosen_from_a_list_at_run_time() -> None:
    net = seeded(Chosen)
    eager = seeded(EagerChosen)
    assert_same(fmx.load(scripted(net), input_shape=SHAPE), fmx.load(eager, input_shape=SHAPE), data())


def test_frozen_module_has_operations() -> None:
    net = seeded(Branches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(scripted(net))
    names = {layer.name for layer in fmx.load(frozen, input_shape=SHAPE).layers}
    assert {"relu", "conv2d", "conv2d_1"} <= names


def test_tensors_of_a_tuple_are_layers() -> None:
    names = [layer.name for layer in fmx.load(scripted(seeded(Several)), input_shape=SHAPE).layers]
    assert {"low", "mapped", "mapped[b]", "listed", "listed[1]", "lstm"} <= set(names)
    assert "low[high]" not in names  # it is None


def test_values_in_a_list_are_copied_before_they_are_overwritten() -> None:
    net = seeded(Several)
    with fmx.load(scripted(net), input_shape=SHAPE).session(["listed", "listed.act"]) as session:
        got = session.run(data())
    np.testing.assert_array_equal(got["listed"], got["listed.act"])


# -- paths that depend on the data -----------------------------------------------------------------


@pytest.mark.parametrize("layer", ["left", "add"])
def test_layer_that_is_not_reached_is_named(layer: str) -> None:
    model = fmx.load(scripted(seeded(Branches)), input_shape=SHAPE)
    with model.session([layer, "last"]) as session:
        assert set(session.run(data())) == {layer, "last"}
        with pytest.raises(ModelError, match=f"did not reach {layer}"):
            session.run(-data())
        assert set(session.run(data())) == {layer, "last"}


def test_layer_on_both_paths() -> None:
    net = seeded(SameModule)
    model = fmx.load(scripted(net), input_shape=SHAPE)
    with model.session(["conv"]) as session, fmx.load(net, input_shape=SHAPE).session(["conv"]) as reference:
        # The first call of the module stands in another place of the graph than the probe pass had it in.
        for batch in (data(), -data(), data()):
            np.testing.assert_allclose(session.run(batch)["conv"], reference.run(batch)["conv"], rtol=1e-6)


def test_other_number_of_turns() -> None:
    net = seeded(Loops)
    model = fmx.load(scripted(net), input_shape=SHAPE)
    assert [layer.name for layer in model.layers if layer.name.startswith("block.0")] == ["block.0", "block.0:2"]
    with model.session(["block:2"]) as session, fmx.load(net, input_shape=SHAPE).session(["block:2"]) as reference:
        more = data() + 2
        np.testing.assert_allclose(session.run(more)["block:2"], reference.run(more)["block:2"], rtol=1e-6)
        with pytest.raises(ModelError, match="did not reach block:2"):
            session.run(data() - 2)


def test_a_pass_leaves_the_module_as_it_was() -> None:
    script = scripted(seeded(Counting))
    model = fmx.load(script, input_shape=SHAPE)
    with model.session(["conv", "mul"]) as session:
        assert np.abs(session.run(data())["mul"]).max() > 0
    model.torch_module()
    assert script.passes == 0
    assert script.total == 0


# -- inputs ----------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, picture: Tensor, tokens: Tensor, scale: float = 2.0, bias: Tensor | None = None) -> Tensor:
        y = self.conv(picture).mean([2, 3]) + scale * self.words(tokens).sum(1)
        return y if bias is None else y + bias


def test_several_inputs() -> None:
    net = seeded(Two)
    batch = {"picture": data(), "tokens": np.arange(6).reshape(3, 2)}
    model = fmx.load(scripted(net), input_shape={"picture": SHAPE, "tokens": ("int64", 2)})
    assert [(info.name, info.shape) for info in model.inputs] == [("picture", SHAPE), ("tokens", (2,))]
    with model.session(["conv", "words", "add"], outputs=True) as session:
        got = session.run(batch)
        with pytest.raises(ModelError, match="picture, tokens"):
            session.run({"picture": batch["picture"]})
    expected = net(torch.from_numpy(batch["picture"]), torch.from_numpy(batch["tokens"]))
    np.testing.assert_allclose(got.outputs["output"], expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["words"], net.words(torch.from_numpy(batch["tokens"])).detach().numpy())


def test_inputs_that_are_not_known() -> None:
    script = scripted(seeded(Two))
    with pytest.raises(ModelError, match="takes 2 inputs"):
        fmx.load(script)
    with pytest.raises(ModelError, match="takes the inputs picture, tokens"):
        fmx.load(script, input_shape={"picture": SHAPE, "words": (2,)})


def test_input_that_is_no_tensor() -> None:
    class Listing(nn.Module):
        def forward(self, pictures: list[Tensor]) -> Tensor:
            return pictures[0]

    with pytest.raises(ModelError, match=r"pictures of type List\[Tensor\]"):
        fmx.load(scripted(Listing()))


# -- gradients -------------------------------------------------------------------------------------


def output_gradient(run: Callable[[Tensor], object], x: Tensor) -> tuple[Tensor, Tensor]:
    """Give the first output, and at the input the gradient of a fixed mixture of its numbers."""
    x = x.clone().requires_grad_()
    output = run(x)
    (first, *_) = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
    weights = torch.linspace(-1, 1, first.numel()).reshape(first.shape)
    (gradient,) = torch.autograd.grad((first * weights).sum(), x)
    return first.detach(), gradient


DIFFERENTIABLE = [(n, f) for n, (_, _, forms) in TORCHVISION.items() for f in forms.split()]


@pytest.mark.parametrize(("name", "form"), [*((n, "scripted") for n in SMALL), *DIFFERENTIABLE])
def test_gradient_and_captured_values(name: str, form: str) -> None:
    build, size, _ = TORCHVISION.get(name, (SMALL.get(name), 8, ""))
    shape = (3, size, size)
    net = seeded(build)
    model = fmx.load(scripted(net) if form == "scripted" else traced(net, shape), input_shape=shape)
    module = model.torch_module()
    x = torch.from_numpy(data(shape, 2))
    for got, expected in zip(output_gradient(module, x), output_gradient(net, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + 1e-12)
    names = [layer.name for layer in model.layers]
    assert module.layer_names == names
    with model.session(names) as session:
        expected_layers = session.run(x.numpy())
    for layer, value in module.capture(x, names).items():
        largest = max(1.0, np.abs(expected_layers[layer]).max())
        np.testing.assert_allclose(value.detach().numpy(), expected_layers[layer], atol=1e-4 * largest, err_msg=layer)


class GuidedReLU(torch.autograd.Function):
    """Guided backpropagation (Springenberg et al. 2015): both the forward and the backward signal are masked."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient.clamp_min(0) * (x > 0)


class Guided(nn.Module):
    def __init__(self, highest: float | None = None) -> None:
        super().__init__()
        self.highest = highest

    def forward(self, x: Tensor) -> Tensor:
        y = GuidedReLU.apply(x)
        return y if self.highest is None else y.clamp_max(self.highest)


def guided(net: nn.Module) -> nn.Module:
    for name, child in net.named_modules():
        if isinstance(child, nn.ReLU | nn.ReLU6):
            net.set_submodule(name, Guided(6.0 if isinstance(child, nn.ReLU6) else None))
    return net


@pytest.mark.parametrize("form", ["scripted", "traced"])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "tiny_resnet_without_functions"])
def test_guided_backpropagation(name: str, form: str) -> None:
    def build() -> nn.Module:
        return tiny_resnet().layer1 if name.startswith("tiny") else zoo.get_model(name)

    shape = (8, 32, 32) if name.startswith("tiny") else (3, 64, 64)
    net = seeded(build)
    source = scripted(net) if form == "scripted" else traced(net, shape)
    module = fmx.load(source, input_shape=shape).torch_module(relu=lambda grad, x: grad.clamp_min(0) * (x > 0))
    x = torch.from_numpy(data(shape, 2))
    plain = output_gradient(net, x)[1]
    output, gradient = output_gradient(module, x)
    expected_output, expected = output_gradient(guided(net), x)
    torch.testing.assert_close(output, expected_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(gradient / gradient.abs().max(), plain / plain.abs().max(), atol=1e-2)


def test_relus_are_modules() -> None:
    module = fmx.load(traced(seeded(tiny_resnet), (3, 32, 32)), input_shape=(3, 32, 32)).torch_module()
    called = [node for node in module.module.graph.nodes if node.op == "call_module"]
    assert len(called) == 6
    assert all(isinstance(module.module.get_submodule(node.target), nn.ReLU) for node in called)
    # None of them has to write into what it reads.
    assert not [node for node in module.module.graph.nodes if "copy_" in node.name]


def test_gradient_at_a_layer_that_is_overwritten() -> None:
    net = seeded(tiny_resnet)
    module = fmx.load(scripted(net), input_shape=(3, 32, 32)).torch_module()
    x = torch.from_numpy(data((3, 32, 32), 2))
    output, values = module.forward_with(x, ["layer1.0.bn2"])
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), values["layer1.0.bn2"])
    seen = {}

    def keep(_: nn.Module, __: object, value: Tensor) -> Tensor:
        seen["value"] = value.clone()
        seen["value"].retain_grad()
        return seen["value"] * 1

    handle = net.layer1[0].bn2.register_forward_hook(keep)
    net(x)[:, 1].sum().backward()
    handle.remove()
    torch.testing.assert_close(gradient, seen["value"].grad, rtol=1e-5, atol=1e-7)


def test_translated_path_is_checked() -> None:
    module = fmx.load(scripted(seeded(Branches)), input_shape=SHAPE).torch_module()
    x = -torch.from_numpy(data())
    with pytest.raises(ModelError, match="path depends on its data"):
        module(x)
    with pytest.raises(ModelError, match="path depends on its data"):
        module.capture(x, ["extra"])


def test_gradients_stay_away_from_the_users_module() -> None:
    net = scripted(seeded(tiny_resnet))
    module = fmx.load(net, input_shape=(3, 32, 32)).torch_module()
    module(torch.from_numpy(data((3, 32, 32)))).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert any(p.grad is not None for p in module.parameters())


# -- files from somewhere else ---------------------------------------------------------------------


def rewritten(tmp_path: Path, change: Callable[[str, bytes], bytes], net: nn.Module | None = None) -> Path:
    """Save a network and change the members of its archive."""
    torch.jit.save(scripted(net or nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), str(tmp_path / "good.pt"))
    changed = tmp_path / "changed.pt"
    with zipfile.ZipFile(tmp_path / "good.pt") as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return changed


class Attack:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_pickle_that_runs_code_does_nothing(member: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    attack = pickle.dumps(Attack(proof), protocol=2)
    path = rewritten(tmp_path, lambda name, old: attack if name == member else old)
    with pytest.raises(ModelError, match=rf"{member} asks for \w+\.system, and fmx runs no code") as error:
        fmx.load(path)
    assert "\n" not in str(error.value)
    assert not proof.exists()


class Writes(nn.Module):
    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


WRITING = (
    'torch.save(x, "{file}")',
    'torch .  save(x, "{file}")',
    'getattr(torch, "save")(x, "{file}")',
    'getattr(torch, "sa" "ve")(x, "{file}")',
    "ops.aten.save(x, \"{file}\" '')",
    "_0 = torch.from_file('{file}')",
    'ops.image.write_file("{file}", x)',
    "o = ops",
    "t = __torch__.torch",
    "f = __torch__.torch.classes.dist_c10d.Store",
)


@pytest.mark.parametrize("statement", WRITING)
def test_code_that_touches_files_is_refused(statement: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    line = f"    {statement.format(file=proof)}\n    return"

    def change(name: str, old: bytes) -> bytes:
        return re.sub(rb"    return", line.encode(), old, count=1) if b"Writes" in old else old

    path = rewritten(tmp_path, lambda n, old: change(n, old) if n.endswith(".py") else old, Writes("x"))
    with pytest.raises(ModelError, match=r"may do more than compute|a library runs code of its own"):
        fmx.load(path, input_shape=(4,))
    assert not proof.exists()


def test_what_loading_would_run_is_real(tmp_path: Path) -> None:
    """Without the check torch.jit.load itself writes the file, as code that sets an object up may do anything."""
    proof = tmp_path / "proof"

    class Sets(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

        @torch.jit.export
        def __getstate__(self) -> tuple[int, bool]:
            return 1, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[int, bool]) -> None:
            self.training = state[1]

    def change(name: str, old: bytes) -> bytes:
        if not name.endswith(".py"):
            return old
        return old.replace(b"    self.training =", f'    torch.save(1, "{proof}")\n    self.training ='.encode())

    path = rewritten(tmp_path, change, Sets())
    with pytest.raises(ModelError, match="aten::save"):
        fmx.load(path, input_shape=(4,))
    assert not proof.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(str(path))
    assert proof.exists()


def test_short_record_is_refused(tmp_path: Path) -> None:
    """Torch would let the tensor read on in foreign memory."""
    path = rewritten(tmp_path, lambda name, old: old[:8] if name == "data/0" else old)
    with pytest.raises(ModelError, match=r"wants 108 numbers .* has 8 bytes"):
        fmx.load(path)


def test_archive_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    torch.jit.save(scripted(nn.ReLU()), str(tmp_path / "bomb.pt"))
    with zipfile.ZipFile(tmp_path / "bomb.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/9", bytes(80 * 2**20))
    with pytest.raises(ModelError, match="unpacks to"):
        fmx.load(tmp_path / "bomb.pt", input_shape=(4,))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", ["good/data.pkl", "good/DATA.pkl", "other/data.pkl"])
def test_inconsistent_archive_is_refused(name: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda _, old: old)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"\x80\x02N.")
    with pytest.raises(ModelError, match="no archive as torch writes them"):
        fmx.load(path)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_archive_within_other_data_is_refused(place: str, tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda _, old: old)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"more" if place == "behind" else b""
    if place == "before":
        path.write_bytes(b"PK\x03\x04" + bytes(100) + path.read_bytes())
    with pytest.raises(ModelError, match=r"put together|does not end as one"):
        fmx.load(path)


def test_pickle_that_is_no_pickle(tmp_path: Path) -> None:
    path = rewritten(tmp_path, lambda name, old: b"nothing" if name == "data.pkl" else old)
    with pytest.raises(ModelError, match=r"its data\.pkl can't be read"):
        fmx.load(path)


def test_constants_and_quantized_weights_are_read(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x) * torch.ones(4)

    torch.jit.save(traced(Constant(), (4,)), str(tmp_path / "constant.pt"))
    assert [layer.name for layer in fmx.load(tmp_path / "constant.pt", input_shape=(4,)).layers] == ["mul"]


def test_trace_of_another_device() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + torch.arange(3, device=x.device)

    net = seeded(Made)
    there = traced(copy.deepcopy(net).to("meta"), (4,), device="meta")
    # The weights come to this machine, as torch.jit.load brings them; the trace still names the other device.
    for name, weight in net.fc.named_parameters():
        there.fc._c.setattr(name, weight.detach())
    model = fmx.load(there, input_shape=(4,))
    batch = data((4,))
    with model.session(["add"]) as session:
        np.testing.assert_allclose(session.run(batch)["add"], net(torch.from_numpy(batch)).detach().numpy(), rtol=1e-5)


class Layout(str, Enum):  # noqa: UP042 - TorchScript does not know StrEnum
    FIRST = "first"
    LAST = "last"


class OfLayout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layout = Layout.FIRST
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.layout != Layout.FIRST:
            x = x + 1
        return torch.relu(self.fc(x)) * 2


OfLayout.__annotations__["layout"] = Layout  # as a class, which TorchScript wants


def test_enumerations_of_words() -> None:
    """As timm has them: in Python their members are words, in TorchScript they are not."""
    net = seeded(OfLayout)
    model = fmx.load(scripted(net), input_shape=(4,))
    assert [layer.name for layer in model.layers] == ["fc", "relu", "mul"]
    batch = data((4,))
    with model.session(["relu"]) as session:
        expected = torch.relu(net.fc(torch.from_numpy(batch))).detach().numpy()
        np.testing.assert_allclose(session.run(batch)["relu"], expected, rtol=1e-5)
    x = torch.from_numpy(batch)
    torch.testing.assert_close(model.torch_module()(x), net(x))
