"""Where on its maps a layer is active: mean, variance, and the places of channels' largest values."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmx.render.plots.page import Page, PageLook, say_inside
from fmx.render.plots.parts import layer_title, lost, need, need_dims, noise_note, number
from fmx.render.plots.style import PlotFigure, in_style
from fmx.render.plots.text import definitions

__all__ = ["spatial_patterns"]

_MOST_CELLS = 32
_WHAT, _COMMAND = "spatial patterns", "fmx stats --by y,x"


@in_style
def spatial_patterns(
    stats: xr.Dataset,
    peaks: xr.Dataset | None = None,
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw the mean and the variance at every position of a layer's maps, and where its channels peak.

    Parameters
    ----------
    stats : xarray.Dataset
        Of one layer, from `fmx.analyze.stats` by y and x: mean and var (y, x).
    peaks : xarray.Dataset, optional
        From `fmx.analyze.top_samples`: y and x ((label,) channel, rank), the places of the largest values.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something, or are not by position.
    """
    need(stats, ("mean", "var"), _WHAT, _COMMAND)
    need_dims(stats, "mean", ["y", "x"], _WHAT, _COMMAND)
    page = Page(f"Spatial patterns: {layer_title(stats)}", **given)
    page.note(noise_note(stats), lost([stats]), *definitions(stats, {"mean": "mean", "var": "variance"}))
    maps = [
        ("mean", "mean activation", _map(stats, "mean"), "viridis"),
        ("var", "variance", _map(stats, "var"), "viridis"),
    ]
    if peaks is not None:
        need(peaks, ("y", "x", "sample_number"), _WHAT, "fmx top-samples")
        found, about = _peaks(peaks, maps[0][2].shape)
        maps.append(("peaks", "peaks", found, "cividis"))
        page.note(about)
    stacked = page.width < 120
    high, wide = maps[0][2].shape
    each = (page.width - 4) / (1 if stacked else len(maps)) - 24
    rows = len(maps) if stacked else 1
    page.height = rows * (min(max(each * high / wide, 18), 48 if stacked else 90) + 13)
    grid: Any = page.figure.subplots(*((len(maps), 1) if stacked else (1, len(maps))), squeeze=False)
    for axes, (name, text, values, cmap) in zip(grid.ravel(), maps, strict=True):
        cell = _cell((high, wide)) if name == "peaks" else 1
        axes.set_gid(name)
        _draw(axes, values, text, cmap, page, cell)
    return page.finish()


def _map(stats: xr.Dataset, name: str) -> NDArray[np.float64]:
    return np.asarray(stats[name].transpose("y", "x").values, np.float64)


def _peaks(peaks: xr.Dataset, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], str]:
    there = np.asarray(peaks["sample_number"].values) >= 0
    y, x = (np.asarray(peaks[name].values)[there].astype(np.int64) for name in ("y", "x"))
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    cell = _cell(shape)
    found = np.zeros((-(-shape[0] // cell), -(-shape[1] // cell)))
    np.add.at(found, (y[inside] // cell, x[inside] // cell), 1)
    if not inside.any():
        found[:] = np.nan
    ranks = peaks.sizes.get("rank", 1)
    about = f"peaks: places of the largest value of each channel in its {ranks} strongest samples"
    return found, about + (f", counted in cells of {cell} × {cell}" if cell > 1 else "")


def _cell(shape: tuple[int, ...]) -> int:
    """Side of the cells in which peaks are counted: one position of a large map is too small to be seen."""
    return max(-(-max(shape) // _MOST_CELLS), 1)


def _draw(axes: Axes, values: NDArray[np.float64], text: str, cmap: str, page: Page, cell: int) -> None:
    axes.set_title(text)
    axes.set_anchor("W")
    known = values[np.isfinite(values)]
    if not known.size:
        say_inside(axes, "no finite values")
        return
    low, high = float(known.min()), float(known.max())
    ends = (-0.5, values.shape[1] * cell - 0.5, values.shape[0] * cell - 0.5, -0.5)
    top = high if high > low else low + 1
    shown = axes.imshow(values, cmap=cmap, vmin=low, vmax=top, interpolation="nearest", extent=ends)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    for axis in (axes.xaxis, axes.yaxis):
        locator: Any = axis.get_major_locator()
        locator.set_params(integer=True, nbins=4)
    if high > low:
        bar = page.figure.colorbar(shown, ax=axes, shrink=0.9, aspect=18, pad=0.02, panchor=False)
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(4, integer=axes.get_gid() == "peaks")
    else:
        axes.set_title(f"{text}: {number(low)} everywhere")
    if known.size < values.size:
        axes.set_facecolor("#DDDDDD")
        page.note("grey: no finite values")
