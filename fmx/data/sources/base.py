"""What a source is: samples with ids that stay the same, read one by one, and what tells that one has changed."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import DataError

__all__ = ["Read", "Sample", "Source", "file_stamp", "in_threads", "readable", "utf8"]

Read = Image.Image | NDArray[Any] | Mapping[str, NDArray[Any]]
T = TypeVar("T")

_BLOCK = 16 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a sample before it is read.

    Attributes
    ----------
    id : str
        Stable name: the path inside the folder, the position in an array, or the video's name and the clip's number.
    path : str
        File that it comes from.
    label : str
        Name of the class folder or the manifest's label, empty where there is none.
    start : int
        First frame in the video, for clips.
    """

    id: str
    path: str
    label: str = ""
    start: int = 0


class Source(ABC):
    """Samples that can be read one by one, in any order and from several threads.

    Attributes
    ----------
    samples : list of Sample
    timesteps : int
        Length of each sample along the timestep axis: the frames of a clip, else 1.
    pictures : bool
        Whether samples are pictures or clips of them, which are prepared for the model; else they are its input.
    streamed : bool
        Whether samples come in an order of their own, one after the other. Their labels are known once they were read.
    shape : tuple of int or None
        Shape of one timestep of a sample where samples are arrays, (…native).
    notes : list of str
        What was left out or assumed, in words for the user.
    skipped : list of str
        Ids of what was left out because it can't be read.
    attributes : dict
        What is known of the data as a whole, such as the frame rate, as plain values.
    """

    samples: list[Sample]
    timesteps: int = 1
    pictures: bool = False
    streamed: bool = False
    shape: tuple[int, ...] | None = None

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self.attributes: dict[str, Any] = {}

    @abstractmethod
    def read(self, index: int) -> Read:
        """Read one sample: a decoded picture, a clip as uint8 (timestep, y, x, band), or model input.

        Raises
        ------
        DataError
            The sample can't be read; names it.
        """

    def runs(self, indices: range) -> list[range]:
        """Split positions into what one thread had best read in a row."""
        return [range(i, i + 1) for i in indices]

    def read_run(self, run: range) -> Iterator[Read]:
        """Read some samples in a row, one at a time."""
        return (self.read(i) for i in run)

    def block(self, run: range) -> NDArray[Any] | dict[str, NDArray[Any]]:
        """Read some arrays in a row as one, (sample, …), or as one of each name.

        Raises
        ------
        DataError
            They are not alike.
        """
        read = [value if isinstance(value, Mapping) else {"": np.asarray(value)} for value in self.read_run(run)]
        joined = {}
        for name in read[0]:
            for i, one in zip(run, read, strict=True):
                if name not in one or one[name].shape != read[0][name].shape:
                    raise DataError(
                        f"Samples {run.start} and {i} have different shapes: give arrays of one shape, or pictures."
                    )
            joined[name] = np.stack([one[name] for one in read])
        return joined.get("", joined)

    def stamp(self, index: int) -> str:
        """Give a short text that changes when the sample's content does, without reading much of it.

        Empty where nothing can tell.
        """
        path = self.samples[index].path
        return file_stamp(path) if path else ""

    def stamps(self, indices: Sequence[int] | None = None) -> list[str]:
        """Give the stamps of some samples, or of all, read in several threads."""
        wanted = range(len(self.samples)) if indices is None else indices
        return in_threads(self.stamp, wanted)

    def signature(self) -> str:
        """Give a short digest of all ids, labels and stamps: another one means that the data has changed."""
        digest = hashlib.blake2b(str(self.timesteps).encode(), digest_size=8)
        for sample, stamp in zip(self.samples, self.stamps(), strict=True):
            digest.update("\0".join((sample.id, sample.label, stamp, "")).encode())
        return digest.hexdigest()

    def subset(self, kept: Sequence[int]) -> Source:  # noqa: ARG002 - those that can't do it say so
        """Return the same source with some of its samples, in the order of their positions."""
        raise DataError("Samples that are handed over one by one can't be looked at first: leave --on-error as it is.")

    def readable(self) -> tuple[Source, list[str]]:
        """Read every sample once and leave out those that can't be read; see `readable`."""
        return readable(self)

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Let go of what is held open between reads; reading opens it again."""


def readable(source: Source) -> tuple[Source, list[str]]:
    """Read every sample once, in several threads, and leave out those that can't be read.

    Returns
    -------
    source : Source
        The same where all samples can be read.
    skipped : list of str
        Ids of what was left out.

    Raises
    ------
    DataError
        None can be read.
    """

    def look(run: range) -> list[int]:
        return [i for i in run if _can_read(source, i)]

    found = in_threads(look, source.runs(range(len(source.samples))))
    kept = [i for good in found for i in good]
    if not kept:
        what = "pictures" if source.pictures else "samples"
        raise DataError(f"None of the {len(source.samples)} {what} can be read.")
    if len(kept) == len(source.samples):
        return source, list(source.skipped)
    good = set(kept)
    skipped = source.skipped + [s.id for i, s in enumerate(source.samples) if i not in good]
    return source.subset(kept), skipped


def _can_read(source: Source, index: int) -> bool:
    try:
        source.read(index)
    except DataError:
        return False
    return True


def in_threads(function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Apply a function that waits for the disk or decodes, in several threads, and give the results in order."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="fmx-look") as pool:
        return list(pool.map(function, items))


def file_stamp(path: str | Path) -> str:
    """Digest a file's size with a block of its begin, its middle and its end.

    Unlike the time of the last change this stays the same when a folder is copied.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
            for offset in sorted({0, max(0, size // 2 - _BLOCK // 2), max(0, size - _BLOCK)}):
                file.seek(offset)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}.") from None
    return digest.hexdigest()


def array_stamp(values: NDArray[Any]) -> str:
    """Digest an array's shape and type with a few values of its begin, its middle and its end."""
    flat = np.asarray(values).reshape(-1)
    digest = hashlib.blake2b(f"{values.dtype}{values.shape}".encode(), digest_size=8)
    few = _BLOCK // 16
    for start in sorted({0, max(0, len(flat) // 2 - few // 2), max(0, len(flat) - few)}):
        digest.update(flat[start : start + few].tobytes())
    return digest.hexdigest()


def utf8(name: str) -> str:
    """Check that a file's name can be written down.

    Raises
    ------
    DataError
        It is not valid UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="replace").decode()
        raise DataError(f"The file name {shown} is not valid UTF-8: rename the file.") from None
    return name
