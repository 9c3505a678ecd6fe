"""Mean, spread, extremes and sparsity of activations, for any combination of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from fmx.analyze.dask_reduce import reduce_array
from fmx.errors import FmxError, near_matches
from fmx.reduce import Moments
from fmx.store import Store

__all__ = ["layer_stats", "stats", "to_rows"]

_ABOUT = {
    "count": "finite values",
    "mean": "arithmetic mean of the finite values",
    "std": "population standard deviation of the finite values (divided by n)",
    "var": "population variance of the finite values (divided by n)",
    "skewness": "third central moment over the 1.5th power of the variance",
    "kurtosis": "fourth central moment over the square of the variance, less 3 (0 for a normal distribution)",
    "min": "smallest finite value",
    "max": "largest finite value",
    "sparsity": "share of the finite values that are exactly 0",
    "negative": "share of the finite values that are below 0",
    "l1": "sum of the absolute values of the finite values",
    "l2": "root of the sum of the squares of the finite values",
    "hoyer": "(√n - l1/l2) / (√n - 1): 0 where all values are equally large, 1 where only one is not 0 (Hoyer 2004)",
    "nan": "values that are not a number",
    "inf": "values that are infinite",
    "nan_share": "share of all values that are not a number",
    "inf_share": "share of all values that are infinite",
}


def layer_stats(data: xr.Dataset, *, by: str | Sequence[str] = ()) -> xr.Dataset:
    """Describe the values of one layer, reading them once.

    Parameters
    ----------
    data : xarray.Dataset
        With ``activation`` (sample, noise, timestep, …native), lazy or in memory.
    by : str or sequence of str
        Dims to keep apart, such as ``("channel",)`` or ``("noise", "channel")``; all others are reduced.

    Returns
    -------
    xarray.Dataset
        count, mean, std, min, max, sparsity, nan and inf along `by`, with their definitions in the attributes.

    Raises
    ------
    FmxError
        The layer has no such dim.
    """
    array = data["activation"]
    states = reduce_array(array, Moments(), _check_dims(by, array, data.attrs.get("layer", "the data")))
    return _finalize(states.compute(), data.attrs)


def stats(store: Store, *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()) -> dict[str, xr.Dataset]:
    """Describe the values of a store's layers in one read on Dask; see `layer_stats`.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer name, in the order of computation; `to_rows` makes a table of it.
    """
    chosen = [(info.name, store.layer(info.name)) for info in store.select(layers)]
    lazy = [reduce_array(d["activation"], Moments(), _check_dims(by, d["activation"], name)) for name, d in chosen]
    states = store.compute(*lazy)
    return {name: _finalize(state, data.attrs) for (name, data), state in zip(chosen, states, strict=True)}


def to_rows(results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Flatten results by layer into one row for each layer and label: ``{"layer": …, "channel": …, "mean": …}``."""
    rows: list[dict[str, Any]] = []
    for layer, dataset in results.items():
        plain = dataset.reset_coords([c for c in dataset.coords if c not in dataset.dims], drop=True)
        if not plain.dims:
            frame = pd.DataFrame([{name: plain[name].item() for name in plain.data_vars}])
        else:
            frame = plain.to_dataframe().reset_index()
        rows += [{"layer": layer, **{str(k): v for k, v in row.items()}} for row in frame.to_dict("records")]
    return rows


def _finalize(states: xr.DataArray, attributes: Mapping[Any, Any]) -> xr.Dataset:
    results = Moments().finalize(states.values)
    variables = {name: (states.dims, values, {"definition": _ABOUT[name]}) for name, values in results.items()}
    return xr.Dataset(variables, coords=states.coords, attrs=dict(attributes))


def _check_dims(by: str | Sequence[str], array: xr.DataArray, layer: str) -> list[str]:
    dims = [str(d) for d in array.dims]
    wanted = [by] if isinstance(by, str) else list(by)
    for dim in wanted:
        if dim not in dims:
            raise FmxError(f"{layer} has no axis {dim}: {near_matches(dim, dims, most=8)}")
    return wanted
