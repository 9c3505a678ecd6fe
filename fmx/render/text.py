"""Text on pictures: measuring, shortening, wrapping, drawing.

The font is the one that comes with Pillow. It has the letters of English; a line with others is drawn in DejaVu Sans,
which comes with Matplotlib and also has those of most of Europe and the Near East, and what that lacks in other fonts.
Letters that depend on their neighbours are shaped, where Pillow can: see `fmx.render.shaping`.
Spaces are wider than its own, in which words run together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fmx.render.fonts import dejavu_file, drawable, font_with, letters_of
from fmx.render.shaping import Run, shaped_runs

__all__ = [
    "INK",
    "SOFT_INK",
    "line_height",
    "middle_ellipsis",
    "number",
    "number_range",
    "paragraph",
    "plain",
    "text_picture",
    "text_width",
    "wrap",
]

INK, SOFT_INK = 25, 85
SEPARATOR = " · "
# Of the font size, and a pixel more.
SPACE = 0.3
_KNOWN = frozenset({*map(chr, range(32, 127)), *"©«°±´·»‘’“”…‹›™"})
_INSTEAD = {"–": "-", "—": "-", "−": "-", "×": "x", "µ": "u"}


@lru_cache(maxsize=64)
def _font(size: int, file: str = "", shaped: bool = False) -> ImageFont.FreeTypeFont:
    # The basic layout is the same everywhere; the other one depends on a library of the system.
    if file:
        layout = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
        return ImageFont.truetype(file, size, layout_engine=layout)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Replace what no font can draw: see `fmx.render.fonts.drawable`."""
    text = unicodedata.normalize("NFC", "".join(_INSTEAD.get(c, " " if c.isspace() else c) for c in text))
    return text if _KNOWN.issuperset(text) else drawable(text)


def _runs(plain_text: str) -> list[Run]:
    """Part a text by the files of the fonts that it is drawn in and by its directions, spaces from letters."""
    if _KNOWN.issuperset(plain_text):
        return _by_fonts(plain_text, [""] * len(plain_text))
    runs: list[Run] = []
    for part, file, way in shaped_runs(plain_text):
        runs += [(part, file, way)] if way else _by_fonts(part, [_file_of(c) for c in part])
    return runs


def _by_fonts(text: str, files: Sequence[str]) -> list[Run]:
    parts = groupby(zip(files, text, strict=True), key=lambda letter: (letter[0], letter[1] == " "))
    return [("".join(c for _, c in letters), file, "") for (file, _), letters in parts]


def _file_of(letter: str) -> str:
    return dejavu_file() if letter in letters_of(dejavu_file()) else font_with(letter) or dejavu_file()


def _advance(run: str, size: int, file: str, way: str) -> float:
    """Width in pixels of spaces, or of letters of one font."""
    if way:
        return _font(size, file, shaped=True).getlength(run, direction=way)
    return (int(SPACE * size) + 1) * len(run) if run[0] == " " else _font(size, file).getlength(run)


def line_height(size: int) -> int:
    """Height in pixels of a line of text in a font size."""
    ascent, descent = _font(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """Width in pixels of a line of text in a font size."""
    return ceil(sum(_advance(run, size, *how) for run, *how in _runs(plain(text))))


def middle_ellipsis(text: str, width: int, size: int) -> str:
    """Shorten a text in its middle until it fits a width in pixels; both ends stay readable."""
    text = plain(text)
    if text_width(text, size) <= width:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        if text_width(_shortened(text, kept), size) <= width:
            fits = kept
        else:
            too_many = kept
    return _shortened(text, fits)


def _shortened(text: str, kept: int) -> str:
    head = (kept + 1) // 2
    return f"{text[:head].rstrip('. ')}…{text[len(text) - (kept - head) :].lstrip('. ')}"


def wrap(pieces: Sequence[str], width: int, size: int, separator: str = SEPARATOR) -> list[str]:
    """Lay pieces of text out in lines of a width in pixels, breaking between pieces only.

    A piece wider than a line is shortened in its middle.
    """
    lines: list[str] = []
    for piece in pieces:
        longer = f"{lines[-1]}{separator}{piece}" if lines else ""
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(middle_ellipsis(piece, width, size))
    return lines


@lru_cache(maxsize=4096)
def text_picture(text: str, size: int, ink: int = INK) -> NDArray[np.uint8]:
    """Draw a line of text, antialiased, as gray values on white, (y, x), read-only."""
    text = plain(text)
    picture = Image.new("L", (max(text_width(text, size), 1), line_height(size)), 255)
    pen, left, runs = ImageDraw.Draw(picture), 0.0, _runs(text)
    baseline = _font(size, dejavu_file() if any(file for _, file, _ in runs) else "").getmetrics()[0]
    for run, file, way in runs:
        pen.text((left, baseline), run, fill=ink, font=_font(size, file, bool(way)), anchor="ls", direction=way or None)
        left += _advance(run, size, file, way)
    gray = np.array(picture, dtype=np.uint8)
    gray.setflags(write=False)
    return gray


def paragraph(lines: Sequence[str], width: int, size: int, ink: int = INK) -> NDArray[np.uint8]:
    """Draw lines of text below each other, left-aligned, as gray values on white, (y, x)."""
    pitch = line_height(size)
    gray = np.full((pitch * len(lines), width), 255, dtype=np.uint8)
    for i, line in enumerate(lines):
        drawn = text_picture(line, size, ink)
        gray[i * pitch : (i + 1) * pitch, : drawn.shape[1]] = drawn[:, :width]
    return gray


def number(value: float) -> str:
    """Write a number in three digits, as on an axis."""
    return f"{value + 0.0:.3g}"


def number_range(shown: Sequence[int], count: int) -> str:
    """Say which of so many channels are shown."""
    if list(shown) == list(range(shown[0], shown[-1] + 1)):
        return f"{shown[0]} to {shown[-1]} of {count}" if len(shown) > 1 else f"{shown[0]} of {count}"
    few = ", ".join(map(str, shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]]))
    return f"{few} of {count}"
