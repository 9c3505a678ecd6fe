"""Letters and the fonts that have them: DejaVu Sans, what else comes with Matplotlib, and what is installed."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from pathlib import Path

__all__ = ["DEJAVU", "dejavu_file", "drawable", "font_with", "font_with_all", "letters_of"]

DEJAVU = "DejaVu Sans"
# Its glyphs say of which script a letter is, and nothing more.
_LAST_RESORT = "lastresort"
_ODD = ("bold", "italic", "oblique", "mono", "light", "thin", "black", "condensed", "sym", "cmex", "cmsy", "cmmi")
_UNSEEN = "Cf"


def drawable(text: str) -> str:
    """Give a text in letters that some font has: others become their letter without accents, or their code in brackets.

    Line breaks and tabs become spaces; signs that are not to be seen, such as joiners, are left out.
    """
    drawn = []
    for c in unicodedata.normalize("NFC", text):
        if c.isspace():
            drawn.append(" ")
        elif c in letters_of(dejavu_file()) or font_with(c) is not None:
            drawn.append(c)
        elif unicodedata.category(c) != _UNSEEN:
            simpler = [k for k in unicodedata.normalize("NFKD", c) if k in letters_of(dejavu_file())]
            drawn.append("".join(simpler) or f"[{ord(c):04X}]")
    return "".join(drawn)


@cache
def dejavu_file() -> str:
    """Give the path of DejaVu Sans, which comes with Matplotlib."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@lru_cache(maxsize=4096)
def font_with(letter: str) -> str | None:
    """Give the path of the first font, plain ones before bold and slanted ones, that has a letter; None without any."""
    if unicodedata.category(letter)[0] == "C":
        return None
    return next((file for file in _font_files() if letter in letters_of(file)), None)


@lru_cache(maxsize=4096)
def font_with_all(text: str) -> str | None:
    """Give the path of the first font, DejaVu Sans before others, that has all letters of a text; None without any."""
    wanted = {c for c in text if unicodedata.category(c) != _UNSEEN}
    return next((file for file in (dejavu_file(), *_font_files()) if wanted <= letters_of(file)), None)


@cache
def letters_of(file: str) -> frozenset[str]:
    """List the letters that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(chr(code) for code in FT2Font(file).get_charmap() if code >= 32)
    except (OSError, RuntimeError, ValueError):
        # One broken font of a system is none of ours.
        return frozenset()


@cache
def _font_files() -> tuple[str, ...]:
    from matplotlib import font_manager

    own = Path(dejavu_file()).parent
    there = [*map(str, own.glob("*.ttf")), *font_manager.findSystemFonts()]
    kept = {file for file in there if _LAST_RESORT not in Path(file).name.lower()}
    return tuple(sorted(kept, key=lambda file: (_oddness(file), Path(file).parent != own, file)))


def _oddness(file: str) -> tuple[int, bool]:
    name = Path(file).name.lower()
    return sum(word in name for word in _ODD), "sans" not in name
