"""What one task does: read chunks of a layer, reduce them, and turn what is whole into results."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fmx.analyze.chunk_plan import Cell, Piece
from fmx.analyze.labels import Groups
from fmx.reduce import Position, ReducerSet, State, update_groups

__all__ = ["LayerTask", "Results"]

Results = dict[str, NDArray[Any]]

# As many states are held at once for labels whose values are all in one piece.
STATE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class LayerTask:
    """How to reduce a layer; it can be sent to another machine.

    Attributes
    ----------
    place : fmx.store.Place
    key : str
        Path of the array in the store.
    reducer : ReducerSet
    axes : tuple of int
        Axes that are summed up.
    there : array (sample,) of bool
        Samples that count.
    groups : Groups or None
        Groups of the samples that count, where they are kept apart.
    finalize : bool
        Give results; else states.
    seeds : array (*kept) of states, optional
        What each label's state is before anything was seen, where that is not the same for all.
    """

    place: Any
    key: str
    reducer: ReducerSet
    axes: tuple[int, ...]
    there: NDArray[np.bool_]
    groups: Groups | None
    finalize: bool
    seeds: State | None = None

    def read(self, pieces: Sequence[Piece], shared: Collection[Cell]) -> dict[Cell, Any]:
        """Reduce pieces one after the other: to results by cell, and to states for cells that are shared."""
        array = zarr.open_array(store=self.place.zarr(), path=self.key, mode="r")
        found: dict[Cell, Any] = {}
        for cell, some in _by_cell(pieces):
            if cell not in shared and len(some) == 1 and self.groups is None and cell and self.seeds is None:
                found[cell] = self._slab_by_slab(some[0], array)
                continue
            state = self._blank_state(cell)
            for piece in some:
                block, start = self._load(array, piece)
                self._take_in(state, block, start)
            found[cell] = state if cell in shared else self._results(state)
        return found

    def merge(self, cell: Cell, parts: Sequence[Mapping[Cell, State]]) -> dict[Cell, State]:
        """Merge the states of a cell from several tasks."""
        merged = parts[0][cell]
        for part in parts[1:]:
            merged = self.reducer.merge(merged, part[cell])
        return {cell: merged}

    def finish(self, cell: Cell, states: Mapping[Cell, State]) -> dict[Cell, Results]:
        """Turn a cell's state into results."""
        return {cell: self._results(states[cell])}

    def blank(self) -> Results:
        """Give the results of one label of which nothing was seen."""
        return self._results(self.reducer.identity(()))

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims that results have after the kept ones."""
        return self.reducer.dims if self.finalize else {}

    def _results(self, state: State) -> Results:
        if self.finalize:
            return self.reducer.finalize(state)
        return {name: np.ascontiguousarray(state[name]).reshape(state.shape) for name in self.reducer.reducers}

    def _shape(self, cell: Cell) -> tuple[int, ...]:
        sizes = tuple(stop - start for start, stop in cell)
        return sizes if self.groups is None else (len(self.groups.names), *sizes)

    def _blank_state(self, cell: Cell) -> State:
        if self.seeds is None:
            return self.reducer.identity(self._shape(cell))
        where: Any = (*(slice(*part) for part in cell), ...)
        seeds: State = self.seeds[where if self.groups is None else (slice(None), *where)]
        return seeds.copy()

    def _load(self, array: Any, piece: Piece) -> tuple[NDArray[Any], list[Position]]:
        first, last = piece.region[0].start, piece.region[0].stop
        block = np.asarray(array[piece.region])
        chosen = np.flatnonzero(self.there[first:last])
        if len(chosen) < len(block):
            block = block[chosen]
        return block, [int(self.there[:first].sum()), *(part.start for part in piece.region[1:])]

    def _take_in(self, state: State, block: NDArray[Any], start: list[Position]) -> None:
        if self.groups is None:
            self.reducer.update(state, block, self.axes, start=start)
        else:
            first = int(np.max(start[0]))
            numbers = self.groups.numbers[first : first + len(block)]
            update_groups(self.reducer, state, block, self.axes, numbers, start=start)

    def _slab_by_slab(self, piece: Piece, array: Any) -> Results:
        """Reduce a piece that holds all values of its labels, some labels at a time: there may be very many."""
        block, start = self._load(array, piece)
        axis = next(i for i in range(block.ndim) if i not in self.axes)
        each = self.reducer.dtype.itemsize * int(np.prod(self._shape(piece.cell)[1:], dtype=np.int64))
        length = max(STATE_BYTES // max(each, 1), 1)
        slabs: list[Results] = []
        for first in range(0, block.shape[axis], length):
            slab = block[(*(slice(None),) * axis, slice(first, first + length))]
            state = self.reducer.identity([n for i, n in enumerate(slab.shape) if i not in self.axes])
            begin = [*start]
            begin[axis] = np.arange(slab.shape[axis]) + first + start[axis]
            self.reducer.update(state, slab, self.axes, start=begin)
            slabs.append(self._results(state))
        return {name: np.concatenate([slab[name] for slab in slabs]) for name in slabs[0]}


def _by_cell(pieces: Sequence[Piece]) -> Iterator[tuple[Cell, list[Piece]]]:
    """Give the pieces of each cell, which come one after the other."""
    found: dict[Cell, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(piece.cell, []).append(piece)
    yield from found.items()
