"""Layers side by side: how large and how sparse their values are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import xarray as xr

from fmx.render.plots.boxes import ABOUT_BOXES, box_values, draw_boxes
from fmx.render.plots.page import Page, PageLook, decades, layer_rows, two_sided
from fmx.render.plots.parts import lost, need_layers, noise_note
from fmx.render.plots.style import OKABE_ITO, PlotFigure, in_style
from fmx.render.plots.text import definitions

__all__ = ["layer_comparison"]

_WHAT, _COMMAND = "layers", "fmx stats --quantiles 0.05,0.25,0.5,0.75,0.95"
# Larger ones would need a power of ten beside the axis.
_LARGE = 1e4
_NEEDED = ("q0.05", "q0.25", "median", "q0.75", "q0.95", "mean", "std", "sparsity", "hoyer")


@in_style
def layer_comparison(
    stats: Mapping[str, xr.Dataset],
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw the quantiles, the standard deviation and the sparsity of layers, a row each.

    Parameters
    ----------
    stats : mapping of str to xarray.Dataset
        By layer, from `fmx.analyze.stats` with the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95, nothing kept apart.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, or the results lack something or keep labels apart.
    """
    some = need_layers(stats, _NEEDED, _WHAT, _COMMAND, ("mean", []))
    page = Page("Comparison of layers", **given)
    page.note(noise_note(some), lost(stats.values()), ABOUT_BOXES)
    box, spread, zeros = layer_rows(page, stats, [2.2, 1, 1.2])
    values = np.stack([box_values(dataset) for dataset in stats.values()])
    empty = [name for name, row in zip(stats, values, strict=True) if not np.isfinite(row).any()]
    page.note(f"no finite values: {', '.join(empty)}" if empty else "")
    places = np.arange(len(stats))
    draw_boxes(box, values, [OKABE_ITO[0]] * len(stats))
    _long_axis(box, values[np.isfinite(values)], page)
    box.set_xlabel("activation")
    std = _column(stats, "std")
    spread.scatter(std, places, s=12, color=OKABE_ITO[2], linewidths=0, gid="std")
    positive = std[np.isfinite(std) & (std > 0)]
    if len(positive) and (positive.max() > 50 * positive.min() or positive.max() > _LARGE):
        if (std == 0).any():
            two_sided(spread.xaxis, float(positive.min()) / 3, 0.0, 3 * float(positive.max()), page.width * 0.15)
        else:
            decades(spread.xaxis, positive, page.width * 0.15)
    else:
        spread.set_xlim(left=0)
    spread.set_xlabel("std")
    for name, text, marker, colour in (("sparsity", "zeros", "o", OKABE_ITO[5]), ("hoyer", "Hoyer", "d", OKABE_ITO[3])):
        own = zeros.scatter(
            100 * _column(stats, name), places, s=13, color=colour, marker=marker, linewidths=0, gid=name
        )
        page.legend([own], [{"zeros": "share of zeros", "Hoyer": "Hoyer sparsity"}[text]])
    zeros.set_xlim(-4, 104)
    zeros.set_xlabel("sparsity (%)")
    page.note(*definitions(some, {"std": "std", "sparsity": "zeros", "hoyer": "Hoyer"}))
    return page.finish()


def _column(stats: Mapping[str, xr.Dataset], name: str) -> Any:
    return np.array([float(dataset[name]) for dataset in stats.values()])


def _long_axis(axes: Any, values: Any, page: Page) -> None:
    """Take a logarithmic axis on both sides of 0 where some layers are far larger than others."""
    sizes = np.abs(values[values != 0])
    if len(sizes) and sizes.max() > 200 * np.median(sizes):
        ends = np.array([min(values.min(), 0), max(values.max(), 0)]) * 1.3
        two_sided(axes.xaxis, float(np.median(sizes)), ends[0], ends[1], page.width * 0.35)
        page.note("the axis of activations is logarithmic beyond the middle ones")
