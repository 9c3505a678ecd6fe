"""Sinks: what writes frames to disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fmx.errors import FmxError
from fmx.render.frame import Frame

__all__ = [
    "DESCRIPTION",
    "is_tiff",
    "is_unfinished",
    "save_frame",
    "save_png",
    "unfinished_name",
    "whole_file",
    "write_tiff",
]

# The tag ImageDescription, which holds the labels of a TIFF as JSON.
DESCRIPTION = 270


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
    """Write a frame in the format that the end of the name says, ``.png`` or ``.tif``; see `save_png`.

    A TIFF holds the labels as JSON in its tag ImageDescription.
    """
    target = Path(path)
    if is_tiff(target):
        return write_tiff(frame.image(), target, frame.labels)
    if target.suffix.lower() != ".png":
        raise FmxError(f"{target} doesn't end in .png or .tif: these are the formats written here.")
    return save_png(frame, target)


def is_tiff(path: Path) -> bool:
    """Tell whether a name says that a file is TIFF."""
    return path.suffix.lower() in {".tif", ".tiff"}


def write_tiff(picture: Image.Image, path: Path, labels: Mapping[str, str]) -> Path:
    """Write a picture as TIFF with its labels, whole or not at all."""
    tags = ImageFileDirectory_v2()
    # Text of a TIFF is ASCII, which JSON can do.
    tags[DESCRIPTION] = json.dumps(dict(labels))
    stream = BytesIO()
    picture.save(stream, format="tiff", compression="tiff_adobe_deflate", tiffinfo=tags)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(stream.getvalue())
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden file beside another, and let it take the other's name if all goes well.

    Raises
    ------
    FmxError
        The file can't be written there.
    """
    # Opened by its name rather than by tempfile, whose files only their owner may read.
    unfinished = unfinished_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FmxError(f"{path} can't be written: {error.strerror or error}.") from error


def unfinished_name(path: Path) -> Path:
    """Give the hidden file beside another that is written in its place."""
    return path.with_name(f".{uuid4().hex}.tmp")


def is_unfinished(path: Path) -> bool:
    """Tell whether a file is one that a process which was killed did not finish."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.name) is not None
