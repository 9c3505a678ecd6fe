"""Which chunks of an array belong to which labels, and which of them one task reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cell", "Piece", "plan_pieces", "share_out", "share_out_runs"]

# As much as is read at once, and as much as one task reads: little enough for memory, and enough to be worth a task.
READ_BYTES = 8 * 2**20
TASK_BYTES = 32 * 2**20

Region = tuple[slice, ...]
# Where the labels of a region are among all kept labels.
Cell = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read at once.

    Attributes
    ----------
    cell : tuple of (start, stop)
        The part of the kept labels that it holds values of.
    region : tuple of slice
        In the array as it is stored.
    size : int
        Bytes.
    """

    cell: Cell
    region: Region
    size: int


def plan_pieces(
    shape: Sequence[int],
    chunks: Sequence[int],
    itemsize: int,
    kept: Sequence[int],
    *,
    there: NDArray[np.bool_] | None = None,
    whole: Collection[int] = (),
    within: Mapping[int, tuple[int, int]] | None = None,
) -> list[Piece]:
    """Cut an array into pieces along its chunks, those of the same labels one after the other.

    Parameters
    ----------
    shape, chunks : sequence of int
        Of the array, sample first.
    itemsize : int
        Bytes of a value.
    kept : sequence of int
        Axes whose labels are kept.
    there : array (sample,) of bool, optional
        Samples that count; labels of the others are left out where samples are kept.
    whole : collection of int
        Axes beside the sample's along which every piece reaches from end to end, unless their labels are kept.
    within : mapping of int to (start, stop), optional
        The part of an axis beside the sample's that counts; its labels begin at 0.
    """
    there = np.ones(shape[0], bool) if there is None else there
    extents = [(within or {}).get(i, (0, n)) for i, n in enumerate(shape)]
    steps = [chunks[i] if i in kept or i not in whole else max(shape[i], 1) for i in range(len(shape))]
    if 0 not in kept:
        each = itemsize * math.prod(
            [chunks[0], *(min(s, b - a) for s, (a, b) in zip(steps[1:], extents[1:], strict=True))]
        )
        steps[0] = chunks[0] * max(READ_BYTES // max(each, 1), 1)
    before = np.concatenate([[0], np.cumsum(there)])
    ranges = [_cuts(*extent, step) for extent, step in zip(extents, steps, strict=True)]
    ranges[0] = [(a, b) for a, b in ranges[0] if there[a:b].any()]
    summed = [i for i in range(len(shape)) if i not in kept]
    pieces = []
    for cell in itertools.product(*(ranges[i] for i in kept)):
        for rest in itertools.product(*(ranges[i] for i in summed)):
            where = dict(zip([*kept, *summed], [*cell, *rest], strict=True))
            region = tuple(slice(*where[i]) for i in range(len(shape)))
            size = itemsize * math.prod(part.stop - part.start for part in region)
            labels = (
                (int(before[a]), int(before[b])) if i == 0 else (a - extents[i][0], b - extents[i][0])
                for i, (a, b) in zip(kept, cell, strict=True)
            )
            pieces.append(Piece(tuple(labels), region, size))
    return pieces


def _cuts(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Cut a part of an axis where its chunks end."""
    ends = [*range(start - start % step + step, stop, step), stop]
    return list(zip([start, *ends], ends, strict=False)) if stop > start else []


def share_out(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Put consecutive pieces together into the work of one task each."""
    work: list[Piece] = []
    size = 0
    for piece in pieces:
        work.append(piece)
        size += piece.size
        if size >= TASK_BYTES:
            yield work
            work, size = [], 0
    if work:
        yield work


def share_out_runs(pieces: Sequence[Piece]) -> Iterator[list[list[Piece]]]:
    """Put together the pieces of each run of samples, where samples are kept, and as many runs as one task may read."""
    works: list[list[Piece]] = []
    size = 0
    for _, run in itertools.groupby(pieces, key=lambda piece: piece.cell[0]):
        some = list(run)
        more = sum(piece.size for piece in some)
        if works and size + more > TASK_BYTES:
            yield works
            works, size = [], 0
        works.append(some)
        size += more
    if works:
        yield works
