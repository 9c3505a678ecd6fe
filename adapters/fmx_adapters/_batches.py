"""Running batches of any size through a model that takes only some sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run_in_slices"]

Arrays = Mapping[str, NDArray[Any]]


def run_in_slices(
    arrays: Arrays, run: Callable[[Arrays], Arrays], *, least: int = 1, most: int | None = None
) -> dict[str, NDArray[Any]]:
    """Run a batch in slices of sizes that the model takes, the last one filled up with zeros.

    Parameters
    ----------
    arrays : mapping of str to array (sample, …)
        The inputs, all with the same number of samples.
    run : callable
        Runs the model on inputs of one size and gives its values by name.
    least, most : int
        Smallest and largest size that the model takes; the same for a model of one size, `most` None for no limit.

    Returns
    -------
    dict of str to array (sample, …)
        A value without the sample axis is that of the first slice.
    """
    count = len(next(iter(arrays.values())))
    step = most or max(count, 1)
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, max(count, 1), step):
        taken = min(step, count - start)
        size = max(taken, least)
        values = run({name: _filled(array[start : start + taken], size) for name, array in arrays.items()})
        parts.append({name: value[:taken] if value.shape[:1] == (size,) else value for name, value in values.items()})
    if len(parts) == 1:
        return parts[0]
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _filled(array: NDArray[Any], size: int) -> NDArray[Any]:
    if len(array) == size:
        return array
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts[0].ndim else parts[0]
