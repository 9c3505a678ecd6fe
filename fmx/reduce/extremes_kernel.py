"""Compiled search for the smallest and largest finite values of each label, and how often they occur."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part

__all__ = ["merge_extremes", "take_extremes"]

MIN, MAX, AT_MIN, AT_MAX, COUNT = range(5)


@part
def _ends(bits: Any, mask: Any, base: int, starts: Any, length: int, step: int) -> Any:
    """Find the least and largest value as whole numbers in the same order; NaN and inf are beyond all others."""
    sign = 31 if bits.itemsize == 4 else 63
    low = mask
    high = -1 - mask
    for start in starts:
        first = base + start
        if step == 1:
            for b in bits[first : first + length]:
                key = b ^ ((b >> sign) & mask)
                low = min(low, key)
                high = max(high, key)
        else:
            for i in range(length):
                b = bits[first + i * step]
                key = b ^ ((b >> sign) & mask)
                low = min(low, key)
                high = max(high, key)
    return low, high


@part
def _finite_ends(flat: Any, base: int, starts: Any, length: int, step: int) -> Any:
    """Find the smallest and largest finite value, and how many finite ones there are."""
    low = math.inf
    high = -math.inf
    count = 0
    for start in starts:
        for i in range(length):
            x = np.float64(flat[base + start + i * step])
            if math.isfinite(x):
                low = min(low, x)
                high = max(high, x)
                count += 1
    return low, high, count


@part
def _count(flat: Any, base: int, starts: Any, length: int, step: int, value: Any) -> int:
    found = 0
    for start in starts:
        first = base + start
        if step == 1:
            equal = np.int32(0)
            for x in flat[first : first + length]:
                equal += np.int32(x == value)
            found += equal
        else:
            for i in range(length):
                found += flat[first + i * step] == value
    return found


@part
def _join(low: float, high: float, at_low: int, at_high: int, count: int, whole: Any, real: Any) -> None:
    """Merge what was found into a row."""
    if low < real[MIN]:
        real[MIN] = low
        whole[AT_MIN] = at_low
    elif low == real[MIN]:
        whole[AT_MIN] += at_low
    if high > real[MAX]:
        real[MAX] = high
        whole[AT_MAX] = at_high
    elif high == real[MAX]:
        whole[AT_MAX] += at_high
    whole[COUNT] += count


@entry
def take_extremes(
    flat: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, at: int, whole: Any, real: Any
) -> None:
    """Take in the runs of a block (see `fmx.reduce.blocks.Runs`), each label's into its row from column `at` on."""
    bits = flat.view(mask.dtype)
    sign = 31 if flat.itemsize == 4 else 63
    shift = 23 if flat.itemsize == 4 else 52
    infinity = mask[0] >> shift << shift
    one = np.empty(1, flat.dtype)
    ends = one.view(mask.dtype)
    for j in range(len(bases)):
        low, high = _ends(bits, mask[0], bases[j], starts, length, step)
        if high >= infinity or ~low >= infinity:
            smallest, largest, count = _finite_ends(flat, bases[j], starts, length, step)
        else:
            # Turned back into values; adding 0 leaves no negative zero.
            ends[0] = low ^ ((low >> sign) & mask[0])
            smallest = np.float64(one[0]) + 0.0
            ends[0] = high ^ ((high >> sign) & mask[0])
            largest = np.float64(one[0]) + 0.0
            count = len(starts) * length
        if count:
            one[0] = smallest
            at_low = _count(flat, bases[j], starts, length, step, one[0])
            one[0] = largest
            at_high = _count(flat, bases[j], starts, length, step, one[0]) if smallest < largest else at_low
            _join(smallest, largest, at_low, at_high, count, whole[j, at:], real[j, at:])


@entry
def merge_extremes(at: int, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place."""
    for j in range(len(whole)):
        a, b, x = other[j, at:], other_real[j, at:], real[j, at:]
        if a[COUNT]:
            _join(b[MIN], b[MAX], a[AT_MIN], a[AT_MAX], a[COUNT], whole[j, at:], x)
