"""The values at a few places, as they are; and the extremes with how often they occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import find_runs
from fmx.reduce.columns import ColumnReducer, Table, slices
from fmx.reduce.protocol import Position, State

__all__ = ["Extremes", "Places"]


class Places:
    """The values at given positions, for each kept label.

    Parameters
    ----------
    positions : array (place, axis) of int
        Along the axes that are summed up, in their order; axes that a block has one entry of are not looked at.

    Results
    -------
    values : (*kept, place); NaN where the place was not seen, or holds NaN
    """

    def __init__(self, positions: NDArray[np.int64]) -> None:
        self.positions = np.asarray(positions, dtype=np.int64)
        self.dtype = np.dtype([("value", np.float64, (len(self.positions),))])

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dim of the values."""
        return {"values": ("place",)}

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["value"] = np.nan
        return state

    def update(
        self, state: State, block: NDArray[Any], axes: Sequence[int], *, start: Sequence[Position] | None = None
    ) -> State:
        """Take in a block, in place."""
        summed = sorted(axes)
        for place, position in enumerate(self.positions):
            index: list[Any] = [slice(None)] * block.ndim
            for axis, wanted in zip(summed, position, strict=True):
                begin = 0 if start is None else start[axis]
                entries = begin if isinstance(begin, np.ndarray) else np.arange(begin, begin + block.shape[axis])
                found = np.flatnonzero(entries == wanted)
                if not len(found):
                    break
                index[axis] = int(found[0])
            else:
                state["value"][..., place] = block[tuple(index)]
        return state

    def merge(self, a: State, b: State) -> State:
        """Combine two states of the same labels into a new one."""
        merged = a.copy()
        merged["value"] = np.where(np.isnan(a["value"]), b["value"], a["value"])
        return merged

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the values."""
        return {"values": state["value"].copy()}


class Extremes(ColumnReducer):
    """The smallest and the largest finite value, and how many values are exactly these.

    Results
    -------
    min, max : NaN where nothing finite was seen
    at_min, at_max : how many values are equal to them
    count : finite values
    """

    dtype = np.dtype(
        [("min", np.float64), ("max", np.float64), ("at_min", np.int64), ("at_max", np.int64), ("count", np.int64)]
    )

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["min"], state["max"] = np.inf, -np.inf
        return state

    def take(self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block."""
        from fmx.reduce.extremes_kernel import take_extremes

        for piece in slices(block, axes):
            runs = find_runs(piece, axes)
            if runs.length and runs.bases.size:
                where = runs.flat, runs.mask, runs.bases, runs.starts, runs.length, runs.step
                take_extremes(*where, at, *columns)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        from fmx.reduce.extremes_kernel import merge_extremes

        merge_extremes(at, *columns, *others)

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above."""
        some = state["count"] > 0
        extremes = {name: np.where(some, state[name], np.nan) for name in ("min", "max")}
        return extremes | {name: state[name].copy() for name in ("at_min", "at_max", "count")}
