"""Compiled counting around given ranks, and sorting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry

__all__ = ["count_ranks", "sorted_quantiles"]


@entry
def count_ranks(
    flat: Any, bases: Any, starts: Any, length: int, step: int, targets: int, parts: int, whole: Any
) -> None:  # fmt: skip
    """Count each label's finite values below and inside of each target's range, in place.

    Columns of `whole` (label, column): the first part, the size of parts as a power of two, the values below, one of
    each a target; then the counts of the parts, target by target. The others are as in `fmx.reduce.blocks.Runs`.
    """
    one = np.empty(1, np.float64)
    bits = one.view(np.int64)
    for row in range(len(bases)):
        state = whole[row]
        for start in starts:
            place = bases[row] + start
            for i in range(length):
                one[0] = np.float64(flat[place + i * step]) + 0.0
                if not math.isfinite(one[0]):
                    continue
                key = bits[0] ^ ((bits[0] >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))
                for t in range(targets):
                    part = key >> state[targets + t]
                    # The difference of two keys may be too large for a whole number.
                    if part < state[t]:
                        state[2 * targets + t] += 1
                    elif part < state[t] + parts:
                        state[3 * targets + t * parts + part - state[t]] += 1


@entry
def sorted_quantiles(
    flat: Any, bases: Any, starts: Any, length: int, step: int, q: Any, real: Any
) -> None:  # fmt: skip
    """Sort each label's finite values and fill in its quantiles (label, quantile)."""
    values = np.empty(len(starts) * length, np.float64)
    for row in range(len(bases)):
        n = 0
        for start in starts:
            place = bases[row] + start
            for i in range(length):
                x = np.float64(flat[place + i * step])
                if math.isfinite(x):
                    values[n] = x + 0.0
                    n += 1
        if n:
            ordered = np.sort(values[:n])
            for j in range(len(q)):
                rank = q[j] * (n - 1)
                first = math.floor(rank)
                low = ordered[first]
                high = ordered[min(first + 1, n - 1)]
                share = rank - first
                real[row, j] = low if low == high else low * (1 - share) + high * share
