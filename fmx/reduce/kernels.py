"""The compiled pass that feeds moments, histograms and quantile sketches together, and the merging of their states.

The values of a label are gathered into a buffer that stays in the fastest cache, and short loops run over the buffer
one after the other: each is simple enough to become vector code, and together they are several times faster than one
loop that does everything. States are tables of 8-byte columns, one row a label, seen as whole numbers (`whole`) and as
floats (`real`) at once. The columns are those of the reducers' types; an offset below 0 says that a part is not wanted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part, sums

__all__ = ["accumulate", "merge"]

# Values of a buffer, and labels gathered side by side where one label's values lie apart from each other.
BUFFER = 2048
GROUP = 64
# A buffer of which more than one in so many is zero is counted without its zeros.
MANY = 16
# Stands for an exponent where nothing was seen.
EMPTY = -(2**15)
# The finest bins: their reciprocal is still a float32.
FINEST = -120
LARGEST = 1.7e308
# The farthest that a whole number can be shifted.
FARTHEST = 62

COUNT, MEAN, M2, M3, M4, L1, MIN, MAX, ZEROS, NEGATIVE, NAN, INF = range(12)
H_EXPONENT, H_LOW, H_MIN, H_MAX, H_NAN, H_INF, H_COUNTS = range(7)
Q_TOP, Q_MIN, Q_MAX, Q_NAN, Q_INF, Q_COUNTS = range(6)


# -- what is in a buffer ---------------------------------------------------------------------------


@part
def _range(bits: Any, n: int, mask: Any, sign: int) -> Any:
    """Find the least and largest value as whole numbers in the same order; NaN and inf are beyond all others."""
    low = mask
    high = bits[0] ^ bits[0]
    high = high - 1 - mask
    for i in range(n):
        key = bits[i] ^ ((bits[i] >> sign) & mask)
        low = min(low, key)
        high = max(high, key)
    return low, high


@part
def _keep_finite(buffer: Any, n: int) -> Any:
    """Move the finite values to the front; say how many there are, and how many NaN and infinite ones."""
    kept = 0
    nan = 0
    for i in range(n):
        x = buffer[i]
        nan += math.isnan(x)
        buffer[kept] = x
        kept += math.isfinite(x)
    return kept, nan, n - kept - nan


@part
def _keep_nonzero(buffer: Any, n: int) -> int:
    kept = 0
    for i in range(n):
        x = buffer[i]
        buffer[kept] = x
        kept += x != 0
    return kept


@sums
def _sum(buffer: Any, n: int) -> Any:
    total = 0.0
    for i in range(n):
        total += np.float64(buffer[i])
    return total


@sums
def _sum_sizes(buffer: Any, n: int) -> Any:
    total = 0.0
    for i in range(n):
        total += abs(np.float64(buffer[i]))
    return total


@part
def _count(buffer: Any, n: int) -> Any:
    zeros = np.int32(0)
    negative = np.int32(0)
    for i in range(n):
        zeros += np.int32(buffer[i] == 0)
        negative += np.int32(buffer[i] < 0)
    return zeros, negative


@sums
def _powers(buffer: Any, n: int, mean: float) -> Any:
    m1 = 0.0
    m2 = 0.0
    m3 = 0.0
    m4 = 0.0
    for i in range(n):
        d = np.float64(buffer[i]) - mean
        square = d * d
        m1 += d
        m2 += square
        m3 += square * d
        m4 += square * square
    return m1, m2, m3, m4


# -- moments ---------------------------------------------------------------------------------------


@part
def _add_moments(whole: Any, real: Any, n: float, mean: float, m2: float, m3: float, m4: float) -> None:
    """Merge central moments into a row, by the formulas of Pébay (2008)."""
    before = float(whole[COUNT])
    if before == 0:
        # The square of a step from 0 may overflow.
        real[MEAN], real[M2], real[M3], real[M4] = mean, m2, m3, m4
        whole[COUNT] = int(n)
        return
    total = before + n
    step = mean - real[MEAN]
    share = n / total
    part = before / total
    here2 = real[M2]
    here3 = real[M3]
    cross = step * step * before * share
    real[M4] += (
        m4
        + cross * step * step * (part * part - part * share + share * share)
        + 6 * step * step * (part * part * m2 + share * share * here2)
        + 4 * step * (part * m3 - share * here3)
    )
    real[M3] += m3 + cross * step * (part - share) + 3 * step * (part * m2 - share * here2)
    real[M2] += m2 + cross
    real[MEAN] += step * share
    whole[COUNT] += int(n)


@part
def _moments(buffer: Any, n: int, zeros: int, low: float, high: float, whole: Any, real: Any) -> None:
    if zeros:
        _add_moments(whole, real, float(zeros), 0.0, 0.0, 0.0, 0.0)
    if n == 0:
        return
    if low == high:
        total = n * low
        mean, m2, m3, m4 = low, 0.0, 0.0, 0.0
    else:
        total = _sum(buffer, n)
        mean = total / n
        m1, m2, m3, m4 = _powers(buffer, n, mean)
        # What rounding left of the first moment is moved out of the others.
        rest = m1 / n
        mean += rest
        m4 += rest * (6 * rest * m2 - 4 * m3)
        m3 -= 3 * rest * m2
        m2 = max(m2 - n * rest * rest, 0.0)
    real[L1] += _sum_sizes(buffer, n) if low < 0 < high else abs(total)
    _add_moments(whole, real, float(n), mean, m2, m3, m4)


# -- histogram -------------------------------------------------------------------------------------


@part
def _bin(x: float, exponent: int) -> int:
    """Number the bin of width 2**exponent that x is in, from the one that begins at 0."""
    place = math.floor(math.ldexp(x, -exponent))
    # Too small to be told from 0 in units of the bins.
    return -1 if x < 0 and place == 0 else int(place)


@part
def _exponent(low: float, high: float, bins: int) -> int:
    """Choose the narrowest bins of which `bins` hold the range; they depend on nothing but the range."""
    largest = max(abs(low), abs(high))
    finest = max(math.frexp(largest)[1] - 23, FINEST) if largest > 0 else FINEST
    spread = math.frexp(min(high - low, LARGEST))[1]
    exponent = max(finest, spread - math.frexp(float(bins))[1] - 1) if high > low else finest
    while _bin(high, exponent) - _bin(low, exponent) >= bins:
        exponent += 1
    return exponent


@part
def _widen(whole: Any, real: Any, low: float, high: float, bins: int) -> None:
    """Make room for a range: bins that grow do so by joining pairs, so that no count is split."""
    before = whole[H_EXPONENT]
    first = whole[H_LOW]
    low = min(low, real[H_MIN])
    high = max(high, real[H_MAX])
    exponent = _exponent(low, high, bins)
    start = _bin(low, exponent)
    real[H_MIN] = low
    real[H_MAX] = high
    whole[H_EXPONENT] = exponent
    whole[H_LOW] = start
    if before == EMPTY or (before == exponent and first == start):
        return
    counts = whole[H_COUNTS : H_COUNTS + bins].copy()
    whole[H_COUNTS : H_COUNTS + bins] = 0
    wider = min(exponent - before, FARTHEST)
    for i in range(bins):
        if counts[i]:
            whole[H_COUNTS + ((first + i) >> wider) - start] += counts[i]


@part
def _places(buffer: Any, n: int, scale: Any, start: int, out: Any) -> None:
    for i in range(n):
        x = buffer[i]
        scaled = x * scale
        place = np.int32(scaled)
        lower = (scaled < place) | ((x < 0) & (place == 0))
        out[i] = np.uint16(place - np.int32(lower) - start)


@part
def _histogram(
    buffer: Any, n: int, zeros: int, low: float, high: float, bins: int, one: Any, places: Any, whole: Any, real: Any
) -> None:
    if low < real[H_MIN] or high > real[H_MAX]:
        _widen(whole, real, low, high, bins)
    one[0] = math.ldexp(1.0, -whole[H_EXPONENT])
    _places(buffer, n, one[0], whole[H_LOW], places)
    counts = whole[H_COUNTS : H_COUNTS + bins]
    for i in range(n):
        counts[places[i]] += 1
    if zeros:
        counts[-whole[H_LOW]] += zeros


# -- quantiles -------------------------------------------------------------------------------------


@part
def _raise(whole: Any, top: int, octaves: int, cells: int) -> None:
    """Move the window of octaves up to `top`; what falls out at its lower end joins the tiny values."""
    before = whole[Q_TOP]
    whole[Q_TOP] = top
    if before == EMPTY:
        return
    size = octaves * cells
    gone = min((top - before) * cells, size)
    for side in range(2):
        counts = whole[Q_COUNTS + side * (size + 1) : Q_COUNTS + (side + 1) * (size + 1)]
        for i in range(1, gone + 1):
            counts[0] += counts[i]
        for i in range(1, size + 1 - gone):
            counts[i] = counts[i + gone]
        counts[size + 1 - gone :] = 0


@part
def _cells(bits: Any, n: int, mask: Any, sign: int, shift: int, first: int, size: int, out: Any) -> None:
    """Number each value's cell: 0 tiny, 1 to size; then the same for negative values; then zero."""
    for i in range(n):
        b = bits[i]
        near = b & mask
        cell = max(np.int32(near >> shift) - np.int32(first), np.int32(-1)) + np.int32(1)
        if b >> sign:
            cell += np.int32(size + 1)
        if near == 0:
            cell = np.int32(2 * size + 2)
        out[i] = np.uint16(cell)


@part
def _cells_near_zero(buffer: Any, n: int, base: int, cells: int, size: int, out: Any) -> None:
    """The same where some cells belong to numbers so small that their bits follow another rule."""
    for i in range(n):
        x = np.float64(buffer[i])
        part, exponent = math.frexp(abs(x))
        cell = (exponent - 1 - base) * cells + int((2 * part - 1) * cells)
        out[i] = max(cell, -1) + 1 + (size + 1 if x < 0 else 0) if x != 0 else 2 * size + 2


@part
def _quantiles(
    buffer: Any, bits: Any, n: int, zeros: int, low: float, high: float, cells: int, octaves: int, mask: Any,
    mantissa: int, places: Any, whole: Any, real: Any,
) -> None:  # fmt: skip
    size = octaves * cells
    real[Q_MIN] = min(real[Q_MIN], low)
    real[Q_MAX] = max(real[Q_MAX], high)
    counts = whole[Q_COUNTS : Q_COUNTS + 2 * size + 3]
    counts[2 * size + 2] += zeros
    largest = max(abs(low), abs(high))
    if largest == 0:
        counts[2 * size + 2] += n
        return
    top = math.frexp(largest)[1] - 1
    if top > whole[Q_TOP]:
        _raise(whole, top, octaves, cells)
    sign = 31 if mantissa == 23 else 63
    bias = 127 if mantissa == 23 else 1023
    base = whole[Q_TOP] - octaves + 1
    if base + bias >= 1:
        shift = mantissa - (math.frexp(float(cells))[1] - 1)
        _cells(bits, n, mask, sign, shift, (base + bias) * cells, size, places)
    else:
        _cells_near_zero(buffer, n, base, cells, size, places)
    for i in range(n):
        counts[places[i]] += 1


# -- a block ---------------------------------------------------------------------------------------


@part
def _take(
    buffer: Any, bits: Any, n: int, mask: Any, mantissa: int, at: Any, one: Any, places: Any, whole: Any, real: Any
) -> None:  # fmt: skip
    """Take in the buffer of one label."""
    sign = 31 if mantissa == 23 else 63
    low, high = _range(bits, n, mask, sign)
    largest = mask >> mantissa << mantissa  # the bits of infinity
    if high >= largest or ~low >= largest:
        n, nan, inf = _keep_finite(buffer, n)
        for part, column in ((0, NAN), (1, H_NAN), (2, Q_NAN)):
            if at[part] >= 0:
                whole[at[part] + column] += nan
                whole[at[part] + column + 1] += inf
        if n == 0:
            return
        low, high = _range(bits, n, mask, sign)
    # Turned back into values; adding 0 leaves no negative zero.
    ends = one.view(bits.dtype)
    ends[0] = low ^ ((low >> sign) & mask)
    smallest = np.float64(one[0]) + 0.0
    ends[0] = high ^ ((high >> sign) & mask)
    highest = np.float64(one[0]) + 0.0
    zeros, negative = _count(buffer, n) if smallest <= 0 else (0, 0)
    if at[0] >= 0:
        whole[at[0] + ZEROS] += zeros
        whole[at[0] + NEGATIVE] += negative
        real[at[0] + MIN] = min(real[at[0] + MIN], smallest)
        real[at[0] + MAX] = max(real[at[0] + MAX], highest)
    if zeros * MANY > n:
        # Adding to the same count time and again is slow: the zeros of a ReLU are added at once.
        n = _keep_nonzero(buffer, n)
    else:
        zeros = 0
    if at[0] >= 0:
        _moments(buffer, n, zeros, smallest, highest, whole[at[0] :], real[at[0] :])
    if at[1] >= 0:
        _histogram(buffer, n, zeros, smallest, highest, at[3], one, places, whole[at[1] :], real[at[1] :])
    if at[2] >= 0:
        cells, octaves = at[4], at[5]
        columns, reals = whole[at[2] :], real[at[2] :]
        _quantiles(buffer, bits, n, zeros, smallest, highest, cells, octaves, mask, mantissa, places, columns, reals)


@entry
def accumulate(
    flat: Any, mask: Any, bases: Any, starts: Any, length: int, step: int, at: Any, whole: Any, real: Any
) -> None:
    """Take in the runs of a block (see `fmx.reduce.blocks.Runs`), each label's into its row.

    Parameters
    ----------
    flat : array (memory,)
        float32 or float64.
    mask : int32 or int64
        All bits but the sign, of the size of the values.
    bases, starts, length, step
        See `fmx.reduce.blocks.Runs`.
    at : array (6,) of int64
        First column of moments, histogram and quantiles, or -1; fine bins; cells an octave; octaves.
    whole, real : array (label, column)
        The states, changed in place.
    """
    side = GROUP if step != 1 else 1
    # Rows that lie a power of two apart would push each other out of the cache.
    buffers = np.empty((side, BUFFER + 16), flat.dtype)
    one = np.empty(1, flat.dtype)
    places = np.empty(BUFFER, np.uint16)
    mantissa = 23 if flat.itemsize == 4 else 52
    for first in range(0, len(bases), side):
        labels = min(side, len(bases) - first)
        n = 0
        for start in starts:
            done = 0
            while done < length:
                more = min(length - done, BUFFER - n)
                place = start + done * step
                if side == 1:
                    buffers[0, n : n + more] = flat[bases[first] + place : bases[first] + place + more]
                else:
                    for i in range(more):
                        for j in range(labels):
                            buffers[j, n + i] = flat[bases[first + j] + place + i * step]
                done += more
                n += more
                if n == BUFFER:
                    for j in range(labels):
                        row = first + j
                        bits = buffers[j].view(mask.dtype)
                        _take(buffers[j], bits, n, mask[0], mantissa, at, one, places, whole[row], real[row])
                    n = 0
        for j in range(labels if n else 0):
            row = first + j
            bits = buffers[j].view(mask.dtype)
            _take(buffers[j], bits, n, mask[0], mantissa, at, one, places, whole[row], real[row])


# -- merging ---------------------------------------------------------------------------------------


@part
def _merge_histogram(whole: Any, real: Any, other: Any, other_real: Any, bins: int) -> None:
    whole[H_NAN] += other[H_NAN]
    whole[H_INF] += other[H_INF]
    if other[H_EXPONENT] == EMPTY:
        return
    if other_real[H_MIN] < real[H_MIN] or other_real[H_MAX] > real[H_MAX]:
        _widen(whole, real, other_real[H_MIN], other_real[H_MAX], bins)
    wider = min(whole[H_EXPONENT] - other[H_EXPONENT], FARTHEST)
    for i in range(bins):
        if other[H_COUNTS + i]:
            whole[H_COUNTS + ((other[H_LOW] + i) >> wider) - whole[H_LOW]] += other[H_COUNTS + i]


@part
def _merge_quantiles(whole: Any, real: Any, other: Any, other_real: Any, cells: int, octaves: int) -> None:
    whole[Q_NAN] += other[Q_NAN]
    whole[Q_INF] += other[Q_INF]
    real[Q_MIN] = min(real[Q_MIN], other_real[Q_MIN])
    real[Q_MAX] = max(real[Q_MAX], other_real[Q_MAX])
    size = octaves * cells
    whole[Q_COUNTS + 2 * size + 2] += other[Q_COUNTS + 2 * size + 2]
    if other[Q_TOP] == EMPTY:
        return
    if other[Q_TOP] > whole[Q_TOP]:
        _raise(whole, other[Q_TOP], octaves, cells)
    lower = (whole[Q_TOP] - other[Q_TOP]) * cells
    for side in range(2):
        start = Q_COUNTS + side * (size + 1)
        whole[start] += other[start]
        for i in range(1, size + 1):
            if other[start + i]:
                whole[start + max(i - lower, 0)] += other[start + i]


@entry
def merge(at: Any, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place; `at` as in `accumulate`."""
    for row in range(len(whole)):
        if at[0] >= 0:
            a, b = whole[row, at[0] :], other[row, at[0] :]
            x, y = real[row, at[0] :], other_real[row, at[0] :]
            for column in (ZEROS, NEGATIVE, NAN, INF):
                a[column] += b[column]
            x[L1] += y[L1]
            x[MIN] = min(x[MIN], y[MIN])
            x[MAX] = max(x[MAX], y[MAX])
            if b[COUNT]:
                _add_moments(a, x, float(b[COUNT]), y[MEAN], y[M2], y[M3], y[M4])
        if at[1] >= 0:
            i = at[1]
            _merge_histogram(whole[row, i:], real[row, i:], other[row, i:], other_real[row, i:], at[3])
        if at[2] >= 0:
            i = at[2]
            _merge_quantiles(whole[row, i:], real[row, i:], other[row, i:], other_real[row, i:], at[4], at[5])
