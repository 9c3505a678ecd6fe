"""Where the pictures of a page go: into the page itself, or into files beside it."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.render import Frame
from fmx.render.grid import HAIRLINE
from fmx.render.palette import PAPER

__all__ = ["Album", "Picture"]

FOLDER = "pictures"
# Opacity of each index of a page's palette.
_CLEAR = bytes(0 if index in {PAPER, HAIRLINE} else 255 for index in range(256))


@dataclass(frozen=True)
class Picture:
    """A picture as a page refers to it: its address, and its size in pixels."""

    source: str
    width: int
    height: int


class Album:
    """Takes pictures, each distinct one once.

    Parameters
    ----------
    folder : path, optional
        Write files into ``pictures`` there; else pictures become part of the page.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.nbytes = 0
        self._there: dict[str, Picture] = {}

    def frame(self, frame: Frame, *, clear: bool = False) -> Picture:
        """Take a frame; with `clear` the paper between the maps of a page lets the page's colour through."""
        stream = BytesIO()
        more: dict[str, Any] = {"transparency": _CLEAR} if clear and frame.palette is not None else {}
        frame.image().save(stream, format="png", optimize=False, compress_level=6, **more)
        return self._put(stream.getvalue(), *frame.size)

    def photo(self, pixels: NDArray[np.uint8]) -> Picture:
        """Take an RGB picture (y, x, 3), in 256 colours of its own."""
        shown = Image.fromarray(np.ascontiguousarray(pixels)).quantize(256, method=Image.Quantize.FASTOCTREE)
        stream = BytesIO()
        shown.save(stream, format="png", compress_level=6)
        return self._put(stream.getvalue(), pixels.shape[1], pixels.shape[0])

    def _put(self, data: bytes, width: int, height: int) -> Picture:
        key = blake2b(data, digest_size=10).hexdigest()
        if key not in self._there:
            self._there[key] = Picture(self._kept(key, data), width, height)
        self.nbytes += len(data)
        return self._there[key]

    def _kept(self, key: str, data: bytes) -> str:
        if self.folder is None:
            return f"data:image/png;base64,{b64encode(data).decode()}"
        place = self.folder / FOLDER / f"{key}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return f"{FOLDER}/{key}.png"
