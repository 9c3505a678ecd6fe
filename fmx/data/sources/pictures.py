"""Picture files of every format that Pillow reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Self

from PIL import Image, UnidentifiedImageError

from fmx.data.sources.base import Source
from fmx.errors import DataError

__all__ = ["PictureSource", "picture_endings"]


class PictureSource(Source):
    """Picture files."""

    pictures = True

    def read(self, index: int) -> Image.Image:
        """Decode a picture in full."""
        path = self.samples[index].path
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "it is no picture" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{path} can't be read: {reason.rstrip('.') or 'it is damaged'}.") from None
        if image.mode == "F":
            raise DataError(
                f"{path} can't be read: its pixels are real numbers that don't say what is white; save it with 8 or 16 "
                "bits, or as .npy."
            )
        return image

    def subset(self, kept: Sequence[int]) -> Self:
        """Return the same source with some of its samples."""
        return type(self)([self.samples[i] for i in kept])


@cache
def picture_endings() -> frozenset[str]:
    """List the endings of files that Pillow reads as pictures by itself."""
    registered = Image.registered_extensions()
    # These are only recognised, or hold something else than one picture.
    others = {"HDF5", "GRIB", "BUFR", "MPEG", "WMF", "PDF"}
    return frozenset(ending for ending, kind in registered.items() if kind in Image.OPEN and kind not in others)
