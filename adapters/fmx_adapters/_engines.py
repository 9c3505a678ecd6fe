"""Choosing the fastest engine that gives the reference's values.

An adapter offers its reference session and candidates that may be faster. On a few samples of the first batch each
one is compared with the reference, layer by layer, and timed; the fastest one that agrees on the whole batch too runs
everything from then on. What was chosen, and why the others were not, can be read off the session and goes into the
store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, Session
from fmx.errors import FmxError, ModelError

__all__ = ["TOLERANCE", "AutoSession", "Candidate", "largest_difference", "pick_engine"]

TOLERANCE = 1e-4
_TIMED_SAMPLES = 8
_TIMED_RUNS = 3
_ENOUGH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that may be faster than the reference; `open` may raise to say why it can't be used."""

    name: str
    open: Callable[[], Session]


def largest_difference(values: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> tuple[float, str]:
    """Give the largest difference of any layer, relative to the layer's largest value, and that layer's name.

    A value that is NaN in one and not in the other makes the difference infinite.
    """
    worst = (0.0, "")
    for name, wanted in expected.items():
        got = values.get(name)
        if got is None or got.shape != wanted.shape:
            return float("inf"), name
        finite = np.isfinite(wanted)
        if not np.array_equal(finite, np.isfinite(got)):
            return float("inf"), name
        scale = float(np.abs(wanted, where=finite, out=np.zeros_like(wanted)).max(initial=0.0))
        step = float(np.abs(got - wanted, where=finite, out=np.zeros_like(wanted)).max(initial=0.0))
        worst = max(worst, (step / scale if scale else step, name))
    return worst


class AutoSession:
    """A session that settles on an engine when it sees the first batch.

    Attributes
    ----------
    engine : str
        The engine in use; the reference until the first batch has been seen.
    engine_notes : list of str
        What was found about each candidate, in words for the user.
    """

    def __init__(self, reference: Callable[[], Session], candidates: Sequence[Candidate]) -> None:
        self._reference = reference
        self._candidates = list(candidates)
        self._running: Session | None = None
        self._settled = False
        self._stack = ExitStack()
        self.engine = "auto"
        self.engine_notes: list[str] = []

    @property
    def _session(self) -> Session:
        if self._running is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        return self._running

    def __enter__(self) -> Self:
        self._use(self._reference)
        return self

    def _use(self, engine: Callable[[], Session]) -> None:
        self._running = self._stack.enter_context(engine())
        self.engine = self._running.engine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        self._stack.close()

    def run(self, batch: Batch) -> Capture:
        """Run one batch; the first one settles the engine, and its values are the reference's."""
        captured = self._session.run(batch)
        if not self._settled:
            self._settled = True
            self._settle(batch, captured)
        return captured

    def _settle(self, batch: Batch, expected: Capture) -> None:
        few = _first_samples(batch, _TIMED_SAMPLES)
        name, base = self._session.engine, _seconds(self._session, few)
        # The reference leaves the user's model first: candidates are copies of it, and want it without hooks.
        self._stack.close()
        faster: list[tuple[float, Candidate]] = []
        for candidate in self._candidates:
            seconds = self._try(candidate, few, expected)
            if seconds is not None:
                self.engine_notes.append(f"{candidate.name}: {base / seconds:.2f}× {name}")
                faster += [(seconds, candidate)] if seconds < base else []
        for _, candidate in sorted(faster, key=lambda pair: pair[0]):
            # What was fast and right on a few samples has to be right on the whole batch.
            self._use(candidate.open)
            if self._agrees(candidate, self._session.run(batch), expected):
                return
            self._stack.close()
        self._use(self._reference)

    def _try(self, candidate: Candidate, few: Batch, expected: Capture) -> float | None:
        """Give the seconds that a candidate takes, or None for one that fails or gives other values."""
        try:
            with candidate.open() as session:
                if self._agrees(candidate, session.run(few), expected):
                    return _seconds(session, few)
        except (FmxError, RuntimeError, ValueError, TypeError, ImportError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.engine_notes.append(f"{candidate.name}: can't be used, {reason}")
        return None

    def _agrees(self, candidate: Candidate, got: Capture, expected: Capture) -> bool:
        """Compare with as many samples of the reference as there are, and note a difference."""
        values = {**got.outputs, **got}
        wanted = {**expected.outputs, **expected}
        cut = {name: array[: len(values[name])] if name in values else array for name, array in wanted.items()}
        difference, layer = largest_difference(values, cut)
        if difference > TOLERANCE:
            self.engine_notes.append(f"{candidate.name}: not used, {layer} differs by {difference:.1e}")
        return difference <= TOLERANCE


def _first_samples(batch: Batch, count: int) -> Batch:
    if isinstance(batch, Mapping):
        return {name: array[:count] for name, array in batch.items()}
    return batch[:count]


def pick_engine(name: str, reference: Callable[[], Session], candidates: Sequence[Candidate]) -> Session:
    """Give the session for an engine that a user named.

    Raises
    ------
    ModelError
        There is no such engine for this model.
    """
    if name == "auto":
        return AutoSession(reference, candidates)
    known = {candidate.name: candidate.open for candidate in candidates}
    if name == "eager":
        return reference()
    if name in known:
        try:
            return known[name]()
        except ModelError as error:
            raise ModelError(f"The engine {name} can't run this model: {error}") from None
    raise ModelError(f"There is no engine {name} for this model: use eager, auto{''.join(f', {n}' for n in known)}.")


def _seconds(session: Session, batch: Batch) -> float:
    """Time a session that has run once; the best of a few runs, as other work on the machine only adds."""
    taken: list[float] = []
    while len(taken) < _TIMED_RUNS and sum(taken) < _ENOUGH_SECONDS:
        start = time.perf_counter()
        session.run(batch)
        taken.append(time.perf_counter() - start)
    return min(taken)
