"""Writing units of a store: from blocks as the model makes them to whole chunks on disk, in the background.

Blocks are copied once, into buffers that lie in memory as the chunks will in the store; a chunk is then encoded from
where it lies, checked for values that are no numbers, and written whole.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.store.convert import Narrowed, count_unusual, narrow
from fmx.store.layout import Layout, StoredArray, read_layout
from fmx.store.places import FolderPlace, Place, place_of, written_to
from fmx.store.plan import StorePlan
from fmx.store.schema import MAKING

__all__ = ["UnitWriter", "writer_bytes"]

_THREADS_FOLDER = 2
_THREADS_REMOTE = 8


def writer_bytes(plan: StorePlan, buffers: int = 2) -> int:
    """Give the bytes that a `UnitWriter` takes at most, besides the blocks that it is given.

    Each buffer holds a whole unit; two chunks a thread are being encoded.
    """
    arrays = plan.arrays().values()
    unit = sum(_buffer_bytes(s.dims, s.shape, s.chunks, np.dtype(s.dtype), plan.unit) for s in arrays)
    largest = max((math.prod(s.chunks) * np.dtype(s.dtype).itemsize for s in arrays), default=0)
    return buffers * unit + 2 * _THREADS_REMOTE * largest


def _buffer_bytes(
    dims: tuple[str, ...], shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any], unit: int
) -> int:
    lead = dims.index("timestep") + 1
    native = math.prod(math.ceil(n / c) * c for n, c in zip(shape[lead:], chunks[lead:], strict=True))
    return unit * math.prod(shape[1:lead]) * native * dtype.itemsize


class Buffer:
    """One array's part of a unit, in the order of its chunks.

    ``values`` has the axes (sample chunk, noise, timestep, channel chunk, sample in the chunk, …native in the chunk).
    Only the channel axis is ever cut.
    """

    def __init__(self, array: StoredArray, unit: int, kept: NDArray[Any] | None = None) -> None:
        self.array = array
        self.kept = kept
        self.lead = array.dims.index("timestep") + 1
        self.noisy = "noise" in array.dims
        self.steps = array.shape[self.lead - 1]
        self.rows = array.chunks[0]
        native = array.chunks[self.lead :]
        self.axis = array.dims.index("channel") - self.lead if "channel" in array.dims else None
        self.channels = 1 if self.axis is None else array.shape[self.lead + self.axis]
        self.width = 1 if self.axis is None else native[self.axis]
        levels = array.shape[1] if self.noisy else 1
        grid = (unit // self.rows, levels, self.steps, math.ceil(self.channels / self.width))
        # Whatever lies past the last sample or channel is filled as Zarr does it.
        self.values = np.full((*grid, self.rows, *native), array.fill, array.dtype)

    def put(self, rows: slice, block: NDArray[Any], level: int) -> Narrowed:
        """Copy a block (sample·timestep, …native) in, and give how many values were too large for the type."""
        found = Narrowed()
        for step in range(self.steps):
            # Where in the block this timestep comes first, and which sample that is.
            first = (step - rows.start) % self.steps
            part = block[first :: self.steps]
            start = (rows.start + first) // self.steps
            self._put_step(slice(start, start + len(part)), part, level, step, found)
        return found

    def _put_step(self, samples: slice, part: NDArray[Any], level: int, step: int, found: Narrowed) -> None:
        for chunk in range(samples.start // self.rows, -(-samples.stop // self.rows)):
            start = chunk * self.rows
            low, high = max(samples.start, start), min(samples.stop, start + self.rows)
            rows = part[low - samples.start : high - samples.start]
            for number, channels, width in self._cuts():
                source = rows if self.axis is None else rows[self._native(channels)]
                target = self.values[chunk, level, step, number, low - start : high - start]
                target = target if self.axis is None else target[self._native(slice(0, width))]
                found.add(low, level, narrow(source, target, self.array.precision))

    def _cuts(self) -> Iterator[tuple[int, Any, int]]:
        """Give each channel chunk's number, the channels of the block in it, and how many they are."""
        for number, start in enumerate(range(0, self.channels, self.width)):
            stop = min(start + self.width, self.channels)
            channels = slice(start, stop) if self.kept is None else self.kept[start:stop]
            yield number, channels, stop - start

    def _native(self, channels: Any) -> tuple[Any, ...]:
        assert self.axis is not None
        return (slice(None), *([slice(None)] * self.axis), channels)

    def blank_from(self, samples: int) -> None:
        """Fill what lies past so many samples."""
        chunk, row = divmod(samples, self.rows)
        self.values[chunk + 1 :] = self.array.fill
        if chunk < len(self.values):
            self.values[chunk, :, :, :, row:] = self.array.fill

    def chunks(self, samples: int) -> Iterator[tuple[int, int, int, int]]:
        """List the chunks that hold any of so many samples, as positions in `values`."""
        _, levels, steps, cuts = self.values.shape[:4]
        return product(range(-(-samples // self.rows)), range(levels), range(steps), range(cuts))

    def name(self, unit: range, chunk: tuple[int, int, int, int]) -> str:
        """Name of the object of a chunk."""
        sample, level, step, cut = chunk
        native = [0] * (len(self.array.dims) - self.lead)
        if self.axis is not None:
            native[self.axis] = cut
        lead = [unit.start // self.rows + sample, *([level] if self.noisy else []), step]
        return self.array.chunk_name(*lead, *native)

    def inside(self, chunk: tuple[int, int, int, int], samples: int) -> NDArray[Any]:
        """Give the part of a chunk that holds samples and channels, without what fills it up."""
        whole: NDArray[Any] = self.values[chunk][: samples - chunk[0] * self.rows]
        width = self.channels - chunk[3] * self.width
        return whole if self.axis is None else whole[self._native(slice(0, width))]


@dataclass
class _Unit:
    """A unit in memory: its buffers, and what is unusual about its values."""

    buffers: dict[str, Buffer]
    copies: list[Future[None]] = field(default_factory=list)
    unusual: dict[tuple[str, str], NDArray[np.uint32]] = field(default_factory=dict)


class UnitWriter:
    """Writes whole units of a store that `create_store` made; a context manager that waits for the last write.

    Several writers, in several processes or on several machines, may write units of one store at the same time, each
    unit by one of them. Which unit is done is written down after everything else of it.

    Blocks are copied and written by threads of their own, so that a block must not be changed after it was put.

    Parameters
    ----------
    to : str, path or Place
        What `create_store` gave. Everything about the arrays is read from there.
    buffers : int
        Units in memory: 2 fill one while the other is written, 1 waits. See `writer_bytes`.
    threads : int, optional
        That encode and write chunks.

    Raises
    ------
    StoreError
        There is no store; later, it can't be written.
    """

    def __init__(self, to: str | Path | Place, *, buffers: int = 2, threads: int | None = None) -> None:
        self.place = place_of(to)
        self.layout: Layout = read_layout(self.place)
        if self.place.read(MAKING) is not None:
            self.place.delete([MAKING])
        self._spare: queue.Queue[dict[str, Buffer] | None] = queue.Queue()
        for _ in range(buffers):
            self._spare.put(None)
        usual = _THREADS_FOLDER if isinstance(self.place, FolderPlace) else _THREADS_REMOTE
        self._encoders = ThreadPoolExecutor(threads or usual, thread_name_prefix="fmx-encode")
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="fmx-copy")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="fmx-write")
        self._writing: list[Future[None]] = []
        self._unit: _Unit | None = None
        self._kept = {key: self.layout.kept_channels(self.place, key) for key in self.layout.arrays}

    def start_unit(self) -> None:
        """Take a buffer for the next unit; waits until one is free."""
        self._raise_failures()
        while True:
            try:
                spare = self._spare.get(timeout=0.2)
                break
            except queue.Empty:
                self._raise_failures()
        self._unit = _Unit(spare or self._new_buffers())

    def put(self, key: str, rows: slice, block: NDArray[Any], *, noise: int | None = None) -> None:
        """Copy a block into the unit that was started, in the background.

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
        assert self._unit is not None
        self._unit.copies.append(self._copier.submit(self._copy, self._unit, key, rows, block, noise or 0))

    def finish_unit(self, unit: range) -> None:
        """Hand the full unit over to be written."""
        assert self._unit is not None
        full, self._unit = self._unit, None
        self._writing.append(self._writer.submit(self._write, unit, full))

    def wait(self) -> None:
        """Wait until every unit that was finished is in the store."""
        while self._writing:
            self._writing.pop(0).result()

    def _raise_failures(self) -> None:
        while self._writing and self._writing[0].done():
            self._writing.pop(0).result()

    def _copy(self, unit: _Unit, key: str, rows: slice, block: NDArray[Any], level: int) -> None:
        found = unit.buffers[key].put(rows, block, level)
        for sample, where, count in found.found:
            self._counted(unit, key, "overflow")[sample : sample + len(count), where] += count

    def _counted(self, unit: _Unit, key: str, what: str) -> NDArray[np.uint32]:
        shape = (self.layout.unit, self.layout.arrays[key].shape[1])
        return unit.unusual.setdefault((key, what), np.zeros(shape, np.uint32))

    def _new_buffers(self) -> dict[str, Buffer]:
        return {key: Buffer(a, self.layout.unit, self._kept[key]) for key, a in self.layout.arrays.items()}

    def _write(self, unit: range, full: _Unit) -> None:
        for copy in full.copies:
            copy.result()
        with written_to(self.place):
            for buffer in full.buffers.values():
                if len(unit) < self.layout.unit:
                    buffer.blank_from(len(unit))
            jobs = [(key, buffer, chunk) for key, buffer in full.buffers.items() for chunk in buffer.chunks(len(unit))]
            done = self._encoders.map(lambda job: self._write_chunk(unit, *job), jobs)
            for (key, buffer, chunk), counts in zip(jobs, done, strict=True):
                self._note(full, key, chunk[0] * buffer.rows, chunk[1], counts)
            self._write_counts(unit, full)
            self._write_small(
                self.layout.complete, (unit.start // self.layout.unit,), np.arange(self.layout.unit) < len(unit)
            )
        self._spare.put(full.buffers)

    def _write_chunk(self, unit: range, key: str, buffer: Buffer, chunk: tuple[int, int, int, int]) -> dict[str, Any]:
        self.place.write(buffer.name(unit, chunk), *buffer.array.encoder.encode(buffer.values[chunk]))
        return count_unusual(buffer.inside(chunk, len(unit))) if (key, "nan") in self.layout.counts else {}

    def _note(self, unit: _Unit, key: str, sample: int, level: int, counts: dict[str, Any]) -> None:
        for what, count in counts.items():
            self._counted(unit, key, what)[sample : sample + len(count), level] += count

    def _write_counts(self, unit: range, full: _Unit) -> None:
        """Write down counts that are not zero, as almost none are."""
        for (key, what), counts in full.unusual.items():
            for level in np.flatnonzero(counts.any(axis=0)):
                chunk = np.ascontiguousarray(counts[:, level : level + 1])
                self._write_small(self.layout.counts[key, what], (unit.start // self.layout.unit, int(level)), chunk)

    def _write_small(self, array: StoredArray, indices: tuple[int, ...], values: NDArray[Any]) -> None:
        self.place.write(array.chunk_name(*indices), *array.encoder.encode(values))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            for pool in (self._copier, self._writer, self._encoders):
                pool.shutdown(cancel_futures=kind is not None)
