"""How two models, epochs or formats differ, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fmx.render.plots.page import Page, PageLook, decades, layer_rows, say_inside, two_sided
from fmx.render.plots.parts import groups, lost, need_layers
from fmx.render.plots.style import PlotFigure, in_style, looks
from fmx.render.plots.text import definitions

__all__ = ["model_differences"]

_WHAT, _COMMAND = "differences", "fmx compare"
_PANELS = {
    "layer_relative_l2": "relative L2",
    "layer_correlation": "correlation",
    "layer_match_correlation": "matched",
}


@in_style
def model_differences(
    compared: Mapping[str, xr.Dataset],
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw how far the layers of two stores are apart, and how well their channels go together.

    Parameters
    ----------
    compared : mapping of str to xarray.Dataset
        By layer, from `fmx.analyze.compare`: layer_relative_l2 and layer_correlation where layers have the same shape,
        and layer_match_correlation (noise). One colour a noise level.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        There is no layer, or the results lack something.
    """
    some = need_layers(compared, ("layer_match_correlation",), _WHAT, _COMMAND)
    _, levels = groups(some, "layer_match_correlation")
    page = Page("Differences", **given)
    about = some.attrs
    page.note(_stores(about))
    page.note(lost(compared.values(), ("nan", "inf", "other_nan", "other_inf")))
    names = {name: _pair(name, d) for name, d in compared.items()}
    panels = layer_rows(page, names.values(), [1.3, 1, 1])
    shown = looks(len(levels), ordered=True)
    for axes, (name, text) in zip(panels, _PANELS.items(), strict=True):
        axes.set_xlabel(text)
        drawn = False
        for level, look in enumerate(shown):
            values = np.array([_at(d, name, level) for d in compared.values()])
            drawn |= bool(np.isfinite(values).any())
            axes.scatter(
                values,
                np.arange(len(values)) + _shift(level, len(levels)),
                s=13,
                color=look.colour,
                linewidths=0,
                gid=f"{name}-{level}",
                zorder=3,
            )
        if not drawn:
            say_inside(axes, "not of the same shape")
        elif name == "layer_relative_l2":
            _distance_axis(axes, compared, page.width * 0.28)
        else:
            _correlation_axis(axes, compared, name, page.width * 0.28)
    if len(levels) > 1:
        page.legend(
            [Line2D([], [], color=k.colour, marker="o", ls="", mew=0) for k in shown], [f"noise {v}" for v in levels]
        )
    apart = [name for name, d in compared.items() if "layer_relative_l2" not in d]
    page.note(f"of another shape, matched by the means of channels: {', '.join(apart)}" if apart else "")
    full = next((d for d in compared.values() if "layer_relative_l2" in d), some)
    page.note(*definitions(full, _PANELS))
    return page.finish()


def _stores(about: Mapping[Any, Any]) -> str:
    """Name the stores, by their folders where these differ."""
    whole = [str(about.get(key, "")) for key in ("store", "other_store")]
    last = [text.rstrip("/").rpartition("/")[2] for text in whole]
    return " against ".join(last if last[0] != last[1] else whole) if all(whole) else ""


def _pair(name: str, dataset: xr.Dataset) -> str:
    other = str(dataset.attrs.get("other_layer", name))
    return name if other == name else f"{name} → {other}"


def _at(dataset: xr.Dataset, name: str, level: int) -> float:
    if name not in dataset:
        return np.nan
    return float(np.atleast_1d(dataset[name].values)[level])


def _shift(level: int, levels: int) -> float:
    """Where a level's point is, so that those of one layer are not on each other."""
    return 0.0 if levels == 1 else 0.5 * (level / (levels - 1) - 0.5)


def _all(compared: Mapping[str, xr.Dataset], name: str) -> Any:
    values = np.concatenate([np.atleast_1d(d[name].values) for d in compared.values() if name in d])
    return values[np.isfinite(values)]


def _distance_axis(axes: Axes, compared: Mapping[str, xr.Dataset], room: float) -> None:
    """Take a logarithmic axis; distances of 0 lie at its left end."""
    values = _all(compared, "layer_relative_l2")
    positive = values[values > 0]
    if not len(positive):
        axes.set_xlim(-0.05, 1)
        return
    low = float(positive.min())
    if (values == 0).any():
        two_sided(axes.xaxis, 10 ** float(np.floor(np.log10(low))), 0.0, 2 * float(positive.max()), room)
        axes.set_xlim(left=-low / 8)
    else:
        decades(axes.xaxis, positive, room)


def _correlation_axis(axes: Axes, compared: Mapping[str, xr.Dataset], name: str, room: float) -> None:
    low = float(_all(compared, name).min(initial=1.0))
    low = min(low, 0.0) if low < 0.5 else min(low, 0.99)
    axes.set_xlim(low - 0.05 * (1 - low), 1 + 0.05 * (1 - low))
    axes.locator_params(axis="x", nbins=2 if room < 30 else 4)
