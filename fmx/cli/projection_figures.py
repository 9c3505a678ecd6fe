"""Pictures of projections: what was projected beside the picture it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from fmx.project import Pictures
from fmx.render import Frame, overlay
from fmx.render.sheet import picture_sheet, signed_rgb
from fmx.render.text import number

__all__ = ["attribution_sheet", "film_frames", "input_picture", "projection_sheet", "shown", "top_sheet"]

# Small inputs are enlarged by whole pixels until they are seen.
ENLARGED_BELOW = 128
# Of the crops in a block, together.
BLOCK_SIDES = (192, 384)
GAP = 2

Pixels = NDArray[np.uint8]


def input_picture(pictures: Pictures, index: int, picture: NDArray[np.uint8] | None = None) -> Pixels:
    """Give what a sample looks like, RGB; arrays are drawn over their own range.

    Parameters
    ----------
    pictures : Pictures
    index : int
    picture : array of uint8 (y, x, band), optional
        What ``pictures.picture`` gives for it, to read it once only.
    """
    picture = pictures.picture(index) if picture is None else picture
    if picture is not None:
        return _rgb(picture)
    values = pictures.colour_first(pictures.values(index)).astype(np.float64)
    values = values if len(values) == 3 else values.mean(axis=0, keepdims=True)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    gray = np.round(255 * np.nan_to_num((values - low) / (high - low or 1.0))).astype(np.uint8)
    return _rgb(gray.transpose(1, 2, 0))


def shown(projection: NDArray[Any]) -> Pixels:
    """Colour a projection (colour, y, x): colours as they are where there are three, else their sum in gray."""
    return signed_rgb(projection.transpose(1, 2, 0) if len(projection) == 3 else projection.sum(axis=0))


def projection_sheet(picture: Pixels, found: Sequence[tuple[str, NDArray[Any]]], **more: Any) -> Frame:
    """Lay projections (colour, y, x) out beside their picture, each with its caption."""
    drawn = [picture, *(shown(projection) for _, projection in found)]
    more["columns"] = _columns(len(drawn))
    return picture_sheet(drawn, ["input", *(caption for caption, _ in found)], scale=_scale(picture), **more)


def attribution_sheet(
    picture: Pixels, found: Sequence[tuple[str, NDArray[Any]]], *, alpha: float, cmap: str, **more: Any
) -> Frame:
    """Lay attributions out beside their picture: (colour, y, x) as they are, maps (y, x) over the picture."""
    scale = _scale(picture)
    large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    drawn = [large]
    for _, values in found:
        if values.ndim == 2:
            drawn.append(overlay(large, values, alpha=alpha, cmap=cmap))
        else:
            drawn.append(shown(values).repeat(scale, axis=0).repeat(scale, axis=1))
    more["columns"] = _columns(len(drawn))
    return picture_sheet(drawn, ["input", *(caption for caption, _ in found)], **more)


def film_frames(picture: Pixels, found: xr.Dataset, labels: dict[str, str]) -> Iterator[Frame]:
    """Show more and more maps of one sample projected together, beside the picture."""
    most = int(found["step"].values[-1])
    for step, projection in zip(found["step"].values, found["projection"].values, strict=True):
        caption = f"{step} of {most} map{'s' * (most != 1)}"
        more: dict[str, Any] = {"columns": 2, "title": labels["layer"], "labels": labels | {"maps": str(step)}}
        yield picture_sheet([picture, shown(projection)], ["input", caption], scale=_scale(picture), **more)


def top_sheet(found: xr.Dataset, **more: Any) -> Frame:
    """Show for each channel its top samples, cropped, beside their projections, as Zeiler & Fergus do."""
    columns = int(np.ceil(np.sqrt(found.sizes["rank"])))
    size = _crop_size(found.sizes["y"], found.sizes["x"], columns)
    blocks, captions = [], []
    for channel in range(found.sizes["channel"]):
        one = found.isel(channel=channel)
        there = np.isfinite(one["value"].values) & (one["value"].values > 0)
        projections = [
            _sized(shown(p), size) if on else None for p, on in zip(one["projection"].values, there, strict=True)
        ]
        crops = [_sized(_rgb(p), size) if on else None for p, on in zip(one["picture"].values, there, strict=True)]
        blocks += [_block(projections, columns, size), _block(crops, columns, size)]
        high = number(float(np.nanmax(one["value"].values)))
        captions += [f"channel {int(one['channel'])} · {high}", "what the neurons see"]
    pairs = max(1, round(np.sqrt(found.sizes["channel"] * 0.7)))
    return picture_sheet(blocks, captions, columns=2 * min(pairs, found.sizes["channel"]), **more)


def _block(tiles: Sequence[Pixels | None], columns: int, size: tuple[int, int]) -> Pixels:
    """Put tiles in rows, close together; a place without a tile stays white."""
    height, width = size
    rows = -(-len(tiles) // columns)
    block = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        if tile is not None:
            top, left = i // columns * (height + GAP), i % columns * (width + GAP)
            block[top : top + height, left : left + width] = tile
    return block


def _crop_size(height: int, width: int, columns: int) -> tuple[int, int]:
    """Bring crops to a size at which they are seen and nine of them fit beside nine others."""
    least, most = (side // columns for side in BLOCK_SIDES)
    longest = max(height, width)
    factor = -(-least // longest) if longest < least else min(1.0, most / longest)
    return round(height * factor), round(width * factor)


def _sized(tile: Pixels, size: tuple[int, int]) -> Pixels:
    if tile.shape[:2] == size:
        return tile
    way = Image.Resampling.BOX if size[0] < tile.shape[0] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(tile).resize((size[1], size[0]), way), dtype=np.uint8)


def _rgb(picture: NDArray[Any]) -> Pixels:
    return np.ascontiguousarray(picture[:, :, :3] if picture.shape[2] >= 3 else picture[:, :, :1].repeat(3, axis=2))


def _columns(count: int) -> int | None:
    """Put what a page is wide enough for in one row."""
    return count if count <= 5 else None


def _scale(picture: Pixels) -> int:
    return -(-ENLARGED_BELOW // int(max(picture.shape[:2])))
