"""Compiled sums over pairs of noise levels, and over timesteps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fmx.reduce.compiled import entry, part

__all__ = ["add_pairs", "add_series", "join_pairs"]

COUNT, LOST, MEAN_X, MEAN_Y, XX, YY, XY, DIFF = range(8)
FIELDS = 8


@part
def _join(whole: Any, real: Any, first: int, levels: int, n: int, mx: float, my: float, sums: Any) -> None:
    """Merge the moments of more pairs into those of a level, as Chan, Golub and LeVeque (1983) do."""
    if n == 0:
        return
    before = whole[first + COUNT * levels]
    total = before + n
    dx = mx - real[first + MEAN_X * levels]
    dy = my - real[first + MEAN_Y * levels]
    weight = float(before) * n / total
    real[first + XX * levels] += sums[0] + dx * dx * weight
    real[first + YY * levels] += sums[1] + dy * dy * weight
    real[first + XY * levels] += sums[2] + dx * dy * weight
    real[first + DIFF * levels] += sums[3]
    real[first + MEAN_X * levels] += dx * n / total
    real[first + MEAN_Y * levels] += dy * n / total
    whole[first + COUNT * levels] = total


@entry
def add_pairs(
    flat: Any, bases: Any, starts: Any, length: int, step: int, apart: int, clean: int, levels: int, at: int,
    whole: Any, real: Any,
) -> None:  # fmt: skip
    """Take in the pairs of clean and noisy values of a block, `apart` being the distance from level to level.

    Columns are those of `fmx.reduce.NoisePairs`, `levels` a field; the others are as in `fmx.reduce.blocks.Runs`.
    """
    sums = np.zeros(4)
    for row in range(len(bases)):
        for level in range(levels):
            n, lost, mx, my = 0, 0, 0.0, 0.0
            for start in starts:
                place = bases[row] + start
                for i in range(length):
                    x = np.float64(flat[place + i * step + clean * apart])
                    y = np.float64(flat[place + i * step + level * apart])
                    if math.isfinite(x) and math.isfinite(y):
                        n += 1
                        mx += x
                        my += y
                    else:
                        lost += 1
            whole[row, at + level + LOST * levels] += lost
            if n == 0:
                continue
            mx /= n
            my /= n
            sums[:] = 0
            for start in starts:
                place = bases[row] + start
                for i in range(length):
                    x = np.float64(flat[place + i * step + clean * apart])
                    y = np.float64(flat[place + i * step + level * apart])
                    if math.isfinite(x) and math.isfinite(y):
                        sums[0] += (x - mx) * (x - mx)
                        sums[1] += (y - my) * (y - my)
                        sums[2] += (x - mx) * (y - my)
                        sums[3] += (x - y) * (x - y)
            _join(whole[row], real[row], at + level, levels, n, mx, my, sums)


@entry
def join_pairs(levels: int, at: int, whole: Any, real: Any, other: Any, other_real: Any) -> None:
    """Merge states (label, column) into others, in place."""
    sums = np.zeros(4)
    for row in range(len(whole)):
        for level in range(levels):
            first = at + level
            whole[row, first + LOST * levels] += other[row, first + LOST * levels]
            n = other[row, first + COUNT * levels]
            mx, my = other_real[row, first + MEAN_X * levels], other_real[row, first + MEAN_Y * levels]
            for field in range(4):
                sums[field] = other_real[row, first + (XX + field) * levels]
            _join(whole[row], real[row], first, levels, n, mx, my, sums)


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
