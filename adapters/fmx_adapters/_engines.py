"""Choosing the fastest engine that gives the reference's values.

An adapter offers its reference session and candidates that may be faster. On a few samples of the first batch a
candidate is compared with the reference, layer by layer, and timed; the fastest one that agrees on the whole batch too
runs everything from then on, and its values of that batch are the first that are given. What setting an engine up can
save has to be more than it costs, so that candidates are tried only where the run is long enough for them, the most
promising first, next to which others may not be worth a try. What was chosen, and why the others were not, can be read
off the session and goes into the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, Session, run_all, sharing
from fmx.errors import FmxError, ModelError

__all__ = ["TOLERANCE", "AutoSession", "Candidate", "Terms", "cant_run", "largest_difference", "pick_engine"]

TOLERANCE = 1e-4
_TIMED_RUNS = 3
_ENOUGH_SECONDS = 0.3
# Where nobody says how long the run will be.
_USUAL_BATCHES = 200
# Looking for a faster engine takes at most this share of what the reference alone would take: no more can be lost.
_MOST_LOST = 0.2


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What to expect of an engine, from ResNets on a CPU: seconds to set it up, and how much faster it can be."""

    seconds: float
    gain: float


_OUTLOOKS = {
    "channels-last": _Outlook(0.3, 1.5),
    "folded": _Outlook(0.3, 2.2),
    "optimised": _Outlook(0.3, 1.5),
    "frozen": _Outlook(0.3, 2.2),
    "onnxruntime": _Outlook(1.5, 3.0),
    "compiled": _Outlook(45.0, 2.6),
}
_UNKNOWN = _Outlook(0.5, 2.5)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an engine may take the reference's place.

    Attributes
    ----------
    tolerance : float
        How far a value may be from the reference's, relative to the layer's largest value.
    expected_batches : int or None
        How many batches will come, if that is known.
    timed_samples : int or None
        How many samples of the first batch engines are timed on; None for all.
    on_cpu : bool
        This process computes itself, so that a run takes no longer than its CPU time unless other processes are in
        the way.
    """

    tolerance: float = TOLERANCE
    expected_batches: int | None = None
    timed_samples: int | None = 8
    on_cpu: bool = False


_USUAL = Terms()


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that may be faster than the reference; `open` and what it opens may raise to say why it can't run."""

    name: str
    open: Callable[[], Session]


class _EngineError(ModelError):
    """An engine that can't run a model, with the reason alone for those who know which engine it is about."""

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(f"The engine {engine} can't run this model: {reason}.")
        self.reason = reason


def cant_run(engine: str, error: BaseException) -> ModelError:
    """Give the error for an engine that can't run a model because of another error."""
    if isinstance(error, _EngineError):
        return error
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return _EngineError(engine, said.rstrip("."))


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


@dataclass
class _Best:
    """The fastest engine so far; `stack` closes its session."""

    candidate: Candidate
    session: Session
    stack: ExitStack
    seconds: float


class AutoSession:
    """A session that settles on an engine when it sees the first batch.

    Parameters
    ----------
    reference : callable
        Gives the reference session.
    candidates : sequence of Candidate
    terms : Terms

    Attributes
    ----------
    engine : str
        The engine in use; the reference until the first batch has been seen.
    choice : str
        The name by which the engine in use can be asked for, to get the same bits again.
    engine_notes : list of str
        What was found about each candidate, in words for the user.
    """

    def __init__(
        self, reference: Callable[[], Session], candidates: Sequence[Candidate], terms: Terms = _USUAL
    ) -> None:
        self._reference = reference
        self._candidates = list(candidates)
        self._terms = terms
        self._batches = _USUAL_BATCHES if terms.expected_batches is None else terms.expected_batches
        self._running: Session | None = None
        self._settled = False
        # How many times the first batch is what engines are timed on.
        self._share = 1.0
        self._stack = ExitStack()
        self.engine = "auto"
        self.choice = "eager"
        self.engine_notes: list[str] = []

    @property
    def _session(self) -> Session:
        if self._running is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        return self._running

    def __enter__(self) -> Self:
        self._use_reference()
        self.engine_notes = list(self._session.engine_notes)
        return self

    def _use_reference(self) -> None:
        self._running = self._stack.enter_context(self._reference())
        self.engine, self.choice = self._running.engine, "eager"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        self._stack.close()

    def run(self, batch: Batch) -> Capture:
        """Run one batch; the first one settles the engine, and its values are the engine's."""
        if self._settled:
            return next(self._all_settled([batch]))
        expected, seconds = self._timed(self._session, batch)
        self._settled = True
        return self._settle(batch, expected, seconds)

    def run_all(self, batches: Iterable[Batch]) -> Iterator[Capture]:
        """Run batches one after the other, as the engine that the first one settles does it."""
        coming = iter(batches)
        if not self._settled:
            for batch in coming:
                yield self.run(batch)
                break
        yield from self._all_settled(coming)

    def sharing(self) -> AbstractContextManager[None]:
        """Share the processor with others inside the context, once the engine is settled."""
        return sharing(self._session)

    def _all_settled(self, batches: Iterable[Batch]) -> Iterator[Capture]:
        try:
            yield from run_all(self._session, batches)
        except ModelError as error:
            if self.choice == "eager":
                raise
            raise ModelError(
                f"{str(error).rstrip('.')}; the engine was {self.choice}: take --engine eager for this model."
            ) from error

    # -- settling ----------------------------------------------------------------------------------

    def _settle(self, batch: Batch, expected: Capture, seconds: float) -> Capture:
        """Choose the engine, and give its values; `expected` are the reference's, which took it so many seconds."""
        begun = time.perf_counter()
        few = _first_samples(batch, self._terms.timed_samples)
        self._share = share = max(_length(batch) / max(_length(few), 1), 1.0)
        if not any(self._pays(candidate, seconds, seconds, 0.0) for candidate in self._candidates):
            self.engine_notes += [self._untried(candidate) for candidate in self._candidates]
            self._candidates.clear()
            return expected
        reference = self._session.engine
        # A first run takes longer than others, for which the second one makes up.
        base = min(seconds / share, self._seconds(self._session, few, runs=1))
        # The reference leaves the user's model first: candidates are copies of it, and want it without hooks.
        self._stack.close()
        found: list[_Best] = []
        for candidate in self._most_promising_first(base * share):
            fastest = min([base, *(best.seconds for best in found)])
            if not self._pays(candidate, base * share, fastest * share, time.perf_counter() - begun):
                self.engine_notes.append(self._untried(candidate))
                continue
            tried = self._try(candidate, few, expected)
            if tried is not None:
                if tried.seconds > fastest:
                    # Other work on the machine can make an engine look slow, so that it is looked at twice.
                    tried.seconds = min(tried.seconds, self._seconds(tried.session, few, runs=1))
                self.engine_notes.append(f"{candidate.name}: {base / tried.seconds:.2f}× {reference}")
                found.append(tried)
                self._keep_fastest(found, base)
        # What they hold on to is not needed any more.
        self._candidates.clear()
        return self._take_first_that_agrees(found, batch, expected)

    def _seconds(self, session: Session, batch: Batch, runs: int = _TIMED_RUNS) -> float:
        """Time a session that has run once; the best of a few runs, as other work on the machine only adds."""
        taken: list[float] = []
        begun = time.perf_counter()
        while len(taken) < runs and (not taken or time.perf_counter() - begun < _ENOUGH_SECONDS):
            taken.append(self._timed(session, batch)[1])
        return max(min(taken), 1e-9)

    def _timed(self, session: Session, batch: Batch) -> tuple[Capture, float]:
        start, busy = time.perf_counter(), time.process_time()
        capture = session.run(batch)
        wall, busy = time.perf_counter() - start, time.process_time() - busy
        return capture, min(wall, busy) if self._terms.on_cpu else wall

    def _most_promising_first(self, base: float) -> list[Candidate]:
        """Order candidates by what they may save in all, where the reference takes so many seconds a batch."""

        def saved(candidate: Candidate) -> float:
            outlook = _OUTLOOKS.get(candidate.name, _UNKNOWN)
            return self._batches * base * (1 - 1 / outlook.gain) - outlook.seconds

        return sorted(self._candidates, key=saved, reverse=True)

    def _pays(self, candidate: Candidate, base: float, fastest: float, spent: float) -> bool:
        """Say whether to try an engine: it may save more than that costs, and if not, little is lost.

        Parameters
        ----------
        candidate : Candidate
        base, fastest : float
            Seconds that the reference, and the fastest engine so far, take for a batch.
        spent : float
            Seconds that went into looking for an engine already.
        """
        outlook = _OUTLOOKS.get(candidate.name, _UNKNOWN)
        likely = base / outlook.gain
        # The first batch is run again by the engine that is taken.
        saved = (self._batches - 1) * (fastest - likely) - likely
        cost = outlook.seconds + (_TIMED_RUNS + 2) * base / self._share
        return saved > cost and spent + cost <= _MOST_LOST * self._batches * base

    def _untried(self, candidate: Candidate) -> str:
        batches = f"{self._batches} batch{'' if self._batches == 1 else 'es'}"
        return f"{candidate.name}: not tried, in {batches} it can't be expected to save what setting it up costs"

    def _try(self, candidate: Candidate, few: Batch, expected: Capture) -> _Best | None:
        """Open and time a candidate; None for one that fails or gives other values."""
        with ExitStack() as stack:
            try:
                session = stack.enter_context(candidate.open())
                if self._agrees(candidate, session.run(few), expected):
                    return _Best(candidate, session, stack.pop_all(), self._seconds(session, few))
            except (FmxError, RuntimeError, ValueError, TypeError, ImportError) as error:
                why = error.reason if isinstance(error, _EngineError) else (str(error).splitlines() or [""])[0]
                self.engine_notes.append(f"{candidate.name}: can't be used, {why or type(error).__name__}")
        return None

    def _keep_fastest(self, found: list[_Best], base: float) -> None:
        """Close what will not be used: two copies of a model at once are enough."""
        found.sort(key=lambda best: best.seconds)
        # The first batch is run again, which is to be saved on the others.
        others = self._batches - 1
        while found and (len(found) > 2 or others * (base - found[-1].seconds) <= found[-1].seconds):
            found.pop().stack.close()

    def _take_first_that_agrees(self, found: list[_Best], batch: Batch, expected: Capture) -> Capture:
        """Take the fastest: what was fast and right on a few samples has to be right on the whole batch."""
        while found:
            best = found.pop(0)
            captured = best.session.run(batch)
            if self._agrees(best.candidate, captured, expected):
                for other in found:
                    other.stack.close()
                self._stack, self._running = best.stack, best.session
                self.engine, self.choice = best.session.engine, best.candidate.name
                return captured
            best.stack.close()
        self._use_reference()
        return expected

    def _agrees(self, candidate: Candidate, got: Capture, expected: Capture) -> bool:
        """Compare with as many samples of the reference as there are, and note a difference."""
        values = {**got.outputs, **got}
        wanted = {**expected.outputs, **expected}
        cut = {name: array[: len(values[name])] if name in values else array for name, array in wanted.items()}
        difference, layer = largest_difference(values, cut)
        if difference > self._terms.tolerance:
            self.engine_notes.append(f"{candidate.name}: not used, {layer} differs by {difference:.1e}")
        return difference <= self._terms.tolerance


def _first_samples(batch: Batch, count: int | None) -> Batch:
    if isinstance(batch, Mapping):
        return {name: array[:count] for name, array in batch.items()}
    return batch[:count]


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values()))) if isinstance(batch, Mapping) else len(batch)


def pick_engine(
    name: str, reference: Callable[[], Session], candidates: Sequence[Candidate], terms: Terms = _USUAL
) -> Session:
    """Give the session for an engine that a user named; `auto` opens the very same sessions.

    Parameters
    ----------
    name : str
        ``eager``, ``auto``, the name of a candidate, or what the ``engine`` of a session said that shall run again.
    reference : callable
        Gives the reference session.
    candidates : sequence of Candidate
    terms : Terms

    Raises
    ------
    ModelError
        There is no such engine for this model, or it can't run the model.
    """
    if name == "auto":
        return AutoSession(reference, candidates, terms)
    if name == "eager":
        return reference()
    opens = {candidate.name: candidate.open for candidate in candidates}
    if name in opens:
        return _opened(name, opens[name])
    # A store records what a session says of itself; other versions of what runs there don't give the same bits.
    recorded = [] if " " not in name else [c for c in candidates if c.name == name.partition(" ")[0]] or candidates
    ways: list[Callable[[], Session]] = [reference, *(partial(_opened, c.name, c.open) for c in recorded)]
    for again in ways:
        session = again()
        if session.engine == name:
            return session
    raise ModelError(f"There is no engine {name} for this model: use eager, auto{''.join(f', {n}' for n in opens)}.")


def _opened(name: str, candidate: Callable[[], Session]) -> Session:
    try:
        return candidate()
    except ModelError as error:
        raise cant_run(name, error) from None
