"""The pictures of a report: the grid of each layer's maps, and the samples that excite channels most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from fmx.render import grid_pages
from fmx.render.bars import bar_pages
from fmx.render.normalise import value_ranges
from fmx.render.overlay import rgb_of
from fmx.render.resize import resized
from fmx.render.selection import Maps, read_maps
from fmx.report.album import Album, Picture
from fmx.store import Store

__all__ = ["Grid", "Thumb", "layer_grid", "picture_of", "small", "thumbnails"]

ROWS = COLUMNS = 8
# Sides of samples in small, on usual pages and on those with very many.
THUMB, SMALL_THUMB = 96, 64
MANY = 200
MOST_BARS = 512
# Pixels of all grids together: maps are as large as lets the page stay small.
GRID_PIXELS = 6_000_000
SMALLEST, LARGEST = 16, 64


@dataclass(frozen=True)
class Grid:
    """A page of maps: the picture, what it shows, and which channel is where."""

    picture: Picture
    channels: list[int]
    columns: int
    told: str
    about: str


@dataclass(frozen=True)
class Thumb:
    """A sample in small, with the frame of a clip, and in percent of its sides where the box lies that is seen."""

    picture: Picture | None
    sample: str
    value: float
    box: tuple[float, float, float, float] | None = None
    frame: int | None = None


def layer_grid(store: Store, layer: str, album: Album, *, sample: str, noise: float, layers: int) -> Grid:
    """Draw the first maps of a layer for one sample, smaller where there are many layers; bars where it has no maps.

    Parameters
    ----------
    layers : int
        How many share the page.
    """
    maps = read_maps(store, layer, sample, noise)
    bars = maps.reduced.startswith("no spatial axes")
    shown = list(range(len(maps.numbers)))[: MOST_BARS if bars else ROWS * COLUMNS]
    many = f"channels {maps.numbers[0]} to {maps.numbers[shown[-1]]} of {len(maps.numbers)}"
    told = many if len(shown) < len(maps.numbers) else f"all {len(shown)} channels"
    told = told if len(shown) > 1 else f"channel {maps.numbers[0]}"
    if bars:
        frame = next(
            bar_pages(
                maps.values[:, 0, 0],
                labels=maps.labels,
                reduced=maps.reduced,
                channels=shown,
                ranges=value_ranges(maps.values, "layer"),
                numbers=maps.numbers,
                legend=False,
            )
        )
        about = f"one bar a channel ({maps.reduced}), 64 in a row, from {frame.labels['low']} to {frame.labels['high']}"
        return Grid(album.frame(frame), [], 0, told, about)
    values = _sized(maps, layers)
    frame = next(
        grid_pages(
            values[shown],
            layer=layer,
            sample=sample,
            noise=noise,
            numbers=[maps.numbers[i] for i in shown],
            rows=ROWS,
            columns=COLUMNS,
            legend=False,
        )
    )
    about = f"{maps.values.shape[2]}×{maps.values.shape[1]} values each, every map over its own range"
    if values.shape != maps.values.shape:
        about += f", drawn at {values.shape[2]}×{values.shape[1]}"
    notes = [about, *([maps.reduced] if maps.reduced else [])]
    words = {"constant": "constant: {}", "nan": "no finite value: {}", "some_nan": "in part not finite: {}"}
    notes += [text.format(frame.labels[key]) for key, text in words.items() if key in frame.labels]
    columns = min(COLUMNS, len(shown))
    return Grid(album.frame(frame, clear=True), [maps.numbers[i] for i in shown], columns, told, "; ".join(notes))


def _sized(maps: Maps, layers: int) -> NDArray[np.float64]:
    """Make maps smaller that would make the page large."""
    side = math.sqrt(GRID_PIXELS / max(layers, 1) / (ROWS * COLUMNS))
    most = min(max(side, SMALLEST), LARGEST)
    height, width = maps.values.shape[1:]
    if max(height, width) <= most:
        return maps.values
    share = most / max(height, width)
    return resized(maps.values, (max(round(height * share), 1), max(round(width * share), 1)), "bilinear")


def thumbnails(
    store: Store,
    top: xr.Dataset,
    channels: Sequence[int],
    album: Album,
    kept: dict[tuple[int, int], Picture],
    side: int = THUMB,
) -> dict[int, list[Thumb]]:
    """Draw the top samples of channels in small.

    Parameters
    ----------
    top : xarray.Dataset
        What `fmx.analyze.top_samples` gives for a layer.
    channels : sequence of int
    kept : dict
        Pictures by sample and timestep, which are drawn once for all layers; what is missing is added.
    side : int
        Pixels of their longer side, at most.
    """
    chosen = top.sel(channel=list(channels))
    numbers = chosen["sample_number"].values
    steps = chosen["at_timestep"].values if "at_timestep" in chosen else np.zeros_like(numbers)
    wanted = {(int(n), int(t)) for n, t in zip(numbers.ravel(), steps.ravel(), strict=True) if n >= 0}
    _draw(store, sorted(wanted - set(kept)), album, kept, side)
    shown: dict[int, list[Thumb]] = {}
    size = _picture_size(store)
    for i, channel in enumerate(channels):
        shown[channel] = []
        for j in range(chosen.sizes["rank"]):
            if numbers[i, j] < 0 or not math.isfinite(chosen["value"].values[i, j]):
                continue
            box = _box(chosen, i, j, size) if size is not None and "y0" in chosen else None
            picture = kept.get((int(numbers[i, j]), int(steps[i, j])))
            sample, value = str(chosen["sample_id"].values[i, j]), float(chosen["value"].values[i, j])
            frame = int(steps[i, j]) if "at_timestep" in chosen else None
            shown[channel].append(Thumb(picture, sample, value, box, frame))
    return shown


def picture_of(store: Store, sample: str, album: Album) -> Picture | None:
    """Draw one sample as the model saw it, its first frame; None where the store keeps no pictures."""
    pictures = store.pictures
    if pictures is None:
        return None
    (values,) = store.compute(pictures.sel(sample=sample).isel(timestep=0))
    return album.photo(small(rgb_of(values.values), 2 * THUMB))


def _picture_size(store: Store) -> tuple[int, int] | None:
    pictures = store.pictures
    return None if pictures is None else (pictures.sizes["y"], pictures.sizes["x"])


def _box(top: xr.Dataset, i: int, j: int, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Give left, top, width and height of what the neuron sees, in percent; None where it is the whole picture."""
    y0, y1, x0, x1 = (float(top[name].values[i, j]) for name in ("y0", "y1", "x0", "x1"))
    height, width = size
    if y1 - y0 >= 0.95 * height and x1 - x0 >= 0.95 * width:
        return None
    return 100 * x0 / width, 100 * y0 / height, 100 * (x1 - x0) / width, 100 * (y1 - y0) / height


def _draw(
    store: Store, wanted: Iterable[tuple[int, int]], album: Album, kept: dict[tuple[int, int], Picture], side: int
) -> None:
    """Read pictures, some at a time, and make them small."""
    pictures, some = store.pictures, list(wanted)
    if pictures is None or not some:
        return
    # Positions among the samples that are there.
    place = np.cumsum(store.complete) - 1
    last = pictures.sizes["timestep"] - 1
    for first in range(0, len(some), 64):
        part = some[first : first + 64]
        at = xr.DataArray([int(place[n]) for n, _ in part], dims="picture")
        step = xr.DataArray([min(t, last) for _, t in part], dims="picture")
        (values,) = store.compute(pictures.isel(sample=at, timestep=step).transpose("picture", ...))
        for key, one in zip(part, values.values, strict=True):
            kept[key] = album.photo(small(rgb_of(one), side))


def small(pixels: NDArray[np.uint8], side: int = THUMB) -> NDArray[np.uint8]:
    """Bring a picture (y, x, 3) to at most so many pixels a side; one that is smaller stays as it is."""
    height, width = pixels.shape[:2]
    share = side / max(height, width)
    if share >= 1:
        return pixels
    size = max(round(width * share), 1), max(round(height * share), 1)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), dtype=np.uint8)
