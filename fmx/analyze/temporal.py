"""How activations change from timestep to timestep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from fmx.analyze.batches import merge_along
from fmx.analyze.layer_work import LayerWork, run_works
from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.parts import Part, check_complete, check_per, find_level
from fmx.errors import FmxError
from fmx.reduce import TimeSeries
from fmx.store import Store

__all__ = ["temporal"]

_ABOUT = {
    "change": "mean of |x[t+1] - x[t]| over steps, samples and positions",
    "steps": "mean of |x[t+1] - x[t]| at each step",
    "variance": "mean over samples and positions of the population variance of the series",
    "autocorrelation": "Σ (x[t] - m)(x[t+lag] - m) / Σ (x[t] - m)², summed over timesteps, samples and positions, m "
    "the mean of each series (biased estimator); NaN where nothing changes",
    "autocorrelation_1": "autocorrelation at lag 1; NaN where nothing changes",
    "still": "whether nothing changes",
    "count": "series: a channel's values at one position of one sample",
    "lost": "series with a value that is NaN or infinite; they are left out",
    "rank": "place among the channels by change, from 1 for the one that changes most",
}


def temporal(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    per: str = "layer",
    lags: int = 8,
    noise: float | None = None,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Describe change over timesteps, in one read of the store.

    Parameters
    ----------
    store : Store
        Of clips.
    layers : str or iterable of str
        All of those that have timesteps where left out.
    per : str
        ``layer``, or ``channel`` for every channel apart.
    lags : int
        Lags of the autocorrelation, at most one less than timesteps.
    noise : float, optional
        Level; 0 where left out.
    nan : str
        ``skip`` leaves out series with a value that is not finite; ``keep`` makes results NaN that have one among them.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: change, variance, autocorrelation_1, still, count and lost ((channel)), steps ((channel,) step) and
        autocorrelation ((channel,) lag); per channel also rank. Definitions in the attributes.

    Raises
    ------
    FmxError
        A layer that is asked for has one timestep only, or no layer has more; an unfinished store.
    """
    check_per(per, "Change")
    if lags < 1:
        raise FmxError(f"The autocorrelation has at least one lag, not {lags}.")
    check_nan(nan)
    check_complete(store, allow_partial)
    part = Part(level=find_level(store, noise))
    works, reducers = {}, {}
    for info in store.select(layers):
        times = store.activation(info.name).sizes["timestep"]
        if times < 2 and layers == "all":
            continue
        if times < 2:
            raise FmxError(
                f"{info.name} has one timestep, and change takes two: extract a video, or arrays with --clips."
            )
        by = ("channel",) if "channel" in info.dims else ()
        reducers[info.name] = TimeSeries(times, min(lags, times - 1))
        works[info.name] = LayerWork.of(store, info.name, {"t": reducers[info.name]}, by, finalize=False, part=part)
    if not works:
        raise FmxError(f"{store.path} has one timestep, and change takes two: extract a video, or arrays with --clips.")
    return {
        name: _described(states["t"], reducers[name], per, store.layer(name), nan)
        for name, states in run_works(store, works).items()
    }


def _described(states: xr.DataArray, reducer: TimeSeries, per: str, data: xr.Dataset, nan: str) -> xr.Dataset:
    entries, dims = states.values, tuple(str(dim) for dim in states.dims)
    if per == "layer" and dims:
        entries, dims = merge_along(reducer, entries), ()
    results = reducer.finalize(entries)
    found = {name: results[name] for name in ("change", "variance")}
    found["autocorrelation_1"] = results["autocorrelation"][..., 0]
    found["still"] = (entries["squares"] == 0) & (entries["count"] > 0)
    found |= {name: results[name] for name in ("count", "lost", "steps", "autocorrelation")}
    variables = {
        name: ((*dims, *reducer.dims.get(name, ())), values, {"definition": _ABOUT[name]})
        for name, values in found.items()
    }
    coords: dict[str, Any] = {"step": data["timestep"].values[1:], "lag": np.arange(1, reducer.lags + 1)}
    coords |= {"channel": data["channel"]} if dims else {}
    result = without_spoiled(xr.Dataset(variables, coords=coords, attrs=data.attrs), nan, ("lost",))
    if dims:
        change = result["change"].values
        order = np.argsort(np.where(np.isnan(change), np.inf, -change), kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        result["rank"] = (dims, rank, {"definition": _ABOUT["rank"]})
    return result
