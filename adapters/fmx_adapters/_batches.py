"""Running batches of any size through a model that takes only some sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["join_slices", "run_in_slices", "slices"]

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
    return join_slices([(taken, size, run(part)) for taken, size, part in slices(arrays, least=least, most=most)])


def slices(arrays: Arrays, *, least: int = 1, most: int | None = None) -> Iterator[tuple[int, int, Arrays]]:
    """Cut a batch into slices that a model takes, as `run_in_slices` does.

    Yields
    ------
    taken : int
        Samples of the batch in the slice.
    size : int
        Samples of the slice, with the zeros that fill it up.
    part : mapping of str to array (sample, …)
    """
    count = len(next(iter(arrays.values())))
    step = most or max(count, 1)
    for start in range(0, max(count, 1), step):
        taken = min(step, count - start)
        size = max(taken, least)
        yield taken, size, {name: _filled(array[start : start + taken], size) for name, array in arrays.items()}


def join_slices(parts: Sequence[tuple[int, int, Arrays]]) -> dict[str, NDArray[Any]]:
    """Put the values of all slices together, each with its ``taken`` and ``size`` from `slices`."""
    cut = [
        {name: value[:taken] if value.shape[:1] == (size,) else value for name, value in values.items()}
        for taken, size, values in parts
    ]
    if len(cut) == 1:
        return cut[0]
    return {name: _joined([values[name] for values in cut]) for name in cut[0]}


def _filled(array: NDArray[Any], size: int) -> NDArray[Any]:
    if len(array) == size:
        return array
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts[0].ndim else parts[0]
