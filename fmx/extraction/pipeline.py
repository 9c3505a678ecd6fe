"""The way of a batch: from the feed through the model, and on to what keeps it, each in threads of its own.

The model runs in the calling thread and nothing else does: what it gave is copied, reduced and written by a thread
behind it, while the next batch runs. At most two captured batches wait.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from fmx.adapter import Capture
from fmx.extraction.feed import Fed

__all__ = ["Course", "Handover", "Meter", "Progress", "Sink", "Status"]

_WAITING = 1


class Sink(Protocol):
    """Something that takes captured batches, unit by unit."""

    def start(self, unit: range) -> None:
        """Begin a write unit."""
        ...

    def take(self, fed: Fed, capture: Capture) -> None:
        """Take a batch of the unit."""
        ...

    def finish(self, unit: range) -> None:
        """End a write unit: all of its batches were taken."""
        ...


@dataclass(frozen=True, slots=True)
class Status:
    """How far an extraction is.

    Attributes
    ----------
    done, total : int
        Samples.
    seconds : float
        Since the first batch.
    nbytes : int
        Bytes of activations that were kept so far.
    bottleneck : str
        What the others wait for: ``decode``, ``model``, ``copy``, ``reduce``, ``compress`` or ``disk``.
    """

    done: int
    total: int
    seconds: float
    nbytes: int
    bottleneck: str


Progress = Callable[[Status], None]


@dataclass
class Meter:
    """Where the time goes.

    Attributes
    ----------
    seconds : dict of str to float
        In the calling thread ``decode`` (waiting for a batch), ``model`` and ``behind`` (waiting for the thread behind
        the model); in that thread ``copy``, ``reduce`` and ``write`` (waiting for the writer).
    """

    seconds: dict[str, float] = field(default_factory=dict)
    writing: Callable[[], Mapping[str, float]] = dict
    progress: Progress | None = None
    total: int = 0
    nbytes: int = 0
    done: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the meter was made."""
        return time.perf_counter() - self.started

    def add(self, samples: float) -> None:
        """Count samples as done, and report."""
        self.done += samples
        if self.progress is not None:
            self.progress(Status(int(self.done), self.total, self.elapsed, self.nbytes, self.bottleneck()))

    @contextmanager
    def stage(self, name: str, inside: str = "") -> Iterator[None]:
        """Add the time spent here to a stage, and take it off the one that it happens inside of."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            if inside:
                self.seconds[inside] = self.seconds.get(inside, 0.0) - spent

    def bottleneck(self) -> str:
        """Name the stage that all others wait for; empty before anything has run."""
        worst = _largest(self.seconds, ("decode", "model", "behind"))
        if worst == "behind":
            worst = _largest(self.seconds, ("copy", "reduce", "write"))
        if worst == "write":
            worst = _largest(self.writing(), ("compress", "disk")) or worst
        return worst


def _largest(seconds: Mapping[str, float], names: Sequence[str]) -> str:
    return max(names, key=lambda name: seconds.get(name, 0.0)) if seconds else ""


@dataclass(frozen=True)
class Course:
    """In which order the batches of a unit come: by position, and at each of them by noise level.

    Attributes
    ----------
    rows : int
        Positions that a sample takes in a batch: its frames where a model runs frame by frame, else one.
    levels : callable
        Gives the positions of the noise levels at which a unit is run, rising.
    """

    rows: int
    levels: Callable[[range], Sequence[int]]

    def wants(self, fed: Fed) -> bool:
        """Whether a batch is to be run at all."""
        return fed.level in self.levels(fed.unit)

    def starts(self, fed: Fed) -> bool:
        """Whether a batch is the first of its unit."""
        return fed.rows.start == 0 and fed.level == self.levels(fed.unit)[0]

    def completes(self, fed: Fed) -> bool:
        """Whether a batch is at the last level of its samples."""
        return fed.level == self.levels(fed.unit)[-1]

    def ends(self, fed: Fed) -> bool:
        """Whether a batch is the last of its unit."""
        return fed.rows.stop == len(fed.unit) * self.rows and self.completes(fed)


class Handover:
    """Hands captured batches to sinks in a thread behind the model; a context manager that waits for the last one.

    Parameters
    ----------
    sinks : sequence of Sink
    meter : Meter
    course : Course
    """

    def __init__(self, sinks: Sequence[Sink], meter: Meter, course: Course) -> None:
        self._sinks = sinks
        self._meter = meter
        self._course = course
        self._queue: queue.Queue[tuple[Fed, Capture] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="fmx-keep", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def stream(self, batches: Iterable[tuple[Fed, Capture]]) -> Iterator[Fed]:
        """Hand batches on and give each back as soon as it is on its way."""
        for fed, capture in batches:
            if self._error is not None:
                raise self._error
            with self._meter.stage("behind"):
                self._queue.put((fed, capture))
            yield fed

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # the queue is emptied so that nobody waits for room in it
            try:
                self._hand_on(*item)
            except BaseException as error:  # raised again in the calling thread
                self._error = error
            del item  # its arrays would stay in memory until the next batch comes

    def _hand_on(self, fed: Fed, capture: Capture) -> None:
        starts, ends = self._course.starts(fed), self._course.ends(fed)
        for sink in self._sinks:
            if starts:
                sink.start(fed.unit)
            sink.take(fed, capture)
            if ends:
                sink.finish(fed.unit)
