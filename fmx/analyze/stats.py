"""Moments, extremes, quantiles, norms and sparsity of activations, for any combination of labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fmx.analyze.dask_reduce import reduce_array
from fmx.analyze.exact import exact_quantiles
from fmx.analyze.labels import check_dims, groups_of, kept_coords
from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.parts import check_complete
from fmx.analyze.store_reduce import most_state_bytes, summarise
from fmx.errors import FmxError
from fmx.reduce import Moments, Quantiles, Reducer, ReducerSet
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
    "median": "0.5 quantile of the finite values (numpy's, linear)",
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
_MEDIAN = 0.5
# States that are larger are not made unasked for; several of them may be in memory at once.
_MOST_STATES = 64 * 2**20


def layer_stats(
    data: xr.Dataset, *, by: str | Sequence[str] = (), quantiles: Sequence[float] | None = None
) -> xr.Dataset:
    """Describe the values of one layer, reading them once.

    Parameters
    ----------
    data : xarray.Dataset
        With ``activation`` (sample, noise, timestep, …native), lazy or in memory.
    by : str or sequence of str
        Dims to keep apart, such as ``("channel",)`` or ``("noise", "channel")``; all others are reduced. ``label``
        keeps the samples of each label apart, and so do other labels of samples, such as ``epoch``.
    quantiles : sequence of float, optional
        From 0 to 1. The median if left out, unless so many labels are kept apart that their counts would not fit the
        memory.

    Returns
    -------
    xarray.Dataset
        count, mean, std, var, skewness, kurtosis, min, max, median (and ``q0.05`` and so on for other quantiles),
        sparsity, negative, l1, l2, hoyer, nan, inf, nan_share and inf_share along `by`, with their definitions in the
        attributes.

    Raises
    ------
    FmxError
        The layer has no such dim, the samples have no labels, or a quantile is not between 0 and 1.
    """
    array, layer = data["activation"], data.attrs.get("layer", "the data")
    keep = check_dims(by, array, layer)
    dims = [dim for dim in keep if dim in array.dims]
    wanted = (_MEDIAN,) if quantiles is None else tuple(quantiles)
    count = math.prod(array.sizes[dim] for dim in dims)
    if quantiles is None and count * ReducerSet(_reducers(wanted)).dtype.itemsize > _MOST_STATES:
        wanted = ()
    reducer = ReducerSet(_reducers(wanted))
    if dims == keep:
        states = reduce_array(array, reducer, dims).compute()
        return _described(_finalize(reducer, states, data.attrs), wanted)
    groups = groups_of(array, layer, [dim for dim in keep if dim not in dims])
    parts = [array.isel(sample=np.flatnonzero(groups.numbers == i)) for i in range(math.prod(groups.sizes))]
    lazy = [reduce_array(part, reducer, dims) for part in parts]
    together = xr.concat(lazy, dim="group", coords="minimal", compat="override").compute()
    order = [*groups.labels, *(str(dim) for dim in together.dims[1:])]
    values = together.values.reshape((*groups.sizes, *together.shape[1:]))
    named = xr.DataArray(values, dims=order, coords=kept_coords(together, order, groups))
    return _described(_finalize(reducer, named, data.attrs), wanted)


def stats(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    by: str | Sequence[str] = (),
    quantiles: Sequence[float] | None = None,
    exact: bool = False,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Describe the values of a store's layers in one read on Dask; see `layer_stats`.

    Parameters
    ----------
    store : Store
    layers : str or iterable of str
    by : str or sequence of str
    quantiles : sequence of float, optional
        The median if left out, unless so many labels are kept apart that their counts would not fit the memory.
    exact : bool
        Read the store again, twice or more, until the quantiles are without error; see
        `fmx.analyze.exact.exact_quantiles`.
    nan : str
        ``skip`` leaves out values that are not finite; ``keep`` makes all NaN, but for counts and the shares of such
        values, that have one among their values.
    allow_partial : bool
        Describe the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer name, in the order of computation; `to_rows` makes a table of it.

    Raises
    ------
    FmxError
        No such layer, dim or labels; a quantile is not between 0 and 1; an unfinished store.
    """
    check_nan(nan)
    check_complete(store, allow_partial)
    wanted = (_MEDIAN,) if quantiles is None else tuple(quantiles)
    if quantiles is None and most_state_bytes(store, _reducers(wanted), layers=layers, by=by) > _MOST_STATES:
        wanted = ()
    if not exact or not wanted:
        found = summarise(store, _reducers(wanted), layers=layers, by=by)
        described = {name: _described(results, wanted) for name, results in found.items()}
    else:
        _reducers(wanted)  # checks them
        found = summarise(store, _reducers(()), layers=layers, by=by)
        for name, values in exact_quantiles(store, wanted, layers=layers, by=by).items():
            found[name]["quantiles.quantiles"] = values
        described = {name: _described(results, wanted, error="none") for name, results in found.items()}
    return {name: without_spoiled(one, nan, but=("nan_share", "inf_share")) for name, one in described.items()}


def to_rows(results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Flatten results by layer into one row for each layer and label: ``{"layer": …, "channel": …, "mean": …}``."""
    rows: list[dict[str, Any]] = []
    for layer, dataset in results.items():
        plain = dataset.reset_coords([c for c in dataset.coords if c not in dataset.dims], drop=True)
        if not plain.dims:
            frame = pd.DataFrame([{name: plain[name].item() for name in plain.data_vars}])
        else:
            # In the order that variables have their dims in, the first one changing slowest.
            order = dict.fromkeys(d for v in sorted(plain.data_vars.values(), key=lambda v: -v.ndim) for d in v.dims)
            frame = plain.to_dataframe(dim_order=list(order)).reset_index()
        rows += [{"layer": layer, **{str(k): v for k, v in row.items()}} for row in frame.to_dict("records")]
    return rows


def _reducers(quantiles: Sequence[float]) -> dict[str, Reducer]:
    try:
        return {"stats": Moments()} | ({"quantiles": Quantiles(quantiles)} if len(quantiles) else {})
    except ValueError as error:
        raise FmxError(f"{error}: correct the quantiles.") from error


def _finalize(reducer: ReducerSet, states: xr.DataArray, attributes: Mapping[Any, Any]) -> xr.Dataset:
    results = reducer.finalize(states.values)
    variables = {name: ((*states.dims, *reducer.dims.get(name, ())), values) for name, values in results.items()}
    return xr.Dataset(variables, coords=states.coords, attrs=dict(attributes))


def _described(results: xr.Dataset, quantiles: Sequence[float], error: str = "") -> xr.Dataset:
    """Give results their short names, one variable for each quantile, and their definitions."""
    found = {str(name).partition(".")[2]: variable for name, variable in results.data_vars.items()}
    error = error or Quantiles(quantiles).error
    for i, q in enumerate(quantiles):
        variable = found["quantiles"].isel(quantile=i)
        about = f"{q:g} quantile of the finite values (numpy's, linear)"
        found["median" if q == _MEDIAN else f"q{q:g}"] = variable.assign_attrs(definition=about, error=error)
    for name, text in _ABOUT.items():
        if name in found:
            found[name] = found[name].assign_attrs(definition=text)
    others = sorted((name for name in found if name not in _ABOUT and name != "quantiles"), key=lambda n: float(n[1:]))
    order = [name for name in _ABOUT if name in found]
    at = order.index("max") + 1
    order[at:at] = others
    return xr.Dataset({name: found[name] for name in order}, coords=results.coords, attrs=results.attrs)
