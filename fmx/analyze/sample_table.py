"""A layer as a table of samples × features, of which only a part is ever in memory.

The features of a sample are all values of the layer for it at one noise level, timesteps included; or one value for
each channel, the mean or the maximum over its positions. The table is read by *columns*: all that one chunk holds of a
sample, so that every chunk is read once if the samples of a column fit the memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fmx.analyze.samples import Rows, noise_positions
from fmx.errors import FmxError, near_matches
from fmx.reduce.blocks import as_floats, is_small
from fmx.store import Store, layer_key
from fmx.store.schema import LEADING_DIMS

__all__ = ["SPACES", "Block", "Column", "SampleTable", "tables_of"]

SPACES = ("full", "mean", "max")
# As much is read at once.
READ_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Column:
    """Features that lie in the same chunks: some channels at one timestep.

    Attributes
    ----------
    step : int
        Position on the timestep axis.
    start, stop : int
        Of the channels.
    width : int
        Number of features.
    """

    step: int
    start: int
    stop: int
    width: int


@dataclass(slots=True)
class Block:
    """Some samples of a column, with 0 in place of values that are not finite.

    Attributes
    ----------
    values : array (sample, feature) of float32 or float64
    nan, inf : array (sample,) of int64
        How many values of each sample were not a number or infinite.
    bad : array (feature,) of bool
        Features that had such values.
    """

    values: NDArray[Any]
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    bad: NDArray[np.bool_]


@dataclass(frozen=True)
class SampleTable:
    """One layer at one noise level; it can be sent to another machine.

    Attributes
    ----------
    layer : str
    noise : float
    place : fmx.store.Place
    key : str
        Path of the array in the store.
    level : int
        Position on the noise axis.
    dims : tuple of str
        Native dims.
    shape, chunks : tuple of int
        Of the array as it is stored.
    dtype : numpy.dtype
    rows : array (sample,) of int64
        Positions of the samples in the store.
    space : str
        ``full``, ``mean`` or ``max``.
    """

    layer: str
    noise: float
    place: Any
    key: str
    level: int
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Rows
    space: str

    @property
    def _axis(self) -> int | None:
        return self.dims.index("channel") if "channel" in self.dims else None

    @property
    def positions(self) -> int:
        """Values of a channel for one sample at one timestep."""
        native = math.prod(self.shape[3:])
        return native if self._axis is None else native // max(self.shape[3 + self._axis], 1)

    @property
    def features(self) -> int:
        """Features of a sample."""
        return sum(column.width for column in self.columns())

    @property
    def result_type(self) -> np.dtype[Any]:
        """Type of the values that are read."""
        return np.dtype(np.float32 if is_small(self.dtype) and self.space != "mean" else np.float64)

    @property
    def nbytes(self) -> int:
        """Bytes of what is read, as it is stored."""
        return len(self.rows) * self.dtype.itemsize * math.prod(self.shape[2:])

    def columns(self) -> list[Column]:
        """Cut the table along the chunks of the store."""
        axis = self._axis
        channels, width = (1, 1) if axis is None else (self.shape[3 + axis], self.chunks[3 + axis])
        each = self.positions if self.space == "full" else 1
        ranges = [(i, min(i + width, channels)) for i in range(0, channels, width)]
        return [Column(step, a, b, (b - a) * each) for step in range(self.shape[2]) for a, b in ranges]

    def open(self) -> Any:
        """Open the array."""
        return zarr.open_array(store=self.place.zarr(), path=self.key, mode="r")

    def read(self, array: Any, column: Column, rows: Rows) -> Block:
        """Read the samples at these rows of the table, in any order, each chunk once.

        Parameters
        ----------
        array : zarr.Array
            What `open` gives.
        column : Column
        rows : array (sample,) of int64
        """
        values = np.empty((len(rows), column.width), self.result_type)
        nan, inf = (np.zeros(len(rows), np.int64) for _ in range(2))
        bad = np.zeros(column.width, bool)
        for where, block in self._parts(array, column, self.rows[rows]):
            part = self._features(block)
            # What is not finite may be hidden in a largest value, and a mean of large values may not be.
            if not (np.isfinite(block).all() and np.isfinite(part).all()):
                nans, infs = np.isnan(block), np.isinf(block)
                lost = self._any_of_features(nans | infs) | ~np.isfinite(part)
                nan[where] = nans.reshape(len(block), -1).sum(axis=1)
                inf[where] = np.maximum(infs.reshape(len(block), -1).sum(axis=1), lost.any(axis=1) & (nan[where] == 0))
                bad |= lost.any(axis=0)
                part = np.where(lost, 0, part)
            values[where] = part
        return Block(values, nan, inf, bad)

    def by_channel(self, values: NDArray[Any], column: Column) -> NDArray[Any]:
        """See a column's values (sample, feature) as (sample, channel, position)."""
        channels = column.stop - column.start
        if self.space != "full" or self._axis is None:
            return values.reshape(len(values), channels, -1)
        native = list(self.shape[3:])
        native[self._axis] = channels
        return np.moveaxis(values.reshape(len(values), *native), 1 + self._axis, 1).reshape(len(values), channels, -1)

    def read_channels(
        self, array: Any, step: int, rows: Rows
    ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Read all channels of these samples at one timestep.

        Returns
        -------
        array (sample, channel, position)
            With 0 in place of values that are not finite.
        array (sample,) of int64, twice
            How many values of each sample were not a number, and how many were infinite.
        array (channel,) of bool
            Channels that had such values.
        """
        nan, inf = (np.zeros(len(rows), np.int64) for _ in range(2))
        parts, bad = [], []
        for column in self.columns():
            if column.step == step:
                block = self.read(array, column, rows)
                nan += block.nan
                inf += block.inf
                parts.append(self.by_channel(block.values, column))
                bad.append(self.by_channel(block.bad[None], column).any(axis=(0, 2)))
        return np.concatenate(parts, axis=1), nan, inf, np.concatenate(bad)

    def runs(self, size: int) -> list[Rows]:
        """Cut the rows into runs of whole chunks that take about so many bytes with all channels at one timestep."""
        sample = max(self.result_type.itemsize * math.prod(self.shape[3:]), 1)
        length = max(size // sample // self.chunks[0], 1) * self.chunks[0]
        return [np.arange(i, min(i + length, len(self.rows))) for i in range(0, len(self.rows), length)]

    @property
    def channels(self) -> int:
        """Number of channels, 1 for layers without such an axis."""
        return 1 if self._axis is None else self.shape[3 + self._axis]

    def _parts(self, array: Any, column: Column, positions: Rows) -> Iterator[tuple[Rows, NDArray[Any]]]:
        """Read runs of neighbouring chunks (sample, …native), and say which of the wanted samples they hold."""
        size = max(self.dtype.itemsize * math.prod(self.chunks), 1)
        most = max(READ_BYTES // size, 1)
        if not len(positions):
            return
        order = np.argsort(positions, kind="stable")
        channel: list[slice] = [slice(None)] * len(self.dims)
        if self._axis is not None:
            channel[self._axis] = slice(column.start, column.stop)
        numbers = positions[order] // self.chunks[0]
        for begin, end in _runs(numbers, most):
            where = order[begin:end]
            first, last = int(positions[where[0]]), int(positions[where[-1]]) + 1
            block = np.asarray(array[(slice(first, last), self.level, column.step, *channel)])
            if len(block) != len(where):
                block = block[positions[where] - first]
            yield where, as_floats(block)

    def _any_of_features(self, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say which features (sample, feature) have marked values."""
        axes = () if self.space == "full" else self._positions_axes
        return np.asarray(marks.any(axis=axes) if axes else marks).reshape(len(marks), -1)

    @property
    def _positions_axes(self) -> tuple[int, ...]:
        """Axes of a block (sample, …native) that are no channels."""
        return tuple(1 + i for i, dim in enumerate(self.dims) if dim != "channel")

    def _features(self, block: NDArray[Any]) -> NDArray[Any]:
        axes = self._positions_axes
        if self.space == "full" or not axes:
            return block.reshape(len(block), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            summed = block.mean(axis=axes, dtype=np.float64) if self.space == "mean" else block.max(axis=axes)
        found: NDArray[Any] = summed.reshape(len(block), -1)
        return found


def _runs(numbers: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Cut sorted chunk numbers where they leave a gap, and after so many chunks."""
    gaps = np.flatnonzero(np.diff(numbers) > 1) + 1
    for begin, end in itertools.pairwise([0, *gaps.tolist(), len(numbers)]):
        inside = (numbers[begin:end] - numbers[begin]) // most
        steps = begin + np.flatnonzero(np.diff(inside)) + 1
        yield from itertools.pairwise([begin, *steps.tolist(), end])


def tables_of(
    store: Store,
    layers: Sequence[str],
    noise: float | Sequence[float] | str | None,
    rows: Rows,
    space: str = "full",
) -> list[SampleTable]:
    """Give the tables of layers at noise levels, layer by layer.

    Raises
    ------
    FmxError
        The store has no such noise level, or there is no such way to sum up positions.
    """
    if space not in SPACES:
        raise FmxError(f"Positions can't be taken as {space}: {near_matches(space, SPACES)}")
    found = []
    for name in layers:
        key = f"layers/{layer_key(name)}/activation"
        array = store.tree[f"layers/{layer_key(name)}"].to_dataset()["activation"]
        dims = tuple(str(d) for d in array.dims[len(LEADING_DIMS) :])
        for level, number in noise_positions(store, noise).items():
            table = SampleTable(
                layer=name,
                noise=level,
                place=store.place,
                key=key,
                level=number,
                dims=dims,
                shape=tuple(array.shape),
                chunks=tuple(int(n) for n in array.encoding["chunks"]),
                dtype=np.dtype(array.dtype),
                rows=rows,
                space=space,
            )
            found.append(table)
    return found
