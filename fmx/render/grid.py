"""Pages of feature maps at the layer's own resolution, one map beside the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.layers import native_dims
from fmx.render.frame import Frame
from fmx.render.header import page_header
from fmx.render.layout import GridLayout
from fmx.render.normalise import Bound, Ranges, quantise, value_ranges
from fmx.render.palette import LEVELS, PAPER, gray_indices, page_palette
from fmx.render.resize import check_interpolation
from fmx.render.text import SOFT_INK, middle_ellipsis, number, number_range, text_picture
from fmx.render.tone import PLAIN, Tone
from fmx.render.unusual import WORDS, Unusual, find_unusual, hatched

__all__ = ["check_maps", "grid_pages"]

HAIRLINE = int(gray_indices(np.array(205, dtype=np.uint8)))


def grid_pages(
    maps: NDArray[Any],
    *,
    layer: str,
    sample: str,
    noise: float = 0.0,
    timestep: int | None = None,
    channels: Sequence[int] | None = None,
    rows: int = 8,
    columns: int = 8,
    scale: int | None = None,
    interpolation: str = "nearest",
    cmap: str = "viridis",
    normalisation: str = "filter",
    tone: Tone = PLAIN,
    ranges: Ranges | None = None,
    legend: bool = True,
    low: Bound = None,
    high: Bound = None,
    numbers: Sequence[int] | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
) -> Iterator[Frame]:
    """Lay the feature maps of a layer out on pages, pixel for pixel.

    Parameters
    ----------
    maps : ndarray
        The layer's maps for one sample, (channel, y, x).
    layer, sample, noise, timestep
        Where the maps come from: written into the header and the labels. No timestep is written for None.
    channels : sequence of int, optional
        The channels to show, in this order; all where not given.
    rows, columns : int
        Maps on a page; less where all of them fit. The pages of a layer have one size.
    scale : int, optional
        Enlarges each map by so many times; None keeps the layer's own resolution.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        How maps are enlarged.
    cmap : str
        Name of a matplotlib colormap.
    normalisation : {"filter", "layer"}
        Range of values of the colormap: each map's own, or that of all channels, also those not shown; see
        `fmx.render.normalise.normalise`. With `ranges` any word for them.
    tone : Tone
        Clipping, symmetry about 0, equalization and gamma.
    ranges : Ranges, optional
        The range of each map, (channel,), in place of one that is found here.
    legend : bool
        Header, margins and channel numbers; without it a page holds the maps and the gaps alone.
    low, high : float or ndarray, optional
        Fixed ends of the range, for all maps or for each, (channel,): the same colours over several calls.
    numbers : sequence of int, optional
        What each map is called, (channel,), where some channels have been left out before.
    notes : mapping of str to str, optional
        Further labels, which also stand in the header.
    title : str
        In place of the layer's name in the header.

    Yields
    ------
    Frame
        One page: palette indices (y, x), with the labels ``layer``, ``sample``, ``noise``, ``timestep``,
        ``channels``, ``page``, ``normalisation``, those of the tone, ``low`` and ``high`` where all maps share a range,
        and ``constant`` and ``nan``: the maps of one value only, and those without any number, which are hatched.

    Raises
    ------
    FmxError
        The layer has no axes (y, x), a channel doesn't exist, or an option has no such value. Raised by
        the call itself, before the first page.
    """
    maps = check_maps(maps, layer)
    wanted = _wanted_channels(channels, len(maps), layer)
    for name, value in (("rows", rows), ("columns", columns), ("scale", 1 if scale is None else scale)):
        if value < 1:
            raise FmxError(f"A grid's {name} must be at least 1, not {value}.")
    check_interpolation(interpolation)
    if ranges is None:
        ranges = value_ranges(maps, normalisation, low, high, tone=tone)
    columns = min(columns, len(wanted))
    rows = min(rows, -(-len(wanted) // columns))
    layout = GridLayout(rows, columns, maps.shape[1:], scale or 1, legend)
    labels = {"layer": layer, "sample": sample, "noise": f"{noise:g}"}
    labels |= {} if timestep is None else {"timestep": str(timestep)}
    labels |= dict(notes or {}) | {"normalisation": normalisation} | tone.labels | _shared_range(ranges)
    called = list(numbers or range(len(maps)))
    page = _Page(layout, interpolation, tone, page_palette(cmap), called, dict(notes or {}), title or layer)
    return _pages(maps, wanted, ranges, page, labels)


@dataclass(frozen=True)
class _Page:
    """What all pages of a layer have in common."""

    layout: GridLayout
    interpolation: str
    tone: Tone
    palette: NDArray[np.uint8]
    numbers: list[int]
    notes: dict[str, str]
    title: str


def check_maps(maps: NDArray[Any], layer: str, dims: Sequence[str] | None = None) -> NDArray[Any]:
    """Make sure that a layer's values are maps, (channel, y, x).

    Parameters
    ----------
    maps : ndarray
        Values of one sample.
    layer : str
        Its name, for the error.
    dims : sequence of str, optional
        Names of the axes; those usual for this number of axes where not given.

    Returns
    -------
    ndarray
        The same values.

    Raises
    ------
    FmxError
        There are other axes, none at all, or values that are no real numbers.
    """
    maps = np.asarray(maps)
    dims = native_dims(maps.shape) if dims is None else tuple(dims)
    if maps.ndim != 3 or tuple(dims[1:]) != ("y", "x"):
        axes = ", ".join(f"{d} {n}" for d, n in zip(dims, maps.shape, strict=False)) or "a single value"
        raise FmxError(f"A grid needs maps (y, x), and layer {layer} has ({axes}): pick a layer with spatial axes.")
    if maps.size == 0 or maps.dtype.kind not in "fiub":
        raise FmxError(f"A grid needs maps of real numbers: layer {layer} has {maps.dtype}, shape {maps.shape}.")
    return maps


def _wanted_channels(channels: Sequence[int] | None, count: int, layer: str) -> list[int]:
    wanted = list(range(count)) if channels is None else [int(c) for c in channels]
    if not wanted:
        raise FmxError(f"No channels of layer {layer} asked for: give some, or leave them out to see all.")
    missing = [c for c in wanted if not 0 <= c < count]
    if missing:
        raise FmxError(f"Layer {layer} has no channel {missing[0]}: there are 0 to {count - 1}.")
    return wanted


def _shared_range(ranges: Ranges) -> dict[str, str]:
    if not ranges.shared:
        return {}
    return {"low": number(ranges.low[0]), "high": number(ranges.high[0])}


def _pages(
    maps: NDArray[Any], wanted: list[int], ranges: Ranges, page: _Page, labels: dict[str, str]
) -> Iterator[Frame]:
    layout = page.layout
    most = layout.rows * layout.columns
    pages = -(-len(wanted) // most)
    for i in range(pages):
        shown = wanted[i * most : (i + 1) * most]
        called = [page.numbers[channel] for channel in shown]
        unusual = find_unusual(maps[shown])
        indices = quantise(
            maps[shown],
            ranges[shown],
            tone=page.tone,
            levels=LEVELS,
            size=layout.tile,
            interpolation=page.interpolation,
        )
        indices[unusual.nan] = hatched(layout.tile)
        pixels = _arranged(indices, [_said(n, k, unusual) for k, n in enumerate(called)], layout)
        named = labels | {"channels": number_range(called, len(maps)), "page": f"{i + 1} of {pages}"}
        named |= unusual.labels(called)
        if layout.legend:
            pixels = _on_page(pixels, page, named, maps.shape)
        yield Frame(pixels, page.palette, named)


def _said(called: int, place: int, unusual: Unusual) -> str:
    """What stands above a map: its number, and that there is nothing to see where that is so."""
    if unusual.nan[place]:
        return f"{called} NaN"
    return f"{called} = {number(unusual.values[place])}" if unusual.constant[place] else str(called)


def _arranged(indices: NDArray[np.uint8], titles: list[str], layout: GridLayout) -> NDArray[np.uint8]:
    """Put the maps of a page, (channel, y, x), beside and below each other, each in a hairline."""
    rows, columns = layout.rows, layout.columns
    (down, along), (height, width), top = layout.pitch, layout.tile, layout.strip + 1
    cells = np.full((rows * columns, down, along), PAPER, dtype=np.uint8)
    filled = cells[: len(indices)]
    filled[:, top - 1 : top + height + 1, : width + 2] = HAIRLINE
    filled[:, top : top + height, 1 : width + 1] = indices
    if layout.number_size:
        for cell, title in zip(filled, titles, strict=True):
            fitting = middle_ellipsis(title, width, layout.number_size)
            drawn = gray_indices(text_picture(fitting, layout.number_size, SOFT_INK))
            cell[: drawn.shape[0], 1 : drawn.shape[1] + 1] = drawn[:, : along - 1]
    page = cells.reshape(rows, columns, down, along).swapaxes(1, 2).reshape(rows * down, columns * along)
    if layout.legend:
        return page[: layout.extent[0] + 2, : layout.extent[1] + 2]
    return page[1 : layout.extent[0] + 1, 1 : layout.extent[1] + 1]


def _on_page(grid: NDArray[np.uint8], page: _Page, labels: dict[str, str], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Put the header above a grid and white margins around both."""
    layout = page.layout
    pieces = [
        f"sample {labels['sample']}",
        f"noise {labels['noise']}",
        *([f"timestep {labels['timestep']}"] if "timestep" in labels else []),
        f"channels {labels['channels']}",
        f"{shape[2]} x {shape[1]} px",
        *([f"page {labels['page']}"] if labels["page"] != "1 of 1" else []),
        *(f"{key} {value}" for key, value in (page.notes | page.tone.labels).items()),
        *(f"{word} {labels[key]}" for key, word in WORDS.items() if key in labels),
    ]
    bar = ("each map  min", "max")
    if "low" in labels:
        bar = (f"{'all maps' if shape[0] > 1 else 'values'}  {labels['low']}", labels["high"])
    if page.tone.clipped and "low" not in labels:
        bar = (f"each map  {page.tone.percentiles[0]:g} %", f"{page.tone.percentiles[1]:g} %")
    header = page_header(page.title, pieces, bar, layout.width, layout.text_size)
    margin, space = layout.margin, layout.header_space
    height = header.shape[0] + space + layout.extent[0]
    sheet = np.full((height + 2 * margin, layout.width + 2 * margin), PAPER, dtype=np.uint8)
    sheet[margin : margin + header.shape[0], margin:-margin] = header
    # One pixel further out, so that the maps and not their hairlines stand flush with the text.
    sheet[-margin - grid.shape[0] + 1 : 1 - margin, margin - 1 : margin - 1 + grid.shape[1]] = grid
    return sheet
