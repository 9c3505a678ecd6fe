"""Batches for the model, made ahead of it in threads, in order and in bounded memory.

A sample takes as many positions as it has timesteps, in its own order, and batches run over positions: a single long
clip fills batches of a model that takes frames. A model that takes whole clips has one position a sample.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Batch
from fmx.data import Perturbation, Preprocess, Source, perturbation
from fmx.extraction.inputs import ArrayInputs, Inputs, Part, PictureInputs

__all__ = ["Fed", "Feed"]

_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Fed:
    """A batch that is ready for the model.

    Attributes
    ----------
    unit : range
        Positions of the samples of the write unit.
    rows : slice
        Where in the unit the batch lies: positions (sample · timestep), samples outermost; for models of whole clips
        samples.
    level : int
        Position on the noise axis.
    values : array (position, …native), or mapping of str to array
        By the names of the inputs, for models of several.
    pictures : array of uint8 (sample · timestep, y, x, band) or None
        With the first level only.
    picture_rows : slice
        Where in the unit the pictures lie, always as sample · timestep.
    """

    unit: range
    rows: slice
    level: int
    values: Batch
    pictures: NDArray[np.uint8] | None
    picture_rows: slice


@dataclass(frozen=True, slots=True)
class _Piece:
    """A batch that is still to be made."""

    unit: range
    rows: slice
    parts: tuple[Part, ...]


class Feed:
    """Iterates over the batches of an extraction; a context manager that ends its threads.

    Batches never cross a write unit, so that a unit is computed the same way whichever units came before it.

    Parameters
    ----------
    source : Source
    preprocess : Preprocess or None
        None where samples are the model's input already.
    units : sequence of range
        Samples of each write unit that is wanted, in rising order.
    batch_size : int
        Positions of a batch.
    noise : sequence of float
        Levels of the noise axis, the clean one first.
    seed : int
    perturbation : Perturbation, optional
        Gaussian noise in pixel space unless told.
    clip : bool
        Whether the model takes whole clips.
    ahead : int
        Batches that may wait ready for the model. In all about three more are in memory: the one that the model has,
        the one that is made, and what is read for the next.

    Attributes
    ----------
    waited : float
        Seconds that whoever iterates waited for batches.
    blocked : float
        Seconds that the feed waited because enough batches were ready.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess | None,
        *,
        units: Iterable[range],
        batch_size: int,
        noise: Sequence[float],
        seed: int,
        perturbation: Perturbation | None = None,
        clip: bool = False,
        ahead: int = _AHEAD,
    ) -> None:
        self.waited = 0.0
        self.blocked = 0.0
        self._source = source
        self._units = units
        self._batch_size = batch_size
        self._noise = noise
        self._timesteps = source.timesteps
        self._rows = 1 if clip else source.timesteps
        self._queue: queue.Queue[Fed | BaseException | None] = queue.Queue(max(ahead, 1))
        self._stop = threading.Event()
        width = 1 if source.streamed else min(os.cpu_count() or 1, 8)
        self._readers = ThreadPoolExecutor(width, thread_name_prefix="fmx-read")
        self._inputs = self._choose_inputs(preprocess, perturbation, seed=seed, clip=clip, width=width)
        self._thread = threading.Thread(target=self._produce, name="fmx-feed", daemon=True)

    def _choose_inputs(self, preprocess: Preprocess | None, noise: Perturbation | None, **settled: Any) -> Inputs:
        chosen = noise or perturbation()
        settled |= {"readers": self._readers}
        if preprocess is None:
            chosen.check(pictures=False)
            return ArrayInputs(self._source, chosen, **settled)
        return PictureInputs(preprocess, self._source, chosen, **settled)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()
        self._readers.shutdown(cancel_futures=True)
        self._source.close()

    def __iter__(self) -> Iterator[Fed]:
        while True:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            del item  # its arrays would stay in memory until the next batch comes

    def _produce(self) -> None:
        try:
            pieces, begun = self._pieces(), deque[_Piece]()
            while self._begin(pieces, begun):
                piece = begun.popleft()
                read = self._inputs.finish(piece.parts)
                for level in range(len(self._noise)):
                    fed = self._fed(piece, read, level)
                    if level == 0:
                        # Read on while the model is busy, but not before this batch has got what it needed.
                        self._begin(pieces, begun)
                    if not self._hand_over(fed):
                        return
                    del fed
                del read
            self._hand_over(None)
        except BaseException as error:  # handed to the thread that iterates
            self._hand_over(error)

    def _begin(self, pieces: Iterator[_Piece], begun: deque[_Piece]) -> bool:
        """Have a batch begun; False where there is none left."""
        if not begun and (piece := next(pieces, None)) is not None:
            self._inputs.start(piece.parts)
            begun.append(piece)
        return bool(begun)

    def _pieces(self) -> Iterator[_Piece]:
        for unit in self._units:
            positions = len(unit) * self._rows
            for start in range(0, positions, self._batch_size):
                rows = slice(start, min(start + self._batch_size, positions))
                yield _Piece(unit, rows, tuple(self._parts(unit, rows)))

    def _parts(self, unit: range, rows: slice) -> Iterator[Part]:
        for sample in range(rows.start // self._rows, (rows.stop - 1) // self._rows + 1):
            first = sample * self._rows
            steps = slice(max(rows.start - first, 0), min(rows.stop - first, self._rows))
            yield Part(unit.start + sample, steps if self._rows == self._timesteps else slice(0, self._timesteps))

    def _fed(self, piece: _Piece, read: Any, level: int) -> Fed:
        last = level == len(self._noise) - 1
        values = self._inputs.values(piece.parts, read, self._noise[level], last=last)
        each = self._timesteps // self._rows
        return Fed(
            piece.unit,
            piece.rows,
            level,
            values,
            self._inputs.pictures(read) if level == 0 else None,
            slice(piece.rows.start * each, piece.rows.stop * each),
        )

    def _hand_over(self, item: Fed | BaseException | None) -> bool:
        start = time.perf_counter()
        try:
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return True
            return False
        finally:
            self.blocked += time.perf_counter() - start
