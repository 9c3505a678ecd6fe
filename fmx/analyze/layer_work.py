"""The work of reducing one layer of a store: its plan, its tasks on Dask, and where their results go."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from dask import delayed

from fmx.analyze.chunk_plan import Cell, Piece, plan_pieces, share_out
from fmx.analyze.labels import check_dims, groups_of, kept_coords
from fmx.analyze.parts import WHOLE, Part
from fmx.analyze.store_tasks import LayerTask, Results
from fmx.errors import FmxError
from fmx.reduce import Reducer, ReducerSet, State
from fmx.store import Store, layer_key

__all__ = ["LayerWork", "Reducers", "run_works"]

# What to run; or how to make it, from the dims of a layer that are summed up.
Reducers = Mapping[str, Reducer] | Callable[[tuple[str, ...]], Mapping[str, Reducer]]

MOST_STATE_BYTES = 512 * 2**20
_FAN_IN = 8


@dataclass(frozen=True)
class LayerWork:
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

    @property
    def in_one_piece(self) -> bool:
        """Whether all values of every label are read at once."""
        return self.task.groups is None and len({piece.cell for piece in self.pieces}) == len(self.pieces)

    @classmethod
    def of(
        cls,
        store: Store,
        name: str,
        reducers: Reducers,
        by: str | Sequence[str],
        *,
        finalize: bool = True,
        part: Part = WHOLE,
    ) -> LayerWork:
        """Plan a layer's work; see `fmx.analyze.store_reduce.summarise`."""
        full = store.activation(name)
        there, data = part.cut(store, store.layer(name))
        array = data["activation"]
        dims = tuple(str(d) for d in array.dims)
        keep = check_dims(by, array, name)
        kept = tuple(i for i, dim in enumerate(dims) if dim in keep)
        summed = tuple(dim for dim in dims if dim not in keep)
        made = reducers(summed) if callable(reducers) else reducers
        labels = [dim for dim in keep if dim not in dims]
        groups = groups_of(data, store.path, labels) if labels else None
        key = f"layers/{layer_key(name)}/activation"
        axes = tuple(i for i, dim in enumerate(dims) if dim not in keep)
        task = LayerTask(store.place, key, ReducerSet(made), axes, there, groups, finalize)
        pieces = plan_pieces(
            (len(there), *full.shape[1:]),
            full.encoding["chunks"],
            full.dtype.itemsize,
            kept,
            there=there,
            whole=_whole_axes(made.values(), len(dims)),
            within={dims.index("noise"): (part.level, part.level + 1)} if part.level is not None else None,
        )
        return cls(data, task, (*labels, *(dims[i] for i in kept)), pieces)

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

    def folded(self, take: Callable[[dict[str, State]], Any]) -> list[Any]:
        """Give lazily what a function makes of the states of each run of samples, run by run.

        Samples are kept apart, and states are asked for. A run is as many samples as a chunk holds, and its states
        (sample, …) by the reducers' names are all that is in memory of it.
        """
        found = []
        for _, run in itertools.groupby(self.pieces, key=lambda piece: piece.cell[0]):
            # A task has all of each of its cells.
            cells = [list(some) for _, some in itertools.groupby(run, key=lambda piece: piece.cell)]
            tasks = list(share_out(list(itertools.chain(*cells)))) if self.in_one_piece else cells
            reads = [delayed(self.task.read, pure=False)(some, ()) for some in tasks]
            found.append(delayed(_taken, pure=False)(take, self._sizes()[1:], reads))
        return found

    def _sizes(self) -> tuple[int, ...]:
        """Give the sizes of the kept dims."""
        labels, array = self.task.groups.labels if self.task.groups else {}, self.data["activation"]
        return tuple(len(labels[dim]) if dim in labels else array.sizes[dim] for dim in self.dims)

    def seeded(self, states: State) -> LayerWork:
        """Give the same work, begun with states (*dims) that are not the same for all labels."""
        labels = len(self.task.groups.sizes) if self.task.groups else 0
        seeds = states.reshape(-1, *states.shape[labels:]) if labels else states
        return replace(self, task=replace(self.task, seeds=seeds))

    def dataset(self, found: Iterable[Mapping[Cell, Results]]) -> xr.Dataset:
        """Put the results of all cells together."""
        coords = kept_coords(self.data["activation"], self.dims, self.task.groups)
        sizes = self._sizes()
        # Combinations of labels lie along one axis until all is there.
        labels = len(self.task.groups.sizes) if self.task.groups else 0
        shape = (math.prod(sizes[:labels]), *sizes[labels:]) if labels else sizes
        blank = self.task.blank()
        whole = {name: np.full((*shape, *value.shape), value) for name, value in blank.items()}
        for results in found:
            for cell, values in results.items():
                where = tuple(slice(*part) for part in cell)
                if labels:
                    where = (slice(None), *where)
                for name, value in values.items():
                    whole[name][where] = value
        whole = {name: value.reshape((*sizes, *blank[name].shape)) for name, value in whole.items()}
        extra = self.task.dims
        variables = {name: ((*self.dims, *extra.get(name, ())), value) for name, value in whole.items()}
        return xr.Dataset(variables, coords=coords, attrs=dict(self.data.attrs))


def run_works(store: Store, works: Mapping[str, LayerWork]) -> dict[str, xr.Dataset]:
    """Do the work of several layers together, and give their results.

    Raises
    ------
    FmxError
        The states would not fit the memory.
    """
    for name, work in works.items():
        if work.state_bytes > MOST_STATE_BYTES:
            kept, size = ", ".join(work.dims), work.state_bytes / 1e9
            raise FmxError(
                f"{name} has so many labels ({kept}) that what is counted for them takes {size:.1f} GB: keep fewer of "
                "them apart, or leave out quantiles and histograms."
            )
    found = store.compute(*(list(work.lazy()) for work in works.values()))
    return {name: work.dataset(some) for (name, work), some in zip(works.items(), found, strict=True)}


def _whole_axes(reducers: Iterable[Reducer], ndim: int) -> set[int]:
    """Collect the axes that pieces must not cut, for any of the reducers."""
    found: set[int] = set()
    for reducer in reducers:
        found |= set(range(1, ndim)) if getattr(reducer, "whole_samples", False) else set()
        found |= set(getattr(reducer, "whole_axes", ()))
    return found


def _taken(
    take: Callable[[dict[str, State]], Any], sizes: tuple[int, ...], reads: Sequence[Mapping[Cell, Results]]
) -> Any:
    """Put the states of a run of samples together, and hand them on."""
    whole: dict[str, State] = {}
    for (first, *rest), states in (item for results in reads for item in results.items()):
        for name, some in states.items():
            whole.setdefault(name, np.empty((first[1] - first[0], *sizes), some.dtype))
            whole[name][(slice(None), *(slice(*part) for part in rest))] = some
    return take(whole)


def _finished(results: Mapping[Cell, Any], shared: set[Cell]) -> dict[Cell, Any]:
    return {cell: value for cell, value in results.items() if cell not in shared}
