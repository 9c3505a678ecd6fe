"""Matrices: how alike layers are, and how far samples are from each other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.plots.page import Page, PageLook, name_ticks, say_inside
from fmx.render.plots.parts import layer_title, lost, need, noise_note
from fmx.render.plots.style import GREY, PlotFigure, in_style
from fmx.render.plots.text import plain, short, text_width

__all__ = ["dissimilarity_matrix", "similarity_matrix"]

_LEAST_CELL = 6.2
# Of a figure, in mm: room for the caption.
_NARROWEST = 85.0
_CLASS_NAME = 24.0
# Whose names there is room for.
_MOST_SAMPLES = 24
_NOTHING = "#E4E4E4"


@in_style
def similarity_matrix(similarity: xr.Dataset, **given: Unpack[PageLook]) -> PlotFigure:
    """Draw how alike layers are, as a matrix with a colour bar; small matrices have their numbers in the cells.

    Parameters
    ----------
    similarity : xarray.Dataset
        From `fmx.analyze.similarity`: similarity and undefined (layer, noise, other_layer, other_noise).
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something.
    """
    need(similarity, ("similarity",), "similarity", "fmx similarity")
    about = similarity.attrs
    rows, columns = (_names(similarity, prefix) for prefix in ("", "other_"))
    values = np.asarray(
        similarity["similarity"].transpose("layer", "noise", "other_layer", "other_noise").values, np.float64
    ).reshape(len(rows), len(columns))
    if "undefined" in similarity:
        unsaid = similarity["undefined"].transpose("layer", "noise", "other_layer", "other_noise").values
        values = np.where(unsaid.reshape(values.shape), np.nan, values)
    method = str(about.get("method", "similarity"))
    page = Page(f"Similarity of layers: {method}", **given)
    width = page.width
    how = ", ".join(str(about[key]) for key in ("estimator", "metric", "comparison") if key in about)
    page.note(f"{about['samples']} samples" if "samples" in about else "", how)
    page.note(f"features: {about['space']}" if "space" in about else "", lost([similarity]))
    if "other_store" in about:
        page.note(f"rows: {about.get('store')}", f"columns: {about['other_store']}")
    longest = max(text_width(short(name, width * 0.24), 7) for name in rows)
    side = min(width - longest - 22, 130, max(len(columns) * 12.0, 40))
    cell = side / len(columns)
    # Names of columns stand upright where they are wider than a cell.
    upright = max(text_width(name, 7) for name in columns) > cell - 1
    high = min(max(text_width(short(name, 30.0), 7) for name in columns), 30) if upright else 4
    page.height = cell * len(rows) + high + 5
    page.width = min(width, max(longest + side + 24, _NARROWEST))
    axes = page.figure.add_subplot()
    low = min(0.0, float(np.nanmin(values, initial=0.0)))
    shown = axes.imshow(values, cmap="viridis", vmin=low, vmax=1.0, interpolation="nearest")
    _finish_matrix(page, axes, shown, "similarity")
    step = name_ticks(axes.yaxis, rows, cell * len(rows), length=width * 0.24)
    step = max(name_ticks(axes.xaxis, columns, side, length=30.0), step) if upright else step
    if not upright:
        axes.set_xticks(range(len(columns)), [plain(name) for name in columns])
    axes.tick_params(axis="x", rotation=90 if upright else 0, length=0)
    axes.tick_params(axis="y", length=0)
    page.note(f"some of the {len(rows)} names are left out" if step > 1 else "")
    if cell >= _LEAST_CELL and len(rows) * len(columns) <= 400:
        _numbers(axes, values, low)
    if not np.isfinite(values).all():
        page.note("grey: one of the two does not vary over the samples")
    return page.finish()


@in_style
def dissimilarity_matrix(rdm: xr.Dataset, **given: Unpack[PageLook]) -> PlotFigure:
    """Draw the distances of all pairs of samples, sorted by their labels.

    Parameters
    ----------
    rdm : xarray.Dataset
        Of one layer and noise level, from `fmx.analyze.rdm`: rdm ((noise,) sample, other_sample), with labels.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something, or hold several noise levels.
    """
    need(rdm, ("rdm",), "dissimilarity", "fmx.analyze.rdm")
    if "noise" in rdm["rdm"].dims:
        if rdm.sizes["noise"] > 1:
            raise FmxError("A matrix of distances is drawn for one noise level: choose one with --noise.")
        rdm = rdm.isel(noise=0)
    values = np.asarray(rdm["rdm"].transpose("sample", "other_sample").values, np.float64)
    labels = np.array([str(v) for v in rdm["label"].values.tolist()], object) if "label" in rdm.coords else None
    named = labels is not None and any(labels)
    if named and labels is not None:
        order = np.argsort(labels, kind="stable")
        values, labels = values[np.ix_(order, order)], labels[order]
    page = Page(f"Dissimilarity of samples: {layer_title(rdm)}", **given)
    width = page.width
    metric = str(rdm.attrs.get("metric", "distance"))
    page.note(f"{len(values)} samples", noise_note(rdm), lost([rdm]))
    page.note(f"{metric}: {rdm.attrs['definition']}" if "definition" in rdm.attrs else metric)
    few = len(values) <= _MOST_SAMPLES and "sample" in rdm.coords and not named
    names = [str(v) for v in (labels if named and labels is not None else rdm["sample"].values if few else ["000"])]
    longest = max(text_width(short(name, _CLASS_NAME), 7) for name in set(names))
    side = min(width - longest - 24, 100)
    page.height = side + (longest if named or few else 4) + 4
    page.width = min(width, max(side + longest + 26, _NARROWEST))
    axes = page.figure.add_subplot()
    off = values[~np.eye(len(values), dtype=bool)]
    off = off[np.isfinite(off)]
    if not off.size:
        say_inside(axes, "one sample has no distances")
        return page.finish()
    top = float(off.max())
    shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=top if top > 0 else 1.0, interpolation="nearest")
    _finish_matrix(page, axes, shown, f"distance ({metric})")
    if named and labels is not None:
        _classes(axes, labels, side)
    elif few:
        for axis in (axes.xaxis, axes.yaxis):
            name_ticks(axis, names, side, length=_CLASS_NAME)
        axes.tick_params(length=0)
        axes.tick_params(axis="x", rotation=90)
    else:
        axes.set_xlabel("sample")
        axes.set_ylabel("sample")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
    page.note("all distances are 0" if top == 0 else "")
    return page.finish()


def _names(found: xr.Dataset, prefix: str) -> list[str]:
    levels = [float(v) for v in np.atleast_1d(found[f"{prefix}noise"].values)]
    layers = [str(v) for v in np.atleast_1d(found[f"{prefix}layer"].values).tolist()]
    return [f"{layer} @{level:g}" if len(levels) > 1 else layer for layer in layers for level in levels]


def _finish_matrix(page: Page, axes: Axes, shown: Any, text: str) -> None:
    axes.set_facecolor(_NOTHING)
    axes.set_anchor("W")
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = page.figure.colorbar(shown, ax=axes, shrink=0.9, aspect=22, pad=0.015, panchor=False)
    bar.set_label(text)
    bar.locator = MaxNLocator(5)
    bar.outline.set_visible(False)


def _numbers(axes: Axes, values: NDArray[np.float64], low: float) -> None:
    """Write the numbers into the cells, dark on light and light on dark."""
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = (value - low) / (1 - low) > 0.6
            text = f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")
            colour = "black" if light else "white"
            axes.text(j, i, text, ha="center", va="center", size=6, color=colour, gid="cell")
        else:
            axes.text(j, i, "–", ha="center", va="center", size=6, color=GREY, gid="cell")


def _classes(axes: Axes, labels: NDArray[Any], side: float) -> None:
    """Part the classes by lines and name them at their middles, as far as there is room."""
    starts = [0, *(i for i in range(1, len(labels)) if labels[i] != labels[i - 1]), len(labels)]
    each = side / len(labels)
    ticks, names, free = [], [], -np.inf
    for low, high in pairwise(starts):
        if low and len(starts) < len(labels) / 2:
            axes.axhline(low - 0.5, color="white", linewidth=0.5)
            axes.axvline(low - 0.5, color="white", linewidth=0.5)
        middle = (low + high - 1) / 2
        if middle * each > free:
            ticks.append(middle)
            names.append(plain(short(labels[low], _CLASS_NAME)))
            free = middle * each + 3.4
    axes.set_yticks(ticks, names)
    axes.set_xticks(ticks, names, rotation=90)
    axes.tick_params(length=0)
