"""The figure of an occlusion: the picture, what is left of a class or a feature map, and what the rest is taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.overlay import ENLARGED_BELOW, overlay
from fmx.render.palette import colours
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import INK, line_height, middle_ellipsis, number, text_picture, text_width

__all__ = ["ClassMap", "HeatMap", "occlusion_figure"]

Pixels = NDArray[np.uint8]

# Told apart by colour-blind people, too (Okabe & Ito 2008); the last is for all classes that have no colour left.
CLASS_COLOURS = np.array(
    [
        (0, 114, 178),
        (230, 159, 0),
        (0, 158, 115),
        (204, 121, 167),
        (240, 228, 66),
        (86, 180, 233),
        (213, 94, 0),
        (150, 150, 150),
    ],
    dtype=np.uint8,
)


@dataclass(frozen=True)
class HeatMap:
    """What is left of something with the patch at each place.

    Attributes
    ----------
    title : str
        What it is.
    values : array (y, x)
    whole : float
        The same without a patch.
    """

    title: str
    values: NDArray[np.floating]
    whole: float


@dataclass(frozen=True)
class ClassMap:
    """What the picture is taken for with the patch at each place.

    Attributes
    ----------
    classes : array (y, x) of int
    whole : int
        The class without a patch.
    names : sequence of str, optional
        Names of all classes; their numbers where there are none.
    """

    classes: NDArray[np.int64]
    whole: int
    names: Sequence[str] = ()

    def name(self, number: int) -> str:
        """Give the number of a class with its name."""
        return f"{number} {self.names[number]}" if number < len(self.names) else f"class {number}"


def occlusion_figure(
    picture: Pixels,
    centres: tuple[NDArray[np.float64], NDArray[np.float64]],
    heats: Sequence[HeatMap],
    classes: ClassMap | None = None,
    *,
    caption: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    alpha: float = 0.75,
    cmap: str = "inferno",
) -> Frame:
    """Draw what a patch over each part of a picture does.

    Parameters
    ----------
    picture : ndarray of uint8
        RGB (y, x, 3); a small one is enlarged by whole pixels.
    centres : tuple of array (y,), (x,)
        Where the centres of the patch lie, in pixels of the picture.
    heats : sequence of HeatMap
        Each is drawn twice: as it is, each pixel with the value of the nearest patch; and what is lost against the
        whole picture, laid over it, so that it is bright where the patch does the most harm.
    classes : ClassMap, optional
        Drawn in one colour a class, the seven most frequent ones; the legend says how much of the map each takes.
    caption : sequence of str
        Facts about all of it.
    labels : mapping of str to str, optional
        What the frame shows.
    alpha : float
        Opacity of the greatest loss.
    cmap : str
        Name of a matplotlib colormap.

    Returns
    -------
    Frame
        RGB, (y, x, 3).

    Raises
    ------
    FmxError
        A map that doesn't have a value for each centre, or an unknown colormap.
    """
    factor = -(-ENLARGED_BELOW // max(picture.shape[:2]))
    shown = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (shown.shape[0], shown.shape[1])
    # Pixels that were enlarged lie around the centre of what they were.
    scaled = tuple((np.asarray(c) + 0.5) * factor - 0.5 for c in centres)
    maps = [*(heat.values for heat in heats), *([classes.classes] if classes else [])]
    if any(m.shape != (len(centres[0]), len(centres[1])) for m in maps):
        raise FmxError(f"There are {len(centres[0])}×{len(centres[1])} places, and maps of {maps[0].shape}.")
    table = colours(cmap)
    panels = [Panel("input", shown)]
    legend: list[tuple[Pixels, str]] = []
    for heat in heats:
        panels += _heat_panels(heat, shown, scaled, table, alpha, cmap)
    if classes is not None:
        drawn, legend = _class_colours(classes)
        panels.insert(3, Panel("most probable class", drawn[_nearest(scaled, size)]))
    figure = stack_panels(panels, caption, table)
    if legend:
        figure = np.concatenate([figure, _legend(legend, figure.shape[1], panels[0].text_size)])
    return Frame(figure, labels=dict(labels or {}))


def _heat_panels(
    heat: HeatMap, shown: Pixels, centres: tuple[NDArray[np.float64], ...], table: Pixels, alpha: float, cmap: str
) -> list[Panel]:
    size = (shown.shape[0], shown.shape[1])
    values = np.asarray(heat.values, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    plain = table[np.round(share * (len(table) - 1)).astype(np.intp)][_nearest(centres, size)]
    lost = np.maximum(heat.whole - values, 0.0)
    most = float(lost.max())
    laid = overlay(shown, _between(lost, centres, size), alpha=alpha, cmap=cmap, low=0.0, high=most)
    return [
        Panel(heat.title, plain, (number(low), number(high))),
        Panel(f"lost ({number(heat.whole)} without a patch)", laid, ("0", number(most))),
    ]


def _nearest(
    centres: tuple[NDArray[np.float64], ...], size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give the nearest place of each pixel, as an index."""
    y, x = (np.abs(np.arange(n)[:, None] - c).argmin(axis=1) for n, c in zip(size, centres, strict=True))
    return np.ix_(y, x)


def _between(
    values: NDArray[np.float64], centres: tuple[NDArray[np.float64], ...], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Interpolate linearly between the centres; beyond the outermost ones their values hold."""
    rows = np.stack([np.interp(np.arange(size[1]), centres[1], row) for row in values])
    return np.stack([np.interp(np.arange(size[0]), centres[0], column) for column in rows.T], axis=1)


def _class_colours(found: ClassMap) -> tuple[Pixels, list[tuple[Pixels, str]]]:
    """Give a colour for each place, and the legend."""
    numbers, counts = np.unique(found.classes, return_counts=True)
    # The class of the whole picture always has the first colour.
    order = sorted(zip(numbers, counts, strict=True), key=lambda pair: (pair[0] != found.whole, -pair[1]))
    last = len(CLASS_COLOURS) - 1
    drawn = np.empty((*found.classes.shape, 3), np.uint8)
    drawn[...] = CLASS_COLOURS[last]
    legend = []
    for colour, (one, count) in zip(CLASS_COLOURS[:last], order, strict=False):
        drawn[found.classes == one] = colour
        legend.append((colour, f"{found.name(int(one))} {count / found.classes.size:.0%}"))
    others = sum(count for _, count in order[last:])
    if others:
        legend.append((CLASS_COLOURS[last], f"others {others / found.classes.size:.0%}"))
    return drawn, legend


def _legend(entries: Sequence[tuple[Pixels, str]], width: int, size: int) -> Pixels:
    """Draw squares of colour with what they mean, in lines of a width."""
    height, gap = line_height(size), size
    lines = [np.full((height, width, 3), 255, dtype=np.uint8)]
    left = gap
    for colour, text in entries:
        short = middle_ellipsis(text, width - 3 * gap - size, size)
        needed = size + gap // 2 + text_width(short, size)
        if left > gap and left + needed > width - gap:
            lines.append(np.full((height, width, 3), 255, dtype=np.uint8))
            left = gap
        top = (height - size) // 2 + 1
        lines[-1][top : top + size, left : left + size] = colour
        drawn = text_picture(short, size, INK)
        start = left + size + gap // 2
        lines[-1][: drawn.shape[0], start : start + drawn.shape[1]] = drawn[:, :, None]
        left += needed + gap * 3 // 2
    return np.concatenate([*lines, np.full((gap, width, 3), 255, dtype=np.uint8)])
