"""A frame: one picture together with what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fmx.errors import FmxError

__all__ = ["Frame"]

# Feature maps hardly compress: a higher level costs time and saves next to nothing.
COMPRESS_LEVEL = 1


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture with its labels; in a notebook it shows itself.

    Attributes
    ----------
    pixels : ndarray of uint8
        Palette indices, or gray values where there is no palette, (y, x), or RGB (y, x, 3).
    palette : ndarray of uint8, optional
        The RGB colour of each index, (256, 3).
    labels : mapping of str to str
        What the frame shows: ``layer``, ``sample``, ``noise``, ``page``, ….

    Raises
    ------
    FmxError
        The arrays have another type or shape, or RGB pixels come with a palette.
    """

    pixels: NDArray[np.uint8]
    palette: NDArray[np.uint8] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels, palette = self.pixels, self.palette
        shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if pixels.dtype != np.uint8 or not shaped or pixels.size == 0:
            raise FmxError(
                "A frame needs uint8 pixels (y, x) or (y, x, 3), at least one: "
                f"these are {pixels.dtype} of shape {pixels.shape}."
            )
        if palette is None:
            return
        if pixels.ndim == 3:
            raise FmxError("A frame of RGB pixels takes no palette: give indices (y, x), or no palette.")
        if palette.dtype != np.uint8 or palette.shape != (256, 3):
            raise FmxError(
                f"A palette needs 256 RGB colours in uint8: this is {palette.dtype} of shape {palette.shape}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def rgb(self) -> NDArray[np.uint8]:
        """Give the colours of all pixels, (y, x, 3)."""
        if self.palette is not None:
            return self.palette[self.pixels]
        if self.pixels.ndim == 3:
            return self.pixels
        return np.repeat(self.pixels[:, :, None], 3, axis=2)

    def png(self) -> bytes:
        """Encode as PNG: indexed where there is a palette, with the labels as text chunks."""
        picture = Image.fromarray(np.ascontiguousarray(self.pixels))
        if self.palette is not None:
            picture.putpalette(self.palette.tobytes())
        info = PngInfo()
        for key, value in self.labels.items():
            info.add_text(key, value.replace("\0", ""))
        stream = BytesIO()
        picture.save(stream, format="png", compress_level=COMPRESS_LEVEL, pnginfo=info)
        return stream.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()
