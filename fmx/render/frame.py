"""A frame: one picture together with what it shows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fmx.errors import FmxError

__all__ = ["Frame"]

# Feature maps hardly compress: a higher level costs time and saves next to nothing.
COMPRESS_LEVEL = 1
# In pixels: what fits into the column of a notebook.
NARROW = 640


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture with its labels; in a notebook it shows itself.

    Attributes
    ----------
    pixels : ndarray of uint8 or uint16
        Palette indices, or gray values where there is no palette, (y, x), or RGB (y, x, 3). In 16 bits gray values
        only.
    palette : ndarray of uint8, optional
        The RGB colour of each index, (256, 3).
    labels : mapping of str to str
        What the frame shows: ``layer``, ``sample``, ``noise``, ``page``, ….

    Raises
    ------
    FmxError
        The arrays have another type or shape, or RGB pixels come with a palette.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    palette: NDArray[np.uint8] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels, palette = self.pixels, self.palette
        small = pixels.dtype == np.uint8
        shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3 and small)
        if not (small or pixels.dtype == np.uint16) or not shaped or pixels.size == 0:
            raise FmxError(
                "A frame needs uint8 pixels (y, x) or (y, x, 3), or uint16 pixels (y, x), at least one: "
                f"these are {pixels.dtype} of shape {pixels.shape}."
            )
        if palette is None:
            return
        if pixels.ndim == 3 or not small:
            raise FmxError("Only a frame of uint8 indices (y, x) takes a palette: leave it out here.")
        if palette.dtype != np.uint8 or palette.shape != (256, 3):
            raise FmxError(
                f"A palette needs 256 RGB colours in uint8: this is {palette.dtype} of shape {palette.shape}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def rgb(self) -> NDArray[np.uint8]:
        """Give the colours of all pixels in 8 bits, (y, x, 3)."""
        pixels = self.pixels if self.pixels.dtype == np.uint8 else self.pixels >> 8
        small: NDArray[np.uint8] = pixels.astype(np.uint8, copy=False)
        if self.palette is not None:
            return self.palette[small]
        if small.ndim == 3:
            return small
        return np.repeat(small[:, :, None], 3, axis=2)

    def image(self) -> Image.Image:
        """Give the picture to Pillow: of mode P where there is a palette, else L, I;16 or RGB."""
        picture = Image.fromarray(np.ascontiguousarray(self.pixels))
        if self.palette is not None:
            picture.putpalette(self.palette.tobytes())
        return picture

    def png(self) -> bytes:
        """Encode as PNG: indexed where there is a palette, with the labels as text chunks."""
        picture = self.image()
        info = PngInfo()
        for key, value in self.labels.items():
            info.add_text(key, value.replace("\0", ""))
        stream = BytesIO()
        picture.save(stream, format="png", compress_level=COMPRESS_LEVEL, pnginfo=info)
        return stream.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str:
        labels = {key: escape(value) for key, value in self.labels.items()}
        said = " · ".join(f"{key} <b>{value}</b>" for key, value in labels.items())
        spoken = ", ".join(f"{key} {value}" for key, value in labels.items())
        source = f"data:image/png;base64,{b64encode(self.png()).decode()}"
        style = "max-width:100%;height:auto"
        # What is wider may have to be shrunk, and its text with it.
        style += ";image-rendering:pixelated" if self.size[0] <= NARROW else ""
        return (
            f'<figure style="margin:0"><img style="{style}" alt="{spoken}" src="{source}">'
            f'<figcaption style="font-size:85%">{said}</figcaption></figure>'
        )
