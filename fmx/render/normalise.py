"""From float maps to the indices of a colormap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches

__all__ = ["MODES", "Bound", "normalise", "quantise", "shares", "value_ranges"]

MODES = ("filter", "layer", "signed")

Bound = float | NDArray[Any] | None
Floats = NDArray[np.floating[Any]]


def normalise(
    maps: NDArray[Any],
    mode: str = "filter",
    low: Bound = None,
    high: Bound = None,
    *,
    levels: int = 256,
) -> tuple[NDArray[np.uint8], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Map values to indices: the low end of the range to 0, the high end to ``levels - 1``, rounded.

    Parameters
    ----------
    maps : ndarray
        Maps, (channel, y, x).
    mode : {"filter", "layer", "signed"}
        The range: each map's own minimum to maximum, that of all maps together, or for all maps
        together the range symmetric about 0 that holds them (the middle of a diverging colormap is 0).
    low, high : float or ndarray, optional
        Fixed ends of the range in place of those of the values, for all maps or per map, (channel,).
    levels : int
        Number of indices, at most 256.

    Returns
    -------
    indices : ndarray of uint8
        The shape of maps. NaN draws as the lowest value, an infinity as the end of the range on its side,
        a map of one value as 0.
    ranges : tuple of ndarray
        The low and the high end for each map, each (channel,).

    Raises
    ------
    FmxError
        The mode is unknown, a fixed end is no number, or low lies above high.
    """
    low, high = value_ranges(maps, mode, low, high)
    return quantise(maps, low, high, levels=levels), (low, high)


def value_ranges(
    maps: NDArray[Any], mode: str = "filter", low: Bound = None, high: Bound = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the range of values that each map is drawn over; see `normalise`."""
    if mode not in MODES:
        raise FmxError(f"No normalisation is called {mode}: {near_matches(mode, MODES)}")
    lowest, highest = _finite_ends(maps)
    if mode != "filter":
        lowest, highest = np.full_like(lowest, lowest.min()), np.full_like(highest, highest.max())
    if mode == "signed":
        reach = np.maximum(-lowest, highest)
        # All zeros draw as the middle of the diverging colormap, not as its negative end.
        reach = np.where(reach > 0, reach, 1.0)
        lowest, highest = -reach, reach
    lowest = lowest if low is None else _fixed(low, len(maps))
    highest = highest if high is None else _fixed(high, len(maps))
    if low is None:
        lowest = np.minimum(lowest, highest)
    elif high is None:
        highest = np.maximum(lowest, highest)
    elif (lowest > highest).any():
        raise FmxError(f"The range of values runs from low to high: {low} lies above {high}.")
    return lowest, highest


def quantise(
    maps: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64], *, levels: int = 256
) -> NDArray[np.uint8]:
    """Map values to indices over given ranges, one for each map; see `normalise`."""
    share = shares(maps, low, high)
    share *= levels - 1
    share += 0.5
    return share.astype(np.uint8)


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
    """Find the least and the greatest finite value of each map, both 0 where there is none."""
    values = _floats(maps)
    # An infinity or NaN anywhere shows in the ends, so that maps without any are read just twice.
    low, high = values.min(axis=(1, 2)), values.max(axis=(1, 2))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        finite = np.isfinite(values)
        some = finite.any(axis=(1, 2))
        low = np.where(some, np.where(finite, values, np.inf).min(axis=(1, 2)), 0)
        high = np.where(some, np.where(finite, values, -np.inf).max(axis=(1, 2)), 0)
    return low.astype(np.float64), high.astype(np.float64)


def _fixed(end: float | NDArray[Any], count: int) -> NDArray[np.float64]:
    ends = np.asarray(end, dtype=np.float64)
    if ends.shape not in ((), (count,)) or not np.isfinite(ends).all():
        raise FmxError(f"An end of the range is one finite number, or one for each of the {count} maps.")
    return np.broadcast_to(ends, (count,))
