"""Sinks: what writes frames to disk."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from fmx.errors import FmxError
from fmx.render.frame import Frame

__all__ = ["save_png"]


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
    # Opened here rather than by tempfile, whose files only their owner may read.
    unfinished = target.with_name(f".{uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(encoded)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FmxError(f"{target} can't be written: {error.strerror or error}.") from error
    return target
