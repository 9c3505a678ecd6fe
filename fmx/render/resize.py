"""Maps at another size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import FmxError, near_matches

__all__ = ["INTERPOLATIONS", "check_interpolation", "nearest", "resized"]

_METHODS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
INTERPOLATIONS = ("nearest", *_METHODS)


def check_interpolation(name: str) -> None:
    """See that there is such an interpolation.

    Raises
    ------
    FmxError
    """
    if name not in INTERPOLATIONS:
        raise FmxError(
            f"No interpolation is called {name}: {near_matches(name, INTERPOLATIONS, most=len(INTERPOLATIONS))}"
        )


def resized(maps: NDArray[Any], size: tuple[int, int], interpolation: str = "nearest") -> NDArray[Any]:
    """Bring maps to a height and a width.

    Parameters
    ----------
    maps : ndarray
        Real numbers, (…, y, x).
    size : tuple of int
        Height and width.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        ``nearest`` keeps the type and the very values; the others give float32, and fill the space between the centres
        of the pixels as Pillow does, with wider filters where the map gets smaller.

    Returns
    -------
    ndarray
        (…, *size)
    """
    check_interpolation(interpolation)
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if interpolation == "nearest":
        return nearest(maps, size)
    height, width = size
    flat = np.ascontiguousarray(maps, dtype=np.float32).reshape(-1, *maps.shape[-2:])
    done = np.empty((len(flat), height, width), np.float32)
    for one, map_ in zip(done, flat, strict=True):
        one[...] = np.asarray(Image.fromarray(map_).resize((width, height), _METHODS[interpolation]))
    return done.reshape(*maps.shape[:-2], height, width)


def nearest(maps: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Take for each pixel of a new size the one whose area its centre lies in, (…, y, x)."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, maps.shape[-2:], strict=True)
    )
    return np.asarray(maps.take(rows, axis=-2).take(columns, axis=-1))
