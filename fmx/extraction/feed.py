"""Reading, preparing and perturbing samples ahead of the model, in threads, in order and in bounded memory."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.data import ArraySource, PictureSource, Preprocess, gaussian_noise
from fmx.extraction.prepare import as_picture

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
        Where in the unit the batch lies.
    level : int
        Position on the noise axis.
    values : array (sample, …native)
    pictures : array of uint8 (sample, y, x, band) or None
        With the first level only.
    """

    unit: range
    rows: slice
    level: int
    values: NDArray[Any]
    pictures: NDArray[np.uint8] | None


class Feed:
    """Iterates over the batches of an extraction; a context manager that ends its threads.

    Batches never cross a write unit, so that a unit is computed the same way whichever units came before it.
    """

    def __init__(
        self,
        source: PictureSource | ArraySource,
        preprocess: Preprocess | None,
        *,
        units: Sequence[range],
        batch_size: int,
        noise: Sequence[float],
        seed: int,
    ) -> None:
        self._source = source
        self._preprocess = preprocess
        self._units = units
        self._batch_size = batch_size
        self._noise = noise
        self._seed = seed
        self._queue: queue.Queue[Fed | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._readers = ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="fmx-read")
        self._thread = threading.Thread(target=self._produce, name="fmx-feed", daemon=True)

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
        self._readers.shutdown()

    def __iter__(self) -> Iterator[Fed]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _produce(self) -> None:
        try:
            for unit in self._units:
                for start in range(unit.start, unit.stop, self._batch_size):
                    batch = range(start, min(start + self._batch_size, unit.stop))
                    for fed in self._batch(unit, batch):
                        if not self._hand_over(fed):
                            return
            self._hand_over(None)
        except BaseException as error:  # handed to the thread that iterates
            self._hand_over(error)

    def _hand_over(self, item: Fed | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _batch(self, unit: range, batch: range) -> Iterator[Fed]:
        samples = list(self._readers.map(self._read, batch))
        rows = slice(batch.start - unit.start, batch.stop - unit.start)
        for level, scale in enumerate(self._noise):
            jobs = [(i, sample, scale) for i, sample in zip(batch, samples, strict=True)]
            values = np.stack(list(self._readers.map(self._numbers, jobs)))
            pictures = np.stack(samples) if level == 0 and self._preprocess is not None else None
            yield Fed(unit, rows, level, values, pictures)

    def _read(self, index: int) -> NDArray[Any]:
        sample = self._source.read(index)
        if self._preprocess is None:
            return np.asarray(sample)
        if isinstance(self._source, ArraySource):
            sample = as_picture(sample, self._source.samples[index].path)
        return self._preprocess.picture(sample)  # type: ignore[arg-type]

    def _numbers(self, job: tuple[int, NDArray[Any], float]) -> NDArray[Any]:
        index, sample, scale = job
        if self._preprocess is None:
            if not scale:
                return sample
            return sample.astype(np.float32) + self._draw(index, sample.shape, scale)
        if not scale:
            return self._preprocess.numbers(sample)
        y, x, bands = sample.shape
        return self._preprocess.numbers(sample, self._draw(index, (bands, y, x), scale))

    def _draw(self, index: int, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
        name = self._source.samples[index].id
        return gaussian_noise(shape, seed=self._seed, sample=name, timestep=0, level=scale)
