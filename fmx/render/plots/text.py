"""Text on plots: measured, shortened in its middle, wrapped, and of letters that the font has."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import xarray as xr
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg

from fmx.render.fonts import dejavu_file, drawable, font_with, letters_of
from fmx.render.plots.style import MM, SMALL, families, use_font

__all__ = ["definitions", "line_height", "plain", "short", "short_names", "text_width", "wrapped"]

_DPI = 200.0


@lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Take a text literally: dollars mean no formula; what no font can draw: see `fmx.render.fonts.drawable`."""
    kept = drawable(text)
    for c in set(kept) - letters_of(dejavu_file()):
        use_font(str(font_with(c)))
    found = kept.replace("$", r"\$")
    if any(unicodedata.bidirectional(c) in {"R", "AL"} for c in found):
        # Else a name that begins with such letters would run from right to left as a whole.
        found = f"\u200e{found}"
    # A legend leaves out what begins with an underscore.
    return f"\u200b{found}" if found.startswith("_") else found


@cache
def _renderer() -> Any:
    make: Any = RendererAgg
    return make(1, 1, _DPI)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Measure a line of text in mm."""
    # First, as it finds out which fonts it takes.
    literal = plain(text).replace(r"\$", "$")
    font = font_manager.FontProperties(family=families(), size=size, weight=weight)
    width, _, _ = _renderer().get_text_width_height_descent(literal, font, False)
    return float(width) / _DPI / MM


def line_height(size: float) -> float:
    """Height of a line in mm, with the gap to the next."""
    return size * 1.3 / 72 / MM


@lru_cache(maxsize=4096)
def short(text: str, width: float, size: float = 7.0, head: float = 0.5, weight: str = "normal") -> str:
    """Shorten a text in its middle until it fits a width in mm; `head` is the share of what is kept at its start."""
    if text_width(text, size, weight) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and text_width(_without_middle(text, kept, head), size, weight) > width:
        kept -= 1
    return _without_middle(text, kept, head)


def _without_middle(text: str, kept: int, head: float) -> str:
    first = max(round(kept * head), 1)
    return f"{text[:first]}…{text[len(text) - (kept - first) :]}"


@lru_cache(maxsize=4096)
def _by_segments(name: str, width: float, size: float) -> str:
    """Shorten a dotted name so that as many of its last segments as possible stay whole."""
    if text_width(name, size) <= width:
        return name
    starts = [i + 1 for i, c in enumerate(name) if c == "." and i > 1]
    tails = [name[i:] for i in starts if text_width(f"{name[0]}…{name[i:]}", size) <= width]
    if not tails:
        return short(name, width, size)
    first = 1
    while text_width(f"{name[: first + 1]}…{tails[0]}", size) <= width:
        first += 1
    return f"{name[:first]}…{tails[0]}"


def short_names(names: Sequence[str], width: float, size: float = 7.0) -> list[str]:
    """Shorten names so that they stay apart, if that can be: layers often differ in their ends only."""
    ways = [[_by_segments(name, width, size) for name in names]]
    ways += [[short(name, width, size, head) for name in names] for head in (0.5, 0.25, 0.0)]
    if max(len(set(found)) for found in ways) < len(set(names)):
        ways.append([short(_from_difference(name, names), width, size, head=1.0) for name in names])
    return max(ways, key=lambda found: len(set(found)))


def _from_difference(name: str, names: Sequence[str]) -> str:
    """Leave out the beginning of a name that others have as well, up to the last segment that is the same."""
    alike = 0
    for other in names:
        while other != name and name[: alike + 1] == other[: alike + 1]:
            alike += 1
    start = max(name.rfind(".", 0, alike), name.rfind("/", 0, alike)) + 1
    return f"…{name[start:]}" if start else name


def wrapped(
    pieces: Sequence[str], width: float, size: float = SMALL, separator: str = " · ", weight: str = "normal"
) -> list[str]:
    """Lay pieces of text out in lines of a width in mm: breaks between words, a separator between pieces."""
    words: list[str] = []
    for i, piece in enumerate(piece for piece in pieces if piece):
        own = piece.split()
        if i:
            words[-1] += separator.rstrip()
        words += own or [""]
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(short(word, width, size, weight=weight))
    return lines


def definitions(dataset: xr.Dataset, names: Mapping[str, str] | Sequence[str]) -> list[str]:
    """Give what variables are, ``name: definition``, as far as the dataset says.

    Parameters
    ----------
    dataset : xarray.Dataset
    names : sequence of str, or mapping of str to str
        The variables, and what they are called in the plot.
    """
    called: Mapping[str, Any] = names if isinstance(names, Mapping) else {name: name for name in names}
    found: dict[str, list[str]] = {}
    for name, title in called.items():
        text = str(dataset[name].attrs.get("definition", "")) if name in dataset else ""
        if text:
            found.setdefault(text, []).append(title)
    return [f"{', '.join(titles)}: {text}" for text, titles in found.items()]
