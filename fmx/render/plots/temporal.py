"""How activations change from timestep to timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import xarray as xr

from fmx.errors import FmxError
from fmx.layers import said_layer
from fmx.render.plots.lines import draw_lines, name_lines
from fmx.render.plots.page import Page, PageLook, decades
from fmx.render.plots.parts import lost, need_layers, noise_note
from fmx.render.plots.style import GREY, PlotFigure, in_style, looks
from fmx.render.plots.text import definitions

__all__ = ["temporal_curves"]

_WHAT, _COMMAND = "change over time", "fmx temporal"
_MOST_CHANNELS = 7


@in_style
def temporal_curves(
    temporal: Mapping[str, xr.Dataset],
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw the change at each step and the autocorrelation at each lag, a line for each layer.

    Parameters
    ----------
    temporal : mapping of str to xarray.Dataset
        By layer, from `fmx.analyze.temporal`: steps (step) and autocorrelation (lag). Of one layer also per channel:
        the seven that change most are drawn.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, the results lack something, or those of several layers are per channel.
    """
    some = need_layers(temporal, ("steps", "autocorrelation", "change"), _WHAT, _COMMAND)
    channels = "channel" in some["steps"].dims
    if channels and len(temporal) > 1:
        raise FmxError("Change of channels is drawn for one layer at a time: choose one with --layers.")
    page = Page("Change over time", **given)
    narrow = page.width < 120
    page.height = 96 if narrow else 56
    page.note(noise_note(some), lost(temporal.values(), ["lost"]))
    if channels:
        (layer,) = temporal
        order = np.argsort(-np.nan_to_num(some["change"].values, nan=-np.inf), kind="stable")[:_MOST_CHANNELS]
        page.note(f"the {len(order)} of {some.sizes['channel']} channels of {layer} that change most")
        parts = {f"channel {some['channel'].values[i]}": some.isel(channel=int(i)) for i in order}
    else:
        parts = {said_layer(name): d for name, d in temporal.items()}
    shown = looks(len(parts), ordered=not channels)
    grid: Any = page.figure.subplots(*((2, 1) if narrow else (1, 2)), squeeze=False)
    steps, later = grid.ravel()
    draw_lines(steps, [(d["step"].values, d["steps"].values) for d in parts.values()], shown, "steps")
    draw_lines(
        later, [(d["lag"].values, d["autocorrelation"].values) for d in parts.values()], shown, "autocorrelation"
    )
    positive = np.concatenate([np.asarray(d["steps"].values, np.float64) for d in parts.values()])
    positive = positive[np.isfinite(positive) & (positive > 0)]
    if len(positive) and positive.max() > 30 * positive.min():
        decades(steps.yaxis, positive, 30)
    elif len(positive):
        steps.set_ylim(bottom=0)
    steps.set_xlabel("timestep")
    steps.set_ylabel("mean absolute change")
    later.axhline(0, color=GREY, linewidth=0.5)
    later.set_xlabel("lag (timesteps)")
    later.set_ylabel("autocorrelation")
    for axes in (steps, later):
        axes.grid(axis="y")
        locator: Any = axes.xaxis.get_major_locator()
        if hasattr(locator, "set_params") and axes.lines:
            axes.xaxis.get_major_locator().set_params(integer=True)
    still = [name for name, d in parts.items() if "still" in d and bool(d["still"])]
    page.note(f"nothing changes: {', '.join(still)}" if still else "")
    name_lines(page, list(parts), shown, grid)
    page.note(*definitions(some, {"steps": "change", "autocorrelation": "autocorrelation"}))
    return page.finish()
