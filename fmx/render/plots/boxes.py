"""Boxes of quantiles, lying: whiskers from 5 to 95 %, quartiles, median and mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

__all__ = ["ABOUT_BOXES", "BOX_QUANTILES", "box_values", "draw_boxes", "from_bins", "has_boxes"]

BOX_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ABOUT_BOXES = "box: quartiles and median, whiskers: 5 and 95 %, diamond: mean"
_NAMES = ("q0.05", "q0.25", "median", "q0.75", "q0.95")


def has_boxes(stats: xr.Dataset | None) -> bool:
    """Whether statistics have the quantiles of boxes."""
    return stats is not None and all(name in stats for name in (*_NAMES, "mean"))


def box_values(stats: xr.Dataset) -> NDArray[np.float64]:
    """Give what a box is made of from statistics, (…, 5 quantiles and the mean)."""
    return np.stack([np.asarray(stats[name].values, np.float64) for name in (*_NAMES, "mean")], axis=-1)


def from_bins(hist: xr.Dataset) -> NDArray[np.float64]:
    """Give the same from a histogram (…, 6): quantiles by lines between the edges of bins, and no mean."""
    edges, cdf = (np.asarray(hist[name].values, np.float64) for name in ("edges", "cdf"))
    edges = np.broadcast_to(edges, cdf.shape)
    found = np.full((*cdf.shape[:-1], len(BOX_QUANTILES) + 1), np.nan)
    for index in np.ndindex(cdf.shape[:-1]):
        if np.isfinite(cdf[index]).all():
            # Where no value lies in a bin the share stays, and its upper end is where the next value comes.
            found[index][:-1] = np.interp(BOX_QUANTILES, cdf[index], edges[index])
    return found


def draw_boxes(
    axes: Axes, values: NDArray[np.float64], colours: Sequence[Any], *, places: Sequence[float] | None = None
) -> None:
    """Draw a box for each row of values, (box, 6), at heights 0, 1, …; rows without values are left out.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    values : ndarray
        As `box_values` gives them.
    colours : sequence
        One for each box.
    places : sequence of float, optional
        Heights, where they are others.
    """
    at = np.arange(len(values)) if places is None else np.asarray(places, np.float64)
    known = np.flatnonzero(np.isfinite(values[:, :5]).all(axis=1))
    if not len(known):
        return
    low, first, middle, third, high, mean = values[known].T
    shades = [colours[i] for i in known.tolist()]
    axes.hlines(at[known], low, high, colors=shades, linewidths=0.8, gid="whiskers")
    bars = axes.barh(at[known], third - first, 0.56, left=first, color=shades, alpha=0.35, linewidth=0)
    bars.set_label("_quartiles")
    axes.scatter(middle, at[known], s=26, c=shades, marker="|", linewidths=1.4, gid="median", zorder=3)
    there = np.isfinite(mean)
    axes.scatter(
        mean[there],
        at[known][there],
        s=9,
        c=[shades[i] for i in np.flatnonzero(there).tolist()],
        marker="D",
        linewidths=0,
        gid="mean",
        zorder=4,
    )
