"""Small multiples: the same map over two labels, such as noise levels and layers, as rows and columns of one page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.layers import said_layer
from fmx.render.frame import Frame
from fmx.render.header import page_header
from fmx.render.normalise import quantise, value_ranges
from fmx.render.palette import LEVELS, PAPER, gray_indices, page_palette
from fmx.render.resize import check_interpolation
from fmx.render.selection import Maps, combined, read_maps, said_channels
from fmx.render.single import map_size
from fmx.render.text import SOFT_INK, line_height, middle_ellipsis, number, text_picture, text_width
from fmx.render.tone import PLAIN, Tone
from fmx.render.unusual import WORDS, Unusual, find_unusual, hatched
from fmx.store import Store

__all__ = ["AXES", "SHARED", "multiples"]

AXES = ("layer", "sample", "noise", "timestep", "channel")
SHARED = {
    "filter": "each map",
    "time": "a channel over noise and time",
    "layer": "all maps shown of a layer",
    "all": "all maps shown",
}
_KEYS = {"filter": AXES, "time": ("layer", "sample", "channel"), "layer": ("layer",), "all": ()}
MOST_COLUMNS, MOST_ROWS = 16, 12
GAP, LEAST, WIDEST_TITLE, LEAST_TEXT = 4, 64, 140, 11

Cell = Mapping[str, Any]


def multiples(
    store: Store,
    *,
    rows: str,
    columns: str,
    choices: Mapping[str, Sequence[Any]],
    normalisation: str = "time",
    tone: Tone = PLAIN,
    size: int | None = None,
    interpolation: str = "nearest",
    cmap: str = "viridis",
) -> Iterator[Frame]:
    """Draw maps in rows and columns that differ in one label each.

    Parameters
    ----------
    store : Store
    rows, columns : str
        Two different ones of layer, sample, noise, timestep and channel.
    choices : mapping of str to sequence
        For each of the five what is shown: layer names, ids of samples, levels, timesteps; channels as numbers or
        ``mean`` and ``max``. Of those that are neither rows nor columns the first counts.
    normalisation : {"filter", "time", "layer", "all"}
        Whose range the colours span, of the maps on all pages: each map's own; the levels and timesteps of one
        channel together, so that one sees what noise or time does; those of a layer; or all.
    tone : Tone
    size : int, optional
        Pixels of the longer side of a map; that of the largest map where left out, but at least 64.
    interpolation, cmap
        As for `fmx.render.grid.grid_pages`. Maps of layers of different resolution are brought to one size.

    Yields
    ------
    Frame
        Palette indices (y, x), up to 16 columns and 12 rows a page; the labels say what rows and columns are.

    Raises
    ------
    FmxError
        Rows and columns are the same or unknown, nothing is chosen, or what is chosen is not there. Raised by the call
        itself.
    """
    for axis in (rows, columns):
        if axis not in AXES:
            raise FmxError(f"Rows and columns can't be {axis}: {near_matches(axis, AXES, most=len(AXES))}")
    if rows == columns:
        raise FmxError(f"Rows and columns are both {rows}: choose two different labels.")
    if normalisation not in SHARED:
        raise FmxError(f"No normalisation is called {normalisation}: {near_matches(normalisation, SHARED)}")
    if not all(len(choices.get(axis, ())) for axis in AXES):
        empty = next(axis for axis in AXES if not len(choices.get(axis, ())))
        raise FmxError(f"There is no {empty} to show: choose at least one.")
    check_interpolation(interpolation)
    page_palette(cmap)
    fixed = {axis: choices[axis][0] for axis in AXES if axis not in (rows, columns)}
    cells = [[fixed | {rows: r, columns: c} for c in choices[columns]] for r in choices[rows]]
    values = _read(store, [cell for row in cells for cell in row])
    largest = max((one.shape for one in values.values()), key=max)
    shape = map_size(largest, max(*largest, LEAST) if size is None else size, None)
    ends = _ends(values, normalisation, tone)
    if store.frames == 1:
        fixed.pop("timestep", None)
    look = _Look(rows, columns, fixed, shape, interpolation, cmap, tone, normalisation)
    return _pages(cells, values, ends, look)


@dataclass(frozen=True)
class _Look:
    rows: str
    columns: str
    fixed: Cell
    shape: tuple[int, int]
    interpolation: str
    cmap: str
    tone: Tone
    normalisation: str


def _read(store: Store, cells: Sequence[Cell]) -> dict[tuple[Any, ...], NDArray[Any]]:
    """Read what all cells show, each part of the store once."""
    found: dict[tuple[Any, ...], NDArray[Any]] = {}
    keys = sorted({_key(cell, AXES[:4]): cell for cell in cells}.items(), key=lambda item: str(item[0]))
    for place, cell in keys:
        maps = read_maps(store, cell["layer"], cell["sample"], cell["noise"], cell["timestep"])
        _check(maps)
        for channel in {cell["channel"] for cell in cells if _key(cell, AXES[:4]) == place}:
            wanted = channel if isinstance(channel, str) else [channel]
            found[*place, channel] = combined(maps, wanted)
    return found


def _check(maps: Maps) -> None:
    if maps.reduced.startswith("no spatial axes"):
        raise FmxError(f"Layer {maps.layer} has no maps (y, x): fmx render grid draws it as bars.")


def _ends(
    values: Mapping[tuple[Any, ...], NDArray[Any]], normalisation: str, tone: Tone
) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Find the ends of the range of each group of maps that share one."""
    found: dict[tuple[Any, ...], tuple[float, float]] = {}
    for key, one in values.items():
        group = _group(key, normalisation)
        ranges = value_ranges(one[None], tone=Tone(tone.percentiles, tone.symmetric))
        low, high = float(ranges.low[0]), float(ranges.high[0])
        before = found.get(group, (low, high))
        found[group] = min(low, before[0]), max(high, before[1])
    return found


def _pages(
    cells: list[list[dict[str, Any]]],
    values: Mapping[tuple[Any, ...], NDArray[Any]],
    ends: Mapping[tuple[Any, ...], tuple[float, float]],
    look: _Look,
) -> Iterator[Frame]:
    parts = list(
        itertools.product(range(0, len(cells), MOST_ROWS), range(0, len(cells[0]), MOST_COLUMNS)),
    )
    for i, (top, left) in enumerate(parts, start=1):
        shown = [row[left : left + MOST_COLUMNS] for row in cells[top : top + MOST_ROWS]]
        labels = {axis: _said(axis, value) for axis, value in look.fixed.items()}
        if "channel" in look.fixed:
            channel = look.fixed["channel"]
            labels["channel"] = said_channels(channel if isinstance(channel, str) else [channel])
        labels |= {"rows": _listed(look.rows, [row[0] for row in shown])}
        labels |= {"columns": _listed(look.columns, shown[0]), "normalisation": look.normalisation} | look.tone.labels
        if len(parts) > 1:
            labels["page"] = f"{i} of {len(parts)}"
        labels |= _unusual(shown, values, look)
        if len(ends) == 1:
            labels |= dict(zip(("low", "high"), map(number, next(iter(ends.values()))), strict=True))
        yield Frame(_drawn(shown, values, ends, look, labels), page_palette(look.cmap), labels)


def _unusual(
    shown: list[list[dict[str, Any]]], values: Mapping[tuple[Any, ...], NDArray[Any]], look: _Look
) -> dict[str, str]:
    """Name the cells of a page in which there is nothing to see, ``row / column``."""
    cells = [cell for row in shown for cell in row]
    maps = [find_unusual(values[_key(cell, AXES)][None]) for cell in cells]
    together = Unusual(*(np.concatenate([getattr(one, f.name) for one in maps]) for f in fields(Unusual)))
    names = [f"{_said(look.rows, c[look.rows])} / {_said(look.columns, c[look.columns])}" for c in cells]
    return {key: "all" if together.all_are(key) else said for key, said in together.labels(names).items()}


def _drawn(
    cells: list[list[dict[str, Any]]],
    values: Mapping[tuple[Any, ...], NDArray[Any]],
    ends: Mapping[tuple[Any, ...], tuple[float, float]],
    look: _Look,
    labels: Mapping[str, str],
) -> NDArray[np.uint8]:
    height, width = look.shape
    size = min(max(width // 8, LEAST_TEXT), 16)
    titles = [_head(look.rows, row[0][look.rows]) for row in cells]
    side = min(max(text_width(title, size) for title in titles), WIDEST_TITLE) + size // 2
    pitch = line_height(size)
    canvas = np.full(
        (pitch + len(cells) * (height + GAP), side + len(cells[0]) * (width + GAP) - GAP), PAPER, dtype=np.uint8
    )
    heads = [_head(look.columns, cell[look.columns]) for cell in cells[0]]
    # Names that fill their columns would run into one.
    room = width - size // 2
    smaller = _fitting(heads, room, size)
    for j, head in enumerate(heads):
        _write(canvas, 0, side + j * (width + GAP), head, room, smaller)
    for i, row in enumerate(cells):
        top = pitch + i * (height + GAP)
        _write(canvas, top + (height - pitch) // 2, 0, titles[i], side - size // 2, size)
        for j, cell in enumerate(row):
            at = side + j * (width + GAP)
            canvas[top : top + height, at : at + width] = _tile(values[_key(cell, AXES)], ends, cell, look)
    return _headed(canvas, look, labels, shared=len(ends) == 1)


def _tile(
    one: NDArray[Any], ends: Mapping[tuple[Any, ...], tuple[float, float]], cell: Cell, look: _Look
) -> NDArray[np.uint8]:
    if find_unusual(one[None]).nan[0]:
        return hatched(look.shape)
    low, high = ends[_group(_key(cell, AXES), look.normalisation)]
    ranges = value_ranges(one[None], low=low, high=high, tone=look.tone)
    drawn = quantise(
        one[None], ranges, tone=look.tone, levels=LEVELS, size=look.shape, interpolation=look.interpolation
    )
    return np.asarray(drawn[0])


def _headed(canvas: NDArray[np.uint8], look: _Look, labels: Mapping[str, str], *, shared: bool) -> NDArray[np.uint8]:
    width = max(canvas.shape[1], 320)
    size = min(max(width // 60, 12), 24)
    title = said_layer(labels.get("layer", f"{look.rows} by {look.columns}"))
    pieces = [f"sample {labels['sample']}"] if "sample" in labels else []
    pieces += [labels[axis] for axis in ("noise", "timestep", "channel") if axis in labels]
    pieces += [f"{look.rows} down, {look.columns} across"]
    pieces += [f"{key} {value}" for key, value in look.tone.labels.items()]
    pieces += [f"page {labels['page']}"] if "page" in labels else []
    pieces += [f"{word} {labels[key]}" for key, word in WORDS.items() if key in labels]
    pieces += [] if shared else [f"range of {SHARED[look.normalisation]}"]
    bar = (f"all  {labels['low']}", labels["high"]) if shared else ("each range  min", "max")
    header = page_header(title, pieces, bar, width, size)
    wide = np.full((canvas.shape[0], width), PAPER, dtype=np.uint8)
    wide[:, : canvas.shape[1]] = canvas
    space = np.full((size // 2, width), PAPER, dtype=np.uint8)
    return np.pad(np.concatenate([header, space, wide]), size, constant_values=PAPER)


def _fitting(texts: Sequence[str], width: int, size: int) -> int:
    """Give the largest font size, up to one, in which all texts fit: names that are shortened may look the same."""
    return next((s for s in range(size, LEAST_TEXT, -1) if all(text_width(t, s) <= width for t in texts)), LEAST_TEXT)


def _write(canvas: NDArray[np.uint8], top: int, left: int, text: str, width: int, size: int) -> None:
    drawn = gray_indices(text_picture(middle_ellipsis(text, width, size), size, SOFT_INK))
    part = canvas[max(top, 0) : max(top, 0) + drawn.shape[0], left : left + drawn.shape[1]]
    part[...] = drawn[: part.shape[0], : part.shape[1]]


def _head(axis: str, value: Any) -> str:
    return said_layer(value) if axis == "layer" else _said(axis, value)


def _said(axis: str, value: Any) -> str:
    if axis == "channel":
        return value if isinstance(value, str) else f"channel {value}"
    if axis == "noise":
        return f"noise {value:g}"
    return f"timestep {value}" if axis == "timestep" else str(value)


def _listed(axis: str, cells: Sequence[Cell]) -> str:
    return f"{axis}: " + ", ".join(f"{cell[axis]:g}" if axis == "noise" else str(cell[axis]) for cell in cells)


def _key(cell: Cell, axes: Sequence[str]) -> tuple[Any, ...]:
    return tuple(cell[axis] for axis in axes)


def _group(key: tuple[Any, ...], normalisation: str) -> tuple[Any, ...]:
    return tuple(key[AXES.index(axis)] for axis in _KEYS[normalisation])
