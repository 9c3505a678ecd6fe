"""Seeing a block of any layout as one flat run of memory, with a list of where each label's values lie in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["Runs", "as_floats", "find_runs", "is_small", "offsets"]

Axis = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Runs:
    """Where the values of each kept label are: at ``bases[label] + starts[run] + i * step`` for i below `length`.

    Attributes
    ----------
    flat : array (memory,)
        float32 or float64, read-only; the block's own memory where its type allows.
    bases : array (label,) of int64
        The kept labels in C order.
    starts : array (run,) of int64
    length, step : int
    mask : array (1,)
        All bits of a value but the sign, as a whole number of the same size.
    shape : tuple of int
        Sizes of the kept axes.
    """

    flat: NDArray[Any]
    bases: NDArray[np.int64]
    starts: NDArray[np.int64]
    length: int
    step: int
    mask: NDArray[Any]
    shape: tuple[int, ...]


def is_small(dtype: np.dtype[Any]) -> bool:
    """Say whether all values of a type are values of float32 too."""
    return dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)


def as_floats(block: NDArray[Any]) -> NDArray[Any]:
    """Give the block as float32, or as float64 where float32 can't hold its type, in the same memory order."""
    kind, size = block.dtype.kind, block.dtype.itemsize
    if kind not in "fiub" or size > 8:
        raise TypeError(f"values of type {block.dtype} can't be summed up")
    return block.astype(np.float32 if is_small(block.dtype) else np.float64, order="K", copy=False)


def find_runs(block: NDArray[Any], axes: Sequence[int]) -> Runs:
    """Find the runs of a block whose `axes` are summed up, without copying what can be read as it lies."""
    values = as_floats(block)
    # Axes that run backwards are turned; where they are kept, their labels are listed backwards.
    turned = [stride < 0 for stride in values.strides]
    values = values[tuple(slice(None, None, -1 if turn else None) for turn in turned)]
    size = values.itemsize
    if any(stride % size for stride in values.strides):
        values = np.ascontiguousarray(values)
    layout = [(n, stride // size) for n, stride in zip(values.shape, values.strides, strict=True)]
    kept = [axis for i, axis in enumerate(layout) if i not in axes]
    backwards = [turn for i, turn in enumerate(turned) if i not in axes]
    (length, step), *outer = _joined([axis for i, axis in enumerate(layout) if i in axes])
    extent = 1 + sum((n - 1) * stride for n, stride in layout) if values.size else 0
    flat = as_strided(values, (extent,), (size,), writeable=False)
    mask = np.array([2**31 - 1], np.int32) if size == 4 else np.array([2**63 - 1], np.int64)
    return Runs(flat, offsets(kept, backwards), offsets(outer[::-1]), length, step, mask, tuple(n for n, _ in kept))


def _joined(axes: list[Axis]) -> list[Axis]:
    """Join axes that lie one after the other in memory, the closest first."""
    if math.prod(n for n, _ in axes) == 0:
        return [(0, 1)]
    joined: list[Axis] = []
    for n, stride in sorted((a for a in axes if a[0] > 1), key=lambda a: a[1]):
        if joined and stride == joined[-1][0] * joined[-1][1]:
            joined[-1] = (joined[-1][0] * n, joined[-1][1])
        else:
            joined.append((n, stride))
    return joined or [(1, 1)]


def offsets(axes: Sequence[Axis], backwards: Sequence[bool] = ()) -> NDArray[np.int64]:
    """List where the entries of axes (length, stride) are, in C order."""
    parts = [np.arange(n, dtype=np.int64) * stride for n, stride in axes]
    for i in np.flatnonzero(backwards):
        parts[i] = parts[i][::-1]
    nothing = np.zeros(1, np.int64)
    return reduce(lambda before, part: np.add.outer(before, part).ravel(), parts, nothing)
