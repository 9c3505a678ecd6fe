"""Compiled sums of the values of each label, and of their sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, sums

__all__ = ["add_sums"]

COUNT, SUM, L1, NAN, INF = range(5)


@sums
def _run(flat: Any, first: int, length: int, step: int) -> Any:
    total = 0.0
    size = 0.0
    if step == 1:
        for x in flat[first : first + length]:
            total += np.float64(x)
            size += abs(np.float64(x))
    else:
        for i in range(length):
            total += np.float64(flat[first + i * step])
            size += abs(np.float64(flat[first + i * step]))
    return total, size


@sums
def _finite_run(flat: Any, first: int, length: int, step: int) -> Any:
    total = 0.0
    size = 0.0
    nan = 0
    inf = 0
    for i in range(length):
        x = np.float64(flat[first + i * step])
        if math.isfinite(x):
            total += x
            size += abs(x)
        else:
            nan += math.isnan(x)
            inf += not math.isnan(x)
    return total, size, nan, inf


@entry
def add_sums(flat: Any, bases: Any, starts: Any, length: int, step: int, at: int, whole: Any, real: Any) -> None:
    """Take in the runs of a block (see `fmx.reduce.blocks.Runs`), each label's into its row from column `at` on."""
    for j in range(len(bases)):
        for start in starts:
            nan = 0
            inf = 0
            total, size = _run(flat, bases[j] + start, length, step)
            if not math.isfinite(size):
                total, size, nan, inf = _finite_run(flat, bases[j] + start, length, step)
            whole[j, at + COUNT] += length - nan - inf
            real[j, at + SUM] += total
            real[j, at + L1] += size
            whole[j, at + NAN] += nan
            whole[j, at + INF] += inf
