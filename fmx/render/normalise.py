"""From float maps to the indices of a colormap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.render.resize import resized
from fmx.render.tone import PLAIN, Curve, Tone, curve_of_values, locally_equalised

__all__ = ["MODES", "Bound", "Ranges", "normalise", "quantise", "shares", "toned", "value_ranges"]

MODES = ("filter", "layer")

Bound = float | NDArray[Any] | None
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ranges of values that maps are drawn over.

    Attributes
    ----------
    low, high : ndarray
        Ends for each map, (channel,).
    curves : list of Curve, optional
        What equalises the values of each map.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    curves: list[Curve] | None = None

    def __getitem__(self, chosen: Any) -> Ranges:
        """Give the ranges of some maps, by their numbers."""
        numbers = np.arange(len(self.low))[chosen]
        curves = None if self.curves is None else [self.curves[i] for i in numbers]
        return Ranges(self.low[numbers], self.high[numbers], curves)

    @property
    def shared(self) -> bool:
        """Whether all maps have the same range."""
        return bool((self.low == self.low[0]).all() and (self.high == self.high[0]).all())


def normalise(
    maps: NDArray[Any],
    mode: str = "filter",
    low: Bound = None,
    high: Bound = None,
    *,
    tone: Tone = PLAIN,
    levels: int = 256,
) -> tuple[NDArray[np.uint8], Ranges]:
    """Map values to indices: the low end of the range to 0, the high end to ``levels - 1``, rounded.

    Parameters
    ----------
    maps : ndarray
        Maps, (channel, y, x).
    mode : {"filter", "layer"}
        The range: each map's own minimum to maximum, or that of all maps together.
    low, high : float or ndarray, optional
        Fixed ends of the range in place of those of the values, for all maps or per map, (channel,).
    tone : Tone
        Clipping, symmetry about 0, equalization and gamma.
    levels : int
        Number of indices, at most 256.

    Returns
    -------
    indices : ndarray of uint8
        The shape of maps. NaN draws as the lowest value, an infinity as the end of the range on its side,
        a map of one value as 0, or in the middle of a symmetric range where the value is 0.
    ranges : Ranges

    Raises
    ------
    FmxError
        The mode is unknown, a fixed end is no number, or low lies above high.
    """
    ranges = value_ranges(maps, mode, low, high, tone=tone)
    return quantise(maps, ranges, tone=tone, levels=levels), ranges


def value_ranges(
    maps: NDArray[Any], mode: str = "filter", low: Bound = None, high: Bound = None, *, tone: Tone = PLAIN
) -> Ranges:
    """Find the range of values that each map is drawn over; see `normalise`."""
    if mode not in MODES:
        raise FmxError(f"No normalisation is called {mode}: {near_matches(mode, MODES)}")
    if tone.clipped:
        lowest, highest = _percentiles(maps, tone.percentiles, together=mode != "filter")
    else:
        lowest, highest = _finite_ends(maps)
    if mode != "filter" and not np.isnan(lowest).all():
        lowest, highest = np.full_like(lowest, np.nanmin(lowest)), np.full_like(highest, np.nanmax(highest))
    lowest, highest = np.nan_to_num(lowest), np.nan_to_num(highest)
    if tone.symmetric:
        lowest, highest = about_zero(lowest, highest)
    lowest = lowest if low is None else _fixed(low, len(maps))
    highest = highest if high is None else _fixed(high, len(maps))
    if low is None:
        lowest = np.minimum(lowest, highest)
    elif high is None:
        highest = np.maximum(lowest, highest)
    elif (lowest > highest).any():
        raise FmxError(f"The range of values runs from low to high: {low} lies above {high}.")
    curves = None
    if tone.equalise == "histogram" and mode == "filter":
        curves = [curve_of_values(*each) for each in zip(maps, lowest, highest, strict=True)]
    elif tone.equalise == "histogram":
        curves = [curve_of_values(maps, lowest[0], highest[0])] * len(maps)
    return Ranges(lowest, highest, curves)


def about_zero(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make ranges reach as far below 0 as above."""
    reach = np.maximum(-low, high)
    # All zeros draw as the middle of the diverging colormap, not as its negative end.
    reach = np.where(reach > 0, reach, 1.0)
    return -reach, reach


def quantise(
    maps: NDArray[Any],
    ranges: Ranges,
    *,
    tone: Tone = PLAIN,
    levels: int = 256,
    size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
) -> NDArray[np.uint8]:
    """Map values to indices over given ranges, one for each map, and bring them to a size; see `normalise`."""
    share = toned(maps, ranges, tone)
    smooth = size is not None and interpolation != "nearest"
    if smooth and size is not None:
        # Some interpolations reach beyond the values that they lie between.
        share = np.clip(resized(share, size, interpolation), 0, 1)
    share = share * (levels - 1)
    share += 0.5
    indices: NDArray[np.uint8] = share.astype(np.uint8)
    return indices if size is None or smooth else resized(indices, size)


def toned(maps: NDArray[Any], ranges: Ranges, tone: Tone = PLAIN) -> Floats:
    """Map values to their place in the colormap, 0 to 1, over given ranges, one for each map; a new array."""
    if ranges.curves is not None:
        share = np.empty(maps.shape, np.float32)
        for one, values, (places, below) in zip(share, maps, ranges.curves, strict=True):
            one[...] = np.interp(np.where(np.isnan(values), -np.inf, values), places, below)
    else:
        share = shares(maps, ranges.low, ranges.high)
    if tone.equalise == "clahe":
        share = locally_equalised(share, tone.clip_limit)
    return tone.bent(share)


def shares(maps: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64]) -> Floats:
    """Map values to their share, 0 to 1, of given ranges, one for each map; see `normalise`."""
    values = _floats(maps)
    if not np.isfinite(values).all():
        values = np.where(np.isnan(values), -np.inf, values)
    # Halves, because the width of a range may be more than the largest float.
    start = (low / 2).astype(values.dtype)[:, None, None]
    width = (high / 2).astype(values.dtype)[:, None, None] - start
    share = values * values.dtype.type(0.5)
    share -= start
    with np.errstate(over="ignore"):
        np.divide(share, np.where(width > 0, width, 1), out=share)
    return np.clip(share, 0, (width > 0).astype(values.dtype), out=share)


def _floats(maps: NDArray[Any]) -> Floats:
    exact = maps.dtype in (np.float32, np.float64)
    values: Floats = maps if exact else maps.astype(np.float32 if maps.dtype == np.float16 else np.float64)
    return values


def _finite_ends(maps: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the least and the greatest finite value of each map, both NaN where there is none."""
    values = _floats(maps)
    # An infinity or NaN anywhere shows in the ends, so that maps without any are read just twice.
    low, high = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        finite = np.isfinite(values)
        some = finite.any(axis=(1, 2))
        low = np.where(some, np.where(finite, values, np.inf).min(axis=(1, 2)), np.nan)
        high = np.where(some, np.where(finite, values, -np.inf).max(axis=(1, 2)), np.nan)
    return low.astype(np.float64), high.astype(np.float64)


def _percentiles(
    maps: NDArray[Any], percentiles: tuple[float, float], *, together: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find two percentiles of the finite values of each map, or of all; both NaN where there are none."""
    rows = _floats(maps).reshape(1 if together else len(maps), -1).astype(np.float64)
    if np.isfinite(rows).all():
        low, high = np.percentile(rows, percentiles, axis=1)
    else:
        kept = [row[np.isfinite(row)] for row in rows]
        nothing = (np.nan, np.nan)
        low, high = np.array([np.percentile(row, percentiles) if row.size else nothing for row in kept]).T
    return np.resize(low, len(maps)), np.resize(high, len(maps))


def _fixed(end: float | NDArray[Any], count: int) -> NDArray[np.float64]:
    ends = np.asarray(end, dtype=np.float64)
    if ends.shape not in ((), (count,)) or not np.isfinite(ends).all():
        raise FmxError(f"An end of the range is one finite number, or one for each of the {count} maps.")
    return np.broadcast_to(ends, (count,))
