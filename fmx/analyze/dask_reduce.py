"""Running a reducer over a lazy array: one state a chunk, merged in a tree by Dask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.reduce import Reducer, State

__all__ = ["reduce_array"]


def reduce_array(array: xr.DataArray, reducer: Reducer, keep: Sequence[str]) -> xr.DataArray:
    """Reduce an array to one state for each of the labels that are kept, lazily.

    Parameters
    ----------
    array : xarray.DataArray
        Chunked by Dask, or in memory.
    reducer : Reducer
    keep : sequence of str
        Dims that stay; all others are reduced.

    Returns
    -------
    xarray.DataArray
        States with the kept dims and their coordinates, lazy.
    """
    axes = tuple(i for i, dim in enumerate(array.dims) if dim not in keep)

    def chunk(block: NDArray[Any], axis: Any, keepdims: bool) -> State:
        kept = tuple(n for i, n in enumerate(block.shape) if i not in axis)
        state = reducer.update(reducer.identity(kept), block, axis)
        return np.expand_dims(state, tuple(axis)) if keepdims else state

    def combine(states: State, axis: Any, keepdims: bool) -> State:
        for a in sorted(axis, reverse=True):
            parts = [states.take([i], axis=a) for i in range(states.shape[a])]
            while len(parts) > 1:
                pairs = [reducer.merge(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
                parts = pairs + parts[len(pairs) * 2 :]
            states = parts[0]
        return states if keepdims else np.squeeze(states, tuple(axis))

    lazy = da.asarray(array.data)
    reduced = da.reduction(
        lazy,
        chunk=chunk,
        combine=combine,
        aggregate=combine,
        axis=axes,
        dtype=reducer.dtype,
        meta=np.empty((0,) * (array.ndim - len(axes)), reducer.dtype),
        concatenate=True,
    )
    dims = [dim for dim in array.dims if dim in keep]
    coords = {n: c for n, c in array.coords.items() if set(c.dims) <= set(dims) and (c.dims or n in dims)}
    return xr.DataArray(reduced, dims=dims, coords=coords)
