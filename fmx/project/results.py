"""What all projections have in common: labels, where they come from, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.project.inputs import Pictures

__all__ = ["ZEILER_FERGUS", "about", "check_finite", "check_size", "joined", "picture_coords"]

ZEILER_FERGUS = "Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks"
MOST_BYTES = 16 * 2**30


def picture_coords(pictures: Pictures, index: int) -> dict[str, Any]:
    """Give the labels of one sample's projections: sample, path, label, colour."""
    sample = pictures.source.samples[index]
    return {"sample": sample.id, "path": sample.path, "label": sample.label, "colour": pictures.colours}


def about(pictures: Pictures, method: str, source: str, **more: Any) -> dict[str, Any]:
    """Say how a projection came about, as plain attributes."""
    model = pictures.model
    prepared = "none: arrays are the model's input" if pictures.preprocess is None else pictures.preprocess.describe()
    return {
        "method": method,
        "source": source,
        "model": model.source,
        "fingerprint": model.fingerprint,
        "preprocessing": prepared,
        "made_by": f"fmx {version('fmx')}",
        **more,
    }


def check_size(nbytes: int, what: str) -> None:
    """Refuse to make more at once than memory holds.

    Raises
    ------
    FmxError
    """
    if nbytes > MOST_BYTES:
        size = f"{nbytes / 1e9:.0f} GB"
        raise FmxError(f"{what.capitalize()} take {size}: ask for fewer channels, maps or samples at once.")


def check_finite(values: NDArray[Any], what: str) -> None:
    """Refuse to show what is NaN or infinite.

    Raises
    ------
    FmxError
    """
    if not np.isfinite(values).all():
        raise FmxError(f"{what} is not finite: look for NaN or infinity in the model's weights and in its input.")


def joined(project: Callable[[int], xr.Dataset], count: int) -> xr.Dataset:
    """Project one sample after the other, and join the results along an axis of samples.

    Raises
    ------
    FmxError
        All of them would not fit into memory.
    """
    found = [project(0)]
    check_size(found[0].nbytes * count, f"the results of {count} samples")
    found += [project(i) for i in range(1, count)]
    # Also where they happen to be equal for all samples.
    each = ["path", "label", *(name for name in found[0].coords if name == "channel" and "rank" in found[0][name].dims)]
    return xr.concat(found, "sample", data_vars="all", coords=each, compat="equals", join="exact")
