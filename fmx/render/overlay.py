"""Heat maps over the picture that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.normalise import shares, value_ranges
from fmx.render.palette import colours
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import number

__all__ = ["overlay", "overlay_figure"]

Heat = tuple[str, NDArray[Any], tuple[float, float] | None]

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
    shown = _rgb(picture)
    for name, share in (("alpha", alpha), ("threshold", threshold)):
        if not 0 <= share <= 1:
            raise FmxError(f"The {name} of an overlay lies between 0 and 1, not at {share}.")
    warmth = _warmth(heat, (shown.shape[1], shown.shape[0]), low, high)
    table = colours(cmap).astype(np.float32)
    colour = table[np.round(warmth * 255).astype(np.uint8)]
    opacity = np.where(warmth >= threshold, warmth * np.float32(alpha), np.float32(0))[:, :, None]
    blended: NDArray[np.float32] = shown + opacity * (colour - shown)
    return np.round(blended).astype(np.uint8)


def overlay_figure(
    picture: NDArray[np.uint8],
    heats: Sequence[Heat],
    *,
    sample: str,
    noise: float = 0.0,
    timestep: int | None = None,
    alpha: float = 0.6,
    cmap: str = "inferno",
    threshold: float = 0.0,
) -> Frame:
    """Show a picture and beside it what several maps find in it.

    Parameters
    ----------
    picture : ndarray of uint8
        As in `overlay`; a small one is enlarged by whole pixels.
    heats : sequence of (str, ndarray, (float, float) or None)
        Title, map (y', x') and range of values of each overlay; the map's own range where it is None.
    sample, noise, timestep
        Where the picture comes from: written into the caption and the labels. No timestep for None.
    alpha, cmap, threshold
        As in `overlay`.

    Returns
    -------
    Frame
        RGB, (y, x, 3): the panels in one row, in several from seven panels on; titles above, bars of the
        colormap with the ends of the range below. Labels ``sample``, ``noise``, ``timestep``, ``panels``.

    Raises
    ------
    FmxError
        As in `overlay`, or there are no heat maps.
    """
    if not heats:
        raise FmxError("An overlay figure needs at least one heat map.")
    shown = _rgb(picture)
    factor = -(-ENLARGED_BELOW // max(shown.shape[:2]))
    large = shown.repeat(factor, axis=0).repeat(factor, axis=1)
    panels = [Panel("clean input" if noise else "input", large)]
    for title, heat, fixed in heats:
        low, high = _ends(heat, *(fixed or (None, None)))
        laid = overlay(large, heat, alpha=alpha, cmap=cmap, threshold=threshold, low=low, high=high)
        panels.append(Panel(title, laid, (number(low), number(high))))
    labels = {"sample": sample, "noise": f"{noise:g}"}
    labels |= {} if timestep is None else {"timestep": str(timestep)}
    caption = [f"{key} {value}" for key, value in labels.items()]
    labels["panels"] = ", ".join(panel.title for panel in panels)
    return Frame(stack_panels(panels, caption, colours(cmap)), labels=labels)


def _rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
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


def _ends(heat: NDArray[Any], low: float | None, high: float | None) -> tuple[float, float]:
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.size == 0 or heat.dtype.kind not in "fiub":
        raise FmxError(f"A heat map is an array (y, x) of real numbers: this is {heat.dtype}, {heat.shape}.")
    lowest, highest = value_ranges(heat[None], "filter", low, high)
    return float(lowest[0]), float(highest[0])


def _warmth(heat: NDArray[Any], size: tuple[int, int], low: float | None, high: float | None) -> NDArray[np.float32]:
    """Give the share of the range, 0 to 1, at each pixel of a picture of some width and height."""
    ends = _ends(heat, low, high)
    share = shares(np.asarray(heat)[None], np.array(ends[:1]), np.array(ends[1:]))[0]
    small = Image.fromarray(np.ascontiguousarray(share, dtype=np.float32))
    large = np.asarray(small.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    return np.clip(large, 0, 1)
