"""Compiled sums over pairs of noise levels, and over timesteps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part, sums

__all__ = ["add_pairs", "add_series", "join_pairs"]

# Values of a buffer, and labels gathered side by side where one label's values lie apart from each other.
BUFFER = 1024
GROUP = 16

COUNT, LOST, MEAN_X, MEAN_Y, XX, YY, XY, DIFF = range(8)


@part
def _join(
    whole: Any, real: Any, first: int, levels: int, n: int, mx: float, my: float, xx: float, yy: float, xy: float,
    difference: float,
) -> None:  # fmt: skip
    """Merge the moments of more pairs into those of a level, as Chan, Golub and LeVeque (1983) do."""
    if n == 0:
        return
    before = whole[first + COUNT * levels]
    total = before + n
    dx = mx - real[first + MEAN_X * levels]
    dy = my - real[first + MEAN_Y * levels]
    weight = float(before) * n / total
    real[first + XX * levels] += xx + dx * dx * weight
    real[first + YY * levels] += yy + dy * dy * weight
    real[first + XY * levels] += xy + dx * dy * weight
    real[first + DIFF * levels] += difference
    real[first + MEAN_X * levels] += dx * n / total
    real[first + MEAN_Y * levels] += dy * n / total
    whole[first + COUNT * levels] = total


@part
def _gather(
    flat: Any, places: Any, starts: Any, run: int, done: int, length: int, step: int, apart: int, buffers: Any
) -> Any:  # fmt: skip
    """Copy the next values of some labels into a buffer each; say how many they are, and where to go on."""
    n = 0
    while n < BUFFER and run < len(starts):
        more = min(length - done, BUFFER - n)
        place = starts[run] + done * step + apart
        if step == 1:
            buffers[0, n : n + more] = flat[places[0] + place : places[0] + place + more]
        else:
            for i in range(more):
                for j in range(len(places)):
                    buffers[j, n + i] = flat[places[j] + place + i * step]
        n += more
        done += more
        if done == length:
            run += 1
            done = 0
    return n, run, done


@part
def _kind(bits: Any, n: int, mask: Any) -> Any:
    """Give the size of the largest value as a whole number, NaN beyond inf, and what bits differ from the first's."""
    largest = bits[0] & mask
    differ = largest ^ largest
    for i in range(n):
        largest = max(largest, bits[i] & mask)
        differ |= bits[i] ^ bits[0]
    return largest, differ


@sums
def _mean(buffer: Any, n: int) -> Any:
    total = 0.0
    for i in range(n):
        total += np.float64(buffer[i])
    return total / n


@sums
def _squares(buffer: Any, n: int, mean: float) -> Any:
    total = 0.0
    for i in range(n):
        apart = np.float64(buffer[i]) - mean
        total += apart * apart
    return total


@sums
def _products(x: Any, y: Any, n: int, mx: float, my: float) -> Any:
    xy = 0.0
    difference = 0.0
    for i in range(n):
        a = np.float64(x[i])
        b = np.float64(y[i])
        xy += (a - mx) * (b - my)
        difference += (a - b) * (a - b)
    return xy, difference


@part
def _spread(buffer: Any, n: int, differ: Any) -> Any:
    """Give mean and sum of squared differences from it; where all values are the same, or none, no rounding error."""
    if differ == 0:
        return np.float64(buffer[0]), 0.0
    mean = _mean(buffer, n)
    return mean, _squares(buffer, n, mean)


@part
def _keep_finite(x: Any, y: Any, n: int) -> int:
    """Move the pairs of finite values to the front, and say how many there are."""
    kept = 0
    for i in range(n):
        a = x[i]
        b = y[i]
        x[kept] = a
        y[kept] = b
        kept += math.isfinite(a) and math.isfinite(b)
    return kept


@part
def _single_pairs(flat: Any, places: Any, apart: int, clean: int, levels: int, at: int, whole: Any, real: Any) -> None:
    """Take in one pair for each label and level, as those of layers without maps are."""
    for row in range(len(places)):
        x = np.float64(flat[places[row] + clean * apart])
        for level in range(levels):
            y = np.float64(flat[places[row] + level * apart])
            if math.isfinite(x) and math.isfinite(y):
                _join(whole[row], real[row], at + level, levels, 1, x, y, 0.0, 0.0, 0.0, (x - y) * (x - y))
            else:
                whole[row, at + level + LOST * levels] += 1


@part
def _set_right(x: Any, y: Any, x_bits: Any, y_bits: Any, n: int, mask: Any) -> Any:
    """Leave out the pairs of which a value is not finite; give what is known of the others, as `add_pairs` needs it."""
    kept = _keep_finite(x, y, n)
    mx, xx = _spread(x, kept, _kind(x_bits, kept, mask)[1])
    return kept, mx, xx, _kind(y_bits, kept, mask)[1]


@entry
def add_pairs(
    flat: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, apart: int, clean: int, levels: int, at: int,
    whole: Any, real: Any,
) -> None:  # fmt: skip
    """Take in the pairs of clean and noisy values of a block, `apart` being the distance from level to level.

    Columns are those of `fmx.reduce.NoisePairs`, `levels` a field; the others are as in `fmx.reduce.blocks.Runs`. As in
    `fmx.reduce.kernels`, values are gathered into buffers that stay in the fastest cache, and short loops that become
    vector code run over these.
    """
    if len(starts) * length == 1:
        _single_pairs(flat, bases + starts[0], apart, clean, levels, at, whole, real)
        return
    side = GROUP if step != 1 else 1
    # Rows that lie a power of two apart would push each other out of the cache.
    clear, noisy = np.empty((side, BUFFER + 16), flat.dtype), np.empty((side, BUFFER + 16), flat.dtype)
    spare = np.empty(BUFFER, flat.dtype)
    clear_bits, noisy_bits, spare_bits = clear.view(mask.dtype), noisy.view(mask.dtype), spare.view(mask.dtype)
    means, squares, finite = np.empty(side), np.empty(side), np.empty(side, np.bool_)
    shift = 23 if flat.itemsize == 4 else 52
    infinity = mask[0] >> shift << shift
    for first in range(0, len(bases), side):
        places = bases[first : first + side]
        run, done = 0, 0
        while run < len(starts):
            n, next_run, next_done = _gather(flat, places, starts, run, done, length, step, clean * apart, clear)
            for j in range(len(places)):
                largest, differ = _kind(clear_bits[j], n, mask[0])
                finite[j] = largest < infinity
                if finite[j]:
                    means[j], squares[j] = _spread(clear[j], n, differ)
            for level in range(levels):
                _gather(flat, places, starts, run, done, length, step, level * apart, noisy)
                for j in range(len(places)):
                    x, y, kept, mx, xx = clear[j], noisy[j], n, means[j], squares[j]
                    largest, differ = _kind(noisy_bits[j], n, mask[0])
                    if largest >= infinity or not finite[j]:
                        spare[:n] = x[:n]
                        x = spare
                        kept, mx, xx, differ = _set_right(x, y, spare_bits, noisy_bits[j], n, mask[0])
                        whole[first + j, at + level + LOST * levels] += n - kept
                    my, yy, xy, difference = mx, xx, xx, 0.0
                    if level != clean:
                        my, yy = _spread(y, kept, differ)
                        xy, difference = _products(x, y, kept, mx, my)
                    columns, reals = whole[first + j], real[first + j]
                    _join(columns, reals, at + level, levels, kept, mx, my, xx, yy, xy, difference)
            run, done = next_run, next_done


@entry
def join_pairs(levels: int, at: int, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place."""
    for row in range(len(whole)):
        for level in range(levels):
            first = at + level
            whole[row, first + LOST * levels] += other[row, first + LOST * levels]
            n = other[row, first + COUNT * levels]
            mx, my = other_real[row, first + MEAN_X * levels], other_real[row, first + MEAN_Y * levels]
            xx, yy = other_real[row, first + XX * levels], other_real[row, first + YY * levels]
            xy, difference = other_real[row, first + XY * levels], other_real[row, first + DIFF * levels]
            _join(whole[row], real[row], first, levels, n, mx, my, xx, yy, xy, difference)


@part
def _add_one(series: Any, mean: float, lags: int, real: Any) -> None:
    """Add up one series, from the column of squares on."""
    times = len(series)
    for t in range(times - 1):
        real[1 + t] += abs(series[t + 1] - series[t])
    for t in range(times):
        series[t] -= mean
    for t in range(times):
        real[0] += series[t] * series[t]
    for lag in range(1, lags + 1):
        total = 0.0
        for t in range(times - lag):
            total += series[t] * series[t + lag]
        real[times - 1 + lag] += total


@entry
def add_series(
    flat: Any, bases: Any, starts: Any, length: int, step: int, apart: int, times: int, lags: int, at: int,
    whole: Any, real: Any,
) -> None:  # fmt: skip
    """Take in the series of each neuron, `apart` being the distance from one timestep to the next.

    Columns: series, those with a value that is not finite, then sums over series of (x - mean)², of |change| at each
    step, and of the products (x - mean)(x' - mean) at each lag.
    """
    series = np.zeros(times)
    for row in range(len(bases)):
        for start in starts:
            place = bases[row] + start
            for i in range(length):
                mean = 0.0
                for t in range(times):
                    series[t] = np.float64(flat[place + i * step + t * apart])
                    mean += series[t]
                if not math.isfinite(mean):
                    whole[row, at + 1] += 1
                    continue
                whole[row, at] += 1
                _add_one(series, mean / times, lags, real[row, at + 2 :])
