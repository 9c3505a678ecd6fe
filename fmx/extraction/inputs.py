"""From samples to what the model takes: read ahead in threads, prepared, and perturbed at each level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.adapter import Batch
from fmx.data import ArraySource, ClipSource, Perturbation, Preprocess, Source
from fmx.errors import DataError
from fmx.prepare import as_pixels

__all__ = ["ArrayInputs", "Inputs", "Part", "PictureInputs"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Part:
    """What a batch takes of one sample.

    Attributes
    ----------
    sample : int
    steps : slice
        Timesteps, from the first wanted to the one after the last.
    """

    sample: int
    steps: slice


class Inputs(ABC):
    """Reads batches of a source and turns them into model input.

    Parameters
    ----------
    source : Source
    perturbation : Perturbation
    seed : int
    clip : bool
        Whether the model takes whole clips, and not one timestep after the other.
    readers : Executor
        Threads that read and prepare.
    width : int
        How many there are.
    """

    def __init__(
        self, source: Source, perturbation: Perturbation, *, seed: int, clip: bool, readers: Executor, width: int
    ) -> None:
        self.source = source
        self.perturbation = perturbation
        self.seed = seed
        self.clip = clip
        self.readers = readers
        self.width = width

    @abstractmethod
    def start(self, parts: Sequence[Part]) -> None:
        """Begin to read a batch; batches are begun, and then finished, in order."""

    @abstractmethod
    def finish(self, parts: Sequence[Part]) -> Any:
        """Wait for a batch that was begun; gives what `values` and `pictures` take."""

    @abstractmethod
    def values(self, parts: Sequence[Part], read: Any, level: float, *, last: bool) -> Batch:
        """Give a batch as model input at a level; in memory of its own unless it is the `last` that is made of it."""

    def pictures(self, read: Any) -> Pixels | None:  # noqa: ARG002 - only pictures have any
        """Give the pictures of a batch as the model sees them, (position, y, x, band)."""
        return None

    def for_each(self, count: int, job: Callable[[int], None]) -> None:
        """Do a job for each position, split evenly among the threads."""
        share = max(-(-count // self.width), 1)

        def do(positions: range) -> None:
            for i in positions:
                job(i)

        started = [self.readers.submit(do, range(a, min(a + share, count))) for a in range(0, count, share)]
        for one in started:
            one.result()

    def keys(self, parts: Sequence[Part]) -> list[tuple[str, int]]:
        """List the id and the timestep of each position of a batch, or of each frame of its clips."""
        samples = self.source.samples
        return [(samples[p.sample].id, t) for p in parts for t in range(p.steps.start, p.steps.stop)]


class PictureInputs(Inputs):
    """Pictures and clips, or arrays that are prepared like them. Each sample is read once."""

    def __init__(self, preprocess: Preprocess, source: Source, perturbation: Perturbation, **settled: Any) -> None:
        super().__init__(source, perturbation, **settled)
        self.preprocess = preprocess
        self._reading: dict[int, tuple[Future[list[Pixels]], int]] = {}

    def start(self, parts: Sequence[Part]) -> None:
        """Begin to read the samples that no batch before it had."""
        wanted = [part.sample for part in parts if part.sample not in self._reading]
        runs = self.source.runs(range(wanted[0], wanted[-1] + 1)) if wanted else []
        for run in runs:
            job = self.readers.submit(self._prepare, run)
            self._reading |= {index: (job, k) for k, index in enumerate(run)}

    def finish(self, parts: Sequence[Part]) -> Pixels:
        """Give the pictures of a batch, (position, y, x, band), or (sample · timestep, …) for whole clips."""
        found = []
        for part in parts:
            job, k = self._reading[part.sample]
            found.append(job.result()[k][part.steps])
            if part.steps.stop == self.source.timesteps:
                del self._reading[part.sample]
        return np.concatenate(found)

    def pictures(self, read: Any) -> Pixels:
        """Give the pictures of a batch as the model sees them."""
        return read  # type: ignore[no-any-return]

    def values(self, parts: Sequence[Part], read: Any, level: float, *, last: bool) -> NDArray[np.float32]:  # noqa: ARG002
        """Scale and perturb the pictures of a batch."""
        steps = self.source.timesteps if self.clip else None
        shape = self.preprocess.shape(steps) if self.preprocess.crop else self._own_shape(read, steps)
        out = np.empty((len(parts) if self.clip else len(read), *shape), np.float32)
        places = _frame_places(out, self.preprocess.clip_axes) if self.clip else out
        keys = self.keys(parts)
        self.for_each(len(read), lambda i: self._number(read[i], places[i], level, keys[i]))
        return out

    def _own_shape(self, read: Pixels, steps: int | None) -> tuple[int, ...]:
        return replace(self.preprocess, crop=read.shape[1:3]).shape(steps)

    def _number(self, pixels: Pixels, out: NDArray[np.float32], level: float, key: tuple[str, int]) -> None:
        about = {"seed": self.seed, "sample": key[0], "timestep": key[1]}
        if level and self.perturbation.space == "pixel":
            self.preprocess.scaled(self.perturbation.picture(pixels, level, **about), out)  # type: ignore[arg-type]
            return
        self.preprocess.numbers(pixels, out=out)
        if level:
            out[...] = self.perturbation.numbers(out, level, **about)  # type: ignore[arg-type]

    def _prepare(self, run: range) -> list[Pixels]:
        """Read and prepare some samples in a row, each as (timestep, y, x, band)."""
        read = zip(run, self.source.read_run(run), strict=True)
        return [self._prepared(value, self.source.samples[i].path) for i, value in read]

    def _prepared(self, value: Any, path: str) -> Pixels:
        if isinstance(value, Image.Image):
            return self.preprocess.picture(value)[None]
        if isinstance(self.source, ClipSource):
            return self.preprocess.clip(value)
        if isinstance(value, Mapping):
            raise DataError(f"{path} holds several arrays a sample: only pictures can be prepared.")
        if self.source.timesteps > 1:
            return self.preprocess.clip(np.stack([as_pixels(frame, path) for frame in value]))
        return self.preprocess.picture(Image.fromarray(as_pixels(value, path)))[None]


class ArrayInputs(Inputs):
    """Arrays that are the model's input already, one or several by the names of the inputs."""

    def __init__(self, source: Source, perturbation: Perturbation, **settled: Any) -> None:
        super().__init__(source, perturbation, **settled)
        self._reading: deque[list[Future[Any]]] = deque()

    def start(self, parts: Sequence[Part]) -> None:
        """Begin to read a batch, in one slice where the source can."""
        source, samples = self.source, range(parts[0].sample, parts[-1].sample + 1)
        jobs: list[Future[Any]]
        if isinstance(source, ArraySource) and source.clips and not self.clip:
            jobs = [self.readers.submit(source.frames, part.sample, part.steps) for part in parts]
        else:
            jobs = [self.readers.submit(source.block, run) for run in source.runs(samples)]
        self._reading.append(jobs)

    def finish(self, parts: Sequence[Part]) -> Batch:  # noqa: ARG002
        """Give a batch as it was read, (position, …native)."""
        read = [job.result() for job in self._reading.popleft()]
        if isinstance(read[0], Mapping):
            return {name: _joined([one[name] for one in read]) for name in read[0]}
        values = _joined(read)
        # Clips are (timestep, channel, y, x) on disk and (channel, timestep, y, x) for models.
        return np.ascontiguousarray(values.swapaxes(1, 2)) if self.clip and self.source.timesteps > 1 else values

    def values(self, parts: Sequence[Part], read: Batch, level: float, *, last: bool) -> Batch:
        """Give a batch, perturbed."""
        if isinstance(read, Mapping):
            return self._named(parts, read, level, last=last)
        if not level:
            return read if last else read.copy()
        return self._noisy(read, level, self._array_keys(parts))

    def _named(self, parts: Sequence[Part], read: Mapping[str, NDArray[Any]], level: float, *, last: bool) -> Batch:
        """Perturb the inputs that hold floating-point numbers; whole numbers, such as tokens, stay."""
        floating = [name for name, values in read.items() if values.dtype.kind == "f"]
        if level and not floating:
            raise DataError(f"The inputs {', '.join(read)} hold whole numbers only, to which no noise can be added.")
        made: dict[str, NDArray[Any]] = {}
        for name, values in read.items():
            if not level or name not in floating:
                made[name] = values if last else values.copy()
                continue
            # Inputs of the same shape get noise of their own.
            keys = [(f"{sample}\0{name}" if len(floating) > 1 else sample, t) for sample, t in self._array_keys(parts)]
            made[name] = self._noisy(values, level, keys)
        return made

    def _noisy(self, values: NDArray[Any], level: float, keys: Sequence[tuple[str, int]]) -> NDArray[np.float32]:
        out = np.empty(values.shape, np.float32)

        def one(i: int) -> None:
            sample, t = keys[i]
            out[i] = self.perturbation.numbers(values[i], level, seed=self.seed, sample=sample, timestep=t)

        self.for_each(len(out), one)
        return out

    def _array_keys(self, parts: Sequence[Part]) -> list[tuple[str, int]]:
        """List the id and the timestep of each position; a whole clip is drawn for at once."""
        return [(self.source.samples[p.sample].id, 0) for p in parts] if self.clip else self.keys(parts)


def _joined(read: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return read[0] if len(read) == 1 else np.concatenate(read)


def _frame_places(out: NDArray[Any], axes: str) -> list[NDArray[Any]]:
    """List where each frame of each clip belongs, as views: (sample, …axes) with T taken apart."""
    time = axes.index("T")
    return [frame for clip in out for frame in np.moveaxis(clip, time, 0)]
