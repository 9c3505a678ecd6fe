"""Text on pictures: measuring, shortening, wrapping, drawing.

The font is the one that comes with Pillow. It has the letters of English; a line with others is drawn in DejaVu Sans,
which comes with Matplotlib and also has those of most of Europe and the Near East.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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
_KNOWN = frozenset({*map(chr, range(32, 127)), *"©«°±´·»‘’“”…‹›™"})
_INSTEAD = {"–": "-", "—": "-", "−": "-", "×": "x", "µ": "u"}


@lru_cache(maxsize=64)
def _font(size: int, wide: bool = False) -> ImageFont.FreeTypeFont:
    if wide:
        # The basic layout is the same everywhere; the other one depends on a library of the system.
        return ImageFont.truetype(_wide_font(), size, layout_engine=ImageFont.Layout.BASIC)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


@cache
def _wide_font() -> str:
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _wide_letters() -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(chr(code) for code in FT2Font(_wide_font()).get_charmap() if code >= 32)


def _is_wide(plain_text: str) -> bool:
    return not _KNOWN.issuperset(plain_text)


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Replace what no font can draw by its letter without accents, or by ``?``, and line breaks by a space."""
    text = unicodedata.normalize("NFC", "".join(_INSTEAD.get(c, " " if c.isspace() else c) for c in text))
    if _KNOWN.issuperset(text):
        return text
    letters = _KNOWN | _wide_letters()
    drawn = []
    for c in text:
        kept = c if c in letters else "".join(k for k in unicodedata.normalize("NFKD", c) if k in letters)
        drawn.append(kept or "?")
    return "".join(drawn)


def line_height(size: int) -> int:
    """Height in pixels of a line of text in a font size."""
    ascent, descent = _font(size).getmetrics()
    return ascent + descent


@lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """Width in pixels of a line of text in a font size."""
    text = plain(text)
    return int(np.ceil(_font(size, _is_wide(text)).getlength(text)))


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
    text = plain(text)
    picture = Image.new("L", (max(text_width(text, size), 1), line_height(size)), 255)
    ImageDraw.Draw(picture).text((0, 0), text, fill=ink, font=_font(size, _is_wide(text)))
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
