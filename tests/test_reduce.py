"""Moments: against plain loops over every value, and the same whatever the blocks and the order of merging."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmx.reduce import Moments

EXACT = ["count", "min", "max", "nan", "inf"]
NAMES = [
    *("count", "mean", "std", "var", "skewness", "kurtosis", "min", "max", "sparsity", "negative", "l1", "l2", "hoyer"),
    *("nan", "inf", "nan_share", "inf_share"),
]


def slow_moments(values):
    """One value at a time, with exact fractions."""
    values = [float(v) for v in values]
    exact = [Fraction(v) for v in values if math.isfinite(v)]
    n = len(exact)
    nan, inf = sum(map(math.isnan, values)), sum(map(math.isinf, values))
    out = dict.fromkeys(NAMES, math.nan) | {"count": n, "nan": nan, "inf": inf}
    if values:
        out |= {"nan_share": nan / len(values), "inf_share": inf / len(values)}
    if not n:
        return out
    mean = sum(exact) / n
    var, third, fourth = (sum((v - mean) ** power for v in exact) / n for power in (2, 3, 4))
    l1, squares = sum(abs(v) for v in exact), sum(v * v for v in exact)
    out |= {
        "mean": float(mean),
        "std": root(var),
        "var": float(var),
        "min": float(min(exact)),
        "max": float(max(exact)),
        "sparsity": sum(v == 0 for v in exact) / n,
        "negative": sum(v < 0 for v in exact) / n,
        "l1": float(l1),
        "l2": root(squares),
    }
    if var:
        out |= {"skewness": float(third / var) / root(var), "kurtosis": float(fourth / var**2) - 3}
    if squares and n > 1:
        out["hoyer"] = (math.sqrt(n) - root(l1 * l1 / squares)) / (math.sqrt(n) - 1)
    return out


def root(value):
    """Take the square root of a fraction too small or large for a float."""
    return math.sqrt(value) if value == 0 or 1e-300 < value < 1e300 else math.sqrt(value * Fraction(2) ** 1200) / 2**600


def slow_along(block, axes):
    """Apply `slow_moments` to each kept label in turn."""
    kept = [i for i in range(block.ndim) if i not in axes]
    shape = [block.shape[i] for i in kept]
    out = {name: np.zeros(shape) for name in NAMES}
    for index in itertools.product(*map(range, shape)):
        where = [slice(None)] * block.ndim
        for i, position in zip(kept, index, strict=True):
            where[i] = position
        for name, value in slow_moments(block[tuple(where)].ravel()).items():
            out[name][index] = value
    return out


def moments(block, axes=None):
    """Take in one block."""
    reducer = Moments()
    axes = tuple(range(block.ndim)) if axes is None else axes
    kept = [n for i, n in enumerate(block.shape) if i not in axes]
    return reducer.update(reducer.identity(kept), block, axes)


def check(state, wanted, *, rtol=1e-12, atol=1e-12, shapes=True):
    """Compare with the reference; `shapes` says whether the spread is large enough to have a shape."""
    results = Moments().finalize(state)
    assert list(results) == NAMES
    for name in EXACT:
        np.testing.assert_array_equal(results[name], wanted[name], err_msg=name)
    for name in ("mean", "std", "sparsity", "negative", "nan_share", "inf_share"):
        np.testing.assert_allclose(results[name], wanted[name], rtol=rtol, atol=atol, err_msg=name)
    for name in ("l1", "l2"):
        np.testing.assert_allclose(results[name], wanted[name], rtol=max(rtol, 1e-9), err_msg=name)
    np.testing.assert_allclose(results["hoyer"], wanted["hoyer"], rtol=1e-6, atol=1e-6)
    if shapes:
        np.testing.assert_allclose(results["var"], wanted["var"], rtol=max(rtol, 1e-9), atol=atol)
        np.testing.assert_allclose(results["skewness"], wanted["skewness"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(results["kurtosis"], wanted["kurtosis"], rtol=1e-6, atol=1e-6)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


class TestAgainstLoops:
    @pytest.mark.parametrize("axes", [c for k in range(4) for c in itertools.combinations(range(3), k)], ids=str)
    def test_every_choice_of_axes(self, rng, axes):
        block = rng.normal(size=(3, 4, 5)).astype(np.float32)
        block[block < 0.2] = 0
        check(moments(block, axes), slow_along(block, axes), atol=1e-8)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
    def test_types(self, rng, dtype):
        block = (rng.normal(size=(6, 7)) * 50).clip(0, 120).astype(dtype)
        check(moments(block, (0,)), slow_along(block, (0,)), rtol=1e-9, atol=1e-7)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.nan, np.inf, -np.inf]], ids=str)
    def test_what_is_not_finite_is_counted_apart(self, rng, dtype, bad):
        block = rng.normal(size=(4, 20)).astype(dtype)
        block[1, : len(bad)] = bad
        block[2] = bad[0]
        check(moments(block, (1,)), slow_along(block, (1,)), rtol=1e-9, atol=1e-9)

    def test_zeros_beside_nan(self):
        block = np.array([0.0, np.nan, 0.0, 2.0, -0.0], np.float32)
        assert Moments().finalize(moments(block))["sparsity"] == 0.75

    def test_constant(self):
        results = Moments().finalize(moments(np.full((5, 6), 0.1, np.float32)))
        assert results["mean"] == np.float32(0.1)
        assert results["std"] == 0
        assert results["min"] == results["max"] == np.float32(0.1)

    def test_float16_sums_do_not_overflow(self):
        block = np.full((300, 300), 60000, np.float16)
        results = Moments().finalize(moments(block))
        assert results["mean"] == float(np.float16(60000))
        assert results["std"] == 0

    def test_whole_numbers_do_not_overflow(self):
        block = np.array([2**62, 2**62, -(2**62), 127], np.int64)
        check(moments(block), slow_along(block, (0,)), rtol=1e-12)
        small = np.array([-128, 127, 127], np.int8)
        check(moments(small), slow_along(small, (0,)))

    @pytest.mark.parametrize("hole", [False, True])
    def test_small_spread_on_a_large_offset(self, rng, hole):
        block = 1e6 + rng.normal(scale=1e-3, size=4000)
        block[7] = np.nan if hole else block[7]
        wanted = slow_moments(block)
        reducer, state = Moments(), moments(block[:0])
        for part in np.array_split(block, 37):
            state = reducer.merge(state, moments(part))
        check(state, wanted, rtol=1e-7)
        assert reducer.finalize(state)["std"] == pytest.approx(1e-3, rel=0.1)

    def test_input_stays_as_it_is(self, rng):
        block = rng.normal(size=(3, 4))
        block[0, 0] = np.nan
        before = block.copy()
        state = moments(block, (0,))
        kept = state.copy()
        Moments().merge(state, state)
        Moments().finalize(state)["count"][:] = 0
        np.testing.assert_array_equal(block, before)
        np.testing.assert_array_equal(state, kept)


class TestNothing:
    @pytest.mark.parametrize("shape", [(0, 3), (0,), (2, 0, 3)])
    def test_empty_blocks(self, shape):
        reducer, axis = Moments(), shape.index(0)
        state = moments(np.empty(shape), (axis,))
        np.testing.assert_array_equal(state, reducer.identity([n for n in shape if n]))

    def test_results_of_nothing(self):
        results = Moments().finalize(Moments().identity((2,)))
        for name in NAMES:
            assert (results[name] == 0 if name in {"count", "nan", "inf"} else np.isnan(results[name])).all()


# -- merging ---------------------------------------------------------------------------------------

WIDE = st.floats(-1e6, 1e6, width=32)
VALUES = st.one_of(WIDE, st.sampled_from([0.0, 0.0, 1.0, math.nan, math.inf, -math.inf]))
DATA = hnp.arrays(np.float64, st.integers(0, 40), elements=VALUES)


def check_same(state, other, values):
    """The same to 1e-9 of the data's own size, which is where float64 can be held to."""
    finite = values[np.isfinite(values)]
    size = float(np.abs(finite).max()) if finite.size else 0.0
    for name in ("count", "min", "max", "zeros", "negative", "nan", "inf"):
        np.testing.assert_array_equal(state[name], other[name], err_msg=name)
    np.testing.assert_allclose(state["mean"], other["mean"], rtol=1e-9, atol=1e-12 * size)
    for power in (2, 3, 4):
        name = f"m{power}"
        np.testing.assert_allclose(state[name], other[name], rtol=1e-9, atol=1e-11 * size**power, err_msg=name)
    np.testing.assert_allclose(state["l1"], other["l1"], rtol=1e-9)


@settings(deadline=None)
@given(DATA, DATA, DATA)
def test_merging_in_any_order(x, y, z):
    a, b, c = moments(x), moments(y), moments(z)
    merge, both = Moments().merge, np.concatenate([x, y, z])
    check_same(merge(a, b), merge(b, a), both)
    check_same(merge(merge(a, b), c), merge(a, merge(b, c)), both)
    check_same(merge(merge(a, b), c), moments(both), both)


@settings(deadline=None)
@given(DATA)
def test_identity_is_neutral(values):
    state, nothing = moments(values), Moments().identity(())
    np.testing.assert_array_equal(Moments().merge(state, nothing), state)
    np.testing.assert_array_equal(Moments().merge(nothing, state), state)


@settings(deadline=None)
@given(st.data())
def test_any_blocks_merged_in_any_order(data):
    values = data.draw(DATA)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=8)))
    states = [moments(part) for part in np.split(values, cuts)]
    while len(states) > 1:
        i = data.draw(st.integers(0, len(states) - 1))
        first = states.pop(i)
        j = data.draw(st.integers(0, len(states) - 1))
        states[j] = Moments().merge(first, states[j])
    check_same(states[0], moments(values), values)
    wanted = slow_moments(values)
    size = float(np.abs(values[np.isfinite(values)]).max(initial=0))
    check(states[0], wanted, rtol=1e-9, atol=1e-6 * size, shapes=False)


@settings(deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4), elements=VALUES), st.data())
def test_updating_block_by_block(block, data):
    reducer = Moments()
    cut = data.draw(st.integers(0, block.shape[0]))
    axes = (0, *range(2, block.ndim))
    state = reducer.identity((block.shape[1],))
    for part in (block[:cut], block[cut:]):
        state = reducer.update(state, part, axes)
    check_same(state, moments(block, axes), block)
