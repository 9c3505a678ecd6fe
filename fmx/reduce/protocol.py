"""What a reducer is: a summary whose partial results can be merged in any order.

The same reducer runs inside extraction, inside Dask's tree and across machines. Its state is a structured array with
one entry for each label that is kept, so that states are sliced, stored and sent like any other array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reducer", "State"]

State = NDArray[np.void]


class Reducer(Protocol):
    """A mergeable summary.

    Attributes
    ----------
    dtype : numpy.dtype
        Structured type of one entry of the state.
    """

    dtype: np.dtype[np.void]

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen, one entry for each kept label."""
        ...

    def update(self, state: State, block: NDArray[Any], axes: Sequence[int]) -> State:
        """Take in a block; `axes` of it are summed up, the others are the kept labels in order."""
        ...

    def merge(self, a: State, b: State) -> State:
        """Combine two states of the same labels."""
        ...

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Turn a state into named results."""
        ...
