"""Extraction on a cluster: workers compute write units of one store, each unit by one of them.

Each worker streams through units as one process does, and fetches the next ones from a queue that all share, so that
writing goes on beside the model from the first unit to the last and nobody waits for the slowest. What is finished is
recorded in the store itself: a worker that dies loses the units it has fetched and nothing else, and what is missing at
the end is handed out again.
"""

from __future__ import annotations

import os
import queue
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from fmx.adapter import Session
from fmx.allocator import memory_is_kept
from fmx.errors import DataError
from fmx.extraction.pipeline import Meter, Progress, Status
from fmx.extraction.request import Request
from fmx.extraction.settle import Settled, settle
from fmx.store import Place, pending_units

__all__ = ["Cluster", "cluster_for"]

_TASKS_A_WORKER = 4
# Empty groups say that nothing is left; a task that is begun again after its worker died takes another one.
_ENDS_A_TASK = 4
# Of what is left, a worker fetches one part in as many as there are workers times this.
_SHARES_A_WORKER = 2
_MOST_UNITS = 8
# Seconds until the tasks are looked at anew where there are no news of them, and that a task waits for a group.
_PATIENCE = 0.2
_LOST_AFTER = 60


@dataclass
class Cluster:
    """A Dask cluster that computes units.

    Attributes
    ----------
    client : distributed.Client
    request : Request
        What the workers settle, each for itself and once.
    """

    client: Any
    request: Request

    def __post_init__(self) -> None:
        self._token = uuid.uuid4().hex

    def settle_engine(self) -> dict[str, Any]:
        """Let a worker choose the engine, as the workers are what it will run on."""
        found: dict[str, Any] = self._one(_settle_engine, self._token, self.request)
        return found

    def fill(
        self, place: Place, units: Sequence[range], engine: str, done: Callable[[float], None], stop: Callable[[], bool]
    ) -> None:
        """Have all units computed.

        Parameters
        ----------
        place : Place
        units : sequence of range
        engine : str
        done : callable
            Called with a number of samples whenever so many more are done; a negative one takes back what was lost.
        stop : callable
            Asked now and then whether to end early.
        """
        from distributed import KilledWorker

        left, halted = list(units), False
        while left and not halted:
            round_ = _Round(self.client, replace(self.request, engine=engine), place, left)
            failure: Exception | None = None
            try:
                halted = round_.run(done, stop)
            except KilledWorker as error:
                failure = error
            missing = set(pending_units(place))
            now = [unit for unit in left if unit in missing]
            done(sum(map(len, left)) - sum(map(len, now)) - round_.counted)
            if failure is not None and len(now) == len(left):
                raise DataError("Workers die without finishing anything: give them more memory.") from failure
            left = now

    def _one(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.client.submit(function, *arguments, pure=False, retries=1).result()


class _Round:
    """Hands units out once, and counts what the workers say about them."""

    def __init__(self, client: Any, request: Request, place: Place, units: Sequence[range]) -> None:
        self.counted = 0.0
        self._client = client
        self._request = request
        self._place = place
        self._token = uuid.uuid4().hex
        self._news: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._workers = len(client.scheduler_info()["workers"])
        self._groups = _groups(units, self._workers)

    def run(self, done: Callable[[float], None], stop: Callable[[], bool]) -> bool:
        """Run until nothing is left to fetch; say whether it was stopped before."""
        from distributed import Event, Queue

        halt = Event(_name("stop", self._token), client=self._client)
        waiting = Queue(_name("units", self._token), client=self._client)
        tasks_wanted = _TASKS_A_WORKER * self._workers
        for group in [*self._groups, *[[]] * (_ENDS_A_TASK * tasks_wanted)]:
            waiting.put([[unit.start, unit.stop] for unit in group])
        self._client.subscribe_topic(_name("done", self._token), lambda event: self._news.put(event[1]))
        # More than there are workers: those that join later take what waits.
        tasks = [
            self._client.submit(_fill, self._token, self._request, self._place, pure=False) for _ in range(tasks_wanted)
        ]
        try:
            self._watch(tasks, halt, done, stop)
        finally:
            self._client.run(_leave, self._token, on_error="ignore")
            self._client.unsubscribe_topic(_name("done", self._token))
            waiting.close()
        for task in tasks:
            task.result()
        return bool(halt.is_set())

    def _watch(self, tasks: Sequence[Any], halt: Any, done: Callable[[float], None], stop: Callable[[], bool]) -> None:
        while not all(task.done() for task in tasks):
            try:
                samples = self._news.get(timeout=_PATIENCE)
            except queue.Empty:
                continue
            self.counted += samples
            done(samples)
            if stop() and not halt.is_set():
                halt.set()


def _name(what: str, token: str) -> str:
    return f"fmx-{what}-{token}"


def _groups(units: Sequence[range], workers: int) -> list[list[range]]:
    """Split units into groups that are fetched at once, ever smaller ones, so that no worker waits long for the last.

    This is guided self-scheduling (Polychronopoulos & Kuck 1987).
    """
    groups, left = [], list(units)
    while left:
        size = min(max(len(left) // (max(workers, 1) * _SHARES_A_WORKER), 1), _MOST_UNITS)
        groups.append(left[:size])
        left = left[size:]
    return groups


@contextmanager
def cluster_for(request: Request) -> Iterator[Cluster]:
    """Connect to the scheduler that was asked for, or start worker processes on this machine.

    Each of these takes its share of the machine's cores.

    Raises
    ------
    DataError
        The scheduler can't be reached, or the request can't be sent to other processes.
    """
    import dask
    from distributed import Client, LocalCluster

    request = _from_anywhere(request)
    _check_sendable(request)
    if request.scheduler is not None:
        with _connected(request.scheduler, Client) as client:
            yield Cluster(client, request)
        return
    threads = str(max((os.cpu_count() or 1) // request.workers, 1))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    # Dask computes in a thread of its own, and glibc keeps freed memory in the main arena only.
    environment["MALLOC_ARENA_MAX"] = "1"
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        cluster = LocalCluster(
            n_workers=request.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
        )
    with cluster, Client(cluster) as client:
        yield Cluster(client, request)


def _connected(address: str, client: Any) -> Any:
    try:
        return client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise DataError(f"No Dask scheduler answers at {address}: start one with dask scheduler.") from error


def _from_anywhere(request: Request) -> Request:
    """Name files such that a process in another folder finds them."""

    def absolute(given: Any, *, there: bool) -> Any:
        if isinstance(given, (list, tuple)):
            return [absolute(one, there=there) for one in given]
        if not isinstance(given, (str, Path)) or "://" in str(given) or (there and not Path(given).exists()):
            return given
        return os.path.abspath(given)  # noqa: PTH100 - a glob stays one

    # Names of models and weights may be no files; data always are.
    files = {name: absolute(getattr(request, name), there=True) for name in ("model", "weights", "operators")}
    return replace(request, data=absolute(request.data, there=False), to=absolute(request.to, there=False), **files)


def _check_sendable(request: Request) -> None:
    from distributed.protocol.pickle import dumps

    try:
        dumps(request)
    except Exception as error:  # whatever the objects in the request raise
        raise DataError(
            f"The model or the data can't be sent to other processes ({str(error).splitlines()[0]}): give files."
        ) from error


# -- in the workers ------------------------------------------------------------------------------------


@dataclass
class _Work:
    """What a worker keeps between its tasks: it opens the model once, and keeps the memory of a batch for the next."""

    token: str
    settled: Settled
    stack: ExitStack = field(default_factory=ExitStack)
    session: Session | None = None

    def open(self, engine: str) -> Session:
        if self.session is None:
            from fmx.extraction.streaming import open_session

            self.stack.enter_context(memory_is_kept())
            self.session = self.stack.enter_context(open_session(self.settled, engine))
        return self.session


_work: list[_Work] = []
# A session is for one thread; workers that have several compute with all of them anyway.
_one_at_a_time = threading.Lock()


def _work_here(token: str, request: Request) -> _Work:
    if not _work or _work[0].token != token:
        _leave()
        _work.append(_Work(token, settle(request)))
    return _work[0]


def _leave(token: str | None = None) -> None:
    """Let go of what is kept, if it is of this run."""
    while _work and token in {None, _work[0].token}:
        _work.pop().stack.close()


def _settle_engine(token: str, request: Request) -> dict[str, Any]:
    from fmx.extraction.streaming import choose_engine

    with _one_at_a_time:
        return choose_engine(_work_here(token, request).settled)


def _fill(token: str, request: Request, place: Place) -> None:
    """Compute units for as long as there are any to fetch."""
    from distributed import Event, get_client, get_worker

    from fmx.extraction.streaming import fill_units

    worker = get_worker()
    meter = Meter(progress=_news_to(partial(worker.log_event, _name("done", token))))
    stop = Event(_name("stop", token), client=get_client()).is_set
    with _one_at_a_time:
        units = _fetched(token, set(pending_units(place)))
        first = next(units, None)
        if first is not None:
            work = _work_here(token, request)
            fill_units(work.settled, work.open(request.engine), place, chain([first], units), meter=meter, stop=stop)


def _news_to(send: Callable[[float], None]) -> Progress:
    """Report what was done since the last time."""
    told = 0.0

    def progress(status: Status) -> None:
        nonlocal told
        send(status.done - told)
        told = status.done

    return progress


def _fetched(token: str, missing: Collection[range]) -> Iterator[range]:
    """Fetch groups of units until there are no more, and give those that are missing."""
    from distributed import Queue, get_client

    waiting = Queue(_name("units", token), client=get_client())
    while True:
        try:
            group = waiting.get(timeout=_LOST_AFTER)
        except TimeoutError:
            return
        if not group:
            return
        yield from (unit for unit in (range(*limits) for limits in group) if unit in missing)
