"""How layers hold their clean activations as noise grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import xarray as xr

from fmx.layers import said_layer
from fmx.render.plots.lines import draw_lines, name_lines
from fmx.render.plots.page import Page, PageLook
from fmx.render.plots.parts import lost, need_layers
from fmx.render.plots.style import GREY, PlotFigure, in_style, looks
from fmx.render.plots.text import definitions

__all__ = ["noise_robustness"]

_WHAT, _COMMAND = "noise robustness", "fmx robustness"
_SHOWN = {"sqnr": "SQNR (dB)", "cosine": "cosine", "top_overlap": "top channels kept"}


@in_style
def noise_robustness(
    robustness: Mapping[str, xr.Dataset],
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw SQNR, cosine and rank stability of layers against the level of noise, and flipped predictions.

    Parameters
    ----------
    robustness : mapping of str to xarray.Dataset
        By layer, from `fmx.analyze.robustness` per layer: sqnr, cosine, top_overlap and, if there, flipped (noise).
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, or the results lack something or are per channel.
    """
    some = need_layers(robustness, _SHOWN, _WHAT, _COMMAND, ("sqnr", ["noise"]))
    flipped = "flipped" in some
    panels = [*_SHOWN, *(["flipped"] if flipped else [])]
    page = Page("Robustness to noise", **given)
    columns = 1 if page.width < 120 else len(panels) if len(panels) < 4 else 2
    rows = -(-len(panels) // columns)
    page.height = 46.0 * rows + 4
    page.note(lost(robustness.values(), ["lost"]))
    grid: Any = page.figure.subplots(rows, columns, squeeze=False, sharex=True)
    shown = looks(len(robustness), ordered=True)
    for axes, name in zip(grid.ravel(), panels, strict=False):
        lines = [(d["noise"].values, d[name].values) for d in robustness.values()]
        draw_lines(axes, lines[:1] if name == "flipped" else lines, shown if name != "flipped" else looks(1), name)
        axes.set_ylabel({**_SHOWN, "flipped": "flipped predictions (%)"}[name])
        axes.grid(axis="y")
        axes.margins(x=0.03)
    for line in grid.ravel()[-1].lines if flipped else ():
        line.set_ydata(100 * np.asarray(line.get_ydata()))
    for axes in grid[-1]:
        axes.set_xlabel("noise level")
    first = grid.ravel()[0]
    first.axhline(10 * np.log10(2), color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), gid="half")
    if flipped:
        grid.ravel()[-1].relim()
        grid.ravel()[-1].autoscale_view()
    if any(np.isinf(d["sqnr"].values).any() for d in robustness.values()):
        page.note("infinite SQNR is not drawn")
    page.note("dotted: half of the signal is lost (3 dB)")
    name_lines(page, [said_layer(name) for name in robustness], shown, grid)
    page.note(
        *definitions(
            some, {"sqnr": "SQNR", "cosine": "cosine", "top_overlap": "top channels kept", "flipped": "flipped"}
        )
    )
    return page.finish()
