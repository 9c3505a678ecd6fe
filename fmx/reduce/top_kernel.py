"""Compiled search for the samples on which each label is highest, or least high."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part

__all__ = ["merge_top", "take_top"]

# Labels looked at side by side where one label's values lie apart from each other.
GROUP = 64


@part
def _first_is_better(value: float, sample: int, other: float, other_sample: int, weakest: bool) -> bool:
    if other_sample < 0:
        return True
    if value != other:
        return value < other if weakest else value > other
    return sample < other_sample


@part
def _is_before(position: Any, other: Any) -> bool:
    for i in range(len(position)):
        if position[i] != other[i]:
            return bool(position[i] < other[i])
    return False


@part
def _insert(
    value: float, sample: int, position: Any, values: Any, samples: Any, positions: Any, weakest: bool
) -> None:  # fmt: skip
    """Put a sample where it belongs; one that is there already keeps the higher of its values, and its first place."""
    k = len(values)
    end = k - 1
    for i in range(k):
        if samples[i] == sample:
            if value < values[i] or (value == values[i] and not _is_before(position, positions[i])):
                return
            end = i
    if samples[end] != sample and not _first_is_better(value, sample, values[end], samples[end], weakest):
        return
    # The one at `end` goes; the new one moves up or down to its place.
    at = end
    while at > 0 and _first_is_better(value, sample, values[at - 1], samples[at - 1], weakest):
        values[at], samples[at], positions[at] = values[at - 1], samples[at - 1], positions[at - 1]
        at -= 1
    while (
        at < k - 1
        and samples[at + 1] >= 0
        and not _first_is_better(value, sample, values[at + 1], samples[at + 1], weakest)
    ):
        values[at], samples[at], positions[at] = values[at + 1], samples[at + 1], positions[at + 1]
        at += 1
    values[at], samples[at], positions[at] = value, sample, position


@part
def _peaks(bits: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, peaks: Any) -> None:
    """Find each label's largest value as a whole number in the same order as the values."""
    sign = 31 if bits.itemsize == 4 else 63
    lowest = -1 - mask
    if step == 1:
        for j in range(len(bases)):
            high = lowest
            for start in starts:
                first = bases[j] + start
                for b in bits[first : first + length]:
                    high = max(high, b ^ ((b >> sign) & mask))
            peaks[j] = high
        return
    peaks[: len(bases)] = lowest
    for start in starts:
        for i in range(length):
            for j in range(len(bases)):
                b = bits[bases[j] + start + i * step]
                peaks[j] = max(peaks[j], b ^ ((b >> sign) & mask))


@part
def _largest_finite(flat: Any, base: int, inside: Any) -> float:
    high = -math.inf
    for place in inside:
        x = np.float64(flat[base + place])
        if math.isfinite(x) and x > high:
            high = x
    return high


@part
def _first_place(flat: Any, base: int, inside: Any, value: float) -> int:
    for i in range(len(inside)):
        if flat[base + inside[i]] == value:
            return i
    return -1


@entry
def take_top(
    flat: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, numbers: Any, inside: Any, places: Any,
    weakest: bool, k: int, at: int, whole: Any, real: Any,
) -> None:  # fmt: skip
    """Take in a block.

    Parameters
    ----------
    flat, mask, starts, length, step
        See `fmx.reduce.blocks.Runs`.
    bases : array (sample, label) of int64
    numbers : array (sample,) of int64
        Position of each sample in the whole array.
    inside : array (position,) of int64
        Where the values of a sample and label are, in order of their position.
    places : array (position, axis) of int64
        What that position is called.
    weakest, k
        See `fmx.reduce.TopSamples`.
    at : int
        First column.
    whole, real : array (label, column)
        The states, changed in place: values, samples, positions.
    """
    axes = places.shape[1]
    bits = flat.view(mask.dtype)
    sign = 31 if flat.itemsize == 4 else 63
    infinity = mask[0] >> (23 if flat.itemsize == 4 else 52) << (23 if flat.itemsize == 4 else 52)
    peaks = np.empty(GROUP, mask.dtype)
    one = np.empty(1, flat.dtype)
    for sample in range(len(bases)):
        for first in range(0, len(whole), GROUP):
            group = bases[sample, first : first + GROUP]
            _peaks(bits, mask[0], group, starts, length, step, peaks)
            for j in range(len(group)):
                row = first + j
                if abs(peaks[j]) >= infinity:
                    value = _largest_finite(flat, group[j], inside)
                else:
                    one.view(mask.dtype)[0] = peaks[j] ^ ((peaks[j] >> sign) & mask[0])
                    value = np.float64(one[0]) + 0.0
                values = real[row, at : at + k]
                last = whole[row, at + 2 * k - 1]
                if value == -math.inf or (last >= 0 and (value > values[-1] if weakest else value < values[-1])):
                    continue
                place = _first_place(flat, group[j], inside, value)
                samples = whole[row, at + k : at + 2 * k]
                positions = whole[row, at + 2 * k : at + (2 + axes) * k].reshape(k, axes)
                _insert(value, numbers[sample], places[place], values, samples, positions, weakest)


@entry
def merge_top(weakest: bool, k: int, axes: int, at: int, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place."""
    for row in range(len(whole)):
        samples = whole[row, at + k : at + 2 * k]
        positions = whole[row, at + 2 * k : at + (2 + axes) * k].reshape(k, axes)
        others = other[row, at + 2 * k : at + (2 + axes) * k].reshape(k, axes)
        for i in range(k):
            sample = other[row, at + k + i]
            if sample >= 0:
                value = other_real[row, at + i]
                _insert(value, sample, others[i], real[row, at : at + k], samples, positions, weakest)
