"""Writing units of a store: from blocks as the model makes them to whole chunks on disk, in the background.

A chunk is copied out of its block into a place that stays in the processor's cache, looked at for values that are no
numbers, encoded and written, all by one thread. Only what a block holds of chunks that it does not fill is kept for
the next one.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.store.chunks import Chunker, ChunkRow, Piece
from fmx.store.convert import Counts
from fmx.store.layout import Layout, StoredArray, read_layout
from fmx.store.places import FolderPlace, Place, place_of, written_to
from fmx.store.plan import StorePlan
from fmx.store.schema import MAKING

__all__ = ["UnitWriter", "writer_bytes"]

# More than there are cores, as some wait for the disk.
_THREADS_FOLDER = 8
_THREADS_REMOTE = 8
# Units that are full and not yet done.
_MOST_CLOSING = 2


def writer_bytes(plan: StorePlan, buffers: int = 2) -> int:
    """Give the bytes that a `UnitWriter` takes at most, besides the block that it is given.

    These are what is kept of one unit for chunks that are not full yet, the blocks that wait to be written, which are
    given room for the other units, and what its threads are encoding.
    """
    largest = max((np.dtype(s.dtype).itemsize * math.prod(s.chunks) for s in plan.arrays().values()), default=0)
    return buffers * plan.unit * plan.sample_bytes + 3 * _THREADS_REMOTE * largest


@dataclass
class _Unit:
    """A unit that is being filled: what waits for the rest of its chunk, and what is on its way."""

    where: range
    waiting: dict[ChunkRow, tuple[NDArray[Any], int]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    jobs: list[Future[None]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    unusual: dict[tuple[str, str], NDArray[np.uint32]] = field(default_factory=dict)


class UnitWriter:
    """Writes whole units of a store that `create_store` made; a context manager that waits for the last write.

    Several writers, in several processes or on several machines, may write units of one store at the same time, each
    unit by one of them. Which unit is done is written down after everything else of it.

    Blocks are copied, encoded and written by threads of their own: a block must not be changed after it was put.

    Parameters
    ----------
    to : str, path or Place
        What `create_store` gave. Everything about the arrays is read from there.
    buffers : int
        Units that may be in memory: 2 fill one while the other is written; with 1, `put` waits for each block to be
        written. See `writer_bytes`.
    threads : int, optional
        That encode and write chunks.

    Raises
    ------
    StoreError
        There is no store; later, it can't be written.
    """

    def __init__(self, to: str | Path | Place, *, buffers: int = 2, threads: int | None = None) -> None:
        self.place = place_of(to)
        self.layout: Layout = self._read_layout()
        if self.place.read(MAKING) is not None:
            self.place.delete([MAKING])
        self._chunkers = {key: self._chunker(key, array) for key, array in self.layout.arrays.items()}
        usual = _THREADS_FOLDER if isinstance(self.place, FolderPlace) else _THREADS_REMOTE
        self._encoders = ThreadPoolExecutor(threads or usual, thread_name_prefix="fmx-encode")
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="fmx-write")
        self._closing: list[Future[None]] = []
        self._unit: _Unit | None = None
        arrays = self.layout.arrays.values()
        unit_bytes = self.layout.unit * sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays)
        self._room = (buffers - 1) * unit_bytes
        self._taken = 0
        self._changed = threading.Condition()

    def _read_layout(self) -> Layout:
        return read_layout(self.place)

    def _chunker(self, key: str, array: StoredArray) -> Chunker:
        kept = self.layout.kept_channels(self.place, key)
        return Chunker(key, array, kept, counted=(key, "nan") in self.layout.counts)

    def start_unit(self, unit: range) -> None:
        """Begin a unit: these positions of the sample axis."""
        self._raise_failures()
        self._unit = _Unit(unit)

    def put(self, key: str, rows: slice, block: NDArray[Any], *, noise: int | None = None) -> None:
        """Take a block of the unit that was begun; waits where too many are waiting to be written.

        Parameters
        ----------
        key : str
            A layer's name, ``inputs``, or ``outputs/<name>``.
        rows : slice
            Positions along the samples of the unit, counted from its start; with several timesteps, position
            ``sample * timesteps + timestep``.
        block : array (row, …native)
            With all channels of the layer or with those that the store keeps.
        noise : int or None
            Position of the noise level; None for ``inputs``, which have none.
        """
        unit = self._unit
        assert unit is not None
        self._raise_failures()
        unit.rows[key] += len(block)
        whole = []
        for piece in self._chunkers[key].pieces(rows, block, noise or 0):
            if len(piece.values) == self._chunkers[key].rows:
                whole.append((piece.row, piece.values))
            else:
                self._keep(unit, piece)
        if whole:
            self._send(unit, whole, block.nbytes)

    def _keep(self, unit: _Unit, piece: Piece) -> None:
        """Keep what fills a part of a chunk until the rest of it comes."""
        piece = replace(piece, values=self._chunkers[piece.row.key].chosen(piece.values))
        buffer, filled = unit.waiting.get(piece.row) or self._begin_row(unit, piece)
        rows = len(buffer)
        buffer[piece.start : piece.start + len(piece.values)] = piece.values
        filled += len(piece.values)
        unit.waiting[piece.row] = buffer, filled
        if filled == rows:
            del unit.waiting[piece.row]
            self._send(unit, [(piece.row, buffer)], buffer.nbytes)

    def _begin_row(self, unit: _Unit, piece: Piece) -> tuple[NDArray[Any], int]:  # noqa: ARG002
        """Give room for a row of chunks, and how much of it is filled already."""
        rows = self._chunkers[piece.row.key].rows
        return np.empty((rows, *piece.values.shape[1:]), piece.values.dtype), 0

    def finish_unit(self, unit: range) -> None:
        """Hand the full unit over: it is called done once everything of it is written."""
        full, self._unit = self._unit, None
        assert full is not None
        assert full.where == unit
        self._check(full)
        for row, (buffer, filled) in full.waiting.items():
            self._send(full, [(row, buffer[:filled])], buffer.nbytes)
        full.waiting.clear()
        self._closing.append(self._closer.submit(self._close, full))
        # What an interruption would take is little, however slow the disk is.
        self._wait(_MOST_CLOSING)

    def wait(self) -> None:
        """Wait until every unit that was finished is in the store."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._closing) > left:
            self._closing.pop(0).result()

    def _check(self, full: _Unit) -> None:
        for key, chunker in self._chunkers.items():
            new = (len(full.where) - self._old(full, key, level) for level in range(chunker.levels))
            wanted = sum(new) * chunker.steps
            if full.rows[key] != wanted:
                raise ValueError(f"{key} has {full.rows[key]} of {wanted} rows of the unit {full.where}")

    def _old(self, unit: _Unit, key: str, level: int) -> int:  # noqa: ARG002
        """Say how many samples of the unit are in the store already, and stay."""
        return 0

    def _send(self, unit: _Unit, rows: list[tuple[ChunkRow, NDArray[Any]]], size: int) -> None:
        """Have rows of chunks written that together hold so many bytes of memory; waits until there is room."""
        self._take(size)
        jobs = [
            self._encoders.submit(self._write, unit, row, values, cut)
            for row, values in rows
            for cut in range(self._chunkers[row.key].cuts)
        ]
        unit.jobs += jobs
        _when_all(jobs, lambda: self._give_back(size))

    def _take(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._room)
            self._taken += size

    def _give_back(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def _raise_failures(self) -> None:
        while self._closing and self._closing[0].done():
            self._closing.pop(0).result()

    # -- in the threads --------------------------------------------------------------------------------

    def _write(self, unit: _Unit, row: ChunkRow, values: NDArray[Any], cut: int) -> None:
        chunker = self._chunkers[row.key]
        chunk, counts = chunker.chunk(values, cut)
        name, parts = chunker.name(unit.where, row, cut), chunker.encoder.encode(chunk)
        with written_to(self.place):
            if self._old(unit, row.key, row.level) > row.number * chunker.rows:
                self.place.write(name, *parts)  # in the place of a chunk that is needed
            else:
                self.place.write_soon(name, *parts)
                unit.written.append(name)
        for what, found in counts.items():
            self._count(unit, row, what, found)

    def _count(self, unit: _Unit, row: ChunkRow, what: str, found: Counts) -> None:
        chunker = self._chunkers[row.key]
        start = row.number * chunker.rows
        old = max(self._old(unit, row.key, row.level) - start, 0)
        with self._changed:
            blank = np.zeros((self.layout.unit, chunker.levels), np.uint32)
            counts = unit.unusual.setdefault((row.key, what), blank)[start : start + len(found), row.level]
            counts[old:] += found[old:]

    def _close(self, unit: _Unit) -> None:
        for job in unit.jobs:
            job.result()
        number = unit.where.start // self.layout.unit
        with written_to(self.place):
            self.place.settle(unit.written)
            for (key, what), counts in unit.unusual.items():
                # Counts of zero are not written down, as almost all are.
                for level in map(int, np.flatnonzero(counts.any(axis=0))):
                    self._write_small(self.layout.counts[key, what], (number, level), counts[:, level : level + 1])
            done = np.arange(self.layout.unit) < len(unit.where)
            self._write_small(self.layout.complete, (number,), done)
            self._record(number)

    def _record(self, number: int) -> None:
        """Write down more about a unit that is done."""

    def _write_small(self, array: StoredArray, indices: tuple[int, ...], values: NDArray[Any]) -> None:
        self.place.write(array.chunk_name(*indices), *array.encoder.encode(np.ascontiguousarray(values)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # Units that were finished are written even if something else failed: nobody need do them again.
            for job in self._unit.jobs if self._unit is not None else ():
                job.cancel()
            self._closer.shutdown()
            self._encoders.shutdown()


def _when_all(jobs: list[Future[None]], then: Any) -> None:
    """Call `then` once all jobs are done, however they end."""
    left = len(jobs)
    lock = threading.Lock()

    def count(_job: Future[None]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = not left
        if last:
            then()

    for job in jobs:
        job.add_done_callback(count)
