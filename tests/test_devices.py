"""Devices, precision, and the pipeline that overlaps copies with computing; on CUDA too where there is one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny_resnet
from torch import nn

import fmx
from fmx.adapter import Model
from fmx.errors import ModelError
from fmx_adapters._devices import devices_here, exact_arithmetic, parse_precision, pick_device, placed
from fmx_adapters._session import How
from fmx_adapters._transfer import Cuda, CudaLink, Link, open_link

SHAPE = (3, 32, 32)
NET = tiny_resnet()
NAMES = ["stem", "layer1.0.bn1", "layer1.0.add", "layer1", "fc"]
FORMS = ("module", "traced", "exported")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch(count: int = 4, seed: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


@pytest.fixture
def opened(export: Callable[..., Any]) -> Callable[[str], Model]:
    return lambda form: fmx.load(export(NET, SHAPE, form), input_shape=SHAPE)


# -- names of devices ------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_devices_are_named_with_their_index(two_gpus: None) -> None:
    assert devices_here() == ["cpu", "cuda:0", "cuda:1", "mps"]
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("mps") == torch.device("mps", 0)


@pytest.mark.parametrize("name", ["cuda:2", "mps:1", "xpu", "abacus", "cuda:x", "cpu:-1", "", "meta"])
def test_other_names_are_met_with_the_devices_there_are(two_gpus: None, name: str) -> None:
    with pytest.raises(ModelError, match=r"use cpu, cuda:0, cuda:1, mps\.$") as told:
        pick_device(name)
    assert name in str(told.value)


def test_absent_devices_on_a_machine_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ModelError, match=rf"There is no {name} here: use cpu\.$"):
            pick_device(name)


# -- where a module lies ---------------------------------------------------------------------------


def test_module_is_copied_only_where_it_has_to_change() -> None:
    cpu = torch.device("cpu")
    net = tiny_resnet()
    assert placed(net, cpu) is net
    assert placed(net, cpu, torch.float32) is net
    half = placed(net, cpu, torch.bfloat16)
    assert half is not net
    assert {t.dtype for t in net.parameters()} == {torch.float32}
    assert {t.dtype for t in half.parameters()} == {torch.bfloat16}
    assert {t.dtype for t in half.buffers()} == {torch.bfloat16, torch.int64}
    moved = placed(net, torch.device("meta"))
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}
    assert {t.device.type for t in net.state_dict().values()} == {"cpu"}
    own = copy.deepcopy(net)
    assert placed(own, cpu, torch.float16, own=True) is own
    assert own.fc.weight.dtype == torch.float16


# -- exact arithmetic ------------------------------------------------------------------------------


def switches() -> tuple[Any, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    precisions = [holder.fp32_precision for holder in (cudnn.conv, cudnn.rnn, matmul)]
    return cudnn.benchmark, cudnn.deterministic, *precisions


@contextmanager
def user_settings(**changes: Any) -> Iterator[None]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = switches()
    try:
        if "new" in changes:
            cudnn.conv.fp32_precision, matmul.fp32_precision = changes["new"], changes["new"]
        if "old" in changes:
            cudnn.allow_tf32 = changes["old"]
        cudnn.benchmark = changes.get("benchmark", False)
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = True, False
        cudnn.benchmark, cudnn.deterministic = before[:2]
        for holder, precision in zip((cudnn.conv, cudnn.rnn, matmul), before[2:], strict=True):
            holder.fp32_precision = precision


@pytest.mark.parametrize("changes", [{}, {"old": False}, {"new": "tf32"}, {"new": "ieee", "benchmark": True}])
def test_tf32_is_off_inside_and_as_it_was_afterwards(changes: dict[str, Any]) -> None:
    cuda = torch.device("cuda", 0)
    with user_settings(**changes):
        before = switches()
        with pytest.raises(ZeroDivisionError), exact_arithmetic(cuda):
            inside = switches()
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            raise ZeroDivisionError
        assert inside[:2] == (False, True)
        assert "tf32" not in inside
        assert switches() == before


def test_nothing_is_switched_elsewhere() -> None:
    before = switches()
    with exact_arithmetic(torch.device("cpu")):
        assert switches() == before


# -- precision -------------------------------------------------------------------------------------


def by_hand(dtype: torch.dtype, data: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Convert everything, run, and widen what comes out."""
    net = copy.deepcopy(NET).eval().to(dtype)
    for module in net.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    found: dict[str, Any] = {}
    for name in ("stem", "layer1.0.bn1", "layer1", "fc"):
        net.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: found.update({name: out.detach().clone().float().numpy()})
        )
    with torch.no_grad():
        net(torch.from_numpy(data).to(dtype))
    return found


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_precision_is_a_conversion_of_the_whole_model(
    form: str, precision: str, opened: Callable[[str], Model]
) -> None:
    before = {name: value.clone() for name, value in NET.state_dict().items()}
    model = opened(form)
    types = {layer.name: layer.dtype for layer in model.layers}
    with model.session(NAMES, precision=precision, outputs=True) as session:
        got = session.run(batch())
    expected = by_hand(parse_precision(precision) or torch.float32, batch())
    for name, values in got.items():
        assert str(values.dtype) == types[name] == "float32"
        if name in expected:
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-6 if precision == "float32" else 0.02)
    if form == "module":
        assert all(np.array_equal(got[name], expected[name]) for name in expected)
    assert got.outputs["output"].dtype == np.float32
    exact = by_hand(torch.float32, batch())
    assert np.array_equal(got["stem"], exact["stem"]) == (precision == "float32")
    for name, value in NET.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_default_precision_is_the_models_own() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    model = fmx.load(copy.deepcopy(net).double(), input_shape=SHAPE)
    with model.session(["0"]) as session:
        exact = session.run(batch())["0"]
    with model.session(["0"], precision="float32") as session:
        narrow = session.run(batch())["0"]
    assert str(exact.dtype) == str(narrow.dtype) == model.layers[0].dtype == "float64"
    with torch.no_grad():
        assert np.array_equal(narrow, net[0](torch.from_numpy(batch())).double().numpy())
    assert not np.array_equal(narrow, exact)


def test_whole_numbers_stay_whole() -> None:
    net = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 3)).eval()
    model = fmx.load(net)
    with model.session(["0", "1"], precision="bfloat16") as session:
        got = session.run(np.arange(8).reshape(2, 4).repeat(4, 1))
    wanted = net.state_dict()["0.weight"].bfloat16().float()[torch.arange(4)]
    assert np.array_equal(got["0"][0, ::4], wanted.numpy())


@pytest.mark.parametrize("form", FORMS)
def test_unknown_precision_is_an_error(form: str, opened: Callable[[str], Model]) -> None:
    with pytest.raises(ModelError, match=r"no precision int8: use float32, float16, bfloat16\.$"):
        opened(form).session(["stem"], precision="int8")


def test_operation_that_a_precision_lacks_is_said() -> None:
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(self.fc(x) + torch.eye(4, dtype=x.dtype))

    model = fmx.load(Inverse().eval(), input_shape=(4, 4))
    with (
        model.session(["fc"], precision="float16", outputs=True) as session,
        pytest.raises(ModelError, match=r"at float16 on cpu: .*Half"),
    ):
        session.run(np.ones((2, 4, 4), np.float32))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_engines_are_compared_at_the_precision_asked_for(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmx_adapters._engines import AutoSession

    monkeypatch.setattr(AutoSession, "_pays", lambda _self, candidate, *_: candidate.name != "compiled")
    model = fmx.load(NET, input_shape=SHAPE)
    tolerance = How(precision=precision).terms(torch.float32).tolerance
    assert 1e-4 < tolerance < 0.05
    assert How().terms(torch.float32).tolerance == How(precision="float32").terms(torch.float16).tolerance == 1e-4
    with model.session(NAMES, precision=precision) as session:
        expected = session.run(batch())
    with model.session(NAMES, engine="auto", precision=precision) as session:
        first, again = session.run(batch()), session.run(batch())
        assert any(note.startswith("onnxruntime: can't be used, it computes in") for note in session.engine_notes)
    for name, value in again.items():
        assert np.array_equal(value, first[name])
        assert np.abs(value - expected[name]).max() <= tolerance * np.abs(expected[name]).max()


# -- the pipeline ----------------------------------------------------------------------------------


class FakeStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> FakeStream:
        self.log.append(f"event on {self.name}")
        return self

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")


class FakeCuda(Cuda):
    """Streams on a CPU that note what they are asked to do."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.log: list[str] = []
        self._made = iter(("up", "down"))
        self._current = FakeStream("compute", self.log)

    def stream(self) -> Any:
        return FakeStream(next(self._made), self.log)

    def current(self) -> Any:
        return self._current

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        self.log.append(f"on {stream.name}")
        yield
        self.log.append(f"off {stream.name}")

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.log.append("pinned")
        return torch.empty(shape, dtype=dtype)

    def keep(self, tensor: torch.Tensor, stream: Any) -> None:
        self.log.append(f"kept for {stream.name}")


def test_copies_are_ordered_by_streams_and_events() -> None:
    cuda = FakeCuda()
    link = CudaLink(torch.device("cpu"), cuda)
    sent = link.send(np.arange(6.0)[::-1].reshape(2, 3), torch.float32)
    assert sent.dtype == torch.float32
    assert sent.tolist() == [[5, 4, 3], [2, 1, 0]]
    assert cuda.log == ["pinned", "on up", "off up", "compute waits for up", "kept for compute"]
    cuda.log.clear()
    value = sent.t()
    arrived = link.fetch({"a": value, "b": value.half()}, {"b": torch.float32})
    once = ["kept for down", "pinned"]
    assert cuda.log == ["down waits for compute", "on down", *once, *once, "event on down", "off down"]
    value.zero_()
    cuda.log.clear()
    got = arrived()
    assert cuda.log == ["host waits for down"]
    assert got["a"].tolist() == got["b"].tolist() == [[5, 2], [4, 1], [3, 0]]
    assert got["b"].dtype == np.float32
    assert got["a"].flags.c_contiguous


def test_next_batch_is_started_before_the_values_of_one_are_waited_for() -> None:
    model = fmx.load(NET, input_shape=SHAPE)
    cuda = FakeCuda()
    with model.session(NAMES) as session:
        wanted = [session.run(batch(3, seed)) for seed in range(3)]
        session._link = CudaLink(torch.device("cpu"), cuda)
        running = session.run_all(batch(3, seed) for seed in range(3))
        first = next(running)
        events = [line for line in cuda.log if "event" in line or "host waits" in line]
        assert events == ["event on down", "event on down", "host waits for down"]
        got = [first, *running]
        assert cuda.log[-1] == "host waits for down"
        assert list(session.run_all([])) == []
    for one, other in zip(got, wanted, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in NAMES)


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_without_streams_batches_run_when_they_are_asked_for(engine: str) -> None:
    taken = 0

    def batches() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal taken
        for seed in range(3):
            taken += 1
            yield batch(3, seed)

    assert type(open_link(torch.device("cpu"))) is Link
    with fmx.load(NET, input_shape=SHAPE).session(NAMES, engine=engine) as session:
        running = session.run_all(batches())
        first = next(running)
        assert taken == 1
        assert len(list(running)) == 2
        assert np.array_equal(session.run(batch(3, 0))["fc"], first["fc"])


def test_values_on_the_cpu_are_not_copied() -> None:
    value = torch.rand(2, 3)
    got = Link(torch.device("cpu")).fetch({"a": value}, {})()
    assert np.shares_memory(got["a"], value.numpy())


# -- on CUDA ---------------------------------------------------------------------------------------


@NEEDS_CUDA
@pytest.mark.parametrize("engine", ["eager", "folded", "channels-last", "compiled", "auto"])
@pytest.mark.parametrize("form", FORMS)
def test_values_on_cuda_are_those_of_the_cpu(form: str, engine: str, opened: Callable[[str], Model]) -> None:
    model = opened(form)
    batches = [batch(5, seed) for seed in range(4)]
    with model.session(NAMES, outputs=True) as session:
        wanted = [session.run(data) for data in batches]
    with model.session(NAMES, device="cuda", engine=engine, outputs=True) as session:
        got = list(session.run_all(batches))
        again = [session.run(data) for data in batches]
    for one, other, repeated in zip(got, wanted, again, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-4 * np.abs(other[name]).max())
            assert engine == "auto" or np.array_equal(one[name], repeated[name])
        np.testing.assert_allclose(one.outputs["output"], other.outputs["output"], rtol=0, atol=1e-3)
    assert all(not value.is_cuda for value in NET.state_dict().values())


@NEEDS_CUDA
def test_values_from_cuda_belong_to_the_caller() -> None:
    with fmx.load(NET, input_shape=SHAPE).session(["layer1"], device="cuda") as session:
        assert any("TF32" in note for note in session.engine_notes)
        captured = [
            (seed, capture["layer1"]) for seed, capture in enumerate(session.run_all(batch(8, s) for s in range(20)))
        ]
        for seed, values in captured:
            assert np.array_equal(session.run(batch(8, seed))["layer1"], values)


@NEEDS_CUDA
@pytest.mark.parametrize("index", range(torch.cuda.device_count()))
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_each_cuda_device_in_half_precision(index: int, precision: str) -> None:
    model = fmx.load(NET, input_shape=SHAPE)
    with model.session(["layer1"]) as session:
        wanted = session.run(batch())["layer1"]
    with model.session(["layer1"], device=f"cuda:{index}", precision=precision) as session:
        got = session.run(batch())["layer1"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.05 * np.abs(wanted).max())


@pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an MPS device")
def test_values_on_mps_are_those_of_the_cpu() -> None:
    model = fmx.load(NET, input_shape=SHAPE)
    with model.session(NAMES) as session:
        wanted = session.run(batch())
    with model.session(NAMES, device="mps") as session:
        got = session.run(batch())
    for name in NAMES:
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-3 * np.abs(wanted[name]).max())
