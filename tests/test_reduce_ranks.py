"""Exact quantiles: against sorting, for any values and any cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_reduce_bins import arrays

from fmx.reduce import Moments, Quantiles
from fmx.reduce.blocks import is_small
from fmx.reduce.ranks import RankCounts, SortedQuantiles, between, rank_of

Q = (0.0, 0.2, 0.5, 0.9, 1.0)


def taken(reducer, state, parts):
    for part in parts:
        reducer.update(state, part, (0,))
    return state


@settings(deadline=None)
@given(values=arrays(), bits=st.sampled_from([1, 4, 9]), cut=st.integers(0, 60), seeded=st.booleans())
@example(values=np.array([-5e-324, 5e-324, -1.5, 1e308]), bits=9, cut=2, seeded=False)
def test_narrowing_down(values, bits, cut, seeded):
    """Pass by pass, merged from two states each, until every rank is settled."""
    finite = np.sort(values[np.isfinite(values)].astype(np.float64) + 0.0)
    if not finite.size:
        return
    count = Moments().finalize(taken(Moments(), Moments().identity(()), [values]))["count"]
    low, share = rank_of(np.array(Q), np.asarray(count))
    ranks = np.concatenate([low, np.minimum(low + 1, count - 1)])
    counter = RankCounts(len(ranks), bits)
    state = counter.identity(())
    if seeded:
        sketch = taken(Quantiles(Q), Quantiles(Q).identity(()), [values])
        state = counter.seed(*Quantiles(Q).bounds(sketch, ranks))
    settled, passes = False, 0
    while not settled:
        a, b = (taken(counter, state.copy(), [part]) for part in (values[:cut], values[cut:]))
        state, found, settled = counter.narrow(counter.merge(a, b), ranks, 29 if is_small(values.dtype) else 0)
        passes += 1
        assert passes <= 64
    np.testing.assert_array_equal(found, finite[ranks])
    result = between(*np.split(found, 2), share)
    wanted = [finite[i] if finite[i] == finite[j] else finite[i] * (1 - s) + finite[j] * s
              for i, j, s in zip(*np.split(ranks, 2), share, strict=True)]  # fmt: skip
    np.testing.assert_array_equal(result, wanted)


@settings(deadline=None)
@given(values=arrays())
def test_sorting(values):
    reducer = SortedQuantiles(Q)
    found = reducer.finalize(taken(reducer, reducer.identity(()), [values]))["quantiles"]
    finite = sorted(float(v) for v in values if math.isfinite(float(v)))
    for q, value in zip(Q, found, strict=True):
        if not finite:
            assert math.isnan(value)
            continue
        rank = q * (len(finite) - 1)
        low, high = finite[math.floor(rank)], finite[math.ceil(rank)]
        share = rank - math.floor(rank)
        assert value == (low if low == high else low * (1 - share) + high * share)


def test_two_passes_are_enough_for_float32():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    sketch = taken(Quantiles(), Quantiles().identity(()), [values])
    ranks = np.array([100, 2500])
    counter = RankCounts(2)
    state = counter.seed(*Quantiles().bounds(sketch, ranks))
    state, _, settled = counter.narrow(taken(counter, state, [values]), ranks, 29)
    assert not settled
    _, found, settled = counter.narrow(taken(counter, state, [values]), ranks, 29)
    assert settled
    assert found.tolist() == np.sort(values)[ranks].tolist()


def test_sorted_parts_are_not_merged():
    reducer = SortedQuantiles(Q)
    with pytest.raises(TypeError, match="all values of a label in one block"):
        reducer.merge(reducer.identity(()), reducer.identity(()))
