"""Axes of layers put together: maps summed into one, classes averaged, numbers for each sample; lazily."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.dask_reduce import reduce_array
from fmx.analyze.labels import groups_of, kept_coords, sample_labels
from fmx.analyze.not_finite import check_nan
from fmx.analyze.parts import check_complete
from fmx.errors import FmxError, near_matches
from fmx.reduce.totals import Totals
from fmx.store import Store

__all__ = ["AGGREGATES", "aggregate"]

AGGREGATES = {
    "sum": "sum of the finite values",
    "mean": "arithmetic mean of the finite values",
    "max": "largest finite value",
    "min": "smallest finite value",
    "norm": "root of the sum of the squares of the finite values",
    "std": "population standard deviation of the finite values",
}
_ALIASES = {"depth": ("channel",), "space": ("z", "y", "x", "token"), "time": ("timestep",)}
_LABELS = {"class": "label"}


def aggregate(
    store: Store,
    *,
    over: str | Sequence[str] = ("channel",),
    how: str = "sum",
    layers: str | Iterable[str] = "all",
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Put axes of layers together, lazily: what is computed of the result is all that is read.

    ``over="channel"`` sums the maps of a layer into one; ``over=("channel", "y", "x")`` gives a number for each sample.

    Parameters
    ----------
    store : Store
    over : str or sequence of str
        Axes: channel, sample, noise, timestep, y, x, …; or depth (channel), space (all axes of maps, and tokens), time,
        and class, which puts the samples of each label together and leaves an axis ``label``; or another label of the
        samples, such as ``epoch``, likewise.
    how : str
        sum, mean, max, min, norm or std.
    layers : str or iterable of str
    nan : str
        ``skip`` leaves out values that are not finite; ``keep`` makes results NaN that have one among their values.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer, on Dask: the result, called as `how` says, and not_finite, how many values are NaN or infinite, both
        (…axes that are left).

    Raises
    ------
    FmxError
        No such axis or way to put together; no labels; an unfinished store.
    """
    if how not in AGGREGATES:
        raise FmxError(f"Axes can't be put together by {how}: {near_matches(how, AGGREGATES, most=6)}")
    check_nan(nan)
    check_complete(store, allow_partial)
    asked = [over] if isinstance(over, str) else list(over)
    if not asked:
        raise FmxError("No axis is to be put together: name one with --over, such as channel.")
    found = {}
    for info in store.select(layers):
        data = store.layer(info.name)
        array = data["activation"]
        label = _label(asked, array)
        gone = _axes(asked, array, info.name)
        keep = [str(dim) for dim in array.dims if dim not in gone]
        result = _by_label(store, array, label, how, keep, nan) if label else _lazy(array, how, keep, nan)
        found[info.name] = result.assign_attrs({**data.attrs, "over": ", ".join(asked)})
    return found


def _label(asked: Sequence[str], array: xr.DataArray) -> str:
    """Find the label whose samples are put together; none is an empty one."""
    labels = sample_labels(array)
    found = [label for name in asked if (label := _LABELS.get(name, name)) in labels]
    if len(found) > 1:
        raise FmxError(f"Samples are put together by one label at a time, not by {' and '.join(found)}.")
    return found[0] if found else ""


def _axes(asked: Sequence[str], array: xr.DataArray, layer: str) -> list[str]:
    gone: list[str] = []
    labels = sample_labels(array)
    known = [*map(str, array.dims), *_ALIASES, *_LABELS, *labels]
    for name in asked:
        own = [dim for dim in _ALIASES.get(name, (name,)) if dim in array.dims]
        own += ["sample"] if _LABELS.get(name, name) in labels else []
        if not own and name != "space":
            raise FmxError(f"{layer} has no axis {name}: {near_matches(name, known, most=12)}")
        gone += own
    return gone


def _by_label(store: Store, array: xr.DataArray, label: str, how: str, keep: Sequence[str], nan: str) -> xr.Dataset:
    groups = groups_of(array, store.path, [label])
    parts = [
        _lazy(array.isel(sample=np.flatnonzero(groups.numbers == i)), how, keep, nan) for i in range(*groups.sizes)
    ]
    together = xr.concat(parts, dim=label, coords="minimal", compat="override", join="override")
    return together.assign_coords(kept_coords(array, [*keep, label], groups))


def _lazy(array: xr.DataArray, how: str, keep: Sequence[str], nan: str) -> xr.Dataset:
    reducer = Totals(how)
    states = reduce_array(array, reducer, keep)

    def value(state: Any) -> NDArray[np.float64]:
        found = reducer.finalize(state)["value"]
        return np.where(state["lost"] > 0, np.nan, found) if nan == "keep" else found

    def lost(state: Any) -> NDArray[np.int64]:
        return np.array(state["lost"])

    lazy = da.asarray(states.data)
    # State by state, so that nothing but results outlives a chunk.
    values = da.map_blocks(value, lazy, dtype=np.float64, meta=np.empty((0,) * lazy.ndim))
    counts = da.map_blocks(lost, lazy, dtype=np.int64, meta=np.empty((0,) * lazy.ndim, np.int64))
    about = {how: AGGREGATES[how], "not_finite": "values that are NaN or infinite"}
    found = {how: values, "not_finite": counts}
    variables = {name: (states.dims, data, {"definition": about[name]}) for name, data in found.items()}
    return xr.Dataset(variables, coords=states.coords)
