"""Running reducers over the layers of a store: every chunk is read once, and little stays in memory.

A task reads a run of chunks one after the other into one state for each cell (a part of the kept labels that has chunks
of its own), so that Dask has few tasks to look after and there are few states. A cell that one task has read all of is
turned into results there; the states of the others are merged in a tree first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xarray as xr

from fmx.analyze.layer_work import LayerWork, Reducers, run_works
from fmx.analyze.parts import WHOLE, Part
from fmx.store import Store

__all__ = ["Reducers", "most_state_bytes", "summarise"]


def summarise(
    store: Store,
    reducers: Reducers,
    *,
    layers: str | Iterable[str] = "all",
    by: str | Sequence[str] = (),
    part: Part = WHOLE,
    states: bool = False,
) -> dict[str, xr.Dataset]:
    """Run reducers over layers of a store, all of them in one read on Dask, and give their results.

    Parameters
    ----------
    store : Store
    reducers : mapping of str to Reducer, or callable
        A callable gets the dims of a layer that are summed up and gives such a mapping.
    layers : str or iterable of str
        See `fmx.store.Store.select`.
    by : str or sequence of str
        Dims to keep apart; ``label`` stands for the samples of each label together.
    part : Part
        Samples and noise level to which it is restricted.
    states : bool
        Give states, which can be merged further, instead of results.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer name, in the order of computation: variables ``<reducer>.<result>`` (*by, *dims of the result), with
        the coordinates of the kept dims and the layer's attributes. Of states: variables ``<reducer>`` (*by).

    Raises
    ------
    FmxError
        A layer has no such dim, or the samples have no labels.
    """
    chosen = [info.name for info in store.select(layers)]
    works = {name: LayerWork.of(store, name, reducers, by, finalize=not states, part=part) for name in chosen}
    return run_works(store, works)


def most_state_bytes(
    store: Store, reducers: Reducers, *, layers: str | Iterable[str] = "all", by: str | Sequence[str] = ()
) -> int:
    """Say how large the largest state would be that `summarise` has to keep in memory."""
    works = (LayerWork.of(store, info.name, reducers, by) for info in store.select(layers))
    return max((work.state_bytes for work in works), default=0)
