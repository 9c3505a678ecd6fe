"""Several reducers over the same blocks, each block read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.columns import ColumnReducer, FusedReducer, Table, fill_fused, join_fused
from fmx.reduce.protocol import Position, Reducer, State

__all__ = ["ReducerSet"]


class ReducerSet(ColumnReducer):
    """Several reducers as one, whose state has a field for each.

    Moments, a histogram and quantiles are fed together by one pass over a block; others follow while the block is
    still in the cache. ``state["hist"]`` is the state that the reducer of that name would have by itself.

    Parameters
    ----------
    reducers : mapping of str to Reducer
    """

    def __init__(self, reducers: Mapping[str, Reducer]) -> None:
        self.reducers = dict(reducers)
        self.dtype = np.dtype([(name, reducer.dtype) for name, reducer in self.reducers.items()])

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        for name, reducer in self.reducers.items():
            # One entry of each is made and spread out, so that what stays 0 takes no memory until it is touched.
            entry = reducer.identity(())
            for field in entry.dtype.names or ():
                # What holds fields of its own can't be asked as a whole.
                if entry[field].dtype.names or np.any(entry[field]):
                    state[name][field] = entry[field]
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results of all reducers, named ``<name>.<result>``."""
        return {
            f"{name}.{key}": values
            for name, reducer in self.reducers.items()
            for key, values in reducer.finalize(state[name]).items()
        }

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of results."""
        return {f"{name}.{key}": dims for name, reducer in self.reducers.items() for key, dims in reducer.dims.items()}

    def fill(
        self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int], start: Sequence[Position] | None
    ) -> None:
        """Take in a block."""
        fused, others = self._divided(at)
        for group in fused:
            fill_fused(group, columns, block, axes)
        for column, name, reducer in others:
            if isinstance(reducer, ColumnReducer):
                reducer.fill(columns, column, block, axes, start)
            else:
                field = self._field(columns, at, name)
                kept = tuple(n for i, n in enumerate(block.shape) if i not in axes)
                field[...] = reducer.update(field.copy().reshape(kept), block, axes, start=start).reshape(-1)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        fused, rest = self._divided(at)
        for group in fused:
            join_fused(group, columns, others)
        for column, name, reducer in rest:
            if isinstance(reducer, ColumnReducer):
                reducer.join(columns, others, column)
            else:
                field = self._field(columns, at, name)
                field[...] = reducer.merge(field, self._field(others, at, name))

    def _divided(self, at: int) -> tuple[list[dict[int, FusedReducer]], list[tuple[int, str, Reducer]]]:
        """Put those that the compiled pass can feed together into groups, by their first columns."""
        fused: list[dict[int, FusedReducer]] = []
        others: list[tuple[int, str, Reducer]] = []
        for name, reducer in self.reducers.items():
            column = at + self._offset(name)
            if not isinstance(reducer, FusedReducer):
                others.append((column, name, reducer))
                continue
            group = next((g for g in fused if all(other.part != reducer.part for other in g.values())), None)
            if group is None:
                fused.append(group := {})
            group[column] = reducer
        return fused, others

    def _offset(self, name: str) -> int:
        assert self.dtype.fields is not None
        return int(self.dtype.fields[name][1]) // 8

    def _field(self, columns: Table, at: int, name: str) -> State:
        """See the columns of one reducer as its state (label)."""
        first, width = at + self._offset(name), self.reducers[name].dtype.itemsize // 8
        part: State = columns[0][:, first : first + width].view(self.reducers[name].dtype)[:, 0]
        return part
