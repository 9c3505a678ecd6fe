"""One array's chunks within a write unit: where a block's values belong, and how a chunk is made of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.store.convert import Counts, count_unusual, narrow
from fmx.store.layout import StoredArray

__all__ = ["ChunkRow", "Chunker", "Piece"]

_scratch = threading.local()


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """All chunks of the same samples at one noise level and timestep; they differ in their channels."""

    key: str
    number: int
    level: int
    step: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a block that falls into one row of chunks, at these places of the row."""

    row: ChunkRow
    start: int
    values: NDArray[Any]


class Chunker:
    """Cuts blocks into chunks.

    Parameters
    ----------
    key : str
        What fills the array.
    array : StoredArray
    kept : array of int, optional
        Channels that the store keeps of blocks that have them all.
    counted : bool
        Whether unusual values are counted.
    """

    def __init__(self, key: str, array: StoredArray, kept: NDArray[Any] | None, *, counted: bool) -> None:
        self.key = key
        self.array = array
        self.counted = counted
        self.encoder = array.encoder
        self._kept = kept
        self._lead = array.dims.index("timestep") + 1
        self.noisy = "noise" in array.dims
        self.levels = array.shape[1] if self.noisy else 1
        self.steps = array.shape[self._lead - 1]
        self.rows = array.chunks[0]
        self._native = array.chunks[self._lead :]
        self._axis = array.dims.index("channel") - self._lead if "channel" in array.dims else None
        self._channels = 1 if self._axis is None else array.shape[self._lead + self._axis]
        self._width = 1 if self._axis is None else self._native[self._axis]
        self.cuts = math.ceil(self._channels / self._width)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before it is compressed."""
        return math.prod(self.array.chunks) * self.array.dtype.itemsize

    def pieces(self, rows: slice, block: NDArray[Any], level: int) -> Iterator[Piece]:
        """Cut a block (sample·timestep, …native), whose rows are counted from the unit's start."""
        for step in range(self.steps):
            # Where in the block this timestep comes first, and which sample that is.
            first = (step - rows.start) % self.steps
            values = block[first :: self.steps]
            if not len(values):
                continue
            begin = (rows.start + first) // self.steps
            end = begin + len(values)
            for number in range(begin // self.rows, -(-end // self.rows)):
                start = number * self.rows
                low, high = max(begin, start), min(end, start + self.rows)
                yield Piece(ChunkRow(self.key, number, level, step), low - start, values[low - begin : high - begin])

    def chosen(self, values: NDArray[Any]) -> NDArray[Any]:
        """Give the channels that the store keeps, where there are others too."""
        kept = self._missing_choice(values)
        return values if kept is None else values[self._channel(kept)]

    def _missing_choice(self, values: NDArray[Any]) -> NDArray[Any] | None:
        if self._axis is None or values.shape[1 + self._axis] == self._channels:
            return None
        return self._kept

    def name(self, unit: range, row: ChunkRow, cut: int) -> str:
        """Name of the object of a chunk."""
        native = [0] * len(self._native)
        if self._axis is not None:
            native[self._axis] = cut
        lead = [unit.start // self.rows + row.number, *([row.level] if self.noisy else []), row.step]
        return self.array.chunk_name(*lead, *native)

    def chunk(self, values: NDArray[Any], cut: int) -> tuple[NDArray[Any], dict[str, Counts]]:
        """Make a chunk of the values (sample, …native) of its samples, and count the unusual ones by sample.

        The chunk is good until this thread makes the next one.
        """
        source = self._cut(values, cut)
        if self._fits(source):
            return source, self._count(source)
        whole = self._blank()
        inside = whole[: len(source)]
        if self._axis is not None:
            inside = inside[self._channel(slice(0, source.shape[1 + self._axis]))]
        if inside.shape != whole.shape:
            # Whatever lies past the last sample or channel is filled as Zarr does it.
            whole[...] = self.array.fill
        overflow = narrow(source, inside, self.array.precision)
        counts = self._count(inside)
        return whole, counts | ({"overflow": overflow} if overflow is not None else {})

    def _count(self, values: NDArray[Any]) -> dict[str, Counts]:
        return count_unusual(values) if self.counted else {}

    def _cut(self, values: NDArray[Any], cut: int) -> NDArray[Any]:
        if self._axis is None:
            return values
        start = cut * self._width
        stop = min(start + self._width, self._channels)
        kept = self._missing_choice(values)
        channels = slice(start, stop) if kept is None else kept[start:stop]
        found: NDArray[Any] = values[self._channel(channels)]
        return found

    def _channel(self, channels: Any) -> tuple[Any, ...]:
        assert self._axis is not None
        return (slice(None), *([slice(None)] * self._axis), channels)

    def _fits(self, source: NDArray[Any]) -> bool:
        """Whether the values are a whole chunk as they lie."""
        return (
            source.shape == (self.rows, *self._native)
            and source.dtype == self.array.dtype
            and not self.array.precision
            and source.flags.c_contiguous
        )

    def _blank(self) -> NDArray[Any]:
        """Give room for a chunk, which all arrays share: of many layers, each would keep one in each thread."""
        room: NDArray[np.uint8] | None = getattr(_scratch, "room", None)
        if room is None or room.nbytes < self.chunk_bytes:
            room = _scratch.room = np.empty(self.chunk_bytes, np.uint8)
        flat: NDArray[Any] = room[: self.chunk_bytes].view(self.array.dtype)
        return flat.reshape(self.rows, *self._native)
