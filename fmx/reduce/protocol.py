"""What a reducer is: a summary whose partial results can be merged in any order.

The same reducer runs inside extraction, inside Dask's tree and across machines. Its state is a structured array with
one entry for each label that is kept, so that states are sliced, stored and sent like any other array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Position", "Reducer", "State"]

State = NDArray[np.void]
# Where a block begins along an axis, or where each of its entries is, in the whole array.
Position = int | NDArray[np.int64]


class Reducer(Protocol):
    """A mergeable summary.

    Attributes
    ----------
    dtype : numpy.dtype
        Structured type of one entry of the state; all of its fields are of 8 bytes, or arrays of such.
    """

    dtype: np.dtype[np.void]

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims that results have after the kept ones, by the result's name; most have none and are not listed."""
        ...

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen, one entry for each kept label."""
        ...

    def update(
        self, state: State, block: NDArray[Any], axes: Sequence[int], *, start: Sequence[Position] | None = None
    ) -> State:
        """Take in a block, changing the state in place, and return the state.

        Parameters
        ----------
        state : array (*kept)
        block : array (any dims)
            In any memory order; numbers of up to 8 bytes.
        axes : sequence of int
            Axes that are summed up; the others are the kept labels in order.
        start : sequence, optional
            For each axis of the block, where it begins in the whole array, or the positions of all its entries. Only
            reducers that report positions use it; 0 where left out.
        """
        ...

    def merge(self, a: State, b: State) -> State:
        """Combine two states of the same labels into a new one."""
        ...

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Turn a state into named results (*kept, *dims)."""
        ...
