"""Writing figures as PNG, SVG or PDF."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from fmx.errors import FmxError
from fmx.render.plots.style import encoded
from fmx.render.sinks import whole_file

__all__ = ["FORMATS", "check_format", "save_figure"]

FORMATS = ("png", "svg", "pdf")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG (200 dots an inch), SVG with its text as text, or PDF: whole or not at all.

    The same figure gives the same bytes: files hold no dates.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        The file, ending in ``.png``, ``.svg`` or ``.pdf``; missing folders are made, an existing file is replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FmxError
        The name has another ending, or the file can't be written there.
    """
    target = Path(path)
    form = check_format(target.suffix.lower().removeprefix("."))
    data = encoded(figure, form)
    with whole_file(target) as unfinished:
        unfinished.write_bytes(data)
    return target


def check_format(form: str) -> str:
    """Make sure that a format is one of `FORMATS`.

    Raises
    ------
    FmxError
        It is another.
    """
    if form not in FORMATS:
        raise FmxError(f"Plots are written as .png, .svg or .pdf, not {f'.{form}' if form else 'without an ending'}.")
    return form
