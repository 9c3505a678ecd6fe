"""How objectives rise while pictures are maximized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmx.layers import said_layer
from fmx.render.plots.lines import draw_lines, name_lines
from fmx.render.plots.page import Page, PageLook
from fmx.render.plots.parts import need_layers
from fmx.render.plots.style import GREY, Look, PlotFigure, in_style, looks
from fmx.render.plots.text import plain

__all__ = ["ascent_curves"]

# Random transforms make single steps jump: lines are means over so large a part of the steps.
_SMOOTHED = 64
_MOST_DISTINCT = 7
_HEIGHT = 56.0


@in_style
def ascent_curves(results: Mapping[str, xr.Dataset], **given: Unpack[PageLook]) -> PlotFigure:
    """Draw the objective of each picture against the steps of its ascent: axes for each layer, a line for each picture.

    Parameters
    ----------
    results : mapping of str to xarray.Dataset
        By layer, from `fmx.maximize.maximize`: curve (channel or target, step), NaN once a picture has stopped.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, or no curve.
    """
    need_layers(results, ("curve",), "objectives during the ascent", "fmx maximize")
    page = Page("Objectives during the ascent", _HEIGHT * len(results), **given)
    grid: Any = page.figure.subplots(len(results), 1, squeeze=False)
    for axes, (layer, dataset) in zip(grid[:, 0], results.items(), strict=True):
        curves = np.asarray(dataset["curve"].values, np.float64)
        names = _names(dataset)
        shown = looks(len(names), ordered=len(names) > _MOST_DISTINCT)
        # Whole turns of the sizes at which pictures are seen, whose objectives differ.
        turns = len(_settings(dataset).get("transforms", {}).get("views", ())) or 1
        window = max(curves.shape[1] // (_SMOOTHED * turns), 1) * turns
        _draw(axes, dataset["step"].values, curves, window, shown, layer)
        axes.set_ylabel("mean of the channel" if "channel" in dataset.dims else "objective")
        axes.grid(axis="y")
        axes.margins(x=0.01)
        page.note(f"lines: mean over {window} steps; pale: each step" if window > 1 else "", _grows(axes, dataset))
        if len(results) > 1:
            axes.set_title(plain(said_layer(layer)))
            name_lines(page, names, shown, axes, room=_HEIGHT - 16)
        else:
            name_lines(page, names, shown, grid)
        page.note(_stopped(f"{said_layer(layer)} " if len(results) > 1 else "", names, dataset))
    grid[-1, 0].set_xlabel("step")
    page.note("objectives of the pictures as they are shifted, scaled and turned in each step")
    return page.finish()


def _draw(
    axes: Axes, steps: NDArray[Any], curves: NDArray[np.float64], window: int, shown: Sequence[Look], layer: str
) -> None:
    for curve, look in zip(curves if window > 1 else (), shown, strict=False):
        axes.plot(steps, curve, color=look.colour, alpha=0.25, linewidth=0.5)
    draw_lines(axes, [(steps, _smoothed(curve, window)) for curve in curves], shown, layer)


def _smoothed(curve: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Average over the steps about each, as many as there are towards the ends; NaN stays where it is."""
    known = np.isfinite(curve)
    ones = np.ones(window)
    total, count = (np.convolve(values, ones, "same") for values in (np.where(known, curve, 0.0), known.astype(float)))
    return np.where(known, total / np.maximum(count, 1), np.nan)


def _names(dataset: xr.Dataset) -> list[str]:
    if "channel" in dataset.dims:
        return [f"channel {channel}" for channel in dataset["channel"].values]
    several = len(set(dataset["variant"].values.tolist())) > 1
    pairs = zip(dataset["target"].values, dataset["variant"].values, strict=True)
    return [f"{target} #{variant}" if several else str(target) for target, variant in pairs]


def _settings(dataset: xr.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(str(dataset.attrs.get("settings", "{}")))
    return found


def _grows(axes: Axes, dataset: xr.Dataset) -> str:
    """Mark the steps at which pictures grew."""
    settings = _settings(dataset)
    if settings.get("method") != "multi-scale":
        return ""
    for k in range(1, int(settings["scales"])):
        axes.axvline(k * int(settings["steps"]) + 0.5, color=GREY, linewidth=0.3, zorder=0)
    return "vertical lines: the picture grows"


def _stopped(of: str, names: Sequence[str], dataset: xr.Dataset) -> str:
    status = dataset["status"].values.tolist() if "status" in dataset else ["ok"] * len(names)
    found = [f"{of}{name} ({said})" for name, said in zip(names, status, strict=True) if said != "ok"]
    return f"stopped: {', '.join(found[:8])}{f', … ({len(found)} in all)' if len(found) > 8 else ''}" if found else ""
