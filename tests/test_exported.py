"""Exported programs: the module's names and values, nothing extra computed, gradients, and files that mean harm."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from networks import tiny_resnet
from test_parity import assert_same, reference
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

import fmx
from fmx.adapter import Model
from fmx.errors import LayerError, ModelError
from fmx.testing import AdapterTests
from fmx_adapters._batches import run_in_slices

SHAPE = (3, 32, 32)


def program(net: nn.Module, *shapes: tuple[int, ...], free: bool = True, **options: Any) -> ExportedProgram:
    """Export a network with inputs of these shapes (without the batch axis), as if it were a file of its own."""
    batch = tuple(torch.rand(2, *shape) for shape in shapes)
    axes = tuple({0: Dim("n")} for _ in shapes) if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(copy.deepcopy(net), batch, dynamic_shapes=axes, **options)


def save(made: ExportedProgram, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(made, file)
    return file


def samples(count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).random((count, *shape), dtype=np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny ResNet as a file that is only read."""
    return save(program(tiny_resnet().eval(), SHAPE), tmp_path_factory.mktemp("tiny") / "tiny.pt2")


# -- names and values ------------------------------------------------------------------------------

# A module that does nothing at inference leaves nothing in a graph.
VANISHING = {"Identity", "StochasticDepth"}


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5)


@pytest.mark.parametrize("build", [torchvision.models.mobilenet_v3_small, vit, swin])
def test_names_kinds_and_values_are_the_modules(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build().eval()
    kinds = {name: type(module).__name__ for name, module in net.named_modules()}
    expected = [
        layer
        for layer in fmx.load(net, input_shape=SHAPE).layers
        if kinds.get(layer.name.partition(":")[0]) not in VANISHING
    ]
    for source in (program(net, SHAPE), save(program(net, SHAPE), tmp_path / "net.pt2")):
        model = fmx.load(source)
        assert model.layers == expected
        assert_same(model, reference(net, samples(3)), samples(3))


class Again(nn.Module):
    """A container called twice, whose module is called once more from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.same = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair[0](self.same(self.pair(self.pair(x)))) + x


@pytest.mark.parametrize("strict", [False, True])
def test_calls_of_a_module_are_numbered(strict: bool, tmp_path: Path) -> None:
    net = Again().eval()
    model = fmx.load(save(program(net, SHAPE, strict=strict), tmp_path / "again.pt2"))
    once = ["pair.0", "pair.1", "pair"]
    assert [layer.name for layer in model.layers] == [*once, *(f"{name}:2" for name in once), "pair.0:3", "add"]
    assert_same(model, reference(net, samples(2)), samples(2))


class Overwriting(nn.Module):
    """All that may be overwritten: the input, a buffer, a value whose new one nobody takes, a part, a passed value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.partly = Partly()
        self.drop = nn.Dropout()
        self.last = nn.Conv2d(4, 4, 1)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x -= 0.5
        y = self.first(x)
        self.act(y)
        z = self.drop(self.partly(y) + y)
        z.mul_(2)
        return self.last(z) * self.calls


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x[:, 0] = 0.25
        x[:, 1] += 1
        return x


@pytest.mark.parametrize("strict", [False, True])
def test_values_are_those_from_before_they_were_overwritten(strict: bool, tmp_path: Path) -> None:
    net = Overwriting().eval()
    made = program(net, SHAPE, strict=strict)
    state = {name: tensor.clone() for name, tensor in made.state_dict.items()}
    graph = str(made.graph)
    data = samples(3)
    expected = reference(copy.deepcopy(net), data.copy())
    for source in (made, save(made, tmp_path / "net.pt2")):
        model = fmx.load(source)
        names = [layer.name for layer in model.layers]
        assert {"first", "act", "partly.conv", "partly", "add", "drop", "mul", "last"} <= set(names)
        assert_same(model, expected, data)
        with model.session(names) as session:
            whole = session.run(data)
            again = session.run(data)
        for name in names:
            with model.session([name]) as session:
                np.testing.assert_array_equal(session.run(data)[name], whole[name], err_msg=name)
            np.testing.assert_array_equal(again[name], whole[name], err_msg=name)
    # Neither the program that was given nor the data are touched, though the network writes to both.
    np.testing.assert_array_equal(data, samples(3))
    assert all(torch.equal(made.state_dict[name], tensor) for name, tensor in state.items())
    assert str(made.graph) == graph


class Returning(nn.Module):
    """Returns a value that was overwritten, by its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        self.act(y)
        return y


def test_output_that_was_overwritten() -> None:
    net = Returning().eval()
    model = fmx.load(program(net, SHAPE))
    x = torch.from_numpy(samples(2))
    with model.session(["conv", "act"], outputs=True) as session:
        capture = session.run(samples(2))
    torch.testing.assert_close(torch.from_numpy(capture["conv"]), net.conv(x).detach())
    for values in (capture["act"], capture.outputs["output"]):
        torch.testing.assert_close(torch.from_numpy(values), net(x).detach())
    output, values = model.torch_module().forward_with(x, ["conv"])
    torch.testing.assert_close(output, net(x))
    torch.testing.assert_close(values["conv"], net.conv(x))


class Blocks(nn.Module):
    """Holds graphs within the graph: a block without gradients, one of them in place, and one of lower precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        with torch.no_grad():
            weight = torch.sigmoid(y)
            weight.mul_(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.last(y * weight).float() + y


def test_blocks_in_another_mode(tmp_path: Path) -> None:
    net = Blocks().eval()
    made = program(net, SHAPE)
    inner = [id(module) for module in made.graph_module.modules()]
    for source in (made, save(made, tmp_path / "net.pt2")):
        model = fmx.load(source)
        assert "in blocks" in model.notes
        assert_same(model, {"first": net.first(torch.from_numpy(samples(2))).detach().numpy()}, samples(2))
        own, x = (torch.from_numpy(samples(2)).requires_grad_() for _ in range(2))
        output, values = model.torch_module().forward_with(own, ["first"])
        torch.testing.assert_close(output, net(x))
        output.sum().backward()
        net(x).sum().backward()
        torch.testing.assert_close(own.grad, x.grad)
        assert values["first"].requires_grad
    assert [id(module) for module in made.graph_module.modules()] == inner


class Several(nn.Module):
    """Modules that put out several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 5, batch_first=True)
        self.states = nn.GRU(5, 5, batch_first=True)
        self.halves = Halves()
        self.thrown = Both()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence, _ = self.rnn(x.flatten(2).transpose(1, 2))
        _, last = self.states(sequence)
        left, right = self.halves(last[0])
        _, second = self.thrown(left * right)
        return second


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.linear(x)
        return x.sigmoid(), x.tanh()


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(x).tanh().chunk(2, 1)


def test_name_never_stands_for_another_value() -> None:
    """Which of several outputs comes first a graph does not tell, but for recurrent layers."""
    net = Several().eval()
    shape = (3, 4, 4)
    model = fmx.load(program(net, shape))
    names = [layer.name for layer in model.layers]
    assert names == ["rnn", "halves.linear", "halves.tanh", "mul", "thrown.linear", "thrown.sigmoid", "thrown.tanh"]
    with model.session(["rnn"]) as session:
        got = session.run(samples(2, shape))["rnn"]
    tokens = torch.from_numpy(samples(2, shape)).flatten(2).transpose(1, 2)
    np.testing.assert_allclose(got, net.rnn(tokens)[0].detach().numpy(), atol=1e-6)


def test_program_in_core_operations_has_the_same_layers() -> None:
    """After run_decompositions nothing is in place, batch norm gives three tensors, and dropout is gone."""
    net = tiny_resnet().eval()
    made = program(net, SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fmx.load(made.run_decompositions())
    expected = [layer for layer in fmx.load(made).layers if layer.name != "dropout"]
    assert [(layer.name, layer.shape) for layer in model.layers] == [(layer.name, layer.shape) for layer in expected]
    assert_same(model, reference(net, samples(2)), samples(2))


def test_training_mode_is_switched_off(tmp_path: Path) -> None:
    net = tiny_resnet().train()
    made = program(net, SHAPE)
    state = {name: tensor.clone() for name, tensor in made.state_dict.items()}
    for source in (made, save(made, tmp_path / "net.pt2")):
        model = fmx.load(source)
        assert "training mode" in model.notes
        assert_same(model, reference(net, samples(3)), samples(3))
    assert all(torch.equal(made.state_dict[name], tensor) for name, tensor in state.items())
    assert fmx.load(program(net.eval(), SHAPE)).notes == ""


class Standardised(nn.Module):
    """Takes a batch norm for something else than a batch, and adds something without samples on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, 4, -1)
        weight = nn.functional.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        windows = x.reshape(-1, 3, 16, 16)
        x = (windows + 1).reshape_as(x)
        return torch.relu(nn.functional.conv2d(x, weight) + 2)


def test_operations_are_those_on_samples() -> None:
    net = Standardised().eval()
    model, expected = fmx.load(program(net, SHAPE)), fmx.load(net, input_shape=SHAPE)
    assert [layer.name for layer in model.layers] == ["conv2d", "add", "relu"]
    assert model.layers == expected.layers
    assert model.notes == ""
    with model.session(["relu"]) as session, expected.session(["relu"]) as other:
        np.testing.assert_allclose(session.run(samples(2))["relu"], other.run(samples(2))["relu"], rtol=1e-5)


# -- conformance -----------------------------------------------------------------------------------


class TestConformance(AdapterTests):
    free = True

    def open(self, folder: Path) -> Model:
        return fmx.load(
            save(program(self.reference.module(), self.reference.shape, free=self.free), folder / "net.pt2")
        )

    def convolutions_run(self, model: Model, layers: list[str]) -> int:
        with model.session(layers) as session, Count() as count:
            session.run(self.reference.batch(2))
        return count.ran["convolution"]


class TestConformanceOfFixedBatch(TestConformance):
    free = False


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(1, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_batches_of_any_size_run_in_sizes_that_the_program_takes(limits: tuple[int, int], count: int) -> None:
    net = tiny_resnet().eval()
    least, most = limits
    free = None if least == most else ({0: Dim("n", min=least, max=most)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.export.export(net, (torch.rand(most, *SHAPE),), dynamic_shapes=free)
    model = fmx.load(made)
    assert_same(model, reference(net, samples(count)), samples(count))
    with model.session(["fc"], outputs=True) as session:
        capture = session.run(samples(count))
    np.testing.assert_array_equal(capture.outputs["output"], capture["fc"])


@pytest.mark.parametrize(("least", "most"), [(1, None), (1, 3), (3, 3), (2, 4), (9, None)])
@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_slices(least: int, most: int | None, count: int) -> None:
    sizes = []

    def run(arrays: Any) -> dict[str, Any]:
        sizes.append(len(arrays["a"]))
        return {"sum": arrays["a"] + arrays["b"][:, :1], "total": np.asarray(1.5)}

    a, b = np.arange(2.0 * count).reshape(count, 2), np.arange(3.0 * count).reshape(count, 3)
    found = run_in_slices({"a": a, "b": b}, run, least=least, most=most)
    np.testing.assert_array_equal(found["sum"], a + b[:, :1])
    assert found["total"] == 1.5
    assert all(least <= size <= (most or max(count, least)) for size in sizes)
    assert len(sizes) == max(-(-count // (most or max(count, 1))), 1)


def test_free_height_and_width(tmp_path: Path) -> None:
    net = tiny_resnet().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
        made = torch.export.export(net, (torch.rand(2, 3, 20, 24),), dynamic_shapes=free)
    model = fmx.load(save(made, tmp_path / "net.pt2"))
    assert (model.inputs[0].shape, model.inputs[0].assumed) == ((3, 20, 24), "3×20×24")
    other = model.with_input(SHAPE)
    assert (other.inputs[0].shape, other.inputs[0].assumed, other.inputs[0].layout) == (SHAPE, "", "CHW")
    assert_same(other, reference(net, samples(2)), samples(2))
    with pytest.raises(ModelError, match="takes samples of shape 3×any×any, not 1×32×32"):
        model.with_input((1, 32, 32))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Linear(4, 3)
        self.words = nn.Embedding(10, 3)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, scale: float = 2.0, unused: Any = None) -> dict[str, Any]:
        mixed = self.numbers(x) + self.words(ids).sum(1)
        return {"mixed": mixed * scale, "parts": (mixed,)}


def test_several_inputs_are_given_by_name(tmp_path: Path) -> None:
    net = Two().eval()
    free = {0: Dim("n")}
    batch = {"ids": torch.ones(2, 5, dtype=torch.long), "scale": 3.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": free, "ids": free, "scale": None}
        made = torch.export.export(net, (torch.rand(2, 4),), batch, dynamic_shapes=axes)
    model = fmx.load(save(made, tmp_path / "two.pt2"))
    assert [(i.name, i.shape, i.dtype) for i in model.inputs] == [("x", (4,), "float32"), ("ids", (5,), "int64")]
    data = {"x": samples(7, (4,)), "ids": np.arange(35).reshape(7, 5) % 10}
    expected = net(torch.from_numpy(data["x"]), torch.from_numpy(data["ids"]), 3.0)
    with model.session(["numbers", "words", "add"], outputs=True) as session:
        capture = session.run(data)
        for wrong in (data["x"], {"x": data["x"]}, data | {"x": data["x"][:3]}):
            with pytest.raises(ModelError, match=r"inputs x, ids|3 of x, 7 of ids"):
                session.run(wrong)
    assert capture["words"].shape == (7, 5, 3)
    np.testing.assert_allclose(capture.outputs["output.mixed"], expected["mixed"].detach(), rtol=1e-5)
    np.testing.assert_allclose(capture.outputs["output.parts.0"], capture["add"], rtol=1e-5)
    module = model.torch_module()
    output = module(torch.from_numpy(data["x"]), ids=torch.from_numpy(data["ids"]))
    torch.testing.assert_close(output["mixed"], expected["mixed"])
    with pytest.raises(ModelError, match="inputs x, ids"):
        module(torch.from_numpy(data["x"]))


# -- nothing extra ---------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ran[func._schema.name.removeprefix("aten::").rstrip("_")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("wanted", "convolutions", "activations"),
    [("stem.0", 1, 0), ("layer1.0.conv1", 2, 1), ("layer1.0.add", 3, 2), ("layer1.0", 3, 3)],
)
def test_nothing_past_the_last_wanted_layer_runs(wanted: str, convolutions: int, activations: int, tiny: Path) -> None:
    model = fmx.load(tiny)
    with model.session([wanted]) as session, Count() as count:
        session.run(samples(2))
    assert (count.ran["convolution"], count.ran["relu"], count.ran["addmm"]) == (convolutions, activations, 0)
    with Count() as count:
        model.torch_module().capture(torch.from_numpy(samples(2)), [wanted])
    assert (count.ran["convolution"], count.ran["relu"], count.ran["addmm"]) == (convolutions, activations, 0)


def test_branch_that_leads_nowhere_does_not_run() -> None:
    """The one branch of a fire module is not needed for the other, although its ReLU is in place."""
    net = torchvision.models.squeezenet1_1().eval()
    model = fmx.load(program(net, (3, 64, 64)))
    with model.session(["features.3.expand3x3_activation"]) as session, Count() as count:
        session.run(samples(1, (3, 64, 64)))
    assert (count.ran["convolution"], count.ran["relu"], count.ran["clone"]) == (3, 3, 0)


def test_only_overwritten_values_are_copied(tiny: Path) -> None:
    with fmx.load(tiny).session(["stem.1", "layer1.0.relu", "layer1.0.bn2", "fc"]) as session, Count() as count:
        session.run(samples(2))
    assert count.ran["clone"] == 2


# -- gradients -------------------------------------------------------------------------------------


def test_torch_module_gives_the_networks_output_values_and_gradients(tiny: Path) -> None:
    net = tiny_resnet().eval()
    module = fmx.load(tiny).torch_module()
    assert isinstance(module, nn.Module)
    assert module.layer_names == [layer.name for layer in fmx.load(tiny).layers]
    x, own = (torch.from_numpy(samples(3)).requires_grad_() for _ in range(2))
    net(x)[:, 2].sum().backward()
    module(own)[:, 2].sum().backward()
    torch.testing.assert_close(own.grad, x.grad)
    weights = {name.removeprefix("module."): weight for name, weight in module.named_parameters()}
    assert weights.keys() == dict(net.named_parameters()).keys()
    for name, weight in net.named_parameters():
        torch.testing.assert_close(weights[name].grad, weight.grad, msg=name)
    for name, values in reference(net, samples(3)).items():
        captured = module.capture(own, [name])[name]
        torch.testing.assert_close(captured.detach(), torch.from_numpy(values), msg=name)
        assert captured.requires_grad


def test_gradient_at_a_layer_is_that_of_the_network(tiny: Path) -> None:
    """Also at values that are overwritten later, of which a copy has to stand aside."""
    net = tiny_resnet().eval()
    x = torch.from_numpy(samples(2))
    names = ["stem.1", "layer1.0.bn2", "layer1.0.relu:2", "layer1", "pool"]
    output, values = fmx.load(tiny).torch_module().forward_with(x.requires_grad_(), names)
    got = torch.autograd.grad(output[:, 1].sum(), list(values.values()))
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> Callable[..., torch.Tensor]:
        def hook(_: Any, __: Any, result: torch.Tensor) -> torch.Tensor:
            seen.setdefault(name, []).append(result)
            return result.clone()

        return hook

    for name in ("stem.1", "layer1.0.bn2", "layer1.0.relu", "layer1", "pool"):
        net.get_submodule(name).register_forward_hook(keep(name))
    expected_output = net(x)
    originals = [seen[name.partition(":")[0]][1 if ":2" in name else 0] for name in names]
    expected = torch.autograd.grad(expected_output[:, 1].sum(), originals)
    for name, gradient, wanted in zip(names, got, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, msg=name)


def test_torch_module_has_weights_of_its_own() -> None:
    made = program(tiny_resnet().eval(), SHAPE)
    module = fmx.load(made).torch_module()
    module(torch.from_numpy(samples(1))).sum().backward()
    assert all(weight.grad is None for weight in made.parameters())
    kept = {id(weight) for weight in made.parameters()}
    assert not kept & {id(weight) for weight in module.parameters()}


def test_torch_module_can_move() -> None:
    """Tensors that the network makes on the way follow the input; the device ``meta`` stands for any other."""
    module = fmx.load(program(Several().eval(), (3, 4, 4))).torch_module()
    module.capture(torch.from_numpy(samples(2, (3, 4, 4))), ["rnn"])
    moved = module.to("meta")
    value = moved.capture(torch.zeros(2, 3, 4, 4, device="meta"), ["rnn"])["rnn"]
    assert (value.device.type, value.shape) == ("meta", (2, 16, 5))
    assert moved(torch.zeros(2, 3, 4, 4, device="meta")).device.type == "meta"


def test_unknown_layer_of_a_torch_module(tiny: Path) -> None:
    with pytest.raises(LayerError, match=r"layer1\.0\.conv9.*did you mean"):
        fmx.load(tiny).torch_module().capture(torch.zeros(1, *SHAPE), ["layer1.0.conv9"])


def test_fingerprint_follows_weights_and_graph(tiny: Path) -> None:
    same = fmx.load(tiny).fingerprint
    assert fmx.load(tiny).fingerprint == same
    changed, other = tiny_resnet().eval(), tiny_resnet().eval()
    changed.fc.weight.data[0, 0] += 1
    other.stem[2] = nn.Identity()
    prints = {same, *(fmx.load(program(net, SHAPE)).fingerprint for net in (changed, other))}
    assert len(prints) == 3


def test_program_from_a_gpu_opens_without_one(tiny: Path, tmp_path: Path) -> None:
    parts: dict[str, bytes | None] = {}
    for name in (MODEL, WEIGHTS):
        text = json.dumps(part(tiny, name))
        assert '"device": {"type": "cpu", "index": null}' in text
        parts[name] = text.replace('{"type": "cpu", "index": null}', '{"type": "cuda", "index": 0}').encode()
    model = fmx.load(altered(tiny, parts, tmp_path / "gpu.pt2"))
    assert_same(model, reference(tiny_resnet(), samples(2)), samples(2))


# -- files that mean harm --------------------------------------------------------------------------


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def altered(source: Path, parts: dict[str, bytes | None], file: Path) -> Path:
    """Write an archive again with some of its parts replaced, added, or (None) left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(file, "w") as new:
        have = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, data in {**have, **parts}.items():
            if data is not None:
                new.writestr(f"model/{name}", data)
    return file


def part(source: Path, name: str) -> Any:
    with zipfile.ZipFile(source) as archive:
        return json.loads(archive.read(f"{archive.namelist()[0].partition('/')[0]}/{name}"))


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def pickled(bad: Malicious) -> bytes:
    buffer = io.BytesIO()
    torch.save(bad, buffer)
    return buffer.getvalue()


def with_pickle(place: str, tiny: Path, bad: Malicious) -> dict[str, bytes | None]:
    """Put a malicious pickle where torch.export.load would unpickle it."""
    if place.endswith(".pt"):
        return {place: pickled(bad)}
    config = part(tiny, WEIGHTS)
    name, entry = next(iter(config["config"].items()))
    entry["use_pickle"] = True
    if place == "weight":
        return {WEIGHTS: json.dumps(config).encode(), f"data/weights/{entry['path_name']}": pickled(bad)}
    entry["path_name"] = f"{place}_0"
    data = pickled(bad) if place == "tensor" else pickle.dumps(bad, 2)
    return {CONSTANTS: json.dumps({"config": {name: entry}}).encode(), f"data/constants/{place}_0": data}


def loads_unsafely(file: Path, mark: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Say whether torch's own loader runs what is in a file."""
    try:
        with warnings.catch_warnings(), caplog.at_level("CRITICAL"):
            warnings.simplefilter("ignore")
            torch.export.load(file).module()(torch.from_numpy(samples(2)))
    except Exception:
        pass
    ran = mark.exists()
    if ran:
        mark.rmdir() if mark.is_dir() else mark.unlink()
    return ran


PICKLES = [
    ("weight", "pickled object"),
    ("tensor", "pickled object"),
    ("opaque_obj", "pickled object"),
    ("custom_obj", "pickled object"),
    ("data/weights/model.pt", "torch 2.8 or older"),
    ("data/constants/model.pt", "torch 2.8 or older"),
    # What the network was exported with is not read at all, and the network is fine without it.
    ("data/sample_inputs/model.pt", ""),
]


@pytest.mark.parametrize(("place", "words"), PICKLES)
def test_malicious_pickle_does_nothing(
    place: str, words: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "ran"
    file = altered(tiny, with_pickle(place, tiny, Malicious(mark)), tmp_path / "bad.pt2")
    if words:
        with pytest.raises(ModelError, match=words) as error:
            fmx.load(file)
        assert "\n" not in str(error.value)
    else:
        assert_same(fmx.load(file), reference(tiny_resnet(), samples(2)), samples(2))
    assert not mark.exists()
    # torch reads custom_obj with a loader of its own that knows no functions.
    assert loads_unsafely(file, mark, caplog) == (place != "custom_obj")


def call(name: str, *arguments: str | int | bool) -> Callable[[Any, str], None]:
    """Let the first node of the graph call something else; ``MARK`` stands for the path of the mark."""

    def change(made: Any, code: str) -> None:
        node = made["graph_module"]["graph"]["nodes"][0]
        path = code.partition("mkdir('")[2].removesuffix("')")
        given = [path if value == "MARK" else value for value in arguments]
        kinds = {str: "as_string", int: "as_int", bool: "as_bool"}
        node["target"] = name
        # The names of the arguments of aten::from_file and aten::save.
        names = ["filename", "shared", "size"]
        node["inputs"] = [
            {"name": n, "arg": {kinds[type(v)]: v}, "kind": 1} for n, v in zip(names, given, strict=False)
        ]

    return change


def rename(name: str, new: str) -> Callable[[Any, str], None]:
    """Replace a text everywhere in the program; ``CODE`` in the new one stands for code that leaves the mark."""

    def change(made: Any, code: str) -> None:
        text = json.dumps(made).replace(json.dumps(name), json.dumps(new.replace("CODE", code)))
        made.clear()
        made.update(json.loads(text))

    return change


def length(text: str) -> Callable[[Any, str], None]:
    def change(made: Any, code: str) -> None:
        for value in made["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text.replace("CODE", code)

    return change


def structure(kind: str, context: Any) -> Callable[[Any, str], None]:
    def change(made: Any, _: str) -> None:
        leaf = {"type": None, "context": None, "children_spec": []}
        spec = [1, {"type": kind, "context": json.dumps(context), "children_spec": [leaf]}]
        made["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(spec)

    return change


def guard(made: Any, code: str) -> None:
    made["guards_code"] = [code]


FACTORY = {"default_factory_module": "mark", "default_factory_name": "x", "dict_context": ["a"]}
HARMFUL = {
    "length": (length("CODE"), "arithmetic on lengths"),
    "length with a function": (length("preview(Symbol('s0'))"), "arithmetic on lengths"),
    "length without end": (length("Pow(9, Pow(9, Pow(9, 9)))"), "arithmetic on lengths"),
    "name of an input": (rename("x", "x=CODE"), "no name for a value"),
    "name of a value": (rename("conv2d", "conv2d = CODE; y"), "no name for a value"),
    "name of a weight": (rename("stem.0.weight", 'stem.0.weight") + CODE + ("'), "no name of a weight"),
    "function of the system": (call("torch.os.mkdir", "MARK"), "no operation on tensors"),
    "function of torch": (call("torch.load", "MARK"), "no operation on tensors"),
    "function of operator": (call("_operator.call", "MARK"), "no operation on tensors"),
    "operation of TorchScript": (call("torch.ops.aten.save.default", "MARK"), "no operation on tensors"),
    "library": (call("torch.ops.load_library", "MARK"), "no operation on tensors"),
    "file": (call("torch.ops.aten.from_file.default", "MARK", True, 8), "no operation on tensors"),
    "operation of someone else": (call("torch.ops.mine.relu.default"), "the operator mine::relu of a library"),
    "class of the output": (structure("collections.defaultdict", FACTORY), "collections.defaultdict"),
    "name in the output": (structure("builtins.dict", {"__enum__": 1, "fqn": "mark:x", "name": "x"}), "names of"),
    "unknown class": (structure("mine.Output", []), "mine.Output"),
}


@pytest.mark.parametrize("attack", HARMFUL)
def test_harmful_program_is_refused(attack: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "mark.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    change, words = HARMFUL[attack]
    made = part(tiny, MODEL)
    change(made, f"__import__('os').mkdir({str(mark)!r})")
    file = altered(tiny, {MODEL: json.dumps(made).encode()}, tmp_path / "bad.pt2")
    with pytest.raises(ModelError, match=words) as error:
        fmx.load(file)
    assert str(error.value).startswith(f"{file} ")
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("attack", ["length", "name of an input", "guard", "file"])
def test_torchs_loader_would_have_run_it(
    attack: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The checks are there for a reason; if this fails, torch has become safer and they may go."""
    mark = tmp_path / "ran"
    made = part(tiny, MODEL)
    change = guard if attack == "guard" else HARMFUL[attack][0]
    change(made, f"__import__('os').mkdir({str(mark)!r})")
    file = altered(tiny, {MODEL: json.dumps(made).encode()}, tmp_path / "bad.pt2")
    if attack == "guard":  # dropped, as nothing needs it
        assert fmx.load(file).layers
    else:
        with pytest.raises(ModelError, match="is not opened"):
            fmx.load(file)
    assert not mark.exists()
    assert loads_unsafely(file, mark, caplog)


def test_archive_that_unfolds_to_a_thousand_times_its_size(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(tiny) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("tiny/data/weights/weight_99", bytes(80 * 1024**2))
    with pytest.raises(ModelError, match=r"bomb\.pt2"):
        fmx.load(file)


# -- errors ----------------------------------------------------------------------------------------


# The sample inputs at the end are an archive themselves, whose directory is taken for that of the whole.


@pytest.mark.parametrize("keep", [30, 300, 0.5, 0.99, -30, -1])
def test_truncated_file(keep: float, tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match=r"cut\.pt2 is (truncated|damaged)"):
        fmx.load(tmp_path / "cut.pt2")


def test_flipped_byte_in_a_weight(tiny: Path, tmp_path: Path) -> None:
    whole = bytearray(tiny.read_bytes())
    with zipfile.ZipFile(tiny) as archive:
        info = max(archive.infolist(), key=lambda i: i.file_size if "/weight_" in i.filename else 0)
    whole[info.header_offset + 1000] ^= 1
    (tmp_path / "bad.pt2").write_bytes(whole)
    with pytest.raises(ModelError, match=r"bad\.pt2 is (truncated or )?damaged"):
        fmx.load(tmp_path / "bad.pt2")


BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "compiled": ({"data/aotinductor/model/abc.so": b"\x7fELF"}, "compiled by AOTInductor.*machine code"),
    "other version": ({"archive_version": b"7"}, "archive of version 7"),
    "other format": ({"archive_format": b"pt3"}, "is an archive of version"),
    "no program": ({MODEL: None}, "holds 0 programs"),
    "two programs": ({"models/other.json": b"{}"}, "holds 2 programs"),
    "no list of weights": ({WEIGHTS: None}, "model_weights_config.json is missing"),
    "no weight": ({"data/weights/weight_3": None}, "weight_3 is missing"),
    "half a weight": ({"data/weights/weight_3": b"\0\0"}, "without some of its weights"),
    "no JSON": ({MODEL: b"{"}, "can't be read as an exported program"),
    "deep JSON": ({MODEL: b"[" * 100_000}, "can't be read as an exported program"),
    "another JSON": ({MODEL: b"[]"}, "can't be read as an exported program"),
    "empty JSON": ({MODEL: b"{}"}, "graph_module' is missing"),
    "other machine": ({"byteorder": b"big"}, "byte order"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archive(case: str, tiny: Path, tmp_path: Path) -> None:
    parts, words = BROKEN[case]
    with pytest.raises(ModelError, match=words) as error:
        fmx.load(altered(tiny, parts, tmp_path / "bad.pt2"))
    assert str(error.value).startswith(f"{tmp_path / 'bad.pt2'} ")
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_program_of_another_schema_names_the_torch_that_made_it(tiny: Path, tmp_path: Path) -> None:
    made = part(tiny, MODEL)
    made["schema_version"]["major"] = 99
    made["torch_version"] = "9.9.0"
    file = altered(tiny, {MODEL: json.dumps(made).encode()}, tmp_path / "new.pt2")
    with pytest.raises(ModelError, match=r"made by torch 9\.9\.0: export it again"):
        fmx.load(file)


def test_layout_of_old_torch_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("version", "8.1")
    with pytest.raises(ModelError, match=r"old\.pt2 was saved by torch 2\.8 or older"):
        fmx.load(tmp_path / "old.pt2")


def test_other_mistakes(tiny: Path) -> None:
    with pytest.raises(ModelError, match="holds its own weights"):
        fmx.load(tiny, weights="weights.pth")
    with pytest.raises(ModelError, match="takes samples of shape 3×32×32, not 3×16×16"):
        fmx.load(tiny, input_shape=(3, 16, 16))
    model = fmx.load(tiny)
    session = model.session(["fc"])
    with pytest.raises(ModelError, match="closed"):
        session.run(samples(1))
    with session, pytest.raises(ModelError, match="3×32×32"):
        session.run(samples(1, (3, 16, 16)))
    with pytest.raises(ModelError, match="no engine"):
        model.session(["fc"], engine="warp")
