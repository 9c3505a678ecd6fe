"""Mean, standard deviation, largest value and sparsity of every channel of a layer."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.render.plots.page import Page, PageLook, say_inside
from fmx.render.plots.parts import layer_title, lost, need, need_dims, noise_note
from fmx.render.plots.style import GREY, OKABE_ITO, PlotFigure, in_style
from fmx.render.plots.text import definitions

__all__ = ["channel_statistics"]

_SHOWN = {"mean": "mean", "std": "std", "max": "largest", "sparsity": "zeros"}
_WHAT, _COMMAND = "channel statistics", "fmx stats --by channel"
# Where channels are narrower than a bar can be seen.
_MOST_BARS = 160
_MOST_NUMBERED = 12


@in_style
def channel_statistics(
    stats: xr.Dataset,
    *,
    order: str = "channel",
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw mean, standard deviation, largest value and sparsity of a layer's channels, one below the other.

    Parameters
    ----------
    stats : xarray.Dataset
        Of one layer, from `fmx.analyze.stats` by channel: mean, std, max, sparsity (channel).
    order : str
        ``channel``, or one of the four, which sorts the channels by it from the largest on.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something or are not by channel; or no such order.
    """
    need(stats, _SHOWN, _WHAT, _COMMAND)
    need_dims(stats, "mean", ["channel"], _WHAT, _COMMAND)
    if order != "channel" and order not in _SHOWN:
        raise FmxError(f"Channels are not ordered by {order}: {near_matches(order, ['channel', *_SHOWN], most=5)}")
    numbers = np.asarray(stats["channel"].values)
    values = {name: np.asarray(stats[name].values, np.float64) for name in _SHOWN}
    by = np.arange(len(numbers)) if order == "channel" else np.argsort(-values[order], kind="stable")
    places = numbers if order == "channel" else np.arange(1, len(numbers) + 1)
    page = Page(f"Channels: {layer_title(stats)}", 88, **given)
    page.note(f"{len(numbers)} channel{'s' * (len(numbers) != 1)}", noise_note(stats), lost([stats]))
    page.note(*definitions(stats, _SHOWN))
    grid: Any = page.figure.subplots(4, 1, sharex=True)
    missing = ~np.isfinite(values["mean"])
    for axes, (name, text), colour in zip(grid, _SHOWN.items(), OKABE_ITO, strict=False):
        own = values[name][by] * (100 if name == "sparsity" else 1)
        if missing.all():
            say_inside(axes, "no finite values")
            continue
        _draw(axes, places, own, colour)
        axes.set_ylabel(f"{text} (%)" if name == "sparsity" else text)
        axes.yaxis.set_label_coords(-0.09 if page.width > 120 else -0.2, 0.5)
        axes.scatter(places[missing[by]], np.zeros(missing.sum()), s=8, c=GREY, marker="x", linewidths=0.6, gid="none")
    if missing.any() and not missing.all():
        page.note(f"×: no finite values ({missing.sum()} of {len(missing)} channels)")
    if (constant := int((values["std"] == 0).sum())) > 0:
        page.note(f"constant: {constant} of {len(numbers)} channels")
    grid[-1].set_xlabel("channel" if order == "channel" else f"rank by {_SHOWN[order]}")
    if not missing.all():
        grid[-1].set_ylim(0, 103)
        grid[-1].set_yticks([0, 50, 100])
        grid[-1].set_xlim(places[0] - 0.9, places[-1] + 0.9)
        grid[-1].xaxis.get_major_locator().set_params(integer=True)
        if len(places) <= _MOST_NUMBERED:
            grid[-1].set_xticks(places)
    return page.finish()


def _draw(axes: Axes, places: NDArray[Any], values: NDArray[np.float64], colour: str) -> None:
    if len(places) <= _MOST_BARS:
        axes.bar(places, values, 0.8, color=colour, linewidth=0)
    else:
        axes.vlines(places, 0, values, colors=colour, linewidths=0.4, rasterized=True)
    axes.axhline(0, color=GREY, linewidth=0.4)
    axes.margins(y=0.08)
    if np.nanmin(values, initial=0.0) >= 0:
        top = axes.get_ylim()[1]
        axes.set_ylim(0, top if np.nanmax(values, initial=0.0) > 0 else 1)
    axes.locator_params(axis="y", nbins=3)
