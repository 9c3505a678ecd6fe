"""Panels beside each other, with a caption, titles and colour bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fmx.render.palette import LEVELS, PAPER, gray_indices
from fmx.render.text import INK, SOFT_INK, line_height, middle_ellipsis, paragraph, text_picture, wrap

__all__ = ["Panel", "stack_panels"]

MOST_IN_A_ROW = 6
# Wide enough for the two longest numbers below a bar, at the least font size.
NARROWEST = 144
TITLE_LINES = 2

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Panel:
    """A picture with its title and, where it has a colour bar, what to write at the ends of the bar."""

    title: str
    pixels: Pixels
    ends: tuple[str, str] | None = None

    @property
    def width(self) -> int:
        """Room for the panel: that of the picture, but never too narrow for text."""
        return max(int(self.pixels.shape[1]), NARROWEST)

    @property
    def text_size(self) -> int:
        """Font size that goes with a picture of this width."""
        return min(max(self.width // 16, 12), 32)


class _Ink(Protocol):
    """How grays and the bar of the colormap are written into a picture."""

    def grays(self, gray: Pixels) -> Pixels:
        """Give gray values (y, x) as pixels."""

    def ramp(self, width: int) -> Pixels:
        """Give a line of the colormap, from low to high."""

    def blank(self, height: int, width: int) -> Pixels:
        """Give white."""


@dataclass(frozen=True)
class _Colours:
    """Pixels in RGB, with the colours of the bar."""

    table: Pixels

    def grays(self, gray: Pixels) -> Pixels:
        return np.repeat(gray[:, :, None], 3, axis=2)

    def ramp(self, width: int) -> Pixels:
        return self.table[np.round(np.linspace(0, len(self.table) - 1, width)).astype(np.intp)]

    def blank(self, height: int, width: int) -> Pixels:
        return np.full((height, width, 3), PAPER, dtype=np.uint8)


class _Indices:
    """Pixels that are indices of a page's palette."""

    def grays(self, gray: Pixels) -> Pixels:
        return gray_indices(gray)

    def ramp(self, width: int) -> Pixels:
        return np.linspace(0, LEVELS - 1, width).round().astype(np.uint8)

    def blank(self, height: int, width: int) -> Pixels:
        return np.full((height, width), PAPER, dtype=np.uint8)


_INDICES = _Indices()


def stack_panels(
    panels: Sequence[Panel], caption: Sequence[str], table: Pixels, *, fixed_lines: bool = False
) -> Pixels:
    """Draw panels of one size in rows, below a caption.

    Parameters
    ----------
    panels : sequence of Panel
        What to draw, along the rows; pictures of one shape, RGB or indices of a page's palette.
    caption : sequence of str
        Facts about all of them.
    table : ndarray of uint8
        Colours of the bars from low to high, (levels, 3); those of the palette where the pictures are indices.
    fixed_lines : bool
        Each fact of the caption has a line of its own and is shortened to fit it, so that pictures that differ in
        numbers only are of one size.

    Returns
    -------
    ndarray of uint8
        RGB, (y, x, 3), or indices, (y, x), as the pictures are.
    """
    ink = _INDICES if panels[0].pixels.ndim == 2 else _Colours(table)
    rows = -(-len(panels) // MOST_IN_A_ROW)
    columns = -(-len(panels) // rows)
    size = panels[0].text_size
    gap = margin = size
    width = columns * (panels[0].width + gap) - gap
    shortened = [middle_ellipsis(fact, width, size) for fact in caption]
    lines = shortened if fixed_lines else wrap(caption, width, size)
    strips = [ink.grays(paragraph(lines, width, size, INK))]
    bars = fixed_lines or any(panel.ends for panel in panels)
    for first in range(0, len(panels), columns):
        strips += [ink.blank(gap * 3 // 4, width), _row(panels[first : first + columns], width, gap, ink, bars=bars)]
    sides = ((margin,) * 2, (margin,) * 2, (0, 0))[: panels[0].pixels.ndim]
    return np.pad(np.concatenate(strips), sides, constant_values=PAPER)


def _row(panels: Sequence[Panel], width: int, gap: int, ink: _Ink, *, bars: bool) -> Pixels:
    size = panels[0].text_size
    titles = [_title_lines(panel.title, panel.width, size) for panel in panels]
    most = max(map(len, titles))
    row = np.concatenate(
        [
            np.concatenate([_column(panel, lines, most, ink, bars), ink.blank(_height(panel, most, bars), gap)], axis=1)
            for panel, lines in zip(panels, titles, strict=True)
        ],
        axis=1,
    )
    filled = ink.blank(row.shape[0], width)
    kept = min(row.shape[1], width)
    filled[:, :kept] = row[:, :kept]
    return filled


def _height(panel: Panel, lines: int, bars: bool) -> int:
    """Height of a panel: title, picture, and where any panel has one the bar and its labels."""
    size = panel.text_size
    height = line_height(size) * lines + size // 4 + int(panel.pixels.shape[0])
    return height + line_height(size) + size if bars else height


def _column(panel: Panel, title: list[str], lines: int, ink: _Ink, bars: bool) -> Pixels:
    size, pitch = panel.text_size, line_height(panel.text_size)
    height, width = panel.pixels.shape[:2]
    canvas = ink.blank(_height(panel, lines, bars), panel.width)
    # Titles stand on their pictures, so that a short one has no gap below it.
    top = (lines - len(title)) * pitch
    canvas[top : lines * pitch] = ink.grays(paragraph(title, panel.width, size, INK))
    top = lines * pitch + size // 4
    canvas[top : top + height, :width] = panel.pixels
    if panel.ends is not None:
        thick = max(size // 2, 6)
        top += height + size // 3
        canvas[top : top + thick, :width] = ink.ramp(width)
        low, high = (ink.grays(text_picture(end, size, SOFT_INK)) for end in panel.ends)
        canvas[-pitch:, : low.shape[1]] = low
        right = min(max(width, low.shape[1] + size + high.shape[1]), panel.width)
        canvas[-pitch:, right - high.shape[1] : right] = high
    return canvas


def _title_lines(title: str, width: int, size: int) -> list[str]:
    lines = wrap(title.split(), width, size, separator=" ")
    if len(lines) <= TITLE_LINES:
        return lines
    return [*lines[: TITLE_LINES - 1], middle_ellipsis(" ".join(lines[TITLE_LINES - 1 :]), width, size)]
