"""What each kind of perturbation does to one picture or to one sample's numbers.

Functions take pixels, uint8 (y, x, band), the level, and a function that gives the sample's own random generator; they
give float32 (y, x, band) with black at 0 and white at 1. Those on numbers take and give (…native).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "blur",
    "brightness",
    "contrast",
    "gaussian_numbers",
    "gaussian_picture",
    "jpeg",
    "patch",
    "salt_numbers",
    "salt_picture",
    "unit_range",
]

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]
Draw = Callable[[], np.random.Generator]

_GREY = np.float32(0.5)


def unit_range(pixels: Pixels) -> Values:
    """Bring pixels to 0 (black) to 1 (white); a view of an array (band, y, x)."""
    bands = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)
    bands[...] = pixels.transpose(2, 0, 1)
    bands /= np.float32(255)
    return bands.transpose(1, 2, 0)


def gaussian_picture(pixels: Pixels, level: float, draw: Draw) -> Values:
    """Add normal noise of standard deviation `level`, not clipped."""
    y, x, bands = pixels.shape
    noise = draw().standard_normal((bands, y, x), dtype=np.float32)
    noise *= np.float32(level)
    noise += unit_range(pixels).transpose(2, 0, 1)
    return noise.transpose(1, 2, 0)


def gaussian_numbers(values: NDArray[Any], level: float, draw: Draw) -> Values:
    """Add normal noise of standard deviation `level`."""
    noise = draw().standard_normal(values.shape, dtype=np.float32)
    noise *= np.float32(level)
    noise += values.astype(np.float32, copy=False)
    return noise


def salt_picture(pixels: Pixels, level: float, draw: Draw) -> Values:
    """Turn a share of the pixels black or white, all bands of a pixel together."""
    low, high = _salt(pixels.shape[:2], level, draw)
    values = unit_range(pixels)
    values[low], values[high] = 0, 1
    return values


def salt_numbers(values: NDArray[Any], level: float, draw: Draw) -> Values:
    """Set a share of the values to the sample's lowest or highest."""
    low, high = _salt(values.shape, level, draw)
    changed = values.astype(np.float32)
    changed[low], changed[high] = values.min(), values.max()
    return changed


def _salt(shape: tuple[int, ...], level: float, draw: Draw) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    chance = draw().random(shape, dtype=np.float32)
    return chance < level / 2, (chance >= level / 2) & (chance < level)


def blur(pixels: Pixels, level: float, draw: Draw) -> Values:  # noqa: ARG001
    """Blur with a Gaussian kernel of sigma `level`, cut off at 4 sigma; beyond the border its pixels go on."""
    y, x, _ = pixels.shape
    bands = unit_range(pixels).transpose(2, 0, 1)
    blurred = _kernel(y, level) @ (bands @ _kernel(x, level).T)
    return blurred.transpose(1, 2, 0)


@lru_cache(maxsize=16)
def _kernel(length: int, sigma: float) -> Values:
    """Write the blur along an axis as a matrix (to, from)."""
    radius = math.ceil(4 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((length, length))
    to = np.arange(length)
    for offset, weight in zip(offsets, weights, strict=True):
        np.add.at(matrix, (to, np.clip(to + offset, 0, length - 1)), weight)
    return matrix.astype(np.float32)


def jpeg(pixels: Pixels, level: float, draw: Draw) -> Values:  # noqa: ARG001
    """Write the picture as JPEG of quality 100 − `level` (colour at half the resolution) and read it again."""
    colours = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(colours))
    image.save(file, "JPEG", quality=100 - int(level), subsampling="4:2:0")
    with Image.open(file) as image:
        read = np.asarray(image).reshape(*pixels.shape[:2], -1)
    # Transparency, the fourth band, is nothing that JPEG knows.
    return unit_range(np.concatenate([read, pixels[..., read.shape[2] :]], axis=2))


def brightness(pixels: Pixels, level: float, draw: Draw) -> Values:  # noqa: ARG001
    """Add a share of white, and clip at white."""
    values = unit_range(pixels)
    values += np.float32(level)
    return np.minimum(values, np.float32(1), out=values)


def contrast(pixels: Pixels, level: float, draw: Draw) -> Values:  # noqa: ARG001
    """Draw each band towards its mean over the picture: at level 1 nothing is left of it.

    As in Hendrycks & Dietterich 2019 (ImageNet-C), whose factor is 1 − `level`.
    """
    values = unit_range(pixels)
    mean = values.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    values -= mean
    values *= np.float32(1 - level)
    values += mean
    return values


def patch(pixels: Pixels, level: float, draw: Draw) -> Values:
    """Cover a square with mid-grey; where it lies is drawn, all places alike."""
    height, width, _ = pixels.shape
    side = round(level * min(height, width))
    random = draw()
    top, left = (int(random.integers(0, room + 1)) for room in (height - side, width - side))
    values = unit_range(pixels)
    values[top : top + side, left : left + side] = _GREY
    return values
