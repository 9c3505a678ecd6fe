"""Sinks: what writes frames to disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from fmx.errors import FmxError
from fmx.render.frame import Frame

__all__ = ["save_frame", "save_png", "whole_file"]


def save_png(frame: Frame, path: str | os.PathLike[str]) -> Path:
    """Write a frame as a PNG file, whole or not at all.

    Parameters
    ----------
    frame : Frame
        What to write; its labels become text chunks of the file.
    path : path
        The file, ending in ``.png``; missing folders are made, an existing file is replaced.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FmxError
        The name doesn't end in ``.png``, or the file can't be written there.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise FmxError(f"{target} doesn't end in .png: that is the format written here.")
    encoded = frame.png()
    with whole_file(target) as unfinished:
        unfinished.write_bytes(encoded)
    return target


def save_frame(frame: Frame, path: str | os.PathLike[str]) -> Path:
    """Write a frame in the format that the end of the name says; see `save_png`."""
    return save_png(frame, path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden file beside another, and let it take the other's name if all goes well.

    Raises
    ------
    FmxError
        The file can't be written there.
    """
    # Opened by its name rather than by tempfile, whose files only their owner may read.
    unfinished = path.with_name(f".{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FmxError(f"{path} can't be written: {error.strerror or error}.") from error
