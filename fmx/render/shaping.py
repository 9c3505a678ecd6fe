"""Scripts whose letters take their forms, order and places from their neighbours: Arabic, Hebrew, those of India, …."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from itertools import groupby

from fmx.render.fonts import font_with_all

__all__ = ["Run", "can_shape", "shaped_runs"]

# A text, the file of its font, and where it is to be shaped its direction: "ltr" or "rtl".
Run = tuple[str, str, str]

# Of scripts from Devanagari to Myanmar, from Khmer to Tai Tham, and what was added to them.
_SHAPED = ((0x0900, 0x10A0), (0x1780, 0x1AB0), (0x1B00, 0x1C50), (0xA800, 0xAAE0), (0x11000, 0x12000))
_JOINERS = "\u200c\u200d"


@cache
def can_shape() -> bool:
    """Whether Pillow has Raqm, which its wheels bring, and FriBiDi, which they look for in the system."""
    from PIL import features

    return bool(features.check("raqm"))


@lru_cache(maxsize=4096)
def shaped_runs(text: str) -> tuple[Run, ...]:
    """Part a line, which as a whole runs from left to right, into what is shaped together and the rest.

    Letters that are written from right to left make one run with the spaces, signs and numbers between them, and with
    numbers that follow, as in Unicode's bidirectional algorithm; but facts, which a ``·`` parts, stay in their order.
    What no single font has all letters of is not shaped.

    Returns
    -------
    tuple of (str, str, str)
        Text, font file and direction; both are empty where text is not shaped.
    """
    if not can_shape():
        return ((text, "", ""),)
    parts = groupby(_directed(text), key=lambda letter: letter[1])
    found: list[Run] = []
    for way, letters in parts:
        part = "".join(letter for letter, _ in letters)
        file = font_with_all(part) if way else None
        found.append((part, file, way) if file else (part, "", ""))
    return tuple(found)


def _directed(text: str) -> list[tuple[str, str]]:
    """Say of each letter which way it is to be shaped."""
    ways = [_way(c) for c in text]
    # Marks go with the letter that they stand on.
    for i, c in enumerate(text):
        if i and (unicodedata.category(c)[0] == "M" or c in _JOINERS):
            ways[i] = ways[i - 1] = ways[i - 1] or "ltr"
    last = -1
    for i, c in enumerate(text):
        if ways[i] == "rtl":
            ways[last + 1 : i] = ["rtl"] * (i - last - 1) if last >= 0 else ways[last + 1 : i]
            last = i
        elif last >= 0 and unicodedata.bidirectional(c) in {"EN", "AN"}:
            ways[last + 1 : i + 1] = ["rtl"] * (i - last)
            last = i
        elif c == "·" or unicodedata.bidirectional(c) == "L":
            last = -1
    return list(zip(text, ways, strict=True))


def _way(letter: str) -> str:
    if unicodedata.bidirectional(letter) in {"R", "AL", "AN"}:
        return "rtl"
    return "ltr" if any(low <= ord(letter) < high for low, high in _SHAPED) else ""
