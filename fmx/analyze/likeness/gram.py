"""Gram matrices of layers, added up column by column, so that every chunk of a store is read once for all of them.

A Gram matrix holds the inner products of all pairs of samples. Here the features have been shifted first, by about
their means: centred kernels and distances don't change by that, and numbers far from zero lose no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.not_finite import check_products
from fmx.analyze.sample_table import Block, Column, SampleTable
from fmx.analyze.samples import Rows

__all__ = [
    "ColumnTask",
    "GramTask",
    "Grams",
    "add_exact_products",
    "add_products",
    "lazy_grams",
    "pack",
    "shifted",
    "unpack",
]

Floats = NDArray[np.float64]

# As much of a column as a task holds at once. Columns that are larger are read in tiles of samples, some of them twice.
BLOCK_BYTES = 256 * 2**20
# Features whose products are added up in the precision of the data before they go into the float64 sum.
SPAN = 4096
# Products of such numbers neither vanish nor overflow in float32.
_SAFE = (1e-12, 1e12)
_FAN_IN = 4
_SHARES = 16


@dataclass(slots=True)
class Grams:
    """A part of a Gram matrix, or all of it.

    Attributes
    ----------
    packed : array (pair,) of float64
        The upper triangle with the diagonal, row by row; see `unpack`.
    nan, inf : array (sample,) of int64
        Values of each sample that were not finite; 0 stood in for them.
    bad : int
        Features that had such values.
    sums : array (sample,) of float64
        Of all features of each sample.
    """

    packed: Floats
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    bad: int
    sums: Floats

    def __add__(self, other: Grams) -> Grams:
        return Grams(
            self.packed + other.packed,
            self.nan + other.nan,
            self.inf + other.inf,
            self.bad + other.bad,
            self.sums + other.sums,
        )


def pack(matrix: NDArray[Any]) -> Floats:
    """Give the upper triangle of a symmetric matrix, diagonal included, row by row."""
    n = len(matrix)
    packed = np.empty(n * (n + 1) // 2)
    at = 0
    for i in range(n):
        packed[at : at + n - i] = matrix[i, i:]
        at += n - i
    return packed


def unpack(packed: Floats) -> Floats:
    """Give the symmetric matrix whose upper triangle this is."""
    n = (math.isqrt(8 * len(packed) + 1) - 1) // 2
    matrix = np.empty((n, n))
    at = 0
    for i in range(n):
        matrix[i, i:] = matrix[i:, i] = packed[at : at + n - i]
        at += n - i
    return matrix


def shifted(values: NDArray[Any], by: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Shift features by their means over these samples, or by what is given; in place where the type allows.

    Returns
    -------
    array (sample, feature)
        A feature that is the same everywhere is exactly 0.
    array (feature,)
        What they were shifted by.
    """
    if values.dtype == np.float32 and _peak(values) > 1e30:
        values = values.astype(np.float64)
    if by is None and values.dtype == np.float32:
        by = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    elif by is None:
        # The mean of equal float64 may be off by rounding.
        by = values[0] + (values - values[0]).mean(axis=0)
    values -= by
    return values, by


def add_products(total: Floats, left: NDArray[Any], right: NDArray[Any] | None = None) -> None:
    """Add the inner products of the samples of `left` with those of `right`, or with each other, in place.

    Those of values that are too large become infinite; see `fmx.analyze.not_finite.check_products`.
    """
    for first in range(0, left.shape[1], SPAN):
        a = _safe(left[:, first : first + SPAN])
        with np.errstate(over="ignore", invalid="ignore"):
            total += a @ (a if right is None else _safe(right[:, first : first + SPAN])).T


def add_exact_products(total: Floats, left: NDArray[Any], right: NDArray[Any] | None = None) -> None:
    """Do as `add_products` in float64 throughout."""
    for first in range(0, left.shape[1], SPAN // 4):
        a = left[:, first : first + SPAN // 4].astype(np.float64, copy=False)
        b = a if right is None else right[:, first : first + SPAN // 4].astype(np.float64, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            total += a @ b.T


def _safe(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.float32:
        peak = _peak(values)
        if peak and not _SAFE[0] < peak < _SAFE[1]:
            return values.astype(np.float64)
    return values


def _peak(values: NDArray[Any]) -> float:
    """Give the largest absolute value, without making a copy of all of them."""
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


@dataclass(frozen=True)
class GramTask:
    """How to make a part of a layer's Gram matrix; it can be sent to another machine.

    Attributes
    ----------
    table : SampleTable
    skip_features : bool
        Leave out features that are not finite everywhere.
    raw : bool
        Don't shift the features, for distances that depend on where zero is.
    multiply : callable
        How products are added up: `add_products`, or something that is called like it.
    room : int, optional
        Bytes of a column that are held at once; 256 MiB if left out.
    """

    table: SampleTable
    skip_features: bool = False
    raw: bool = False
    multiply: Callable[..., None] = add_products
    room: int = 0

    def run(self, columns: Sequence[Column]) -> Grams:
        """Read columns one after the other and add up their products."""
        n = len(self.table.rows)
        array = self.table.open()
        total, sums = np.zeros((n, n)), np.zeros(n)
        nan, inf = (np.zeros(n, np.int64) for _ in range(2))
        bad = 0
        for column in columns:
            tiles = self._tiles(column)
            skip = self._bad_features(array, column, tiles) if self.skip_features and len(tiles) > 1 else None
            spoiled = np.zeros(column.width, bool)
            by = None
            for i, rows in enumerate(tiles):
                block = self.table.read(array, column, rows)
                nan[rows] += block.nan
                inf[rows] += block.inf
                spoiled |= block.bad
                held, by = self._ready(block, skip, by)
                sums[rows] += held.sum(axis=1, dtype=np.float64)
                self.multiply(total[_span(rows), _span(rows)], held)
                for others in _pieces(tiles[i + 1 :], self._stream(column)):
                    more, _ = self._ready(self.table.read(array, column, others), skip, by)
                    self.multiply(total[_span(rows), _span(others)], held, more)
            bad += int(spoiled.sum())
        check_products(total, self.table.layer)
        return Grams(pack(total), nan, inf, bad, sums)

    def _ready(
        self, block: Block, skip: NDArray[np.bool_] | None, by: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        values = block.values
        if self.skip_features:
            values[:, block.bad if skip is None else skip] = 0
        return (values, None) if self.raw else shifted(values, by)

    def _sample_bytes(self, column: Column) -> int:
        return max(column.width, 1) * self.table.result_type.itemsize

    def _tiles(self, column: Column) -> list[Rows]:
        """Cut the samples so that those of a tile fit the memory, at borders of chunks."""
        n, most = len(self.table.rows), (self.room or BLOCK_BYTES) // self._sample_bytes(column)
        if most >= n:
            return [np.arange(n)]
        length = self.table.chunks[0]
        most = max(most // length * length, min(length, most), 1)
        return [np.arange(i, min(i + most, n)) for i in range(0, n, most)]

    def _stream(self, column: Column) -> int:
        """How many samples are read at once beside a tile."""
        length = self.table.chunks[0]
        return max((self.room or BLOCK_BYTES) // 16 // self._sample_bytes(column) // length, 1) * length

    def _bad_features(self, array: Any, column: Column, tiles: Sequence[Rows]) -> NDArray[np.bool_]:
        bad = np.zeros(column.width, bool)
        for rows in _pieces(tiles, self._stream(column)):
            bad |= self.table.read(array, column, rows).bad
        return bad


def _span(rows: Rows) -> slice:
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _pieces(tiles: Sequence[Rows], length: int) -> Iterator[Rows]:
    for rows in tiles:
        for first in range(0, len(rows), length):
            yield rows[first : first + length]


class ColumnTask(Protocol):
    """A task that can be cut: what it makes of several columns is the sum of what it makes of each."""

    @property
    def table(self) -> SampleTable: ...

    def run(self, columns: Sequence[Column]) -> Any: ...


def lazy_grams(tasks: Sequence[ColumnTask]) -> list[Any]:
    """Give what every task makes of its layer as a lazy value; all are to be computed together."""
    share = max(sum(task.table.nbytes for task in tasks) // _SHARES, 1)
    found = []
    for task in tasks:
        columns = task.table.columns()
        parts = min(max(round(task.table.nbytes / share), 1), len(columns))
        cut = [columns[i * len(columns) // parts : (i + 1) * len(columns) // parts] for i in range(parts)]
        lazy = [delayed(task.run, pure=False)(some) for some in cut]
        while len(lazy) > 1:
            lazy = [delayed(_added, pure=False)(lazy[i : i + _FAN_IN]) for i in range(0, len(lazy), _FAN_IN)]
        found.append(lazy[0])
    return found


def _added(parts: Sequence[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
