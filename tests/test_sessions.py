"""What sessions promise: nothing extra is computed, the model stays as it was, batches don't matter."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import FORMATS
from networks import tiny_resnet
from torch import nn
from torch.profiler import ProfilerActivity, profile

import fmx
from fmx.errors import LayerError, ModelError
from fmx_adapters.onnx.graph import cut_graph

SHAPE = (3, 32, 32)
NET = tiny_resnet()


def batch(count: int = 4) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).random((count, *SHAPE), dtype=np.float32)


@pytest.fixture(params=FORMATS)
def model(request: pytest.FixtureRequest, export: Callable[..., Any]) -> fmx.adapter.Model:
    return fmx.load(export(NET, SHAPE, request.param), input_shape=SHAPE)


def state(net: nn.Module) -> tuple[Any, ...]:
    """Everything about a module that a user could notice."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training, set(vars(m)))
        for m in net.modules()
    ]
    return digest.hexdigest(), hooks, [p.requires_grad for p in net.parameters()], [p.grad for p in net.parameters()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layers", [["layer1.0.bn1"], ["layer1.0.add", "fc"]])
def test_users_module_is_left_as_it_was(training: bool, layers: list[str]) -> None:
    net = tiny_resnet().train(training)
    net.layer1[1].eval()
    net.fc.weight.requires_grad_(False)
    before = state(net)
    model = fmx.load(net, input_shape=SHAPE)
    with model.session(layers, outputs=True) as session:
        session.run(batch())
    assert model.fingerprint
    assert state(net) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_users_script_module_is_left_as_it_was() -> None:
    script = torch.jit.script(tiny_resnet().train())
    before = [(n, m.training) for n, m in script.named_modules()], str(script.inlined_graph)
    weights = {k: v.clone() for k, v in script.state_dict().items()}
    with fmx.load(script, input_shape=SHAPE).session(["layer1.0.bn1"]) as session:
        session.run(batch())
    assert ([(n, m.training) for n, m in script.named_modules()], str(script.inlined_graph)) == before
    assert all(torch.equal(v, weights[k]) for k, v in script.state_dict().items())


def test_hooks_go_away_after_an_error() -> None:
    net = tiny_resnet()
    model = fmx.load(net, input_shape=SHAPE)
    before = state(net)
    with pytest.raises(ZeroDivisionError), model.session(["layer1"]) as session:
        session.run(batch())
        raise ZeroDivisionError
    assert state(net) == before


def test_several_sessions_on_one_model_do_not_see_each_other(model: fmx.adapter.Model) -> None:
    with model.session(["stem.1"]) as short, model.session(["layer1.0.add", "fc"], outputs=True) as long:
        early, late = short.run(batch()), long.run(batch())
        assert list(early) == ["stem.1"]
        assert list(late) == ["layer1.0.add", "fc"]
        assert late.outputs
        with model.session(["layer1"], engine="auto") as automatic:
            assert list(automatic.run(batch())) == ["layer1"]
        assert np.array_equal(short.run(batch())["stem.1"], early["stem.1"])


@pytest.mark.parametrize("engine", ["channels-last", "folded", "onnxruntime", "auto"])
@pytest.mark.parametrize("training", [True, False])
def test_engines_give_the_references_values(engine: str, training: bool) -> None:
    """Also for convolutions whose batch norm could be folded, which stay as they are when they are captured."""
    net = tiny_resnet().train(training)
    before = state(net)
    model = fmx.load(net, input_shape=SHAPE)
    names = ["layer1.0.add", "layer1.1.bn2", "fc", "stem.0"]
    with model.session(names, outputs=True) as session:
        expected = session.run(batch())
    with model.session(names, engine=engine, outputs=True) as session:
        session.run(batch())
        got = session.run(batch())
        assert session.engine
        assert engine != "auto" or len(session.engine_notes) == 4
    assert list(got.outputs) == list(expected.outputs)
    for name in names:
        assert got[name].flags.c_contiguous
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-4 * np.abs(expected[name]).max())
    assert state(net) == before


def test_engine_that_gives_other_values_is_not_used() -> None:
    from fmx_adapters._engines import Candidate, Terms, pick_engine

    long_run = Terms(expected_batches=10**6)
    model = fmx.load(tiny_resnet(), input_shape=SHAPE)
    wrong_net = tiny_resnet()
    wrong_net.layer1[0].bn2.weight.data *= 1.001
    wrong = Candidate("wrong", lambda: fmx.load(wrong_net, input_shape=SHAPE).session(["layer1", "stem"]))
    same = Candidate("same", lambda: model.session(["stem", "layer1"], engine="channels-last"))
    with pick_engine("auto", lambda: model.session(["stem", "layer1"]), [wrong, same], long_run) as session:
        session.run(batch())
        assert session.engine in {"eager", "channels-last"}
        assert any(note.startswith("wrong: not used, layer1 differs by") for note in session.engine_notes)


@pytest.mark.parametrize(
    ("got", "wanted", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0, 3.0], [1.0, 2.0], np.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_differences_are_relative_to_the_layers_largest_value(
    got: list[float], wanted: list[float], difference: float
) -> None:
    from fmx_adapters._engines import largest_difference

    found, _ = largest_difference({"a": np.array(got)}, {"a": np.array(wanted)})
    assert found == pytest.approx(difference)


def test_captured_values_survive_later_batches(model: fmx.adapter.Model) -> None:
    """Arrays that were handed over belong to the user: no later batch writes into them."""
    with model.session(["layer1.0.bn2", "layer1.1.relu:2"]) as session:
        first = session.run(batch())
        copies = {name: values.copy() for name, values in first.items()}
        session.run(np.zeros_like(batch()))
    assert all(np.array_equal(first[name], copies[name]) for name in first)


def test_batch_size_does_not_matter(model: fmx.adapter.Model) -> None:
    data = batch(7)
    names = ["layer1.0.bn1", "layer1.0.add", "layer1", "fc"]
    with model.session(names) as session:
        whole = session.run(data)
        single = [session.run(data[i : i + 1]) for i in range(7)]
    for name, values in whole.items():
        alone = np.concatenate([capture[name] for capture in single])
        np.testing.assert_allclose(alone, values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_same_input_gives_the_same_bits(model: fmx.adapter.Model) -> None:
    with model.session(["layer1", "fc"]) as session:
        one, two = session.run(batch()), session.run(batch())
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_asking_for_less_gives_the_same_values(model: fmx.adapter.Model) -> None:
    with model.session([layer.name for layer in model.layers]) as session:
        everything = session.run(batch())
    for name in ("layer1.0.bn2", "layer1.0.add", "layer1.1"):
        with model.session([name]) as session:
            (values,) = session.run(batch()).values()
        np.testing.assert_allclose(values, everything[name], rtol=0, atol=1e-5 * np.abs(values).max())


def test_outputs_on_request(model: fmx.adapter.Model) -> None:
    with torch.no_grad():
        expected = tiny_resnet().eval()(torch.from_numpy(batch())).numpy()
    with model.session(["layer1"], outputs=True) as session:
        capture = session.run(batch())
    (values,) = capture.outputs.values()
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    with model.session(["layer1"]) as session:
        assert session.run(batch()).outputs == {}


@pytest.mark.parametrize("form", ["module", "traced file", "scripted file", "exported"])
@pytest.mark.parametrize(("wanted", "convolutions"), [("stem.0", 1), ("layer1.0.conv1", 2), ("layer1.0.add", 3)])
def test_nothing_past_the_last_wanted_layer_runs(
    form: str, wanted: str, convolutions: int, export: Callable[..., Any]
) -> None:
    model = fmx.load(export(NET, SHAPE, form), input_shape=SHAPE)
    with model.session([wanted]) as session:
        session.run(batch())
        with profile(activities=[ProfilerActivity.CPU]) as record:
            session.run(batch())
    ran = {event.key: event.count for event in record.key_averages()}
    assert ran["aten::_convolution"] == convolutions
    assert "aten::linear" not in ran


@pytest.mark.parametrize("form", ["legacy onnx", "dynamo onnx"])
def test_onnx_graph_is_cut_behind_the_last_wanted_value(form: str, export: Callable[..., Any]) -> None:
    proto = onnx.load(export(NET, SHAPE, form))
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    cut = cut_graph(proto, [convolutions[1].output[0]])
    assert sum(node.op_type == "Conv" for node in cut.graph.node) == 2
    assert [output.name for output in cut.graph.output] == [convolutions[1].output[0]]
    assert len(cut.graph.initializer) < len(proto.graph.initializer)


def test_value_overwritten_on_other_data_only_is_still_right() -> None:
    """A model that overwrites a value only for some inputs, not for the one it was looked at with."""

    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 1)
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            if x.min() < 0:
                y.mul_(0)
            return self.last(y)

    net = Sometimes().eval()
    data = -batch()
    with fmx.load(net, input_shape=SHAPE).session(["first", "last"]) as session:
        got = session.run(data)["first"]
    np.testing.assert_allclose(got, net.first(torch.from_numpy(data)).detach().numpy(), rtol=1e-6)
    assert np.abs(got).max() > 0


def test_layer_that_is_not_reached_is_named() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Conv2d(3, 4, 1)
            self.right = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(x) if x.min() >= 0 else self.right(x)

    model = fmx.load(Branch(), input_shape=SHAPE)
    with model.session(["left"]) as session, pytest.raises(ModelError, match="did not reach left"):
        session.run(-batch())


def test_unknown_layer_is_an_error(model: fmx.adapter.Model) -> None:
    with pytest.raises(LayerError, match=r"layer1\.0\.conv9"):
        model.session(["layer1.0.conv9"])


def test_wrong_shape_is_an_error(model: fmx.adapter.Model) -> None:
    with model.session(["layer1"]) as session, pytest.raises(ModelError, match="3×32×32"):
        session.run(np.zeros((2, 1, 32, 32), np.float32))


def test_fingerprint_follows_weights_and_graph(export: Callable[..., Any]) -> None:
    same = fmx.load(tiny_resnet(), input_shape=SHAPE).fingerprint
    assert fmx.load(tiny_resnet(), input_shape=SHAPE).fingerprint == same
    changed = tiny_resnet()
    changed.fc.weight.data[0, 0] += 1
    assert fmx.load(changed, input_shape=SHAPE).fingerprint != same
    other = tiny_resnet()
    other.stem[2] = nn.Identity()
    assert fmx.load(other, input_shape=SHAPE).fingerprint != same
    files = {form: fmx.load(export(NET, SHAPE, form), input_shape=SHAPE).fingerprint for form in FORMATS}
    assert files["traced"] == files["traced file"]
    assert all(len(f) == 64 for f in files.values())
