"""One map as a picture of its own, at any size, with or without a legend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.header import page_header
from fmx.render.normalise import quantise
from fmx.render.palette import LEVELS, PAPER, colours, page_palette
from fmx.render.ranges import Ranging
from fmx.render.resize import check_interpolation
from fmx.render.selection import Maps
from fmx.render.text import number
from fmx.render.unusual import WORDS, find_unusual, hatched

__all__ = ["map_frames", "map_size"]

# So narrow that a legend would be nothing but ellipses.
NARROWEST = 200
SPANS = {
    "filter": "range of this map",
    "sample": "range of all channels of the sample",
    "time": "range over time and noise",
    "channel": "range over all samples",
    "layer": "range of the layer over all samples",
    "global": "range of all layers over all samples",
}
GRAYS = ("gray", "grey", "Greys_r", "gist_gray")


def map_frames(
    maps: Maps,
    channels: Sequence[int],
    ranging: Ranging,
    *,
    size: int | tuple[int, int] | None = None,
    scale: int | None = None,
    interpolation: str = "nearest",
    cmap: str = "viridis",
    legend: bool = False,
) -> Iterator[Frame]:
    """Draw maps, a picture each.

    Parameters
    ----------
    maps : Maps
        Those of a layer.
    channels : sequence of int
        Positions of those that are drawn, in order.
    ranging : Ranging
        Their ranges of values and what is done to them.
    size, scale, interpolation
        See `map_size` and `fmx.render.resize.resized`; the map's own resolution where neither is given.
    cmap : str
        Name of a matplotlib colormap; with ``gray`` the picture is one of gray values, in all others of indices.
    legend : bool
        Write above the map what it is, with a bar of the colormap and the range of its values.

    Yields
    ------
    Frame
        With the labels ``layer``, ``sample``, ``noise``, ``timestep``, ``channel``, ``normalisation``, ``low`` and
        ``high``, those of the tone, and ``constant`` or ``nan`` where the map is of one value or none.

    Raises
    ------
    FmxError
        The layer has no maps, or there is no such size, interpolation or colormap.
    """
    if maps.reduced.startswith("no spatial axes"):
        raise FmxError(f"Layer {maps.layer} has no spatial axes and so no maps: fmx render grid draws it as bars.")
    check_interpolation(interpolation)
    shape = map_size(maps.values.shape[1:], size, scale)
    grayscale = cmap in GRAYS and not legend
    palette = page_palette(cmap) if legend else None if grayscale else colours(cmap)
    ranges = ranging.of(maps.layer, maps.sample, maps.values)
    unusual = find_unusual(maps.values[list(channels)])
    for place, channel in enumerate(channels):
        one, own = maps.values[channel : channel + 1], ranges[channel : channel + 1]
        levels = LEVELS if legend else 256
        pixels = quantise(one, own, tone=ranging.tone, levels=levels, size=shape, interpolation=interpolation)[0]
        labels = maps.labels | {"channel": str(maps.numbers[channel]), "normalisation": ranging.name}
        labels |= ranging.tone.labels | {"low": number(own.low[0]), "high": number(own.high[0])}
        if maps.reduced:
            labels["drawn"] = maps.reduced
        for key, which in (("constant", unusual.constant), ("nan", unusual.nan), ("some_nan", unusual.some_nan)):
            if which[place]:
                labels[key] = number(unusual.values[place]) if key == "constant" else "yes"
        if legend:
            pixels = _with_legend(hatched(shape) if unusual.nan[place] else pixels, labels, maps)
        yield Frame(pixels, palette, labels)


def map_size(shape: Sequence[int], size: int | tuple[int, int] | None, scale: int | None) -> tuple[int, int]:
    """Settle the height and the width of a picture of a map.

    Parameters
    ----------
    shape : sequence of int
        Height and width of the map.
    size : int or tuple of int, optional
        Of the longer side, or height and width.
    scale : int, optional
        Pixels of the picture for one of the map.

    Raises
    ------
    FmxError
        Both are given, or a length is not positive, or beyond 16384.
    """
    if size is not None and scale is not None:
        raise FmxError("Give either the size of a picture or its scale, not both.")
    height, width = int(shape[0]), int(shape[1])
    if scale is not None:
        height, width = height * scale, width * scale
    elif isinstance(size, tuple):
        height, width = size
    elif size is not None:
        longer = max(height, width)
        height, width = (
            max(round(height * size / longer), min(size, 1)),
            max(round(width * size / longer), min(size, 1)),
        )
    if not (0 < height <= 2**14 and 0 < width <= 2**14):
        raise FmxError(f"Pictures are 1 to 16384 pixels wide and high, not {width} × {height}.")
    return height, width


def _with_legend(pixels: NDArray[np.uint8], labels: Mapping[str, str], maps: Maps) -> NDArray[np.uint8]:
    """Put a header above a map and white around both."""
    width = max(pixels.shape[1], NARROWEST)
    size = min(max(width // 32, 11), 24)
    pieces = [f"{key} {labels[key]}" for key in ("channel", "sample", "noise", "timestep") if key in labels]
    pieces += [f"{maps.values.shape[2]} x {maps.values.shape[1]} px", SPANS[labels["normalisation"]]]
    pieces += [f"{key} {labels[key]}" for key in ("percentiles", "symmetric", "equalised", "gamma") if key in labels]
    pieces += [labels["drawn"]] if "drawn" in labels else []
    pieces += ["constant"] if "constant" in labels else []
    pieces += [WORDS[key].rstrip(":") for key in ("nan", "some_nan") if key in labels]
    header = page_header(maps.title, pieces, (labels["low"], labels["high"]), width, size)
    space = np.full((size // 2, width), PAPER, dtype=np.uint8)
    wide = np.full((pixels.shape[0], width), PAPER, dtype=np.uint8)
    wide[:, : pixels.shape[1]] = pixels
    return np.pad(np.concatenate([header, space, wide]), max(size // 2, 6), constant_values=PAPER)
