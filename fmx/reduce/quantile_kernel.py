"""Compiled look-up of quantiles in the counts of logarithmic cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part

__all__ = ["look_up"]

MIN, MAX, COUNTS = 1, 2, 5


@part
def _edge(i: Any, top: int, cells: int, octaves: int) -> float:
    """Give the lower edge of the i-th of all cells in ascending order: negative ones, zero, positive ones."""
    size = cells * octaves
    if size + 1 <= i <= size + 2:
        return 0.0
    step = size - i if i <= size else i - size - 3
    octave = step // cells
    edge = math.ldexp(1 + (step - octave * cells) / cells, octave + top - octaves + 1)
    return -edge if i <= size else edge


@part
def _value(rank: int, below: Any, whole: Any, real: Any, cells: int, octaves: int) -> Any:
    """Estimate the value of a rank, the cell's values taken as evenly spread over it."""
    n = below[-1]
    if rank == 0:
        return real[MIN]
    if rank == n - 1:
        return real[MAX]
    cell = np.searchsorted(below, rank, side="right") - 1
    low = _edge(cell, whole[0], cells, octaves)
    high = _edge(cell + 1, whole[0], cells, octaves)
    inside = (rank - below[cell] + 0.5) / (below[cell + 1] - below[cell])
    # Both sides stay finite where the upper edge is too large for a float64.
    value = low + (high - low) * inside if math.isfinite(high - low) else (low if low > 0 else high)
    return min(max(value, real[MIN]), real[MAX])


@entry
def look_up(whole: Any, real: Any, q: Any, cells: int, octaves: int, out: Any) -> None:
    """Fill in the quantiles `q` (quantile) of the states (label, column) as (label, quantile)."""
    size = cells * octaves
    below = np.zeros(2 * size + 4, np.int64)
    for row in range(len(whole)):
        counts = whole[row, COUNTS:]
        for i in range(size + 1):
            below[i + 1] = below[i] + counts[2 * size + 1 - i]
        below[size + 2] = below[size + 1] + counts[2 * size + 2]
        for i in range(size + 1):
            below[size + 3 + i] = below[size + 2 + i] + counts[i]
        n = below[-1]
        for j in range(len(q)):
            out[row, j] = np.nan
            if n:
                rank = q[j] * (n - 1)
                first = math.floor(rank)
                low = _value(first, below, whole[row], real[row], cells, octaves)
                high = _value(min(first + 1, n - 1), below, whole[row], real[row], cells, octaves)
                share = rank - first
                out[row, j] = low * (1 - share) + high * share
