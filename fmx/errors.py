"""The errors that fmx raises for a mistake of its user: one sentence that says what was wrong and what to do.

The command line prints the sentence and ends with exit code 2; anything else that escapes is a fault of fmx.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ["DataError", "FmxError", "LayerError", "ModelError", "StoreError", "near_files", "near_matches"]


class FmxError(Exception):
    """A mistake in what fmx was asked to do, with a sentence for the person who asked."""


class ModelError(FmxError):
    """A model that can't be opened or doesn't run on the given input."""


class LayerError(FmxError):
    """A layer selection that matches nothing."""


class DataError(FmxError):
    """Pictures or arrays that can't be read or don't fit the model."""


class StoreError(FmxError):
    """A store that is missing, damaged, already there or made with other settings."""


def near_files(path: Path) -> str:
    """Say which files come near a path that is not there, as the end of an error sentence."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} is not there either."
    return near_matches(path.name, sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(".")))


def near_matches(wanted: str, existing: Iterable[str], *, most: int = 4) -> str:
    """Say which of the existing names come near a wanted one, as the end of an error sentence.

    Returns
    -------
    str
        ``"did you mean …?"`` when something comes near, else the first few names that exist.
    """
    names = list(existing)
    near = get_close_matches(wanted, names, n=most, cutoff=0.6)
    near += [n for n in names if n not in near and (n.endswith(wanted) or n.startswith(wanted))]
    if near:
        return f"did you mean {', '.join(near[:most])}?"
    if not names:
        return "there are none."
    rest = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{rest}."
