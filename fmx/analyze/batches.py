"""Results for each sample, batch by batch, so that memory stays flat however many samples there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from fmx.analyze.layer_work import LayerWork, run_works
from fmx.analyze.parts import WHOLE, Part
from fmx.reduce import Reducer, State
from fmx.store import Store

__all__ = ["merge_along", "sample_batches"]

# What the results of a batch may take in memory.
BATCH_BYTES = 64 * 2**20


def sample_batches(
    store: Store,
    layer: str,
    reducers: Mapping[str, Reducer],
    *,
    by: Sequence[str],
    part: Part = WHOLE,
    finalize: bool = True,
) -> Iterator[xr.Dataset]:
    """Run reducers over a layer, keeping samples apart, and give their results some samples at a time.

    Batches end where chunks do, so that each chunk is read once; where results are much larger than the values they
    come from (a few wide layers without maps), a chunk is read for more than one batch.

    Parameters
    ----------
    store : Store
    layer : str
    reducers : mapping of str to Reducer
    by : sequence of str
        Dims to keep apart, ``sample`` among them.
    part : Part
    finalize : bool
        Give results as `fmx.analyze.store_reduce.summarise` does; else states, as ``reduce_store``.

    Yields
    ------
    xarray.Dataset
        (sample, …) of consecutive samples.
    """
    work = LayerWork.of(store, layer, reducers, by, part=part, finalize=finalize)
    samples = np.flatnonzero(work.task.there)
    length = _batch_length(work, store.activation(layer).encoding["chunks"][0])
    for number in np.unique(samples // length):
        chosen = np.zeros(len(work.task.there), bool)
        chosen[samples[samples // length == number]] = True
        some = Part(chosen, part.level)
        batch = LayerWork.of(store, layer, reducers, by, part=some, finalize=finalize)
        yield run_works(store, {layer: batch})[layer]


def _batch_length(work: LayerWork, chunk: int) -> int:
    """Choose how many samples make a batch: several chunks, or an even part of one."""
    array = work.data["activation"]
    blank = work.task.blank()
    each = sum(value.nbytes for value in blank.values())
    for dim in work.dims:
        each *= array.sizes[dim] if dim != "sample" else 1
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
