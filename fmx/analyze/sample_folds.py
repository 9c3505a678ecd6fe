"""Going through results of each sample where they are read, so that only what is made of them has to stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from fmx.analyze.layer_work import LayerWork
from fmx.analyze.parts import WHOLE, Part
from fmx.reduce import Reducer, State
from fmx.store import Store

__all__ = ["sample_folds"]

T = TypeVar("T")


def sample_folds(
    store: Store,
    reducers: Mapping[str, Mapping[str, Reducer]],
    take: Callable[[dict[str, State]], T],
    *,
    by: Sequence[str],
    part: Part = WHOLE,
) -> dict[str, list[T]]:
    """Run reducers over layers, keeping samples apart, and see the states where they arise, in Dask's tasks.

    Parameters
    ----------
    store : Store
    reducers : mapping of str to mapping of str to Reducer
        By layer, all of which are read together.
    take : callable
        Gets the states (sample, …) of a run of consecutive samples, by the reducers' names; what it returns should be
        small.
    by : sequence of str
        Dims to keep apart, ``sample`` among them.
    part : Part

    Returns
    -------
    dict of str to list
        By layer, what `take` returned for each run, in order.
    """
    works = {
        name: LayerWork.of(store, name, some, by, part=part, finalize=False).folded(take)
        for name, some in reducers.items()
    }
    return dict(zip(works, store.compute(*works.values()), strict=True))
