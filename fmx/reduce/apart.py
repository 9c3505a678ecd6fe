"""Reducers that look at a part of each block, or keep samples apart, for use beside others in one read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import Position, Reducer, State

__all__ = ["BySample", "OneLevel"]


class BySample(ColumnReducer):
    """Keeps samples apart, beside reducers that put them together.

    The first axis of blocks is the sample's, and blocks say where they begin along it.

    Parameters
    ----------
    reducer : Reducer
        What is wanted of each sample.
    samples : int
        How many there are.

    Results
    -------
    Those of the reducer are given by `states`: ``reducer.finalize(one.states(state))`` (sample, *kept).
    """

    def __init__(self, reducer: Reducer, samples: int) -> None:
        self.reducer = reducer
        self.samples = samples
        self.dtype = np.dtype([("sample", reducer.dtype, (samples,))])

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.empty(tuple(shape), self.dtype)
        state["sample"] = self.reducer.identity(())
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the reducer's results (*kept, sample, …)."""
        return self.reducer.finalize(state["sample"])

    def states(self, state: State) -> State:
        """Give the reducer's states, samples first (sample, *kept)."""
        return np.ascontiguousarray(np.moveaxis(state["sample"], -1, 0))

    def fill(
        self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int], start: Sequence[Position] | None
    ) -> None:
        """Take in a block."""
        first = 0 if start is None else int(np.min(start[0], initial=self.samples))
        own = self._states(columns, at)[:, first : first + len(block)]
        kept = [n for i, n in enumerate(block.shape) if i not in axes]
        rest = [i for i in axes if i != 0]
        self.reducer.update(np.moveaxis(own.reshape(*kept, len(block)), -1, 0), block, rest, start=start)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        own = self._states(columns, at)
        own[...] = self.reducer.merge(own, self._states(others, at))

    def _states(self, columns: Table, at: int) -> State:
        """See the columns as states of the reducer (label, sample)."""
        part = columns[0][:, at : at + self.dtype.itemsize // 8]
        found: State = part.view(self.reducer.dtype)
        return found


class OneLevel(ColumnReducer):
    """Shows a reducer one entry of an axis, beside others that look at all of it.

    Parameters
    ----------
    reducer : ColumnReducer
    level : int
        Position of the entry in the whole array.
    axis : int
        One of those that are summed up; the noise levels' unless given.
    """

    def __init__(self, reducer: ColumnReducer, level: int, axis: int = 1) -> None:
        self.reducer, self.level, self.axis = reducer, level, axis
        self.dtype = reducer.dtype

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        return self.reducer.identity(shape)

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the reducer's results."""
        return self.reducer.finalize(state)

    def fill(
        self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int], start: Sequence[Position] | None
    ) -> None:
        """Take in a block."""
        begins: list[Position] = [0] * block.ndim if start is None else list(start)
        inside = self.level - int(np.min(begins[self.axis]))
        if 0 <= inside < block.shape[self.axis]:
            begins[self.axis] = self.level
            own = block[(*(slice(None),) * self.axis, slice(inside, inside + 1))]
            self.reducer.fill(columns, at, own, axes, begins)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        self.reducer.join(columns, others, at)
