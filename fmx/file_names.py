"""What files are called after layers, samples and other labels: the same names wherever something is written."""

from __future__ import annotations

import re
from hashlib import sha256

__all__ = ["file_name", "unused_name"]

# Most file systems take 255 bytes; names get a suffix, and a hidden twin while they are written.
_LONGEST = 180


def file_name(*parts: str) -> str:
    """Join labels by ``_``; anything but letters, digits, dots, dashes and plus becomes a dash, long names are cut."""
    name = "_".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts).lstrip(".")
    if len(name.encode()) <= _LONGEST:
        return name
    kept = name.encode()[: _LONGEST - 9].decode(errors="ignore")
    return f"{kept}-{sha256(name.encode()).hexdigest()[:8]}"


def unused_name(taken: set[str], stem: str, suffix: str = "") -> str:
    """Give the first of ``stem``, ``stem-2``, … with a suffix that is not taken yet, and take it.

    Parameters
    ----------
    taken : set of str
        In lower case: some file systems take upper and lower case for the same.
    stem, suffix : str
    """
    names = (f"{stem}{suffix}" if i == 1 else f"{stem}-{i}{suffix}" for i in range(1, len(taken) + 2))
    found = next(name for name in names if name.lower() not in taken)
    taken.add(found.lower())
    return found
