"""Running reducers over the layers of a store: every chunk is read once, and little stays in memory.

A task reads a run of chunks one after the other into one state for each cell (a part of the kept labels that has chunks
of its own), so that Dask has few tasks to look after and there are few states. A cell that one task has read all of is
turned into results there; the states of the others are merged in a tree first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from dask import delayed

from fmx.analyze.chunk_plan import Cell, Piece, plan_pieces, share_out
from fmx.analyze.labels import check_dims, groups_of, kept_coords
from fmx.analyze.store_tasks import LayerTask, Results
from fmx.errors import FmxError
from fmx.reduce import Reducer, ReducerSet
from fmx.store import Store, layer_key

__all__ = ["Reducers", "most_state_bytes", "reduce_store", "summarise"]

# What to run; or how to make it, from the dims of a layer that are summed up.
Reducers = Mapping[str, Reducer] | Callable[[tuple[str, ...]], Mapping[str, Reducer]]

_FAN_IN = 8
MOST_STATE_BYTES = 512 * 2**20


def summarise(
    store: Store, reducers: Reducers, *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()
) -> dict[str, xr.Dataset]:
    """Run reducers over layers of a store, all of them in one read on Dask, and give their results.

    Parameters
    ----------
    store : Store
    reducers : mapping of str to Reducer, or callable
        A callable gets the dims of a layer that are summed up and gives such a mapping.
    layers : str or iterable of str
        See `fmx.store.Store.select`.
    by : str or sequence of str
        Dims to keep apart; ``label`` stands for the samples of each label together.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer name, in the order of computation: variables ``<reducer>.<result>`` (*by, *dims of the result), with
        the coordinates of the kept dims and the layer's attributes.

    Raises
    ------
    FmxError
        A layer has no such dim, or the samples have no labels.
    """
    return _run(store, reducers, layers, by, finalize=True)


def reduce_store(
    store: Store, reducers: Reducers, *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()
) -> dict[str, xr.Dataset]:
    """Run reducers over layers of a store as `summarise` does, and give their states, which can be merged further.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer name: one variable for each reducer, with its states (*by).
    """
    return _run(store, reducers, layers, by, finalize=False)


@dataclass(frozen=True)
class _Layer:
    """One layer's work, and where its results go."""

    data: xr.Dataset
    task: LayerTask
    dims: tuple[str, ...]
    pieces: list[Piece]

    @property
    def state_bytes(self) -> int:
        """Size of the largest state that has to be in memory at once."""
        seen = Counter(piece.cell for piece in self.pieces)
        labels = [math.prod(b - a for a, b in cell) for cell, times in seen.items() if times > 1]
        groups = len(self.task.groups.names) if self.task.groups else 1
        return max(labels, default=0) * groups * self.task.reducer.dtype.itemsize

    @classmethod
    def of(cls, store: Store, name: str, reducers: Reducers, by: str | Sequence[str], finalize: bool) -> _Layer:
        data = store.layer(name)
        array = data["activation"]
        dims = tuple(str(d) for d in array.dims)
        keep = check_dims(by, dims, name)
        kept = tuple(i for i, dim in enumerate(dims) if dim in keep)
        summed = tuple(dim for dim in dims if dim not in keep)
        made = reducers(summed) if callable(reducers) else reducers
        groups = groups_of(data, store.path) if "label" in keep else None
        key = f"layers/{layer_key(name)}/activation"
        there = store.complete
        task = LayerTask(
            store.place, key, ReducerSet(made), tuple(set(range(len(dims))) - set(kept)), there, groups, finalize
        )
        pieces = plan_pieces(
            (len(there), *array.shape[1:]),
            array.encoding["chunks"],
            array.dtype.itemsize,
            kept,
            there=there,
            whole=any(getattr(reducer, "whole_samples", False) for reducer in made.values()),
        )
        return cls(data, task, (*(["label"] if groups else []), *(dims[i] for i in kept)), pieces)

    def lazy(self) -> Iterator[Any]:
        """Give tasks, each with results by cell."""
        works = list(share_out(self.pieces))
        readers: dict[Cell, list[int]] = {}
        for i, work in enumerate(works):
            for cell in dict.fromkeys(piece.cell for piece in work):
                readers.setdefault(cell, []).append(i)
        shared = {cell for cell, numbers in readers.items() if len(numbers) > 1}
        reads = [delayed(self.task.read, pure=False)(work, shared) for work in works]
        for cell in shared:
            parts = [reads[i] for i in readers[cell]]
            while len(parts) > 1:
                parts = [
                    delayed(self.task.merge, pure=False)(cell, parts[i : i + _FAN_IN])
                    for i in range(0, len(parts), _FAN_IN)
                ]
            yield delayed(self.task.finish, pure=False)(cell, parts[0])
        for read in reads:
            yield delayed(_finished, pure=False)(read, shared)

    def dataset(self, found: Iterable[Mapping[Cell, Results]]) -> xr.Dataset:
        """Put the results of all cells together."""
        array = self.data["activation"]
        coords = kept_coords(array, self.dims, self.task.groups)
        sizes = tuple(
            len(self.task.groups.names) if d == "label" and self.task.groups else array.sizes[d] for d in self.dims
        )
        blank = self.task.blank()
        whole = {name: np.full((*sizes, *value.shape), value) for name, value in blank.items()}
        for results in found:
            for cell, values in results.items():
                where = tuple(slice(*part) for part in cell)
                if self.task.groups is not None:
                    where = (slice(None), *where)
                for name, value in values.items():
                    whole[name][where] = value
        extra = self.task.dims
        variables = {name: ((*self.dims, *extra.get(name, ())), value) for name, value in whole.items()}
        return xr.Dataset(variables, coords=coords, attrs=dict(self.data.attrs))


def most_state_bytes(
    store: Store, reducers: Reducers, *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()
) -> int:
    """Say how large the largest state would be that `summarise` has to keep in memory."""
    made = (_Layer.of(store, info.name, reducers, by, True) for info in store.select(layers))
    return max((layer.state_bytes for layer in made), default=0)


def _finished(results: Mapping[Cell, Any], shared: set[Cell]) -> dict[Cell, Any]:
    return {cell: value for cell, value in results.items() if cell not in shared}


def _run(
    store: Store, reducers: Reducers, layers: str | Iterable[str], by: str | Sequence[str], *, finalize: bool
) -> dict[str, xr.Dataset]:
    made = {info.name: _Layer.of(store, info.name, reducers, by, finalize) for info in store.select(layers)}
    for name, layer in made.items():
        if layer.state_bytes > MOST_STATE_BYTES:
            kept, size = ", ".join(layer.dims), layer.state_bytes / 1e9
            raise FmxError(
                f"{name} has so many labels ({kept}) that what is counted for them takes {size:.1f} GB: keep fewer of "
                "them apart, or leave out quantiles and histograms."
            )
    lazy = [list(layer.lazy()) for layer in made.values()]
    found = store.compute(*lazy)
    return {name: layer.dataset(some) for (name, layer), some in zip(made.items(), found, strict=True)}
