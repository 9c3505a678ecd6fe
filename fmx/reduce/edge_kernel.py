"""Compiled counting between given edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry

__all__ = ["count_between"]

UNDER, OVER, NAN, INF, COUNTS = range(5)


@entry
def count_between(flat: Any, bases: Any, starts: Any, length: int, step: int, edges: Any, whole: Any) -> None:
    """Count the values of each label between `edges` (edge,) into the states (label, column), in place.

    The others are as in `fmx.reduce.blocks.Runs`.
    """
    last = len(edges) - 2
    # The next power of two, halved down to 1: a search by steps that needs no branch.
    jump = 1
    while jump <= last:
        jump *= 2
    for row in range(len(bases)):
        counts = whole[row]
        for start in starts:
            first = bases[row] + start
            for i in range(length):
                x = np.float64(flat[first + i * step])
                if not math.isfinite(x):
                    counts[NAN if math.isnan(x) else INF] += 1
                elif x < edges[0] or x > edges[-1]:
                    counts[UNDER if x < edges[0] else OVER] += 1
                else:
                    at = 0
                    half = jump
                    while half:
                        if at + half <= last and edges[at + half] <= x:
                            at += half
                        half //= 2
                    counts[COUNTS + at] += 1
