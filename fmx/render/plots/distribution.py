"""How the values of a layer or channel are distributed: histogram, box and cumulative share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.plots.boxes import ABOUT_BOXES, box_values, draw_boxes, from_bins, has_boxes
from fmx.render.plots.page import Page, PageLook, name_ticks, say_inside, two_sided
from fmx.render.plots.parts import groups, layer_title, lost, need, number
from fmx.render.plots.style import Look, PlotFigure, in_style, looks

__all__ = ["MOST_GROUPS", "STEPS", "distribution", "is_coarse"]

MOST_GROUPS = 14
_WHAT = "distributions"
# Share of the values at either end that would squeeze the others.
_TAIL = 0.005
_NARROW = 120
# Of the bulk of the values: what is smaller counts as near to 0 on a logarithmic axis.
_SMALL = 1e-3
# Bins that have to hold the bulk of the values for the shape of their distribution to be seen.
_LEAST_BINS = 12
# Groups that are steps on a scale, one after the other.
STEPS = ("noise", "timestep", "epoch", "step")


@in_style
def distribution(
    hist: xr.Dataset,
    stats: xr.Dataset | None = None,
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw the density, a box of quantiles, and the cumulative share of values.

    Parameters
    ----------
    hist : xarray.Dataset
        Of one layer, from `fmx.analyze.hist`: counts (group, bin), edges and cdf (group, edge), count (group). The
        group may be any label, such as noise, label or channel, or missing.
    stats : xarray.Dataset, optional
        From `fmx.analyze.stats` by the same label with the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95. Without it the
        box is made of the bins.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something, keep two labels apart, or more than 14 groups.
    """
    need(hist, ("counts", "edges", "cdf", "count"), _WHAT, "fmx hist")
    dim, names = groups(hist, "count")
    if len(names) > MOST_GROUPS:
        raise FmxError(f"{len(names)} {_WHAT} can't be told apart in one plot: choose up to {MOST_GROUPS} of them.")
    shown = looks(len(names), ordered=dim in STEPS)
    named = [f"{dim} {name}" if dim in {*STEPS, "channel"} else name for name in names]
    counts, edges, cdf = _rows(hist, len(names))
    drawn = np.asarray(hist["count"].values).reshape(-1) > 0
    page = Page(f"Distribution of values: {layer_title(hist)}", **given)
    narrow, strip = page.width < _NARROW, 6 + 3.6 * len(names)
    page.height = strip + (92 if narrow else 50)
    page.note(lost([hist]))
    rows = [44, 44, strip] if narrow else [44, strip]
    grid = page.figure.add_gridspec(len(rows), 2 - narrow, height_ratios=rows)
    density = page.figure.add_subplot(grid[0, 0] if narrow else grid[:, 0])
    share = page.figure.add_subplot(grid[-2, -1])
    box = page.figure.add_subplot(grid[-1, -1], sharex=share)
    if not drawn.any():
        for axes in (density, share, box):
            say_inside(axes, "no finite values")
        return page.finish()
    _boxes(box, hist, stats, named if dim else [], shown, page)
    same = _constant(counts, edges)
    if same is None:
        _density(density, counts, edges, shown)
        _cumulative(share, edges, cdf, shown)
        _value_axes(density, share, counts[drawn], edges[drawn], cdf[drawn], page)
    else:
        for axes in (density, share):
            say_inside(axes, f"constant: every finite value is {number(same)}", ticks=axes is share)
        share.set_yticks([])
        share.set_xlim(same - (abs(same) or 1), same + (abs(same) or 1))
    if dim:
        page.legend([Line2D([], [], color=look.colour, ls=look.line) for look in shown], named)
        empty = [name for name, there in zip(named, drawn, strict=True) if not there]
        page.note(f"no finite values: {', '.join(empty)}" if empty else "")
    return page.finish()


def is_coarse(hist: xr.Dataset) -> bool:
    """Tell whether a few of the bins hold nearly all values of a group, so that other bins would show more of them."""
    counts, edges, cdf = _rows(hist, int(np.prod(hist["count"].shape, dtype=int)))
    for own, ends, share in zip(counts, edges, cdf, strict=True):
        if not own.any() or _constant(own[None], ends[None]) is not None:
            continue
        first, last = np.interp((_TAIL, 1 - _TAIL), share, np.arange(len(ends)))
        if last - first < _LEAST_BINS:
            return True
    return False


def _rows(hist: xr.Dataset, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    counts, cdf = (np.asarray(hist[name].values) for name in ("counts", "cdf"))
    edges = np.broadcast_to(np.asarray(hist["edges"].values, np.float64), cdf.shape)
    return counts.reshape(count, -1), edges.reshape(count, -1), cdf.reshape(count, -1)


def _constant(counts: NDArray[Any], edges: NDArray[Any]) -> float | None:
    """Give the value where all are the same, as far as bins can tell: they are next to nothing wide then."""
    used = counts > 0
    low, high = float(edges[:, :-1][used].min()), float(edges[:, 1:][used].max())
    return low if high - low <= 1e-4 * abs(low) or low == high else None


def _density(axes: Axes, counts: NDArray[Any], edges: NDArray[Any], shown: Sequence[Look]) -> None:
    single = len(counts) == 1
    for row, own, look in zip(counts, edges, shown, strict=True):
        if not row.any():
            continue
        # Logarithmic bins have one of no width, for zeros.
        wide = np.diff(own) > 0
        ends = np.append(own[:-1][wide], own[-1])
        if not wide.any():
            ends, wide = own[0] + np.array([-0.5, 0.5]), np.arange(len(row)) == row.argmax()
        density = row[wide] / row.sum() / np.diff(ends)
        # A bin without values has no density that a logarithmic axis could show.
        axes.stairs(np.where(density > 0, density, np.nan), ends, baseline=None, color=look.colour, linewidth=1.0)
        if single:
            axes.stairs(density, ends, color=look.colour, fill=True, alpha=0.35, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylabel("density")
    axes.set_xlabel("activation")


def _cumulative(axes: Axes, edges: NDArray[Any], cdf: NDArray[Any], shown: Sequence[Look]) -> None:
    for own, share, look in zip(edges, cdf, shown, strict=True):
        if np.isfinite(share).any():
            axes.plot(own, share, color=look.colour, ls=look.line)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of values below")
    axes.tick_params(labelbottom=False)
    axes.grid(axis="y")


def _boxes(
    axes: Axes, hist: xr.Dataset, stats: xr.Dataset | None, names: Sequence[str], shown: Sequence[Look], page: Page
) -> None:
    count = len(shown)
    values = np.empty(0)
    if stats is not None and has_boxes(stats):
        values = box_values(stats)
    if values.size != count * 6:
        values = from_bins(hist)
        page.note("quantiles by lines within the bins")
    draw_boxes(axes, values.reshape(count, -1), [look.colour for look in shown])
    axes.set_ylim(count - 0.4, -0.6)
    name_ticks(axes.yaxis, names, 3.6 * count)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("activation")
    page.note(ABOUT_BOXES if np.isfinite(values[..., -1]).any() else ABOUT_BOXES.rpartition(",")[0])
    if stats is not None and "sparsity" in stats and not stats["sparsity"].ndim:
        page.note(f"{100 * float(stats['sparsity']):.3g} % of the values are exactly 0")


def _value_axes(
    density: Axes, share: Axes, counts: NDArray[Any], edges: NDArray[Any], cdf: NDArray[Any], page: Page
) -> None:
    """Set the ranges of values: all of them for the density, the bulk of them for the share."""
    used = counts > 0
    whole = float(edges[:, :-1][used].min()), float(edges[:, 1:][used].max())
    bulk = (
        min(float(np.interp(_TAIL, c, e)) for c, e in zip(cdf, edges, strict=True)),
        max(float(np.interp(1 - _TAIL, c, e)) for c, e in zip(cdf, edges, strict=True)),
    )
    tails, widths = bulk, np.diff(edges[0])
    growing = len(widths) > 2 and widths.max() > 1.5 * widths[widths > 0].min(initial=np.inf)
    if growing or bulk[1] - bulk[0] > 0.5 * (whole[1] - whole[0]) or bulk[0] == bulk[1]:
        bulk = whole
    else:
        page.note(f"share and boxes without the {100 * _TAIL:g} % of the values at either end")
    if growing:
        # Values far smaller than nearly all others would take half of the axis.
        away = max(float(np.abs(edges[edges != 0]).min()), _SMALL * max(-tails[0], tails[1]))
        length = (page.width - 30) / (1 if page.width < _NARROW else 2)
        for axes in (density, share):
            two_sided(axes.xaxis, away, 1.5 * whole[0], 1.5 * whole[1], length)
        page.note("the axes of activations are logarithmic on both sides of 0")
        return
    for axes, (low, high) in ((density, whole), (share, bulk)):
        room = 0.015 * (high - low) or max(abs(low), 1.0) * 0.1
        axes.set_xlim(low - room, high + room)
