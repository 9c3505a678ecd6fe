"""The strip above a page: the layer, what is shown of it, and the bar of the colormap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmx.render.palette import LEVELS, PAPER, gray_indices
from fmx.render.text import INK, SOFT_INK, line_height, paragraph, text_picture, text_width, wrap

__all__ = ["ColourBar", "page_header"]


@dataclass(frozen=True)
class ColourBar:
    """A horizontal bar of the colormap between the labels of its two ends."""

    low: str
    high: str
    size: int

    @property
    def space(self) -> int:
        return self.size // 2

    @property
    def length(self) -> int:
        return self.size * 6

    @property
    def width(self) -> int:
        ends = text_width(self.low, self.size) + text_width(self.high, self.size)
        return ends + self.length + 2 * self.space

    def draw(self) -> NDArray[np.uint8]:
        """Draw the bar as indices of a page's palette, (y, x)."""
        height = line_height(self.size)
        canvas = np.full((height, self.width), PAPER, dtype=np.uint8)
        low, high = (gray_indices(text_picture(label, self.size, SOFT_INK)) for label in (self.low, self.high))
        start = low.shape[1] + self.space
        canvas[:, : low.shape[1]] = low
        canvas[:, canvas.shape[1] - high.shape[1] :] = high
        thick = max(self.size * 2 // 3, 4)
        top = (height - thick + 1) // 2
        ramp = np.linspace(0, LEVELS - 1, self.length).round().astype(np.uint8)
        canvas[top : top + thick, start : start + self.length] = ramp
        return canvas


def page_header(title: str, pieces: Sequence[str], bar: tuple[str, str], width: int, size: int) -> NDArray[np.uint8]:
    """Draw the strip above a page.

    Parameters
    ----------
    title : str
        The layer's name; broken after dots where it is wider than the page.
    pieces : sequence of str
        What the page shows, one fact a piece.
    bar : tuple of str
        Labels of the low and the high end of the colormap.
    width, size : int
        Width of the strip and font size of its text, in pixels.

    Returns
    -------
    ndarray of uint8
        Indices of a page's palette, (y, x). The bar stands beside the title where there is room.
    """
    large = size * 5 // 4
    title_lines = wrap(re.findall(r"[^.]*\.|[^.]+", title), width, large, separator="")
    strips = [
        gray_indices(paragraph(title_lines, width, large, INK)),
        np.full((size // 4, width), PAPER, dtype=np.uint8),
        gray_indices(paragraph(wrap(pieces, width, size), width, size, SOFT_INK)),
    ]
    drawn = ColourBar(*bar, size).draw()
    height, length = drawn.shape
    if len(title_lines) == 1 and text_width(title_lines[0], large) + 2 * size + length <= width:
        top = strips[0].shape[0] - height - 1
        strips[0][top : top + height, width - length :] = drawn
    else:
        below = np.full((height + size // 4, width), PAPER, dtype=np.uint8)
        below[size // 4 :, :length] = drawn[:, :width]
        strips.append(below)
    return np.concatenate(strips)
