"""Where in its picture a map is high: laid over it, cut out of it, drawn around, or cropped to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import FmxError, near_matches
from fmx.render.overlay import overlay, rgb_of, warmth_of

__all__ = ["STYLES", "fitted", "region_box", "region_picture"]

STYLES = ("heat", "mask", "contour", "crop")
# What lies outside a mask keeps so much of its brightness.
_DIMMED = 0.2
# A region by itself is often too small to tell what it is of.
_AROUND = 8
_LINE, _EDGE = np.array([255, 225, 0], np.uint8), np.array([0, 0, 0], np.uint8)


def region_picture(
    picture: NDArray[np.uint8],
    heat: NDArray[Any],
    *,
    style: str = "heat",
    alpha: float = 0.6,
    threshold: float | None = None,
    cmap: str = "inferno",
    low: float | None = None,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """Show in a picture where a map is high.

    Parameters
    ----------
    picture : ndarray of uint8
        (y, x[, band]), as for `overlay`.
    heat : ndarray
        (y', x') at any resolution.
    style : {"heat", "mask", "contour", "crop"}
        ``heat``: colours laid over the picture. ``mask``: the picture, dark where the map is below the threshold.
        ``contour``: lines around what is at or above it. ``crop``: the box around the region of the highest point
        with an eighth of the picture on each side, enlarged to the size of the picture as far as its sides allow.
    alpha : float
        Opacity of colours, or of what the mask takes away, 0 to 1.
    threshold : float, optional
        Share of the range of values, 0 to 1: 0 for colours, 0.5 for regions where left out.
    cmap : str
        Name of a matplotlib colormap, for ``heat``.
    low, high : float, optional
        Fixed ends of the range of values.

    Returns
    -------
    ndarray of uint8
        RGB, (y, x, 3).

    Raises
    ------
    FmxError
        There is no such style, or as `overlay` says.
    """
    if style not in STYLES:
        raise FmxError(f"No overlay is called {style}: {near_matches(style, STYLES)}")
    limit = (0.0 if style == "heat" else 0.5) if threshold is None else threshold
    if style == "heat":
        return overlay(picture, heat, alpha=alpha, cmap=cmap, threshold=limit, low=low, high=high)
    for name, share in (("alpha", alpha), ("threshold", limit)):
        if not 0 <= share <= 1:
            raise FmxError(f"The {name} of an overlay lies between 0 and 1, not at {share}.")
    shown = rgb_of(picture)
    warmth = warmth_of(heat, (shown.shape[1], shown.shape[0]), low, high)
    # Where the map is of one value there is no region.
    inside = (warmth >= limit) & (warmth.max() > 0)
    if style == "mask":
        kept = 1 - alpha * (1 - _DIMMED)
        return np.where(inside[:, :, None], shown, np.round(shown * kept).astype(np.uint8))
    if style == "contour":
        return _outlined(shown, inside)
    top, bottom, left, right = region_box(inside, warmth)
    down, along = shown.shape[0] // _AROUND, shown.shape[1] // _AROUND
    return fitted(shown[max(top - down, 0) : bottom + down, max(left - along, 0) : right + along], shown.shape[:2])


def region_box(inside: NDArray[np.bool_], warmth: NDArray[np.floating[Any]]) -> tuple[int, int, int, int]:
    """Find the box (top, bottom, left, right) around the connected region of the highest point; all where is none."""
    from scipy.ndimage import find_objects, label

    if not inside.any():
        return 0, inside.shape[0], 0, inside.shape[1]
    numbered, _ = label(inside, np.ones((3, 3)))
    highest = np.unravel_index(np.argmax(np.where(inside, warmth, -1)), warmth.shape)
    rows, columns = find_objects((numbered == numbered[highest]).astype(np.int8))[0]
    return rows.start, rows.stop, columns.start, columns.stop


def _outlined(shown: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw a bright line just inside the border of a region and a dark one around it, seen on any picture."""
    from scipy.ndimage import binary_dilation, binary_erosion

    thick = max(round(min(shown.shape[:2]) / 150), 1)
    drawn = shown.copy()
    inner = inside & ~binary_erosion(inside, iterations=thick, border_value=1)
    outer = ~inside & binary_dilation(inside, iterations=thick)
    drawn[inner], drawn[outer] = _LINE, _EDGE
    return drawn


def fitted(part: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Enlarge a part of a picture as far as it fits a size, in the middle of white."""
    factor = min(size[0] / part.shape[0], size[1] / part.shape[1])
    height, width = (max(round(n * factor), 1) for n in part.shape[:2])
    enlarged = np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((width, height), Image.Resampling.BICUBIC))
    canvas = np.full((*size, 3), 255, dtype=np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = enlarged
    return canvas
