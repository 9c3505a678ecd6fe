"""How a layer's values change through a training, or from one noise level to the next: a few numbers a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import merge_along
from fmx.analyze.health import dead_channels
from fmx.reduce import Moments, State
from fmx.store import Store

__all__ = ["Points", "course_of", "training_points"]

# More steps are taken together in runs, which a small curve can show.
MOST_POINTS = 60
_ABOUT = {
    "mean": "arithmetic mean of the finite values",
    "std": "population standard deviation of the finite values",
    "sparsity": "share of the finite values that are exactly 0",
    "dead": "channels without a value above 0 if the layer has none below 0 at any point, else with one value only",
}


@dataclass(frozen=True, eq=False)
class Points:
    """Points of a training that samples belong to.

    Attributes
    ----------
    axis : str
        ``step`` or ``epoch``.
    at : array (point,)
        Where the points lie; the mean of a run of steps.
    groups : array (sample,) of int
        Point of each complete sample.
    epochs : array of float
        Where, along `at`, an epoch begins that is not the first.
    """

    axis: str
    at: NDArray[np.float64]
    groups: NDArray[np.int64]
    epochs: NDArray[np.float64]


def training_points(store: Store) -> Points | None:
    """Group the complete samples of a recorded training by step, or else by epoch; None if there is one of these only.

    Where there are more than 60 steps, they are grouped in so many runs of successive steps.
    """
    root = store.tree.to_dataset()
    there = {
        name: root[name].values[store.complete].astype(np.float64)
        for name in ("step", "epoch")
        if name in root.coords and root[name].dims == ("sample",) and np.issubdtype(root[name].dtype, np.number)
    }
    for axis, values in there.items():
        distinct, number = np.unique(values, return_inverse=True)
        if len(distinct) < 2:
            continue
        runs = np.array_split(np.arange(len(distinct)), min(len(distinct), MOST_POINTS))
        run_of = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
        at = np.array([distinct[run].mean() for run in runs])
        epochs = there.get("epoch", values) if axis == "step" else np.zeros(len(values))
        begins = sorted(values[epochs == epoch].min() for epoch in np.unique(epochs)[1:])
        return Points(axis, at, run_of[number].astype(np.int64), np.array(begins, np.float64))
    return None


def course_of(states: State, axis: str, at: NDArray[np.float64]) -> xr.Dataset:
    """Tell mean, spread, zeros and dead channels of each point.

    Parameters
    ----------
    states : array (point, channel)
        Of `fmx.reduce.Moments`.
    axis : str
        What the points are along.
    at : array (point,)

    Returns
    -------
    xarray.Dataset
        mean, std, sparsity, dead (`axis`), with their definitions in the attributes.
    """
    each, whole = Moments().finalize(states), Moments().finalize(merge_along(Moments(), np.moveaxis(states, 1, 0)))
    dead = dead_channels(each, rectified=bool((each["min"][each["count"] > 0] >= 0).all()))
    values = {name: whole[name] for name in ("mean", "std", "sparsity")} | {"dead": dead.sum(axis=1)}
    return xr.Dataset({n: (axis, v, {"definition": _ABOUT[n]}) for n, v in values.items()}, coords={axis: at})
