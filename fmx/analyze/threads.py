"""Products of matrices inside Dask's tasks: one thread each, since there are as many tasks as cores."""

from __future__ import annotations

from typing import Any

from fmx.store import Store

__all__ = ["compute_alone", "compute_here"]


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
