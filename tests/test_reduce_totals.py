"""One number a label, against a loop over its values; in blocks of any axes, merged in any order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fmx.reduce import Moments
from fmx.reduce.totals import TOTALS, Totals

AXES = [(1,), (0, 1), (0, 1, 2), (2,), ()]


def slow_total(values, how):
    """Take the values of one label, one by one."""
    finite = [float(v) for v in values if math.isfinite(v)]
    lost = len(values) - len(finite)
    if not finite:
        return (0.0 if how in {"sum", "norm"} else math.nan), lost
    mean = math.fsum(finite) / len(finite)
    found = {
        "sum": math.fsum(finite),
        "mean": mean,
        "max": max(finite),
        "min": min(finite),
        "norm": math.sqrt(math.fsum(v * v for v in finite)),
        "std": math.sqrt(math.fsum((v - mean) ** 2 for v in finite) / len(finite)),
    }
    return found[how], lost


def values_of(kind, dtype):
    values = (np.random.default_rng(3).normal(size=(5, 4, 3)) * 3 + 1).astype(dtype)
    if kind == "holes":
        values[0, 1, 2], values[2, 0], values[:, :, 1][1] = np.nan, np.inf, -np.inf
        values[4] = np.nan
    if kind == "far":
        values += dtype(1000)
    return values


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["plain", "holes", "far"])
@pytest.mark.parametrize("how", TOTALS)
def test_totals_are_those_of_a_loop(how, kind, dtype):
    values, reducer = values_of(kind, dtype), Totals(how)
    for axes, cut in itertools.product(AXES, (1, 2, 5)):
        kept = [n for i, n in enumerate(values.shape) if i not in axes]
        # Blocks along the first axis: those of a kept one are put side by side, the others merged from behind.
        parts = [values[i : i + cut] for i in range(0, 5, cut)]
        if 0 in axes:
            states = [reducer.update(reducer.identity(kept), part, axes) for part in parts]
            state = states.pop()
            while states:
                state = reducer.merge(state, states.pop())
        else:
            own = [reducer.identity([len(part), *kept[1:]]) for part in parts]
            state = np.concatenate([reducer.update(s, p, axes) for s, p in zip(own, parts, strict=True)])
        found = reducer.finalize(state)
        for place in np.ndindex(*kept):
            at = iter(place)
            where = [slice(None) if i in axes else next(at) for i in range(3)]
            wanted, lost = slow_total(np.ravel(values[tuple(where)]), how)
            assert found["lost"][place] == lost
            np.testing.assert_allclose(found["value"][place], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reducer", [Totals("std"), Moments()], ids=["totals", "moments"])
def test_values_too_large_to_be_squared_do_not_vary_where_they_are_equal(reducer):
    block = np.full((3, 7), 1e200)
    state = reducer.merge(reducer.identity([3]), reducer.update(reducer.identity([3]), block, (1,)))
    state = reducer.update(state, block, (1,))
    found = reducer.finalize(state)
    assert found.get("value", found.get("std")).tolist() == [0.0] * 3


def test_a_total_has_a_name():
    with pytest.raises(ValueError, match="no total median"):
        Totals("median")
