"""How far Dask has got, with threads of this process and on a cluster."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fmx.errors import FmxError

__all__ = ["cluster", "watched"]

Update = Callable[[int, int], None]

# A cluster is asked so often, in seconds.
_PAUSE = 0.25
# And so long until it answers for the first time.
_PATIENCE = 10


@contextmanager
def cluster() -> Iterator[Any]:
    """Give the client of the cluster that is in use, or of the one that Dask is configured for; None without any.

    ``DASK_SCHEDULER_ADDRESS`` in the environment, or ``scheduler-address`` in Dask's configuration, names it.

    Raises
    ------
    FmxError
        The one that is configured doesn't answer.
    """
    import dask

    address = dask.config.get("scheduler-address", None)
    with _connected(address) if address else nullcontext(_active()) as client:
        yield client


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise FmxError(
            f"No Dask scheduler answers at {address}: start one with dask scheduler, or unset DASK_SCHEDULER_ADDRESS."
        ) from error
    with client:
        yield client


def _active() -> Any:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


@contextmanager
def watched(client: Any, update: Update) -> Iterator[None]:
    """Tell again and again how many tasks are done, and how many there are."""
    with _polled(client, update) if client is not None else _called_back(update):
        yield


@contextmanager
def _called_back(update: Update) -> Iterator[None]:
    from dask.callbacks import Callback

    def tell(_key: Any, _result: Any, _graph: Any, state: Any, _worker: Any) -> None:
        done = len(state["finished"])
        update(done, done + len(state["running"]) + len(state["ready"]) + len(state["waiting"]))

    with Callback(posttask=tell):
        yield


@contextmanager
def _polled(client: Any, update: Update) -> Iterator[None]:
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(_PAUSE):
            states = [future.status for future in list(client.futures.values())]
            if states:
                update(states.count("finished"), len(states))

    asking = threading.Thread(target=ask, daemon=True, name="progress")
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
