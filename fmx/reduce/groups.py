"""Reducing samples group by group, such as the pictures of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.protocol import Position, Reducer, State

__all__ = ["update_groups"]


def update_groups(
    reducer: Reducer,
    state: State,
    block: NDArray[Any],
    axes: Sequence[int],
    groups: NDArray[np.int64],
    *,
    axis: int = 0,
    start: Sequence[Position] | None = None,
) -> State:
    """Take in a block whose entries along one axis belong to different groups; the state is changed in place.

    Parameters
    ----------
    reducer : Reducer
    state : array (group, *kept)
    block : array (any dims)
    axes : sequence of int
        Axes that are summed up, `axis` among them.
    groups : array (entry,) of int
        Group of each entry along `axis`.
    axis : int
    start : sequence, optional
        See `fmx.reduce.Reducer`.

    Returns
    -------
    array (group, *kept)
        The state.
    """
    begin: Position = 0 if start is None else start[axis]
    places = begin if isinstance(begin, np.ndarray) else begin + np.arange(block.shape[axis], dtype=np.int64)
    rest: list[Position] = [0] * block.ndim if start is None else list(start)
    before = (slice(None),) * axis
    for group in np.unique(groups):
        chosen = np.flatnonzero(groups == group)
        rest[axis] = places[chosen]
        together = chosen[-1] - chosen[0] + 1 == len(chosen)
        part = block[(*before, slice(chosen[0], chosen[-1] + 1) if together else chosen)]
        reducer.update(state[group], part, axes, start=rest)
    return state
