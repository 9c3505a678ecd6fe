"""Exact quantiles of the layers of a store, in several reads where one does not hold all values of a label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.layer_work import LayerWork, run_works
from fmx.reduce import Moments, Quantiles
from fmx.reduce.blocks import is_small
from fmx.reduce.ranks import RankCounts, SortedQuantiles, between, rank_of
from fmx.store import Store

__all__ = ["exact_quantiles"]

# A float32 as a float64 ends in as many equal bits.
_FLOAT32 = 29


def exact_quantiles(
    store: Store, q: Sequence[float], *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()
) -> dict[str, xr.DataArray]:
    """Give quantiles of the finite values without error.

    Where all values of a label lie in one chunk they are sorted. Otherwise a first read finds the range that each
    quantile is in (see `fmx.reduce.Quantiles`), and the next ones narrow it down to one value: two for float32 and
    float16, seldom more, and six for float64.

    Parameters
    ----------
    store : Store
    q : sequence of float
        From 0 to 1.
    layers : str or iterable of str
    by : str or sequence of str
        See `fmx.analyze.store_reduce.summarise`.

    Returns
    -------
    dict of str to xarray.DataArray
        (*by, quantile) by layer name; NaN where there is no finite value.
    """
    names = [info.name for info in store.select(layers)]
    plans = {name: LayerWork.of(store, name, {"sorted": SortedQuantiles(q)}, by) for name in names}
    whole = {name: work for name, work in plans.items() if work.in_one_piece}
    found = {name: result["sorted.quantiles"] for name, result in run_works(store, whole).items()}
    found |= _narrowed(store, q, [name for name in names if name not in whole], by)
    return {name: found[name] for name in names}


def _narrowed(
    store: Store, q: Sequence[float], names: Sequence[str], by: str | Sequence[str]
) -> dict[str, xr.DataArray]:
    sketch, counter = Quantiles(q), RankCounts(2 * len(q))
    first = run_works(
        store, {name: LayerWork.of(store, name, {"s": Moments(), "q": sketch}, by, finalize=False) for name in names}
    )
    shares = np.asarray(q, dtype=np.float64)
    states, ranks, values = {}, {}, {}
    for name, result in first.items():
        count = result["s"].values["count"]
        low, _ = rank_of(shares, count)
        high = np.minimum(low + 1, np.maximum(count[..., None] - 1, 0))
        ranks[name] = np.concatenate([low, high], axis=-1)
        states[name] = counter.seed(*sketch.bounds(result["q"].values, ranks[name]))
    left = list(names)
    while left:
        works = {name: LayerWork.of(store, name, {"r": counter}, by, finalize=False) for name in left}
        seeds = {name: states[name].view([("r", counter.dtype)]) for name in left}
        counted = run_works(store, {name: work.seeded(seeds[name]) for name, work in works.items()})
        for name in tuple(left):
            finest = _FLOAT32 if is_small(works[name].data["activation"].dtype) else 0
            states[name], values[name], settled = counter.narrow(counted[name]["r"].values, ranks[name], finest)
            if settled:
                left.remove(name)
    return {name: _between(first[name], values[name], shares) for name in names}


def _between(first: xr.Dataset, values: NDArray[np.float64], shares: NDArray[np.float64]) -> xr.DataArray:
    count = first["s"].values["count"]
    low, high = np.split(values, 2, axis=-1)
    result = np.where(count[..., None] > 0, between(low, high, rank_of(shares, count)[1]), np.nan)
    return xr.DataArray(result, dims=(*first["s"].dims, "quantile"), coords=first["s"].coords)
