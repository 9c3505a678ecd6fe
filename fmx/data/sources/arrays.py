"""Arrays as samples: in memory, or on disk and read as they are needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fmx.data.sources.base import Sample, Source, array_stamp
from fmx.errors import DataError

__all__ = ["ArrayLike", "ArraySource", "Blocks", "NamedArrays"]

_BLOCK_BYTES = 64 * 2**20


class ArrayLike(Protocol):
    """What arrays of all kinds have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...


class ArraySource(Source):
    """An array (sample, …native) or (sample, timestep, …native), read as it is needed.

    Parameters
    ----------
    array : array
        Anything with a shape, a NumPy dtype and slices; slices are only taken along the leading axes.
    name : str
        What the user calls it.
    labels, ids : sequence of str, optional
        One of each a sample.
    clips : bool
        Whether the second axis is the timestep.
    pictures : bool
        Whether samples are pictures (uint8) to be prepared, and no model input.
    stamp : callable, optional
        Gives the stamp of the file, where samples can't be read cheaply.

    Raises
    ------
    DataError
        The array has no samples, or holds no numbers.
    """

    def __init__(
        self,
        array: ArrayLike,
        name: str,
        *,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        clips: bool = False,
        pictures: bool = False,
        stamp: Callable[[], str] | None = None,
    ) -> None:
        if len(array.shape) < 2 + clips or not array.shape[0]:
            second = " and whose second is the timesteps" if clips else ""
            raise DataError(
                f"{name} has shape {tuple(array.shape)}: give an array whose first axis is the samples{second}."
            )
        if np.dtype(array.dtype).kind not in "fiub":
            raise DataError(f"{name} holds {array.dtype}: give an array of numbers.")
        count = array.shape[0]
        names = [str(i) for i in range(count)] if ids is None else ids
        super().__init__([Sample(i, name, label) for i, label in zip(names, labels or [""] * count, strict=True)])
        self.array = array
        self.name = name
        self.clips = clips
        self.pictures = pictures
        self.timesteps = array.shape[1] if clips else 1
        self.shape = tuple(array.shape[1 + clips :])
        self._stamp = stamp
        self._rows: list[int] | None = None

    def as_clips(self, *, clips: bool = True) -> ArraySource:
        """Return the same source with its second axis taken as the timesteps."""
        again = ArraySource(self.array, self.name, clips=clips, pictures=self.pictures, stamp=self._stamp)
        again.samples, again._rows, again.notes = self.samples, self._rows, self.notes
        return again

    def read(self, index: int) -> NDArray[Any]:
        """Read one sample, (…native) or (timestep, …native)."""
        return np.asarray(self._take(self._row(index)))

    def runs(self, indices: range) -> list[range]:
        """Take all at once: one slice is read faster than its parts."""
        return [indices] if indices else []

    def read_run(self, run: range) -> Iterator[NDArray[Any]]:
        """Read some samples in a row."""
        return iter(self.block(run))

    def block(self, run: range) -> NDArray[Any]:
        """Read some samples in a row as one array (sample, …), a copy in memory."""
        first, last = self._row(run.start), self._row(run.stop - 1)
        if last - first == len(run) - 1:
            return np.array(self._take(slice(first, last + 1)), order="C")
        return np.stack([self.read(i) for i in run])

    def frames(self, index: int, steps: slice) -> NDArray[Any]:
        """Read some timesteps of one sample, (timestep, …native), a copy in memory."""
        if not self.clips:
            return self.block(range(index, index + 1))
        return np.array(self._take((self._row(index), steps)), order="C")

    def stamp(self, index: int) -> str:
        """Digest a little of the sample, or of the file where that is cheaper."""
        return self._stamp() if self._stamp else array_stamp(self.read(index))

    def subset(self, kept: Sequence[int]) -> Self:
        """Return the same source with some of its samples."""
        some = type(self)(self.array, self.name, clips=self.clips, pictures=self.pictures, stamp=self._stamp)
        some.samples = [self.samples[i] for i in kept]
        some._rows = [self._row(i) for i in kept]
        some.notes = self.notes
        return some

    def _row(self, index: int) -> int:
        return index if self._rows is None else self._rows[index]

    def _take(self, key: Any) -> Any:
        try:
            return self.array[key]
        except DataError:
            raise
        except Exception as error:  # whatever the format's library raises for a damaged file
            row = key if isinstance(key, int) else key[0] if isinstance(key, tuple) else key.start
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DataError(f"Sample {row} of {self.name} can't be read: {said}.") from None


class NamedArrays(Source):
    """Several arrays with the same samples, by the names of the inputs of a model.

    Attributes
    ----------
    arrays : dict of str to ArraySource
    """

    def __init__(self, arrays: Mapping[str, ArraySource], *, labels: Sequence[str] | None = None) -> None:
        lengths = {name: len(source.samples) for name, source in arrays.items()}
        if len(set(lengths.values())) != 1:
            text = ", ".join(f"{name} {count}" for name, count in lengths.items())
            raise DataError(f"The arrays have different numbers of samples ({text}): give as many in each.")
        first = next(iter(arrays.values()))
        texts = labels or [s.label for s in first.samples]
        super().__init__([Sample(s.id, s.path, label) for s, label in zip(first.samples, texts, strict=True)])
        self.arrays = dict(arrays)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a sample of each array."""
        return {name: tuple(source.array.shape[1:]) for name, source in self.arrays.items()}

    def read(self, index: int) -> dict[str, NDArray[Any]]:
        """Read one sample of each array."""
        return {name: source.read(index) for name, source in self.arrays.items()}

    def runs(self, indices: range) -> list[range]:
        """Take all at once."""
        return [indices] if indices else []

    def block(self, run: range) -> dict[str, NDArray[Any]]:
        """Read some samples in a row, each array as (sample, …)."""
        return {name: source.block(run) for name, source in self.arrays.items()}

    def stamp(self, index: int) -> str:
        """Join the stamps of all arrays."""
        return "".join(dict.fromkeys(source.stamp(index) for source in self.arrays.values()))

    def subset(self, kept: Sequence[int]) -> Self:
        """Return the same source with some of its samples."""
        some = type(self)({name: source.subset(kept) for name, source in self.arrays.items()})
        some.samples = [self.samples[i] for i in kept]
        return some


class Blocks:
    """An array in chunks that is read in whole chunks along its first axis, and keeps the latest of them.

    Batches are seldom as long as chunks, and without this each batch would unpack its chunk again.

    Parameters
    ----------
    array : array
        With ``chunks``, the shape of a chunk, or None.
    lock : lock, optional
        Held while reading, for formats that can't be read from several threads.
    """

    def __init__(self, array: Any, lock: threading.Lock | None = None) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = array.dtype
        self._array = array
        row_bytes = max(int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize, 1)
        chunk = (getattr(array, "chunks", None) or (1,))[0]
        self._rows = max(min(chunk, _BLOCK_BYTES // row_bytes), 1)
        self._reading = lock
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._keeping = threading.Lock()

    def __getitem__(self, key: Any) -> NDArray[Any]:
        row = key[0] if isinstance(key, tuple) else key
        if self._rows == 1 or isinstance(key, tuple):
            return self._read(key)
        if isinstance(row, slice):
            start, stop, _ = row.indices(self.shape[0])
            numbers = range(start // self._rows, -(-stop // self._rows))
            parts = [self._cut(n, start, stop) for n in numbers]
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        return self._block(row // self._rows)[row % self._rows]  # type: ignore[no-any-return]

    def _cut(self, number: int, start: int, stop: int) -> NDArray[Any]:
        first = number * self._rows
        return self._block(number)[max(start - first, 0) : stop - first]

    def _block(self, number: int) -> NDArray[Any]:
        with self._keeping:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        values = self._read(slice(number * self._rows, min((number + 1) * self._rows, self.shape[0])))
        with self._keeping:
            self._kept[number] = values
            while len(self._kept) > 2:
                self._kept.popitem(last=False)
        return values

    def _read(self, key: Any) -> NDArray[Any]:
        if self._reading is None:
            return np.asarray(self._array[key])
        with self._reading:
            return np.asarray(self._array[key])
