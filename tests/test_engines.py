"""Engines: each gives the reference's values in every format that has it, and auto takes one only where it pays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_resnet
from torch import fx, nn

import fmx
from fmx.adapter import Batch, Capture, Model
from fmx.errors import ModelError
from fmx.testing import ReferenceNetwork
from fmx_adapters._compiling import has_compiler
from fmx_adapters._engines import AutoSession, Candidate, Terms, pick_engine
from fmx_adapters._folding import fold_batch_norms, relax_views

REFERENCE = ReferenceNetwork()
TOLERANCE = 1e-4
COMPILED = pytest.param("compiled", marks=pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler"))
GRAPH_ENGINES = ("folded", "channels-last", "onnxruntime", COMPILED)
PAIRS = [
    *(pytest.param("module", *getattr(e, "values", (e,)), marks=getattr(e, "marks", ())) for e in GRAPH_ENGINES),
    *(pytest.param("exported", *getattr(e, "values", (e,)), marks=getattr(e, "marks", ())) for e in GRAPH_ENGINES),
    *(pytest.param("traced", *getattr(e, "values", (e,)), marks=getattr(e, "marks", ())) for e in GRAPH_ENGINES),
    *(("scripted", e) for e in ("frozen", "folded", "channels-last", "onnxruntime")),
    ("traced", "frozen"),
    ("exported one", "folded"),
]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return REFERENCE.module()


@pytest.fixture
def opened(network: nn.Module, export: Callable[..., Any]) -> Callable[[str], Model]:
    return lambda form: fmx.load(export(network, REFERENCE.shape, form), input_shape=REFERENCE.shape)


def close(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], name: str) -> None:
    assert got.shape == wanted.shape, name
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max(), err_msg=name)


# -- every engine of every format ------------------------------------------------------------------


@pytest.mark.parametrize(("form", "engine"), PAIRS)
def test_engines_give_the_values_of_the_reference_network(
    form: str, engine: str, opened: Callable[[str], Model], network: nn.Module
) -> None:
    """Of all layers, convolutions before batch norms and values that are overwritten in place among them."""
    model = opened(form)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    # With every convolution captured there is nothing to fold.
    left_out = {"stem.0", "block.conv1"} if engine == "folded" else set()
    names = [layer.name for layer in model.layers if layer.name not in left_out]
    with model.session(names, engine=engine, outputs=True) as session:
        for count in (4, 1, 7):
            got = session.run(REFERENCE.batch(count))
            wanted = REFERENCE.run(REFERENCE.batch(count))
            assert list(got) == names
            assert list(got.outputs) == ["output"]
            close(got.outputs["output"], wanted["fc"], "output")
            for name in names:
                assert got[name].dtype == np.float32
                close(got[name], wanted[name], name)
        assert session.engine.startswith(engine)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("form", "engine"), PAIRS)
def test_engines_capture_single_layers(form: str, engine: str, opened: Callable[[str], Model]) -> None:
    if engine == "compiled":
        pytest.skip("each layer would be compiled for itself, and the graphs are those of the other engines")
    wanted = REFERENCE.run(REFERENCE.batch())
    model = opened(form)
    for name in (
        ("stem.1", "block.add") if engine == "onnxruntime" else ("stem.1", "block.conv2", "block.relu", "block")
    ):
        try:
            with model.session([name], engine=engine) as session:
                first = session.run(REFERENCE.batch())
                kept = first[name].copy()
                session.run(np.zeros_like(REFERENCE.batch()))
                assert np.array_equal(first[name], kept)
                assert not first.outputs
        except ModelError as error:
            assert "no batch norm can be folded" in str(error)
            assert engine == "folded"
            continue
        close(first[name], wanted[name], name)


@pytest.mark.parametrize("form", ["module", "traced", "scripted", "exported"])
def test_unknown_engines_are_met_with_those_there_are(form: str, opened: Callable[[str], Model]) -> None:
    with pytest.raises(ModelError, match=r"no engine warp.*folded.*onnxruntime.*compiled"):
        opened(form).session(["stem"], engine="warp")


@pytest.mark.parametrize("form", ["module", "traced", "exported"])
def test_engine_that_cannot_run_a_model_says_why(form: str, export: Callable[..., Any]) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    model = fmx.load(export(net, (4,), form), input_shape=(4,))
    with (
        pytest.raises(ModelError, match=r"engine folded can't run this model: no batch norm can be folded\.$"),
        model.session(["0"], engine="folded"),
    ):
        pass


# -- paths that depend on the data -----------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        if bool(x.mean() > 0):
            y = -y
        return self.last(y)


@pytest.mark.parametrize("engine", ["folded", "onnxruntime", COMPILED])
def test_path_that_depends_on_the_data_is_never_written_down(engine: str) -> None:
    net = Branching().eval()
    model = fmx.load(net, input_shape=(3, 4, 4))
    with (
        pytest.raises(ModelError, match=f"engine {engine} can't run this model: .*depend"),
        model.session(["last"], engine=engine),
    ):
        pass


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_scripted_branches_are_kept_by_the_frozen_engine_alone() -> None:
    net = Branching().eval()
    model = fmx.load(torch.jit.script(net), input_shape=(3, 4, 4))
    batch = np.random.default_rng(0).random((3, 3, 4, 4), dtype=np.float32)
    with model.session(["last"], engine="frozen") as session:
        for data in (batch, -batch):
            with torch.no_grad():
                close(session.run(data)["last"], net(torch.from_numpy(data)).numpy(), "last")
    with pytest.raises(ModelError, match="depends on the data"), model.session(["last"], engine="folded"):
        pass


# -- folding ---------------------------------------------------------------------------------------


class Pairs(nn.Module):
    """Convolutions of every kind with batch norms, one of which is read by something else too."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, bias=False)
        self.bn_a = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 2, groups=2, stride=2)
        self.bn_b = nn.BatchNorm2d(6, affine=False)
        self.c = nn.Conv2d(6, 5, 1)
        self.bn_c = nn.BatchNorm2d(5, eps=0.1)
        self.d = nn.ConvTranspose2d(5, 5, 2)
        self.bn_d = nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn_b(self.b(self.bn_a(self.a(x))))
        c = self.c(x)
        return self.bn_d(self.d(self.bn_c(c) + c))


def exported_graph(net: nn.Module, *shape: int) -> fx.GraphModule:
    module = torch.export.export(net, (torch.rand(2, *shape),)).module()
    assert isinstance(module, fx.GraphModule)
    return module


def test_folding_gives_what_the_formula_gives() -> None:
    torch.manual_seed(0)
    net = Pairs().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    model = fmx.load(torch.export.export(net, (torch.rand(2, 3, 9, 9, dtype=torch.float64),)))
    graph = model.program().module
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert fold_batch_norms(graph) == 2  # not c, which is read twice, nor the transposed d
    left = [node for node in graph.graph.nodes if "batch_norm" in str(node.target)]
    assert len(left) == 2
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        got, wanted = graph(x), net(x)
        # bn(conv(x)) = (w * x + b - mean) / sqrt(var + eps) * gamma + beta, channel by channel
        scale = net.bn_a.weight / torch.sqrt(net.bn_a.running_var + net.bn_a.eps)
        by_hand = torch.stack(
            [
                nn.functional.conv2d(x, net.a.weight[i : i + 1])[:, 0] * scale[i]
                + (net.bn_a.bias[i] - net.bn_a.running_mean[i] * scale[i])
                for i in range(4)
            ],
            1,
        )
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(by_hand.numpy(), net.bn_a(net.a(x)).detach().numpy(), rtol=1e-10, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_views_that_are_written_to_stay_views() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            y.view(-1).add_(1)
            return y.view(2, -1)

    graph = exported_graph(Writes(), 3)
    relax_views(graph)
    targets = [
        str(node.target) for node in graph.graph.nodes if "view" in str(node.target) or "reshape" in str(node.target)
    ]
    assert "aten.view.default" in targets
    x = torch.rand(2, 3)
    assert torch.equal(graph(x), x * 2 + 1)


# -- choosing --------------------------------------------------------------------------------------


class Timed:
    """A session that takes a given time, for testing who is chosen; it doubles its input."""

    engine_notes = ()
    open_now = 0

    def __init__(self, name: str, clock: Clock, seconds: float, factor: float = 2.0) -> None:
        self.engine, self._clock, self._seconds, self._factor = name, clock, seconds, factor

    def __enter__(self) -> Timed:
        Timed.open_now += 1
        return self

    def __exit__(self, *_: Any) -> None:
        Timed.open_now -= 1

    def run(self, batch: Batch) -> Capture:
        assert isinstance(batch, np.ndarray)
        self._clock.now += self._seconds * len(batch)
        return Capture({"layer": batch * np.float32(self._factor)})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fmx_adapters._engines.time.perf_counter", clock)
    return clock


def settled(clock: Clock, candidates: dict[str, tuple[float, float]], batches: int | None) -> AutoSession:
    offered = [Candidate(name, lambda n=name, s=s, f=f: Timed(n, clock, s, f)) for name, (s, f) in candidates.items()]
    session = pick_engine("auto", lambda: Timed("reference", clock, 0.01), offered, Terms(expected_batches=batches))
    assert isinstance(session, AutoSession)
    with session:
        data = np.ones((32, 2), np.float32)
        for capture in session.run_all([data, data]):
            np.testing.assert_allclose(capture["layer"], 2 * data, rtol=1e-4)
        assert Timed.open_now == 1
    assert Timed.open_now == 0
    return session


@pytest.mark.parametrize(
    ("candidates", "batches", "choice"),
    [
        ({"folded": (0.005, 2.0), "channels-last": (0.007, 2.0)}, 1000, "folded"),
        ({"folded": (0.007, 2.0), "channels-last": (0.005, 2.0)}, 1000, "channels-last"),
        ({"folded": (0.02, 2.0)}, 1000, "eager"),
        ({"folded": (0.005, 2.1), "channels-last": (0.007, 2.0)}, 1000, "channels-last"),
        ({"folded": (0.005, 2.0), "compiled": (0.001, 2.0)}, 100, "folded"),
        ({"folded": (0.005, 2.0), "compiled": (0.001, 2.0)}, 10000, "compiled"),
        ({"folded": (0.005, 2.0), "onnxruntime": (0.001, 2.0)}, 20, "folded"),
        ({"folded": (0.005, 2.0), "onnxruntime": (0.001, 2.0)}, 200, "onnxruntime"),
        ({"folded": (0.005, 2.0)}, 2, "eager"),
        ({"folded": (0.005, 2.0), "compiled": (0.001, 2.0)}, None, "folded"),
    ],
)
def test_fastest_engine_that_pays_is_taken(
    clock: Clock, candidates: dict[str, tuple[float, float]], batches: int | None, choice: str
) -> None:
    session = settled(clock, candidates, batches)
    assert session.choice == choice
    assert session.engine == ("reference" if choice == "eager" else choice)
    assert len(session.engine_notes) == len(candidates)


@pytest.mark.parametrize("batches", range(2, 60, 3))
@pytest.mark.parametrize("speed", [0.003, 0.01, 0.03])
def test_looking_for_an_engine_takes_a_fifth_of_the_run_at_most(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, batches: int, speed: float
) -> None:
    """Even where every candidate takes as long to set up as is reckoned with, and none of them is faster."""
    outlooks = {"folded": 0.3, "channels-last": 0.3, "onnxruntime": 1.5}

    class Slow(Timed):
        def __enter__(self) -> Timed:
            self._clock.now += outlooks[self.engine]
            return super().__enter__()

    offered = [Candidate(name, lambda n=name: Slow(n, clock, speed)) for name in outlooks]
    data = np.ones((32, 2), np.float32)
    begun = clock.now
    with pick_engine(
        "auto", lambda: Timed("reference", clock, speed), offered, Terms(expected_batches=batches)
    ) as session:
        list(session.run_all([data] * batches))
    assert clock.now - begun <= 1.2 * batches * 32 * speed + 1e-9


def test_notes_say_what_became_of_every_candidate(clock: Clock) -> None:
    session = settled(clock, {"folded": (0.005, 2.1), "channels-last": (0.008, 2.0), "compiled": (0.001, 2.0)}, 100)
    assert session.engine_notes[0].startswith("folded: not used, layer differs by 5.0e-02")
    assert session.engine_notes[1] == "channels-last: 1.25× reference"
    assert session.engine_notes[2].startswith("compiled: not tried, in 100 batches")


def test_engine_right_on_few_samples_only_is_dropped(clock: Clock) -> None:
    class Later(Timed):
        def run(self, batch: Batch) -> Capture:
            capture = super().run(batch)
            capture["layer"][10:] += 1
            return capture

    offered = [Candidate("folded", lambda: Later("folded", clock, 0.001))]
    with pick_engine("auto", lambda: Timed("reference", clock, 0.01), offered, Terms(expected_batches=1000)) as session:
        session.run(np.ones((32, 2), np.float32))
        assert session.engine == "reference"
        assert "differs by" in session.engine_notes[-1]


def test_engine_that_fails_later_is_named(clock: Clock) -> None:
    class Fails(Timed):
        def run(self, batch: Batch) -> Capture:
            if batch[0, 0] == 0:
                raise ModelError("It broke.")
            return super().run(batch)

    offered = [Candidate("folded", lambda: Fails("folded", clock, 0.001))]
    with pick_engine("auto", lambda: Timed("reference", clock, 0.01), offered, Terms(expected_batches=1000)) as session:
        session.run(np.ones((32, 2), np.float32))
        with pytest.raises(ModelError, match=r"It broke; the engine was folded: take --engine eager"):
            session.run(np.zeros((32, 2), np.float32))


@pytest.fixture
def eager_to_try(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every candidate but torch.compile be tried, however small the network."""
    monkeypatch.setattr(AutoSession, "_pays", lambda _self, candidate, *_: candidate.name != "compiled")
    yield


@pytest.mark.parametrize("form", ["module", "traced", "scripted", "exported"])
def test_explicit_engine_gives_the_bits_of_the_same_choice(
    form: str, opened: Callable[[str], Model], eager_to_try: None
) -> None:
    model, names = opened(form), ["stem", "block.relu", "fc"]
    with model.session(names, engine="auto", outputs=True) as session:
        assert isinstance(session, AutoSession)
        session.run(REFERENCE.batch())
        chosen = session.run(REFERENCE.batch())
        choice, engine = session.choice, session.engine
        assert len(session.engine_notes) >= 4
        assert not any("differs" in note for note in session.engine_notes)
    for asked in (choice, engine):
        with model.session(names, engine=asked, outputs=True) as session:
            assert session.engine == engine
            again = session.run(REFERENCE.batch())
        assert all(np.array_equal(chosen[name], again[name]) for name in names)
        assert all(np.array_equal(chosen.outputs[name], again.outputs[name]) for name in chosen.outputs)


@pytest.mark.parametrize("form", ["module", "traced", "exported", "legacy onnx"])
def test_engine_is_found_again_by_what_a_session_said(form: str, opened: Callable[[str], Model]) -> None:
    model = opened(form)
    for name in ("eager", "optimised") if form == "legacy onnx" else ("eager", "folded", "onnxruntime"):
        with model.session(["block"], engine=name) as session:
            said = session.engine
            wanted = session.run(REFERENCE.batch())["block"]
        with model.session(["block"], engine=said) as session:
            assert session.engine == said
            assert np.array_equal(session.run(REFERENCE.batch())["block"], wanted)
    with pytest.raises(ModelError, match=r"no engine onnxruntime 0\.1\.0 ORT_ENABLE_ALL"):
        model.session(["block"], engine="onnxruntime 0.1.0 ORT_ENABLE_ALL")


_DIGEST = """
import hashlib, sys, warnings
import numpy as np
import fmx
from networks import tiny_resnet
model = fmx.load(tiny_resnet(), input_shape=(3, 32, 32))
batch = np.random.default_rng(3).random((5, 3, 32, 32), dtype=np.float32)
for engine in sys.argv[1:]:
    with model.session(["layer1.0.add", "layer1", "fc"], engine=engine) as session:
        session.run(batch[:2])
        print(engine, hashlib.sha256(b"".join(v.tobytes() for v in session.run(batch).values())).hexdigest())
"""


def test_same_batch_gives_the_same_bits_in_another_process() -> None:
    engines = ["eager", "folded", "channels-last", "onnxruntime", *(["compiled"] if has_compiler() else [])]
    said = [
        subprocess.run(
            [sys.executable, "-c", _DIGEST, *engines],
            cwd=__file__.rpartition("/")[0],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == len(engines)


# -- torch.compile ---------------------------------------------------------------------------------


def test_missing_compiler_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    model = fmx.load(tiny_resnet(), input_shape=(3, 32, 32))
    batch = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    with (
        pytest.raises(ModelError, match=r"engine compiled can't run this model: torch.compile needs a C\+\+ compiler"),
        model.session(["layer1"], engine="compiled"),
    ):
        pass
    monkeypatch.setattr(AutoSession, "_pays", lambda *_: True)
    with model.session(["layer1"], engine="auto") as session:
        session.run(batch)
        assert any(note.startswith("compiled: can't be used, torch.compile needs") for note in session.engine_notes)
        assert any(note.startswith("folded: ") and "×" in note for note in session.engine_notes)


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_module_that_export_cannot_follow_is_not_compiled() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = torch.nonzero(self.fc(x)[0] > 0)
            return self.fc(x) if len(kept) > 1 else -self.fc(x)

    model = fmx.load(Odd().eval(), input_shape=(3,))
    with (
        pytest.raises(ModelError, match="engine compiled can't run this model: it can't be exported"),
        model.session(["fc"], engine="compiled"),
    ):
        pass


# -- ONNX Runtime ----------------------------------------------------------------------------------


class Windows(nn.Module):
    """Splits and joins the batch by sizes that a trace has to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.token = nn.Parameter(torch.rand(1, 1, 4))
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, _, y, x_size = x.shape
        cells = self.conv(x).view(count, 4, y * x_size).transpose(1, 2)
        cells = torch.cat([self.token.expand(count, -1, -1), cells], 1)
        return self.attend(cells, cells, cells, need_weights=False)[0].reshape(count, -1)


@pytest.mark.parametrize("form", ["module", "exported"])
def test_sizes_and_attention_are_exported_for_any_batch(form: str, export: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    net = Windows().eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    model = fmx.load(export(net, (3, 4, 4), form), input_shape=(3, 4, 4))
    data = np.random.default_rng(0).random((7, 3, 4, 4), dtype=np.float32)
    with model.session(["conv"], outputs=True) as session:
        wanted = session.run(data)
    with model.session(["conv"], engine="onnxruntime", outputs=True) as session:
        got = session.run(data)
    close(got["conv"], wanted["conv"], "conv")
    close(got.outputs["output"], wanted.outputs["output"], "output")
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_export_that_gives_other_values_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * float(len(x))

    class Fits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.adaptive_avg_pool2d(self.conv(x), 3)

    for net, shape, said in ((Counts(), (3,), "values that differ by"), (Fits(), (3, 4, 4), "can't be exported")):
        model = fmx.load(net.eval(), input_shape=shape)
        with (
            pytest.raises(ModelError, match=f"engine onnxruntime can't run this model: .*{said}"),
            model.session([model.layers[0].name], engine="onnxruntime", outputs=True),
        ):
            pass
    assert capfd.readouterr().out == ""
