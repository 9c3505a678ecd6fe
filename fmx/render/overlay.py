"""Heat maps over the picture that they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import FmxError
from fmx.render.normalise import shares, value_ranges
from fmx.render.palette import colours

__all__ = ["ends_of", "enlarged", "overlay", "rgb_of", "said_values", "warmth_of"]

ENLARGED_BELOW = 160


def overlay(
    picture: NDArray[np.uint8],
    heat: NDArray[Any],
    *,
    alpha: float = 0.6,
    cmap: str = "inferno",
    threshold: float = 0.0,
    low: float | None = None,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Blend a heat map into its picture: the hotter, the more of the colour and the less of the picture.

    Parameters
    ----------
    picture : ndarray of uint8
        The picture, (y, x, band) with 1 (gray), 3 (RGB) or 4 bands (the last is left out), or (y, x).
    heat : ndarray
        The map, (y', x') at any resolution: brought to the picture's by bilinear interpolation between
        the centres of its pixels. NaN counts as the lowest value, an infinity as the end on its side.
    alpha : float
        Opacity of the hottest point, 0 to 1; the others have their share of it.
    cmap : str
        Name of a matplotlib colormap.
    threshold : float
        Share of the range, 0 to 1, below which nothing is laid over.
    low, high : float, optional
        Fixed ends of the range in place of the map's minimum and maximum.

    Returns
    -------
    ndarray of uint8
        RGB, (y, x, 3).

    Raises
    ------
    FmxError
        An array has other axes or another type, alpha or threshold lie outside 0 to 1, or the
        colormap is unknown.
    """
    shown = rgb_of(picture)
    for name, share in (("alpha", alpha), ("threshold", threshold)):
        if not 0 <= share <= 1:
            raise FmxError(f"The {name} of an overlay lies between 0 and 1, not at {share}.")
    warmth = warmth_of(heat, (shown.shape[1], shown.shape[0]), low, high)
    table = colours(cmap).astype(np.float32)
    colour = table[np.round(warmth * 255).astype(np.uint8)]
    opacity = np.where(warmth >= threshold, warmth * np.float32(alpha), np.float32(0))[:, :, None]
    blended: NDArray[np.float32] = shown + opacity * (colour - shown)
    return np.round(blended).astype(np.uint8)


def enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a picture to colours and, if it is small, to a size that one can see, by whole pixels."""
    shown = rgb_of(picture)
    factor = -(-ENLARGED_BELOW // max(shown.shape[:2]))
    return shown.repeat(factor, axis=0).repeat(factor, axis=1)


def rgb_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give the colours of a picture (y, x[, band]) with 1, 3 or 4 bands, (y, x, 3)."""
    picture = np.asarray(picture)
    bands = 1 if picture.ndim == 2 else picture.shape[-1]
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or bands not in (1, 3, 4) or not picture.size:
        raise FmxError(
            "A picture to lay heat over is uint8 (y, x, band) with 1, 3 or 4 bands: "
            f"this is {picture.dtype} of shape {picture.shape}."
        )
    if bands == 1:
        return np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
    return picture[:, :, :3]


def ends_of(heat: NDArray[Any], low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """Find the ends of the range of values of a map (y, x), where they aren't fixed."""
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.size == 0 or heat.dtype.kind not in "fiub":
        raise FmxError(f"A heat map is an array (y, x) of real numbers: this is {heat.dtype}, {heat.shape}.")
    found = value_ranges(heat[None], "filter", low, high)
    return float(found.low[0]), float(found.high[0])


def said_values(heat: NDArray[Any]) -> str:
    """Say that a map has nothing to show, for the title of its panel."""
    return "" if np.isfinite(heat).any() else "no finite value"


def warmth_of(heat: NDArray[Any], size: tuple[int, int], low: float | None, high: float | None) -> NDArray[np.float32]:
    """Give the share of the range, 0 to 1, at each pixel of a picture of some width and height."""
    ends = ends_of(heat, low, high)
    share = shares(np.asarray(heat)[None], np.array(ends[:1]), np.array(ends[1:]))[0]
    small = Image.fromarray(np.ascontiguousarray(share, dtype=np.float32))
    large = np.asarray(small.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.clip(large, 0, 1)
