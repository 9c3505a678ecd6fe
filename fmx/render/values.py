"""Values in pictures that give them back: 16-bit PNG and TIFF with scale and offset, and TIFF of float32."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from fmx.errors import FmxError, near_files
from fmx.render.frame import Frame
from fmx.render.sinks import DESCRIPTION, is_tiff, save_frame, write_tiff

__all__ = ["read_values", "save_values", "value_frame"]

# The last of the 65536 steps, then what is no finite number.
HIGHEST, NEGATIVE_INFINITY, INFINITY, NAN = 65532, 65533, 65534, 65535


def value_frame(values: NDArray[Any], labels: Mapping[str, str] | None = None) -> Frame:
    """Put values into the gray levels of a 16-bit picture, so that they can be told again.

    Parameters
    ----------
    values : ndarray
        Real numbers, (y, x).
    labels : mapping of str to str, optional
        What the picture shows.

    Returns
    -------
    Frame
        uint16 (y, x): the smallest finite value is 0, the largest 65532; 65533 is -inf, 65534 inf and 65535 NaN.
        The labels ``scale`` and ``offset`` say that a value is ``offset + scale × level``, off by half a step of
        `scale` at most, and by rounding to the type that it had.

    Raises
    ------
    FmxError
        There are other axes, or no real numbers.
    """
    values = _checked(values)
    exact = values.astype(np.float64)
    finite = np.isfinite(exact)
    low, high = (float(exact[finite].min()), float(exact[finite].max())) if finite.any() else (0.0, 0.0)
    # The halves of two large numbers differ by less than the largest float.
    scale = (high / 2 - low / 2) / (HIGHEST / 2)
    levels = np.zeros(exact.shape, dtype=np.uint16)
    if scale > 0:
        steps = (exact[finite] / 2 - low / 2) / (scale / 2)
        levels[finite] = np.clip(np.round(steps), 0, HIGHEST).astype(np.uint16)
    levels[np.isnan(exact)] = NAN
    levels[np.isposinf(exact)], levels[np.isneginf(exact)] = INFINITY, NEGATIVE_INFINITY
    # repr gives the shortest text that reads back as the same number.
    return Frame(levels, labels=dict(labels or {}) | {"scale": repr(scale), "offset": repr(low)})


def save_values(
    values: NDArray[Any],
    path: str | os.PathLike[str],
    *,
    labels: Mapping[str, str] | None = None,
    bits: int | None = None,
) -> Path:
    """Write values so that `read_values` gives them back.

    Parameters
    ----------
    values : ndarray
        Real numbers, (y, x).
    path : path
        Ends in ``.png`` for 16 bits, or in ``.tif`` or ``.tiff``.
    labels : mapping of str to str, optional
        What the picture shows; kept in the file.
    bits : {16, 32}, optional
        Of a TIFF: float32, which is the default, or 16 bits as in a PNG; see `value_frame`.

    Returns
    -------
    Path
        The file written, whole or not at all.

    Raises
    ------
    FmxError
        The name says another format, the values have other axes, or the file can't be written.
    """
    target = Path(path)
    if bits not in (None, 16, 32) or (bits == 32 and not is_tiff(target)):
        raise FmxError(f"Values are written in 16 bits, or in 32 as a .tif file, not in {bits} as {target.name}.")
    if not is_tiff(target) or bits == 16:
        return save_frame(value_frame(values, labels), target)
    with np.errstate(over="ignore"):
        picture = Image.fromarray(np.ascontiguousarray(_checked(values), dtype=np.float32))
    return write_tiff(picture, target, dict(labels or {}))


def read_values(path: str | os.PathLike[str]) -> xr.DataArray:
    """Read the values of a picture that `save_values` has written.

    Returns
    -------
    xarray.DataArray
        float64 (y, x), or float32 from a TIFF that holds these; the labels of the picture in the attributes.

    Raises
    ------
    FmxError
        There is no such file, or it is no picture that holds values.
    """
    file = Path(path)
    if not file.is_file():
        raise FmxError(f"There is no picture {file}: {near_files(file)}")
    try:
        with Image.open(file, formats=["PNG", "TIFF"]) as picture:
            pixels, labels = np.asarray(picture), _labels(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise FmxError(f"{file} is no PNG or TIFF picture that can be read: {error}.") from error
    if pixels.ndim != 2 or (pixels.dtype != np.float32 and not {"scale", "offset"} <= labels.keys()):
        raise FmxError(f"{file} holds colours and no values: write values with fmx render frames --values.")
    if pixels.dtype == np.float32:
        return xr.DataArray(pixels.copy(), dims=("y", "x"), attrs=labels)
    try:
        scale, offset = float(labels["scale"]), float(labels["offset"])
    except ValueError:
        raise FmxError(f"{file} has a scale or an offset that is no number: its values are lost.") from None
    levels = pixels.astype(np.float64)
    most = np.finfo(np.float64).max / 2
    with np.errstate(over="ignore"):
        halves = offset / 2 + np.minimum(levels, HIGHEST) * (scale / 2)
    values = np.clip(halves, -most, most) * 2
    values[levels == NAN] = np.nan
    values[levels == INFINITY], values[levels == NEGATIVE_INFINITY] = np.inf, -np.inf
    return xr.DataArray(values, dims=("y", "x"), attrs=labels)


def _labels(picture: Image.Image) -> dict[str, str]:
    if isinstance(picture, PngImageFile):
        return {str(key): str(value) for key, value in picture.text.items()}
    found = picture.tag_v2.get(DESCRIPTION, "") if isinstance(picture, TiffImageFile) else ""
    try:
        named = json.loads(found)
    except (TypeError, ValueError):
        return {}
    return {str(key): str(value) for key, value in named.items()} if isinstance(named, dict) else {}


def _checked(values: NDArray[Any]) -> NDArray[Any]:
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
        raise FmxError(f"A picture holds real numbers (y, x): these are {values.dtype} of shape {values.shape}.")
    return values
