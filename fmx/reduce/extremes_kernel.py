"""Compiled search for the smallest and largest finite values of each label, and how often they occur."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part

__all__ = ["merge_extremes", "take_extremes"]

# Values that are gathered before loops run over them: short ones would be mostly beginnings and ends.
BUFFER = 2048
MIN, MAX, AT_MIN, AT_MAX, COUNT = range(5)


@part
def _ends(bits: Any, n: int, mask: Any) -> Any:
    """Find the least and largest value as whole numbers in the same order; NaN and inf are beyond all others."""
    sign = 31 if bits.itemsize == 4 else 63
    low = mask
    high = bits[0] ^ bits[0]
    high = high - 1 - mask
    for i in range(n):
        key = bits[i] ^ ((bits[i] >> sign) & mask)
        low = min(low, key)
        high = max(high, key)
    return low, high


@part
def _finite_ends(buffer: Any, n: int) -> Any:
    """Find the smallest and largest finite value, and how many finite ones there are."""
    low = math.inf
    high = -math.inf
    count = 0
    for i in range(n):
        x = np.float64(buffer[i])
        if math.isfinite(x):
            low = min(low, x)
            high = max(high, x)
            count += 1
    return low, high, count


@part
def _count(buffer: Any, n: int, low: Any, high: Any) -> Any:
    """Count the values that are equal to either end."""
    at_low = np.int32(0)
    at_high = np.int32(0)
    for i in range(n):
        at_low += np.int32(buffer[i] == low)
        at_high += np.int32(buffer[i] == high)
    return at_low, at_high


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


@part
def _take(buffer: Any, bits: Any, n: int, mask: Any, two: Any, whole: Any, real: Any) -> None:
    """Take in the buffer of a label."""
    sign = 31 if bits.itemsize == 4 else 63
    shift = 23 if bits.itemsize == 4 else 52
    infinity = mask >> shift << shift
    low, high = _ends(bits, n, mask)
    count = n
    if high >= infinity or ~low >= infinity:
        smallest, largest, count = _finite_ends(buffer, n)
        if count == 0:
            return
        two[0], two[1] = smallest, largest
    else:
        # Turned back into values; adding 0 leaves no negative zero.
        ends = two.view(bits.dtype)
        ends[0] = low ^ ((low >> sign) & mask)
        ends[1] = high ^ ((high >> sign) & mask)
    at_low, at_high = _count(buffer, n, two[0], two[1])
    _join(np.float64(two[0]) + 0.0, np.float64(two[1]) + 0.0, at_low, at_high, count, whole, real)


@entry
def take_extremes(
    flat: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, at: int, whole: Any, real: Any
) -> None:
    """Take in the runs of a block (see `fmx.reduce.blocks.Runs`), each label's into its row from column `at` on."""
    buffer = np.empty(BUFFER, flat.dtype)
    bits = buffer.view(mask.dtype)
    two = np.empty(2, flat.dtype)
    for j in range(len(bases)):
        n = 0
        for start in starts:
            done = 0
            while done < length:
                more = min(length - done, BUFFER - n)
                place = bases[j] + start + done * step
                for i in range(more):
                    buffer[n + i] = flat[place + i * step]
                done += more
                n += more
                if n == BUFFER:
                    _take(buffer, bits, n, mask[0], two, whole[j, at:], real[j, at:])
                    n = 0
        if n:
            _take(buffer, bits, n, mask[0], two, whole[j, at:], real[j, at:])


@entry
def merge_extremes(at: int, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place."""
    for j in range(len(whole)):
        a, b, x = other[j, at:], other_real[j, at:], real[j, at:]
        if a[COUNT]:
            _join(b[MIN], b[MAX], a[AT_MIN], a[AT_MAX], a[COUNT], whole[j, at:], x)
