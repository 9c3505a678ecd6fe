"""Reducers whose states are columns of one table, so that several of them fill it in one read of a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import Runs, find_runs
from fmx.reduce.protocol import Position, State

__all__ = ["ColumnReducer", "FusedReducer", "Table", "fill_fused", "join_fused", "slices", "table"]

Table = tuple[NDArray[np.int64], NDArray[np.float64]]

# As much of a block as stays in a core's second cache while labels that lie side by side are read one after the other.
SLICE_BYTES = 2**20


@contextmanager
def table(state: State) -> Iterator[Table]:
    """See a state as a table (label, column) of whole numbers and of floats, for changing it in place."""
    work = np.ascontiguousarray(state)
    labels, width = work.size, work.dtype.itemsize // 8
    whole = work.reshape(-1).view(np.int64).reshape(labels, width)
    yield whole, whole.view(np.float64)
    if not np.shares_memory(work, state):
        state[...] = work.reshape(state.shape)


class ColumnReducer(ABC):
    """A reducer whose columns may be a part of a wider table.

    Attributes
    ----------
    dtype : numpy.dtype
        Its columns, of 8 bytes each, in the order in which compiled code numbers them.
    """

    dtype: np.dtype[np.void]

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of results; see `fmx.reduce.Reducer`."""
        return {}

    @abstractmethod
    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen, one entry for each kept label."""

    @abstractmethod
    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Turn a state into named results."""

    def fill(
        self,
        columns: Table,
        at: int,
        block: NDArray[Any],
        axes: Sequence[int],
        start: Sequence[Position] | None,  # noqa: ARG002 - where a block lies matters to few
    ) -> None:
        """Take in a block in a table where the reducer's first column is `at`."""
        self.take(columns, at, block, axes)

    def take(self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block, for reducers that need not know where it lies."""
        runs = find_runs(block, axes)
        if runs.length and runs.bases.size:
            self.take_runs(columns, at, runs)

    def take_runs(self, columns: Table, at: int, runs: Runs) -> None:
        """Take in the runs of a block, for reducers that need no more of it."""
        raise NotImplementedError

    @abstractmethod
    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge the reducer's columns of another table into those of this one."""

    def update(
        self, state: State, block: NDArray[Any], axes: Sequence[int], *, start: Sequence[Position] | None = None
    ) -> State:
        """Take in a block, in place; see `fmx.reduce.Reducer`."""
        with table(state) as columns:
            self.fill(columns, 0, block, axes, start)
        return state

    def merge(self, a: State, b: State) -> State:
        """Combine two states of the same labels into a new one."""
        merged = a.copy()
        with table(merged) as columns, table(b) as others:
            self.join(columns, others, 0)
        return merged


class FusedReducer(ColumnReducer):
    """A reducer that the compiled pass of `fmx.reduce.kernels` feeds, together with those of other parts.

    Attributes
    ----------
    part : int
        Its place in what the pass takes: 0 moments, 1 histogram, 2 quantiles.
    """

    part: ClassVar[int]

    @property
    def settings(self) -> dict[int, int]:
        """What the pass must know beside the columns, by place; see `fmx.reduce.kernels.accumulate`."""
        return {}

    def take(self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block."""
        fill_fused({at: self}, columns, block, axes)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        join_fused({at: self}, columns, others)


def fill_fused(reducers: Mapping[int, FusedReducer], columns: Table, block: NDArray[Any], axes: Sequence[int]) -> None:
    """Take in a block for reducers of different parts, by their first columns, in one read."""
    from fmx.reduce.kernels import accumulate

    for piece in slices(block, axes):
        runs = find_runs(piece, axes)
        if runs.length and runs.bases.size:
            accumulate(runs.flat, runs.mask, runs.bases, runs.starts, runs.length, runs.step, _at(reducers), *columns)


def join_fused(reducers: Mapping[int, FusedReducer], columns: Table, others: Table) -> None:
    """Merge tables in place, for reducers of different parts, by their first columns."""
    from fmx.reduce.kernels import merge

    merge(_at(reducers), *columns, *others)


def _at(reducers: Mapping[int, FusedReducer]) -> NDArray[np.int64]:
    at = np.array([-1, -1, -1, 0, 0, 0], np.int64)
    for column, reducer in reducers.items():
        at[reducer.part] = column
        for place, value in reducer.settings.items():
            at[place] = value
    return at


def slices(block: NDArray[Any], axes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Cut a block whose labels lie side by side in memory, as those of channels-last models do."""
    long = [i for i in axes if block.shape[i] > 1]
    if block.nbytes <= SLICE_BYTES or not long or min(abs(block.strides[i]) for i in long) == block.itemsize:
        yield block
        return
    widest = max(long, key=lambda i: abs(block.strides[i]))
    length = max(SLICE_BYTES * block.shape[widest] // block.nbytes, 1)
    before = (slice(None),) * widest
    for first in range(0, block.shape[widest], length):
        yield block[(*before, slice(first, first + length))]
