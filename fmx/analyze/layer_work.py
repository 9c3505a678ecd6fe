"""The work of reducing one layer of a store: its plan, its tasks on Dask, and where their results go."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask import delayed

from fmx.analyze.chunk_plan import Cell, Piece, plan_pieces, share_out, share_out_runs
from fmx.analyze.labels import check_dims, groups_of, kept_coords
from fmx.analyze.parts import WHOLE, Part
from fmx.analyze.store_tasks import LayerTask, Results
from fmx.errors import FmxError
from fmx.reduce import Reducer, ReducerSet, State
from fmx.store import Store, layer_key

__all__ = ["LayerWork", "Reducers", "SampleFold", "run_works"]

# What to run; or how to make it, from the dims of a layer that are summed up.
Reducers = Mapping[str, Reducer] | Callable[[tuple[str, ...]], Mapping[str, Reducer]]

MOST_STATE_BYTES = 512 * 2**20
_FAN_IN = 8


class SampleFold(Protocol):
    """What is made of states (sample, channel), some consecutive samples at a time; it is sent to where they are read.

    Attributes
    ----------
    reducer : Reducer
        Whose states they are.
    """

    @property
    def reducer(self) -> Reducer: ...

    def take(self, states: State, samples: slice, /) -> Any:
        """Make something small of the states of these samples, counted among those that are looked at."""
        ...

    def join(self, parts: Sequence[Any]) -> Any:
        """Put together what was made of consecutive samples, in their order."""
        ...

    def finish(self, whole: Any) -> Any:
        """Turn what was made of all samples into a result."""
        ...


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
        own = [shared.intersection(piece.cell for piece in work) for work in works]
        reads = [_later(self.task.read, work, cells) for work, cells in zip(works, own, strict=True)]
        for cell in shared:
            parts = [reads[i] for i in readers[cell]]
            while len(parts) > 1:
                parts = [
                    delayed(self.task.merge, pure=False)(cell, parts[i : i + _FAN_IN])
                    for i in range(0, len(parts), _FAN_IN)
                ]
            yield delayed(self.task.finish, pure=False)(cell, parts[0])
        for read, cells in zip(reads, own, strict=True):
            yield delayed(_finished, pure=False)(read, cells) if cells else read

    def folded(self, fold: SampleFold) -> Any:
        """Give lazily what a fold makes of the layer, whose samples and channels are kept apart and whose states asked.

        A run is as many samples as a chunk holds, and its states are all that is in memory of it. Short runs are read
        one after the other by one task, long ones by several.
        """
        # One in the graph, however many tasks there are.
        one = delayed(fold, pure=False, traverse=False)
        sizes = self._sizes()[1:]
        parts = []
        for runs in share_out_runs(self.pieces):
            if len(runs) > 1:
                parts.append(delayed(partial(_fold_runs, self.task, sizes, runs), pure=False)(one))
                continue
            # A task has all of each of its cells.
            cells = [list(some) for _, some in itertools.groupby(runs[0], key=lambda piece: piece.cell)]
            tasks = list(share_out(runs[0])) if self.in_one_piece else cells
            reads = [_later(self.task.read, some, ()) for some in tasks]
            parts.append(delayed(_take, pure=False)(one, sizes, reads))
        while len(parts) > 1:
            parts = [delayed(_join, pure=False)(one, parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
        return delayed(_finish, pure=False)(one, parts)

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


def _later(function: Callable[..., Any], *plain: Any) -> Any:
    """Call a function lazily with arguments of which none is lazy: Dask need not look for that in every piece."""
    return delayed(partial(function, *plain), pure=False)()


def _take(fold: SampleFold, sizes: tuple[int, ...], reads: Sequence[Mapping[Cell, Results]]) -> Any:
    """Put the states of a run of samples together, and hand them on."""
    parts = [(cell, states["s"]) for results in reads for cell, states in results.items()]
    first, last = parts[0][0][0]
    whole: State = np.empty((last - first, *sizes), parts[0][1].dtype)
    for (_, *rest), some in parts:
        whole[(slice(None), *(slice(*part) for part in rest))] = some
    return fold.take(whole, slice(first, last))


def _fold_runs(task: LayerTask, sizes: tuple[int, ...], runs: Sequence[Sequence[Piece]], fold: SampleFold) -> Any:
    """Read runs of samples one after the other, and fold them."""
    return fold.join([_take(fold, sizes, [task.read(run, ())]) for run in runs])


def _join(fold: SampleFold, parts: Sequence[Any]) -> Any:
    return fold.join(parts)


def _finish(fold: SampleFold, parts: Sequence[Any]) -> Any:
    return fold.finish(fold.join(parts))


def _finished(results: Mapping[Cell, Any], shared: set[Cell]) -> dict[Cell, Any]:
    return {cell: value for cell, value in results.items() if cell not in shared}
