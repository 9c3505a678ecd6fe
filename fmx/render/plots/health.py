"""What may be wrong with layers, at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fmx.render.plots.page import Page, PageLook, decades, layer_rows
from fmx.render.plots.parts import need_layers, noise_note
from fmx.render.plots.style import GREY, OKABE_ITO, PlotFigure, in_style
from fmx.render.plots.text import definitions

__all__ = ["health_summary"]

_WHAT, _COMMAND = "health", "fmx health"
_COUNTS = {"dead": "dead", "always_on": "always on", "saturated": "saturated", "duplicate": "duplicates"}
_NEEDED = ("channels", *_COUNTS, "magnitude", "sparsity")
_MOST_NUMBERED = 60


@in_style
def health_summary(
    health: Mapping[str, xr.Dataset],
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw the shares of dead, always-on, saturated and duplicate channels, the mean size and the sparsity of layers.

    Parameters
    ----------
    health : mapping of str to xarray.Dataset
        By layer, from `fmx.analyze.health` per layer.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, or the results lack something or are per channel.
    """
    some = need_layers(health, _NEEDED, _WHAT, _COMMAND, ("dead", []))
    page = Page("Health of layers", **given)
    page.note(noise_note(some))
    table, size, zeros = layer_rows(page, health, [1.9, 1, 1] if page.width >= 120 else [1.5, 1.3, 1.3])
    counts = np.array([[float(d[name]) for name in _COUNTS] for d in health.values()])
    channels = np.array([float(d["channels"]) for d in health.values()])
    _table(table, counts, channels, page)
    flags = [{flag.strip() for flag in str(d.attrs.get("flags", "")).split(",")} for d in health.values()]
    magnitude = np.array([float(d["magnitude"]) for d in health.values()])
    usual = _ranged(size, health, "magnitude", 1, ["mean" in own for own in flags])
    positive = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
    if len(positive):
        decades(size.xaxis, np.append(positive, usual), page.width * 0.18)
    size.set_xlabel("mean size")
    usual += _ranged(zeros, health, "sparsity", 100, ["sparsity" in own for own in flags])
    zeros.set_xlim(-4, 104)
    zeros.set_xlabel("zeros (%)")
    shaded = "shaded: usual ranges, rules of thumb (zeros: behind a ReLU); orange: outside of them"
    page.note(shaded if usual else "orange: outside of the usual ranges")
    broken = [name for name, d in health.items() if "nan" in d and int(d["nan"]) + int(d["inf"])]
    page.note(f"NaN or infinite values in {', '.join(broken)}" if broken else "")
    page.note(*definitions(some, _COUNTS))
    return page.finish(align=False)


def _table(axes: Axes, counts: NDArray[np.float64], channels: NDArray[np.float64], page: Page) -> None:
    """Shade the share of the channels, and write how many there are."""
    share = counts / np.maximum(channels, 1)[:, None]
    ends = (-0.5, counts.shape[1] - 0.5, len(counts) - 0.5, -0.5)
    shown = axes.imshow(
        100 * share, cmap="Blues", vmin=0, vmax=100, aspect="auto", extent=ends, interpolation="nearest"
    )
    axes.set_ylim(len(counts) - 0.4, -0.6)
    axes.grid(False)
    turned = page.width < 120
    axes.set_xticks(range(counts.shape[1]), list(_COUNTS.values()), rotation=90 if turned else 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(counts) <= _MOST_NUMBERED:
        for (i, j), value in np.ndenumerate(counts):
            colour = GREY if value == 0 else "black" if share[i, j] < 0.6 else "white"
            axes.text(j, i, f"{value:g}", ha="center", va="center", size=6, color=colour, gid="cell")
        page.note("numbers: channels, shaded by their share of the layer's")
        return
    bar = page.figure.colorbar(shown, ax=axes, location="right", aspect=30, pad=0.02, shrink=min(1.0, 40 / page.height))
    bar.set_label("share of channels (%)")
    bar.outline.set_visible(False)


def _ranged(
    axes: Axes, health: Mapping[str, xr.Dataset], name: str, factor: float, flagged: Sequence[bool]
) -> list[float]:
    """Draw a number of each layer over the range that is usual, and give this; results of old stores don't tell it."""
    usual = [factor * float(end) for end in next(iter(health.values()))[name].attrs.get("usual", [])]
    if usual:
        axes.axvspan(usual[0], usual[1], color="#DCE9F2", linewidth=0, zorder=0)
    colours = np.where(flagged, OKABE_ITO[5], OKABE_ITO[0])
    values = np.array([factor * float(d[name]) for d in health.values()])
    axes.scatter(values, np.arange(len(values)), s=14, c=colours, linewidths=0, zorder=3, gid="value")
    return usual
