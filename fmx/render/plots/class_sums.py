"""The summed activation of each class's top channels, for every sample: one colour a class."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fmx.render.plots.page import Page, PageLook, say_inside
from fmx.render.plots.parts import layer_title, lost, need, noise_note
from fmx.render.plots.style import OKABE_ITO, Look, PlotFigure, in_style, looks
from fmx.render.plots.text import plain, short, text_width

__all__ = ["class_sums"]

_WHAT, _COMMAND = "class sums", "fmx class-sums"
# Classes that colours and markers tell apart.
_MOST_CLASSES = 14
_MOST_POINTS = 4000


@in_style
def class_sums(
    sums: xr.Dataset,
    **given: Unpack[PageLook],
) -> PlotFigure:
    """Draw for every sample the sum of each class's top channels: samples on x by their class, one colour a class.

    Parameters
    ----------
    sums : xarray.Dataset
        Of one layer, from `fmx.analyze.class_sums`: sum (sample, label), own and largest (sample), and, if there,
        channels (label): classes without any are left out. With more than 14 classes the sum of the sample's own class
        and the largest of the others are drawn.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something.
    """
    need(sums, ("sum", "own", "largest"), _WHAT, _COMMAND)
    labels = [str(v) for v in sums["label"].values.tolist()]
    own = np.asarray([str(v) for v in sums["own"].values.tolist()], dtype=object)
    values = np.asarray(sums["sum"].transpose("sample", "label").values, np.float64)
    rank = {label: i for i, label in enumerate(labels)}
    order = np.argsort([rank.get(label, len(labels)) for label in own], kind="stable")
    there = np.ones(len(labels), bool) if "channels" not in sums else np.asarray(sums["channels"].values) > 0
    own, values = own[order], np.where(there, values[order], np.nan)
    page = Page(f"Class sums: {layer_title(sums)}", 66, **given)
    page.note(f"{len(own)} samples", noise_note(sums), lost([sums], ["not_finite"]))
    axes = page.figure.add_subplot()
    _bands(axes, own, page.width)
    size = float(np.clip(900 / max(len(own), 1), 1.6, 12))
    raster = values.size > _MOST_POINTS
    if len(labels) <= _MOST_CLASSES:
        shown = looks(len(labels))
        # Each class has its colour on the figures of all layers.
        drawn = [i for i in range(len(labels)) if there[i]]
        for i in drawn:
            _points(axes, values[:, i], shown[i], size * np.where(own == labels[i], 1.8, 1), raster, labels[i])
        page.legend([_key(shown[i]) for i in drawn], [labels[i] for i in drawn])
    else:
        _own_and_others(axes, page, values, own, rank, size, raster)
    if not there.any():
        say_inside(axes, "no class has channels of its own", ticks=True)
    page.note(_without([label for label, has in zip(labels, there, strict=True) if not has]))
    right = np.asarray(sums["largest"].values, dtype=object)[order].astype(str) == own
    page.note(f"the largest sum is that of the sample's class for {int(right.sum())} of {len(own)} samples")
    metric = sums.attrs.get("metric")
    page.note(f"sum: {sums['sum'].attrs.get('definition', '')}" + (f" (ranked by {metric})" if metric else ""))
    axes.set_xlim(-0.5 - 0.005 * len(own), len(own) - 0.5 + 0.005 * len(own))
    axes.set_ylabel("sum of the class's top channels")
    return page.finish()


def _without(labels: list[str]) -> str:
    """Say which classes are not drawn."""
    if not labels:
        return ""
    named = ", ".join(labels[:_MOST_CLASSES]) + (f", … ({len(labels)} in all)" if len(labels) > _MOST_CLASSES else "")
    return f"not drawn, as all their top channels are those of other classes, too: {named}"


def _points(axes: Axes, column: NDArray[Any], look: Look, size: Any, raster: bool, gid: str) -> None:
    axes.scatter(
        np.arange(len(column)),
        column,
        s=size,
        color=look.colour,
        marker=look.marker,
        linewidths=0,
        alpha=0.85 if len(column) < 200 else 0.6,
        rasterized=raster,
        gid=gid,
        zorder=2,
    )


def _key(look: Look) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, ls="", mew=0, markersize=4)


def _own_and_others(
    axes: Axes,
    page: Page,
    values: NDArray[np.float64],
    own: NDArray[Any],
    rank: dict[str, int],
    size: float,
    raster: bool,
) -> None:
    place = np.array([rank.get(label, -1) for label in own])
    rows = np.arange(len(own))
    mine = np.where(place >= 0, values[rows, place], np.nan)
    rest = np.where(np.isnan(values), -np.inf, values)
    rest[rows[place >= 0], place[place >= 0]] = -np.inf
    others = rest.max(axis=1)
    shown = [Look(OKABE_ITO[1], "s", "-"), Look(OKABE_ITO[0], "o", "-")]
    _points(axes, np.where(np.isfinite(others), others, np.nan), shown[0], size, raster, "others")
    _points(axes, mine, shown[1], size, raster, "own")
    page.legend([_key(look) for look in reversed(shown)], ["its own class", "largest of the other classes"])
    page.note(f"{len(rank)} classes")


def _bands(axes: Axes, own: NDArray[Any], width: float) -> None:
    """Shade every second class's samples, and name the classes as far as there is room."""
    starts = [0, *(i for i in range(1, len(own)) if own[i] != own[i - 1]), len(own)]
    room = (width - 22) / max(len(own), 1)
    spans = list(pairwise(starts))
    upright = any(text_width(str(own[low]), 7) + 1 > room * (high - low) for low, high in spans)
    ticks, names, free = [], [], -np.inf
    for i, (low, high) in enumerate(spans):
        if i % 2:
            axes.axvspan(low - 0.5, high - 0.5, color="#F2F2F2", linewidth=0, zorder=0)
        middle = (low + high - 1) / 2
        if not upright or middle * room >= free:
            ticks.append(middle)
            names.append(plain(short(str(own[low]), 30.0)))
            free = middle * room + 3.4
    axes.set_xticks(ticks, names, rotation=90 if upright else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("samples, by class" if len(ticks) == len(spans) else "samples, by class (some are named)")
