"""Colormaps, and the palette of a page: the colours of the maps beside the grays of its text."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches

__all__ = ["LEVELS", "PAPER", "colours", "gray_indices", "page_palette"]

# An odd number, so that 0 has an index of its own in the middle of a symmetric range.
LEVELS = 239
PAPER = 255
_GRAYS = np.linspace(0, 255, 256 - LEVELS).round().astype(np.uint8)


@cache
def colours(cmap: str, levels: int = 256) -> NDArray[np.uint8]:
    """Sample a colormap of matplotlib evenly.

    Parameters
    ----------
    cmap : str
        Its name, such as ``viridis``.
    levels : int
        Number of colours.

    Returns
    -------
    ndarray of uint8
        RGB colours, (levels, 3), read-only.

    Raises
    ------
    FmxError
        No colormap has this name.
    """
    import matplotlib as mpl

    if cmap not in mpl.colormaps:
        raise FmxError(f"No colormap is called {cmap}: {near_matches(cmap, mpl.colormaps)}")
    sampled = mpl.colormaps[cmap](np.linspace(0, 1, levels), bytes=True)
    table: NDArray[np.uint8] = np.ascontiguousarray(sampled[:, :3], dtype=np.uint8)
    table.setflags(write=False)
    return table


@cache
def page_palette(cmap: str) -> NDArray[np.uint8]:
    """Give a palette, (256, 3): `LEVELS` colours of the colormap, then grays from black to white (`PAPER`)."""
    palette = np.concatenate([colours(cmap, LEVELS), np.repeat(_GRAYS[:, None], 3, axis=1)])
    palette.setflags(write=False)
    return palette


def gray_indices(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn gray values into indices of the nearest gray of a page's palette."""
    return _NEAREST[gray]


_NEAREST = (LEVELS + np.round(np.arange(256) * (len(_GRAYS) - 1) / 255)).astype(np.uint8)
