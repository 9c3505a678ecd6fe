"""Convolutions by transformed kernels: against sums written out in double precision, and autograd along whole ways."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import net_and_picture, torchvision_net
from numpy.typing import NDArray
from torch import Tensor, nn

import fmx
from fmx.project import adjoint, quick
from fmx.project.network import Network
from fmx.project.quick import quickened
from fmx.project.rules import Rule, deconvnet, guided
from fmx.project.stops import stops_between
from fmx.project.winograd import Winograd, _points


def numbers(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def written_out(values: NDArray[Any], kernels: NDArray[Any], edge: int) -> NDArray[np.float64]:
    """Slide 3×3 kernels (channel in, channel out, 3, 3) over maps (signal, channel, y, x)."""
    padded = np.pad(values.astype(np.float64), [(0, 0), (0, 0), (edge, edge), (edge, edge)])
    height, width = padded.shape[2] - 2, padded.shape[3] - 2
    found = np.zeros((len(values), kernels.shape[1], height, width))
    for y in range(height):
        for x in range(width):
            window = padded[:, :, y : y + 3, x : x + 3]
            found[:, :, y, x] = np.einsum("nkij,kcij->nc", window, kernels.astype(np.float64))
    return found


def unpooled(values: NDArray[Any], codes: NDArray[Any], sides: tuple[int, int]) -> NDArray[Any]:
    """Put each value where it stood in its window of 2×2."""
    found = np.zeros((*values.shape[:2], *sides), values.dtype)
    for c in range(values.shape[1]):
        for y in range(values.shape[2]):
            for x in range(values.shape[3]):
                down, right = divmod(int(codes[y, x, c]), 2)
                found[:, c, 2 * y + down, 2 * x + right] = values[:, c, y, x]
    return found


def assert_close(found: Tensor, expected: NDArray[Any]) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=4e-6 * np.abs(expected).max())


def test_transforms_convolve_along_one_axis() -> None:
    """Of 6 numbers and 3 the 4 products of Toom and Cook are those of a slide, whatever the points."""
    from fmx.project.winograd_kernels import _inward, _outward

    values, kernel = numbers(6).astype(np.float64), numbers(3).astype(np.float64)
    spread = _points().numpy() @ kernel
    found = _outward([a * b for a, b in zip(_inward(values), spread, strict=True)])
    np.testing.assert_allclose(found, np.convolve(values, kernel[::-1], "valid"), atol=1e-12)


@pytest.mark.parametrize("edge", [0, 1, 2])
@pytest.mark.parametrize(
    ("count", "given", "made", "sides"),
    [
        (1, 32, 32, (8, 8)),
        (1, 32, 3, (9, 13)),
        (2, 48, 40, (7, 12)),
        (3, 33, 50, (5, 3)),
        (2, 37, 17, (14, 11)),
        (5, 16, 70, (4, 6)),
        (1, 100, 96, (3, 20)),
    ],
)
def test_equals_sums_written_out(count: int, given: int, made: int, sides: tuple[int, int], edge: int) -> None:
    values, kernels = numbers(count, given, *sides), numbers(given, made, 3, 3)
    found = Winograd(torch.from_numpy(kernels), edge)(torch.from_numpy(values))
    assert_close(found, written_out(values, kernels, edge))
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(
    st.tuples(*[st.integers(1, 40)] * 2),
    st.tuples(st.integers(1, 3), *[st.integers(1, 70)] * 2),
    st.integers(0, 2),
    st.sampled_from(["in order", "channels last", "a part", "turned", "one for all"]),
    st.sampled_from([-np.inf, 0.0]),
    st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_any_sizes_in_any_order_of_memory(
    sides: tuple[int, int], channels: tuple[int, int, int], edge: int, order: str, floor: float, seed: int
) -> None:
    assume(min(sides) + 2 * edge > 2)
    rng, (count, given_, made) = np.random.default_rng(seed), channels
    values = torch.from_numpy(rng.standard_normal((count, given_, *sides), dtype=np.float32))
    kernels = torch.from_numpy(rng.standard_normal((given_, made, 3, 3), dtype=np.float32))
    laid: dict[str, Callable[[], Tensor]] = {
        "in order": lambda: values,
        "channels last": lambda: values.contiguous(memory_format=torch.channels_last),
        "a part": lambda: F.pad(values, (1, 2, 2, 1), value=7.0)[:, :, 2:-1, 1:-2],
        "turned": lambda: values.transpose(2, 3).contiguous().transpose(2, 3),
        "one for all": lambda: values[:1].expand(count, -1, -1, -1),
    }
    values = laid[order]()
    kept = values.clone()
    found = Winograd(kernels, edge, floor)(values)
    expected = F.conv2d(values.double(), kernels.double().transpose(0, 1), padding=edge).clamp(min=floor).numpy()
    scale = float(values.abs().max() * kernels.abs().max()) * given_**0.5
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=4e-6 * max(np.abs(expected).max(), scale))
    assert torch.equal(values, kept)


def test_several_threads_at_once_get_what_each_gets_alone() -> None:
    """One object is shared by all of them."""
    convolve = Winograd(torch.from_numpy(numbers(40, 37, 3, 3)), 1, 0.0)
    values = [torch.from_numpy(numbers(1 + i % 3, 40, 9 + i, 21 - i)) for i in range(12)]
    alone = [convolve(one) for one in values]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert all(map(torch.equal, pool.map(convolve, values), alone))


def test_nothing_below_the_floor_comes_out_and_what_is_no_number_does() -> None:
    values, kernels = numbers(2, 32, 9, 10), numbers(32, 35, 3, 3)
    convolve = Winograd(torch.from_numpy(kernels), 1, 0.0)
    expected = written_out(values, kernels, 1)
    assert_close(convolve(torch.from_numpy(values)), expected.clip(min=0))
    values[1, 4, 5, 6] = np.nan
    found = convolve(torch.from_numpy(values)).numpy()
    assert np.isnan(found[1, :, 4:7, 5:8]).all()
    assert not np.isnan(found[0]).any()


@pytest.mark.parametrize("more", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("edge", [0, 1, 2])
def test_pooled_values_stand_where_their_switches_say(edge: int, more: tuple[int, int]) -> None:
    values, kernels = numbers(2, 48, 6, 5), numbers(48, 40, 3, 3)
    codes = np.random.default_rng(0).integers(0, 4, (6, 5, 48)).astype(np.uint8)
    sides = (12 + more[0], 10 + more[1])
    out = (sides[0] + 2 * edge - 2, sides[1] + 2 * edge - 2)
    found = Winograd(torch.from_numpy(kernels), edge)(torch.from_numpy(values), codes, out)
    assert_close(found, written_out(unpooled(values, codes, sides), kernels, edge))
    if not any(more):
        again = Winograd(torch.from_numpy(kernels), edge)(torch.from_numpy(values), codes)
        assert torch.equal(again, found)


def test_many_tiles_go_in_blocks_and_each_signal_is_what_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values, kernels = torch.from_numpy(numbers(5, 32, 22, 18)), torch.from_numpy(numbers(32, 32, 3, 3))
    convolve = Winograd(kernels, 1)
    whole = convolve(values)
    monkeypatch.setattr("fmx.project.winograd._TILES", 1)
    monkeypatch.setattr("fmx.project.winograd._BLOCK", 1)
    assert torch.equal(convolve(values), whole)
    for i in range(5):
        assert torch.equal(convolve(values[i : i + 1]), whole[i : i + 1])


class Pools(nn.Module):
    """Pools that can and can't be passed on the way, with and without a ReLU behind, at odd sizes, and a sum."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3)
        self.second = nn.Conv2d(32, 48, 3, padding=1)
        self.third = nn.Conv2d(48, 40, 3, padding=2)
        self.fourth = nn.Conv2d(40, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.fifth = nn.Conv2d(64, 64, 3, padding=1)
        self.last = nn.Conv2d(64, 32, 3, padding=1)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x), self.inplace), 2)
        x = F.relu(F.max_pool2d(self.second(x), 2, ceil_mode=True), self.inplace)
        x = F.max_pool2d(F.relu(self.third(x), self.inplace), 3, 1)
        x = F.relu(self.norm(self.fourth(x)), self.inplace)
        x = F.relu(self.fifth(x) + x, self.inplace)
        return F.relu(self.last(x), self.inplace)


# Layer, side of the picture, and how many convolutions are compiled.
NETS: dict[str, tuple[Callable[[], nn.Module], str, int, int]] = {
    "pools": (lambda: Pools(inplace=False), "relu_4", 47, 5),
    "pools in place": (lambda: Pools(inplace=True), "relu_4", 47, 5),
    "vgg11": (torchvision_net("vgg11"), "features.12", 80, 5),
    "resnet18": (torchvision_net("resnet18"), "layer3", 128, 10),
    "squeezenet1_1": (torchvision_net("squeezenet1_1"), "features.7", 96, 4),
    "densenet121": (torchvision_net("densenet121"), "features.denseblock1", 64, 6),
}


def gone(name: str, rule: Rule | None) -> tuple[Tensor, Tensor, int]:
    """Make a network, and go forward to a layer: its value, the input, and the compiled convolutions to expect."""
    make, layer, size, count = NETS[name]
    net, x = net_and_picture(make, (size, size + 6))
    network = Network(fmx.load(net, input_shape=tuple(x.shape[1:])), rule)
    done = network.forward(x, [layer])
    return done.values[layer], done.inputs, count


@pytest.mark.parametrize("rule", [deconvnet, guided, None], ids=["deconvnet", "guided", "derivative"])
@pytest.mark.parametrize("name", NETS)
def test_whole_maps_go_back_as_by_autograd(name: str, rule: Rule | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjoint, "_WORTH", 1)
    used: list[Any] = []
    compiled = quick._compiled
    monkeypatch.setattr(quick, "_compiled", lambda *given: used.append(given) or compiled(*given))
    value, inputs, count = gone(name, rule)
    signals = torch.zeros(5, *value.shape[1:])
    signals[:3, :3] = torch.eye(3)[:, :, None, None] * value[0, :3].detach()
    signals[3] = value[0].detach()
    signals[4] = value[0].detach().flip(0)
    kept = signals.clone()
    expected = torch.cat([torch.autograd.grad(value, inputs, s[None], retain_graph=True)[0] for s in signals])
    way = adjoint.way_back(value, inputs, len(signals))
    assert way is not None
    largest = float(expected.abs().max())
    assert largest > 0
    for most in (2**30, 2**15):
        way._most = most
        torch.testing.assert_close(way(signals), expected, rtol=0, atol=1e-5 * largest)
    assert len(used) == count
    assert torch.equal(signals, kept)


@pytest.mark.parametrize(
    ("rule", "picked"),
    [(deconvnet, {32: 3, 48: 32}), (guided, {48: 32}), (None, {48: 32})],
    ids=["deconvnet", "guided", "derivative"],
)
def test_what_is_unpooled_is_not_written(
    rule: Rule | None, picked: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deconvnet rectifies and unpools on the way into convolutions; a ReLU's own mask has to come in between."""
    given: dict[int, Any] = {}
    compiled = quick._compiled

    def watched(stop: Any, floor: float, codes: Any) -> Any:
        given[stop.shape[1]] = (floor, codes, stop)
        return compiled(stop, floor, codes)

    monkeypatch.setattr(quick, "_compiled", watched)
    value, inputs, _ = gone("pools", rule)
    stops = stops_between(value, inputs)
    assert stops is not None
    quickened(stops)
    assert {c: stop.onward[1] for c, (_, codes, stop) in given.items() if codes is not None} == picked
    assert any(floor == 0 for floor, _, _ in given.values()) == (rule is deconvnet)


def test_kernels_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all transformed kernels find room those of the largest maps do, and the rest goes as ever."""
    monkeypatch.setattr(adjoint, "_WORTH", 1)
    value, inputs, _ = gone("vgg11", deconvnet)
    signals = value.detach().expand(2, -1, -1, -1)
    stops = stops_between(value, inputs)
    assert stops is not None
    everything = sorted(quick._largest(stops))
    assert len(everything) == 5
    # 64 × 3, 64 × 128 and 128 × 256 kernels of 36 numbers.
    monkeypatch.setattr(quick, "_KEPT", 4 * 36 * (64 * 3 + 64 * 128 + 128 * 256))
    assert sorted(quick._largest(stops)) == everything[2:]
    way = adjoint.way_back(value, inputs, len(signals))
    assert way is not None
    (expected,) = torch.autograd.grad(value, inputs, signals[:1], retain_graph=True)
    torch.testing.assert_close(way(signals)[1:], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_few_signals_and_many_threads_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_stops: Any) -> Any:
        raise AssertionError

    value, inputs, _ = gone("pools", deconvnet)
    signals = value.detach().expand(3, -1, -1, -1)
    few, many = (adjoint.way_back(value, inputs, count) for count in (3, 10**9))
    assert few is not None
    assert many is not None
    before = torch.get_num_threads()
    monkeypatch.setattr(adjoint, "quickened", never)
    try:
        torch.set_num_threads(2)
        expected = few(signals)
        with pytest.raises(AssertionError):
            many(signals)
        torch.set_num_threads(7)
        found = many(signals)
        assert torch.get_num_threads() == 7
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fault", ["raises", "is wrong"])
def test_what_does_not_compile_or_is_wrong_is_left_to_torch(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(_self: Any, values: Tensor, *_more: Any) -> Tensor:
        if fault == "raises":
            raise NotImplementedError
        return torch.zeros(1, 19, *values.shape[2:])

    value, inputs, _ = gone("pools", deconvnet)
    signals = value.detach().expand(3, -1, -1, -1)
    (expected,) = torch.autograd.grad(value, inputs, signals[:1], retain_graph=True)
    assert quick.usable()
    quick.usable.cache_clear()
    monkeypatch.setattr(Winograd, "__call__", faulty)
    monkeypatch.setattr(adjoint, "_WORTH", 1)
    try:
        way = adjoint.way_back(value, inputs, len(signals))
        assert not quick.usable()
    finally:
        quick.usable.cache_clear()
    assert way is not None
    torch.testing.assert_close(way(signals)[:1], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_without_compiling_torch_does_it(tmp_path: Path) -> None:
    assert ran("from fmx.project.quick import usable; print(usable())", tmp_path, NUMBA_DISABLE_JIT="1") == "False"


SMALLER = """
import llvmlite.binding as llvm
real = llvm.get_host_cpu_features
def less():
    features = real()
    for name in features:
        features[name] = features[name] and not name.startswith(("avx", "fma", "f16c", "vaes", "vpclmul", "xop"))
    return features
llvm.get_host_cpu_features = less
import torch
import torch.nn.functional as F
from fmx.project.quick import usable
from fmx.project.winograd import LANES, Winograd
torch.manual_seed(0)
values, kernels = torch.randn(2, 37, 11, 14), torch.randn(37, 50, 3, 3)
expected = F.conv2d(values.double(), kernels.double().transpose(0, 1), padding=1)
off = float((Winograd(kernels, 1)(values) - expected).abs().max() / expected.abs().max())
print(LANES, usable(), off < 4e-6)
"""


def test_a_processor_with_smaller_vectors(tmp_path: Path) -> None:
    """In a process that takes this one for such a processor."""
    assert ran(SMALLER, tmp_path) == "8 True True"


def ran(code: str, cache: Path, **more: str) -> str:
    """Run code in a process that keeps what it compiles for itself, and give the last line that it prints."""
    surroundings = os.environ | {"NUMBA_CACHE_DIR": str(cache)} | more
    how: dict[str, Any] = {"env": surroundings, "capture_output": True, "text": True, "timeout": 280}
    done = subprocess.run([sys.executable, "-c", code], check=False, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
