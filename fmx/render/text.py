"""Text on pictures, in the font that comes with Pillow: measuring, shortening, wrapping, drawing."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "INK",
    "SOFT_INK",
    "line_height",
    "middle_ellipsis",
    "number",
    "paragraph",
    "plain",
    "text_picture",
    "text_width",
    "wrap",
]

INK, SOFT_INK = 25, 85
SEPARATOR = " · "
_KNOWN = {*map(chr, range(32, 127)), *"©«°±´·»‘’“”…‹›™"}
_INSTEAD = {"–": "-", "—": "-", "−": "-", "×": "x", "µ": "u"}


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    # The basic layout is the same everywhere; the other one depends on a library of the system.
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Replace what the font can't draw: accents go, other letters become ``?``, line breaks a space."""
    if all(c in _KNOWN for c in text):
        return text
    drawn = []
    for c in unicodedata.normalize("NFC", text):
        stripped = _INSTEAD.get(c) or unicodedata.normalize("NFKD", c)
        kept = "".join(k for k in stripped if k in _KNOWN)
        drawn.append(c if c in _KNOWN else " " if c.isspace() else kept or "?")
    return "".join(drawn)


def line_height(size: int) -> int:
    """Height in pixels of a line of text in a font size."""
    ascent, descent = _font(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """Width in pixels of a line of text in a font size."""
    return int(np.ceil(_font(size).getlength(plain(text))))


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
    return f"{text[:head]}…{text[len(text) - (kept - head) :]}"


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
    picture = Image.new("L", (max(text_width(text, size), 1), line_height(size)), 255)
    ImageDraw.Draw(picture).text((0, 0), plain(text), fill=ink, font=_font(size))
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
