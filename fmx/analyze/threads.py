"""Products of matrices inside Dask's tasks: one thread each, since there are as many tasks as cores."""

from __future__ import annotations

import sys
from typing import Any

from fmx.store import Store

__all__ = ["compute_alone", "compute_here", "task_bytes"]


# A task that holds so much of something may take a few times that, beside what the process takes by itself.
_SHARE = 4


def task_bytes(most: int) -> int:
    """Say how much a task may hold at once: a quarter of what workers of the active cluster have for a thread, at most.

    Parameters
    ----------
    most : int
        Bytes; what it is without a cluster, and on workers without a limit.
    """
    if "distributed" not in sys.modules:
        return most
    from distributed import default_client

    try:
        workers = default_client().scheduler_info(n_workers=-1)["workers"].values()
    except ValueError:  # there is none
        return most
    shares = [one["memory_limit"] // one["nthreads"] for one in workers if one.get("memory_limit")]
    return min([most, *(int(share) // _SHARE for share in shares)])


def compute_alone(store: Store, lazy: list[Any]) -> tuple[Any, ...]:
    """Compute lazy values as `fmx.store.Store.compute` does, with one thread for each matrix product.

    Threads of a product wait for each other, busily; beside other tasks this makes small products ten times slower.
    Workers of a Dask cluster are set up like that anyway.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return store.compute(*lazy)


def compute_here(lazy: list[Any]) -> tuple[Any, ...]:
    """Compute lazy values in threads of this process, for work on large matrices that are here already."""
    import dask
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        return tuple(dask.compute(*lazy, scheduler="threads"))
