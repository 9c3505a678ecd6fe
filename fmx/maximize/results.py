"""Finished pictures as labelled arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.maximize.batch import Maximized
from fmx.maximize.targets import Target

__all__ = ["as_dataset", "joined"]

_ABOUT = {
    "picture": "the picture, 0 to 255",
    "activation": "the objective of the finished picture, in 8 bits and without transforms",
    "start": "the objective of the noise that it began with",
    "status": "ok; flat: it never moved, whatever it began with; not finite: NaN or infinity stopped it",
    "restarts": "how often it was begun anew, each time from stronger noise of another seed",
    "curve": "the objective in each step, of the transformed picture",
    "frame": "the picture after some steps, 0 to 255",
    "alpha": "sum over the steps of the absolute gradient on the pixels",
}


def as_dataset(
    targets: Sequence[Target], made: Maximized, frames: Mapping[int, NDArray[np.uint8]] | None = None
) -> xr.Dataset:
    """Label what a batch gave.

    Parameters
    ----------
    targets : sequence of Target
        One a picture.
    made : Maximized
    frames : mapping of int to ndarray of uint8 (picture, y, x, band), optional
        Intermediate pictures by their step.

    Returns
    -------
    xarray.Dataset
        ``picture`` (target, y, x, band), ``activation``, ``start``, ``status``, ``restarts`` (target) and ``curve``
        (target, step); where they were asked for ``frame``
        (target, frame_step, y, x, band) and ``alpha`` (target, y, x).
        The axis ``target`` is called ``channel`` where all are whole channels, one picture each.
    """
    dim = "channel" if all(t.channel >= 0 and t.pictures == 1 for t in targets) else "target"
    axes = ("y", "x", "band")
    found: dict[str, Any] = {
        "picture": ((dim, *axes), made.pictures),
        "activation": (dim, made.activation),
        "start": (dim, made.start),
        "status": (dim, np.array(made.status, dtype="U12")),
        "restarts": (dim, np.array(made.restarts, dtype=np.int64)),
        "curve": ((dim, "step"), made.curve),
    }
    if frames:
        found["frame"] = ((dim, "frame_step", *axes), np.stack(list(frames.values()), 1))
    if made.alpha is not None:
        found["alpha"] = ((dim, "y", "x"), made.alpha)
    labels: dict[str, Any] = {"step": np.arange(1, made.curve.shape[1] + 1)}
    if frames:
        labels["frame_step"] = np.array(list(frames), dtype=np.int64)
    if dim == "channel":
        labels["channel"] = np.array([t.channel for t in targets], dtype=np.int64)
    else:
        labels["target"] = np.array([t.label for t in targets])
        labels["variant"] = (dim, np.array([t.variant for t in targets], dtype=np.int64))
    dataset = xr.Dataset(found, labels)
    for name, text in _ABOUT.items():
        if name in dataset:
            dataset[name].attrs["description"] = text
    return dataset


def joined(before: xr.Dataset, fresh: xr.Dataset) -> xr.Dataset:
    """Put results behind those that are there, along their targets."""
    dim = fresh["activation"].dims[0]
    whole = xr.concat([before, fresh], dim, data_vars="all", coords="minimal", compat="override", join="exact")
    return whole.assign_attrs(fresh.attrs)
