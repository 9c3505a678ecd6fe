"""Results for each sample, batch by batch, so that memory stays flat however many samples there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import xarray as xr

from fmx.analyze.layer_work import LayerWork, run_works
from fmx.analyze.parts import WHOLE, Part
from fmx.reduce import Reducer, State
from fmx.store import Store

__all__ = ["channel_batches", "merge_along"]

# What the results of a batch may take in memory.
BATCH_BYTES = 64 * 2**20


def channel_batches(
    store: Store, layer: str, reducers: Callable[[int], Mapping[str, Reducer]], *, part: Part = WHOLE
) -> Iterator[tuple[int, xr.Dataset]]:
    """Run reducers over a layer's channels some samples at a time, some of which keep the samples of a batch apart.

    Parameters
    ----------
    store : Store
    layer : str
    reducers : callable
        Gives reducers for so many samples; their states grow with that number.
    part : Part

    Yields
    ------
    int
        How many samples there are in a batch.
    xarray.Dataset
        Their states (channel,).
    """
    one, two = (LayerWork.of(store, layer, reducers(n), ("channel",), part=part, finalize=False) for n in (1, 2))
    more = two.task.reducer.dtype.itemsize - one.task.reducer.dtype.itemsize
    for some in _parts(store, layer, one, part, more * one.data["activation"].sizes["channel"]):
        count = int(np.sum(some.samples)) if some.samples is not None else 0
        batch = LayerWork.of(store, layer, reducers(count), ("channel",), part=some, finalize=False)
        yield count, run_works(store, {layer: batch})[layer]


def _parts(store: Store, layer: str, work: LayerWork, part: Part, each: int) -> Iterator[Part]:
    """Cut samples of which each takes so many bytes into batches: of several chunks, or of an even part of one."""
    samples = np.flatnonzero(work.task.there)
    length = _batch_length(each, store.activation(layer).encoding["chunks"][0])
    for number in np.unique(samples // length):
        chosen = np.zeros(len(work.task.there), bool)
        chosen[samples[samples // length == number]] = True
        yield Part(chosen, part.level)


def _batch_length(each: int, chunk: int) -> int:
    fits = max(BATCH_BYTES // max(each, 1), 1)
    if fits >= chunk:
        return int(fits - fits % chunk)
    while chunk > fits:
        chunk = -(-chunk // 2)
    return chunk


def merge_along(reducer: Reducer, states: State) -> State:
    """Merge the states along the first axis, in a tree."""
    while len(states) > 1:
        pairs = len(states) // 2
        merged = reducer.merge(states[:pairs], states[pairs : 2 * pairs])
        states = np.concatenate([merged, states[2 * pairs :]])
    first: State = states[0]
    return first
