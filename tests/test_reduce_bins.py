"""Histograms and quantiles: against plain loops, to the last bit the same whatever the blocks and their order."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fmx.reduce import Histogram, LogHistogram, Moments, Quantiles, ReducerSet
from fmx.reduce.columns import SLICE_BYTES
from fmx.reduce.compiled import entry

WIDTHS = {"float16": 16, "float32": 32, "float64": 64}


@st.composite
def arrays(draw, most=60):
    """Values of any float type: wild or tame, with zeros, denormals, outliers, NaN and infinities."""
    dtype = draw(st.sampled_from(sorted(WIDTHS)))
    wild = st.floats(width=WIDTHS[dtype], allow_subnormal=True)
    tame = st.floats(-8, 8, width=16)
    odd = st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf])
    values = draw(st.lists(draw(st.sampled_from([wild, tame, st.one_of(tame, odd), odd])), max_size=most))
    return np.array(values, dtype)


def taken(reducer, block, axes=None):
    axes = tuple(range(block.ndim)) if axes is None else axes
    kept = [n for i, n in enumerate(block.shape) if i not in axes]
    return reducer.update(reducer.identity(kept), block, axes)


def finite(values):
    return [float(v) for v in values if math.isfinite(float(v))]


REDUCERS = [Histogram(8), Histogram(64), Quantiles(), Quantiles(cells=4, octaves=5)]


@pytest.mark.parametrize("reducer", REDUCERS, ids=["hist8", "hist64", "quantiles", "coarse"])
class TestAnyOrder:
    @settings(deadline=None)
    @given(values=arrays(), data=st.data())
    def test_blocks_in_any_order_merged_in_any_order(self, reducer, values, data):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=6)))
        shuffled = values[data.draw(st.permutations(range(len(values))))]
        states = [taken(reducer, part) for part in np.split(shuffled, cuts)]
        while len(states) > 1:
            first = states.pop(data.draw(st.integers(0, len(states) - 1)))
            place = data.draw(st.integers(0, len(states) - 1))
            states[place] = reducer.merge(first, states[place])
        assert states[0].tobytes() == taken(reducer, values).tobytes()

    @settings(deadline=None)
    @given(values=arrays(), data=st.data())
    def test_updating_one_state(self, reducer, values, data):
        state = reducer.identity(())
        for part in np.split(values, sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=6)))):
            assert reducer.update(state, part, (0,)) is state
        assert state.tobytes() == taken(reducer, values).tobytes()

    def test_many_buffers(self, reducer):
        rng = np.random.default_rng(0)
        values = (rng.normal(size=50_000) * np.geomspace(1e-6, 1e6, 50_000)).astype(np.float32)
        values[::3], values[7::5000] = 0, np.nan
        whole = taken(reducer, values)
        merged = reducer.identity(())
        for part in np.array_split(values, 13):
            merged = reducer.merge(taken(reducer, part), merged)
        assert merged.tobytes() == whole.tobytes()
        by_value = taken(reducer, values.astype(np.float64))
        assert by_value.tobytes() == whole.tobytes()


# -- histogram -------------------------------------------------------------------------------------


def slow_histogram(values, bins, fine):
    """Find the width by trying them in turn, and count one value at a time, with exact fractions."""
    exact = [Fraction(v) for v in finite(values)]
    if not exact:
        return np.zeros(bins, int), np.full(bins + 1, np.nan)
    low, high = min(exact), max(exact)
    largest = max(abs(low), abs(high))
    exponent = -120
    while Fraction(2) ** (exponent + 23) < largest or Fraction(2) ** (exponent + 23) == largest != 0:
        exponent += 1
    while high // Fraction(2) ** exponent - low // Fraction(2) ** exponent >= fine:
        exponent += 1
    width = Fraction(2) ** exponent
    first, used = low // width, high // width - low // width + 1
    each = -(-used // bins)
    counts = np.zeros(bins, int)
    for value in exact:
        counts[(value // width - first) // each] += 1
    edges = [(first + i * each) * width for i in range(bins + 1)]
    return counts, np.array([as_float(edge) for edge in edges])


def as_float(value):
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class TestHistogram:
    @settings(deadline=None)
    @given(values=arrays(), bins=st.sampled_from([1, 3, 64]))
    @example(values=np.array([-5e-324, 1e300]), bins=3)
    @example(values=np.array([-1e-45, 1000], np.float32), bins=3)
    @example(values=np.array([np.finfo(np.float64).max, np.finfo(np.float64).min]), bins=64)
    def test_against_loops(self, values, bins):
        reducer = Histogram(bins)
        results = reducer.finalize(taken(reducer, values))
        counts, edges = slow_histogram(values, bins, reducer.fine)
        np.testing.assert_array_equal(results["counts"], counts)
        np.testing.assert_array_equal(results["edges"], edges)
        assert results["nan"] == np.isnan(values).sum()
        assert results["inf"] == np.isinf(values).sum()

    def test_numpy_counts_the_same_between_these_edges(self):
        values = np.random.default_rng(1).normal(size=(30, 7, 40)).astype(np.float32)
        results = Histogram().finalize(taken(Histogram(), values, (0, 2)))
        for channel in range(7):
            edges = results["edges"][channel]
            np.testing.assert_array_equal(results["counts"][channel], np.histogram(values[:, channel], edges)[0])
            np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])
            assert edges[0] <= values[:, channel].min() < edges[1]
            # The last bins may be empty, an eighth of them and one at most.
            assert np.flatnonzero(results["counts"][channel])[-1] >= 64 * 7 / 8 - 1

    def test_nothing(self):
        results = Histogram(4).finalize(Histogram(4).identity((2,)))
        assert results["counts"].tolist() == [[0] * 4] * 2
        assert np.isnan(results["edges"]).all()

    @pytest.mark.parametrize("bins", [0, 1025])
    def test_bins(self, bins):
        with pytest.raises(ValueError, match="1 to 1024 bins"):
            Histogram(bins)


# -- quantiles -------------------------------------------------------------------------------------

MANY = (0.0, 0.05, 1 / 3, 0.5, 0.9, 1.0)


def check_quantiles(found, values, reducer, q):
    """Compare with sorting, each of the two values next to the quantile within its stated bound."""
    ordered = sorted(finite(values))
    if not ordered:
        assert np.isnan(found).all()
        return
    largest = max(map(abs, ordered))
    least = math.ldexp(1.0, math.frexp(largest)[1] - reducer.octaves) if largest else 0.0
    for share, value in zip(q, found, strict=True):
        rank = share * (len(ordered) - 1)
        first = math.floor(rank)
        low, high = ordered[first], ordered[min(first + 1, len(ordered) - 1)]
        wanted = low * (1 - (rank - first)) + high * (rank - first)
        bound = max(*(max(abs(v) / reducer.cells, least) for v in (low, high)))
        assert abs(value - wanted) <= bound * (1 + 1e-9), (share, value, wanted, bound)


class TestQuantiles:
    @settings(deadline=None)
    @given(values=arrays(), shape=st.sampled_from([(64, 24), (4, 5), (1, 1), (256, 40)]))
    @example(values=np.array([np.finfo(np.float64).max] * 3), shape=(64, 24))
    @example(values=np.array([5e-324, -5e-324, 1e-310]), shape=(64, 24))
    @example(values=np.array([1e-45, -1e-45, 1e-40, 3e-39], np.float32), shape=(64, 24))
    def test_within_the_bound(self, values, shape):
        reducer = Quantiles(MANY, cells=shape[0], octaves=shape[1])
        check_quantiles(reducer.finalize(taken(reducer, values))["quantiles"], values, reducer, MANY)

    @pytest.mark.parametrize("kind", ["normal", "relu", "lognormal", "constant", "outlier", "whole numbers"])
    def test_kinds_of_data(self, kind):
        rng = np.random.default_rng(3)
        values = rng.normal(size=(9, 4, 500)).astype(np.float32)
        values = {
            "normal": values,
            "relu": values.clip(0),
            "lognormal": np.exp(3 * values),
            "constant": np.full_like(values, 0.3),
            "outlier": np.where(np.arange(500) == 3, np.float32(1e30), values),
            "whole numbers": (values * 50).round(),
        }[kind]
        reducer = Quantiles(MANY)
        found = reducer.finalize(taken(reducer, values, (0, 2)))["quantiles"]
        for channel in range(4):
            check_quantiles(found[channel], values[:, channel].ravel(), reducer, MANY)
        if kind in {"normal", "relu"}:
            wanted = np.quantile(values, MANY, axis=(0, 2)).T
            np.testing.assert_allclose(found, wanted, atol=5e-3)
        if kind == "constant":
            assert (found == np.float32(0.3)).all()

    def test_one_outlier_among_denormals(self):
        values = np.array([1e-40] * 50 + [3e38], np.float32)
        reducer = Quantiles((0.5,))
        state = taken(reducer, values)
        assert 0 <= reducer.finalize(state)["quantiles"][0] <= 2.0 ** (128 - 24)

    @settings(deadline=None)
    @given(values=arrays())
    @example(values=np.array([5e-324]))
    @example(values=np.array([-1e-323, 5e-324, 1.5e-323]))
    def test_distribution(self, values):
        edges, below = Quantiles().distribution(taken(Quantiles(), values))
        ordered = finite(values)
        assert (np.diff(edges) >= 0).all()
        assert (below[-1] if len(below) else 0) == len(ordered)
        for i, (edge, number) in enumerate(zip(edges, below, strict=True)):
            before = edge > 0 or (edge == 0 and 0.0 in edges[i + 1 :])
            assert number == sum(v < edge if before else v <= edge for v in ordered)

    @pytest.mark.parametrize(
        "wrong", [{"q": (1.5,)}, {"q": (math.nan,)}, {"cells": 3}, {"cells": 1024, "octaves": 24}, {"octaves": 0}]
    )
    def test_settings(self, wrong):
        with pytest.raises(ValueError, match=r"quantiles are numbers|take a power of two"):
            Quantiles(**wrong)

    def test_the_bound_is_stated(self):
        assert "1/64" in Quantiles().error


class TestLogHistogram:
    @settings(deadline=None)
    @given(values=arrays(), shape=st.sampled_from([(1, 24), (4, 5), (1, 2)]))
    def test_against_loops(self, values, shape):
        reducer = LogHistogram(*shape)
        results = reducer.finalize(taken(reducer, values))
        counts, edges, size = results["counts"], results["edges"], shape[0] * shape[1]
        ordered = finite(values)
        assert counts.shape == (2 * size + 3,)
        assert counts.sum() == len(ordered)
        assert counts[size + 1] == ordered.count(0.0)
        if not ordered:
            assert np.isnan(edges).all()
            return
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            if i <= size:
                assert counts[i] == sum(low < v <= high and v != 0 for v in ordered)
            elif i > size + 1:
                assert counts[i] == sum(low <= v < high and v != 0 for v in ordered)
        largest = max(map(abs, ordered))
        if largest:
            assert edges[-1] / 2 <= largest < edges[-1]


# -- together --------------------------------------------------------------------------------------


def all_of_it():
    return ReducerSet({"stats": Moments(), "hist": Histogram(16), "quantiles": Quantiles(), "again": Histogram(4)})


def same(state, reducers, block, axes):
    for name, reducer in reducers.reducers.items():
        alone = taken(reducer, block, axes)
        for field in reducer.dtype.names:
            wanted = alone[field]
            if field in {"mean", "m2", "m3", "m4", "l1"}:
                np.testing.assert_allclose(state[name][field], wanted, rtol=1e-9, atol=1e-9, err_msg=field)
            else:
                np.testing.assert_array_equal(state[name][field], wanted, err_msg=f"{name} {field}")


class TestTogether:
    @pytest.mark.parametrize("axes", [c for k in range(5) for c in itertools.combinations(range(4), k)], ids=str)
    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0), (1, 3, 0, 2)], ids=str)
    def test_every_choice_of_axes_in_every_layout(self, axes, order):
        values = np.random.default_rng(2).normal(size=(3, 5, 4, 6)).astype(np.float32).clip(-0.3)
        values[1, 2] = np.nan
        block = np.ascontiguousarray(values.transpose(order)).transpose(np.argsort(order))
        assert (block == values)[0].all()
        together = all_of_it()
        state = taken(together, block, axes)
        same(state, together, values, axes)

    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x[::-1],
            lambda x: x[:, ::2, ::-1],
            lambda x: x[:, :, 1:4],
            lambda x: np.broadcast_to(x[:, :1], (4, 9, 7)),
            lambda x: x.astype(x.dtype.newbyteorder()),
            lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
        ],
        ids=["turned", "stepped", "cut", "repeated", "other byte order", "unaligned"],
    )
    def test_views(self, view):
        block = view(np.random.default_rng(4).normal(size=(4, 6, 7)).astype(np.float32))
        together = all_of_it()
        for axes in [(0,), (1,), (0, 2), (0, 1, 2)]:
            same(taken(together, block, axes), together, block.copy(), axes)

    def test_labels_side_by_side_in_slices(self):
        values = np.random.default_rng(5).normal(size=(40, 19, 33, 21)).astype(np.float32)
        assert values.nbytes > 2 * SLICE_BYTES
        block = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        together = all_of_it()
        same(taken(together, block, (0, 2, 3)), together, values, (0, 2, 3))

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", "int32", "uint64", "bool"])
    def test_types(self, dtype):
        block = (np.random.default_rng(6).normal(size=(30, 5)) * 40).clip(0, 120).astype(dtype)
        together = all_of_it()
        results = together.finalize(taken(together, block, (0,)))
        np.testing.assert_allclose(results["stats.mean"], block.mean(axis=0, dtype=float))
        np.testing.assert_array_equal(results["quantiles.quantiles"][:, 2] <= block.max(axis=0), True)
        assert results["hist.counts"].sum(axis=1).tolist() == [30] * 5

    @pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]"])
    def test_types_that_are_no_numbers(self, dtype):
        with pytest.raises(TypeError, match="can't be summed up"):
            taken(Moments(), np.zeros(3, dtype))

    def test_merging(self):
        block = np.random.default_rng(7).normal(size=(8, 5, 6)).astype(np.float32)
        together = all_of_it()
        a, b = (taken(together, part, (0, 2)) for part in (block[:3], block[3:]))
        before = a.copy(), b.copy()
        same(together.merge(a, b), together, block, (0, 2))
        assert (a.tobytes(), b.tobytes()) == tuple(x.tobytes() for x in before)

    def test_parts_of_states(self):
        block = np.random.default_rng(8).normal(size=(8, 5, 6)).astype(np.float32)
        together = all_of_it()
        state = together.identity((2, 6, 5))
        view = state[1].T
        together.update(view, block, (0,))
        same(view, together, block, (0,))
        assert state[0].tobytes() == together.identity((6, 5)).tobytes()
        part = taken(together, block, (0, 2))["hist"][1:3]
        np.testing.assert_array_equal(Histogram(16).finalize(part)["counts"].sum(axis=1), [48, 48])

    def test_dims_of_results(self):
        together = all_of_it()
        results = together.finalize(together.identity((3,)))
        for name, values in results.items():
            assert values.ndim == 1 + len(together.dims.get(name, ())), name

    def test_stored_as_bytes(self):
        together = all_of_it()
        state = taken(together, np.arange(12.0).reshape(3, 4), (0,))
        back = np.frombuffer(state.tobytes(), together.dtype).reshape(state.shape)
        assert together.merge(back, together.identity((4,))).tobytes() == state.tobytes()


def test_columns_are_where_compiled_code_looks_for_them():
    from fmx.reduce import kernels, quantile_kernel

    def columns(reducer):
        return {name: offset // 8 for name, (_, offset, *_) in reducer.dtype.fields.items()}

    moments = columns(Moments())
    names = {"l1": "L1", "m2": "M2", "m3": "M3", "m4": "M4"}
    assert moments == {name: getattr(kernels, names.get(name, name.upper())) for name in moments}
    found = columns(Histogram())
    assert found == {name: getattr(kernels, f"H_{name.upper()}") for name in found}
    found = columns(Quantiles(cells=4, octaves=2))
    assert found.pop("positive") == kernels.Q_COUNTS == quantile_kernel.COUNTS
    assert (found.pop("negative"), found.pop("zero")) == (kernels.Q_COUNTS + 9, kernels.Q_COUNTS + 18)
    assert found == {name: getattr(kernels, f"Q_{name.upper()}") for name in found}
    assert (found["min"], found["max"], found["top"]) == (quantile_kernel.MIN, quantile_kernel.MAX, 0)


# -- compiled code ---------------------------------------------------------------------------------


def test_numba_is_imported_when_something_is_reduced():
    code = (
        "import sys, numpy as np, fmx.reduce\n"
        "reducer = fmx.reduce.Moments()\nstate = reducer.identity(())\nreducer.finalize(state)\n"
        "assert 'numba' not in sys.modules\nreducer.update(state, np.ones(3), (0,))\nassert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_compiled_code_that_can_be_kept_nowhere():
    """A function without a file is refused by numba's cache, as one is whose every folder can't be written."""
    space = {}
    exec("def twice(x):\n    return 2 * x", space)
    assert entry(space["twice"])(21) == 42


def test_compiled_code_is_kept_for_the_user_where_the_package_is_read_only(tmp_path):
    (tmp_path / "thing.py").write_text(
        "from fmx.reduce.compiled import entry\n\n@entry\ndef twice(x):\n    return 2 * x\n"
    )
    (tmp_path / "__pycache__").write_text("no folder, so that nothing can be kept beside the module")
    code = "import thing; assert thing.twice(21) == 42; print(thing.twice.stats.cache_path)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path / "cache"))


def test_a_process_that_compiles_gets_the_same_bits_as_one_that_does_not(tmp_path):
    code = """
import numpy as np
from fmx.reduce import Histogram, Moments, NoisePairs, Quantiles, ReducerSet, TopSamples
kinds = {"a": Moments(), "b": Histogram(), "c": Quantiles(), "d": TopSamples(position=("y", "x"))}
kinds["e"] = NoisePairs(4, axis=0)
reducer = ReducerSet(kinds)
state = reducer.identity((8,))
for seed in range(6):
    block = np.random.default_rng(seed).normal(size=(4, 8, 16, 16)).astype(np.float32)
    reducer.update(state, block, [0, 2, 3], start=[0, 0, 0, 0])
print(reducer.merge(state, state).tobytes().hex())
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.rglob("*.nbc"))
    assert said[0] == said[1]
