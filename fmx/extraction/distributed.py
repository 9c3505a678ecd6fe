"""Extraction on a cluster: workers compute write units of one store, each unit by one of them.

What a worker has finished is recorded in the store itself, so that a worker that dies loses the unit at hand and
nothing else: its task is given to another one, which leaves out what is there already.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fmx.adapter import Session
from fmx.errors import DataError
from fmx.extraction.allocator import memory_is_kept
from fmx.extraction.request import Request
from fmx.extraction.settle import Settled, settle
from fmx.store import Place, pending_units

__all__ = ["Cluster", "cluster_for"]

# Of what is left, a task takes one part in as many as there are workers times this.
_SHARES_A_WORKER = 2
_MOST_UNITS = 8
_LOST_WORKERS = 10


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
        self, place: Place, units: Sequence[range], engine: str, done: Callable[[int], None], stop: Callable[[], bool]
    ) -> None:
        """Have all units computed.

        Parameters
        ----------
        place : Place
        units : sequence of range
        engine : str
        done : callable
            Called with a number of samples whenever so many more are in the store.
        stop : callable
            Asked now and then whether to end early.
        """
        from distributed import Event, as_completed

        halt = Event(f"fmx-stop-{self._token}", client=self.client)
        request = replace(self.request, engine=engine)
        groups = _groups(units, len(self.client.scheduler_info()["workers"]))
        tasks = [
            self.client.submit(_fill, self._token, request, place, group, pure=False, retries=_LOST_WORKERS)
            for group in groups
        ]
        try:
            for task in as_completed(tasks):
                done(task.result())
                if stop() and not halt.is_set():
                    halt.set()
        finally:
            self.client.run(_leave, self._token, on_error="ignore")

    def _one(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.client.submit(function, *arguments, pure=False, retries=1).result()


def _groups(units: Sequence[range], workers: int) -> list[list[range]]:
    """Split units into tasks: long ones first, within which writing goes on beside the model, then ever shorter ones.

    So no worker waits long for the last one (guided self-scheduling, Polychronopoulos & Kuck 1987).
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

    _check_sendable(request)
    if request.scheduler is not None:
        with _connected(request.scheduler, Client) as client:
            yield Cluster(client, request)
        return
    threads = str(max((os.cpu_count() or 1) // request.workers, 1))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        cluster = LocalCluster(
            n_workers=request.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            host="127.0.0.1",
        )
    with cluster, Client(cluster) as client:
        yield Cluster(client, request)


def _connected(address: str, client: Any) -> Any:
    try:
        return client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise DataError(f"No Dask scheduler answers at {address}: start one with dask scheduler.") from error


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
            from fmx.extraction.run import open_session

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
    from fmx.extraction.run import choose_engine

    with _one_at_a_time:
        return choose_engine(_work_here(token, request).settled)


def _fill(token: str, request: Request, place: Place, units: Sequence[range]) -> int:
    """Compute those of some units that are missing; give the number of samples that are there now."""
    from distributed import Event

    from fmx.extraction.run import fill_units

    missing = set(pending_units(place))
    todo = [unit for unit in units if unit in missing]
    with _one_at_a_time:
        work = _work_here(token, request)
        fill_units(work.settled, work.open(request.engine), place, todo, stop=Event(f"fmx-stop-{token}").is_set)
    left = set(pending_units(place))
    return sum(len(unit) for unit in units if unit not in left)
