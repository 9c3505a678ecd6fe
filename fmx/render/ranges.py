"""Ranges of values over more than what is drawn: all samples, timesteps or layers, from one read or what is saved."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.reduce import Moments, Quantiles, ReducerSet
from fmx.render.normalise import Ranges, about_zero, value_ranges
from fmx.render.tone import PLAIN, Tone, curve_of_quantiles
from fmx.store import Store, open_analysis, saved_analyses
from fmx.store.schema import LEADING_DIMS

__all__ = [
    "LASTING",
    "NORMALISATIONS",
    "Ranging",
    "RunningRange",
    "check_normalisation",
    "lasting_ranges",
    "sample_ranges",
]

NORMALISATIONS = {
    "filter": "each map its own",
    "sample": "all channels of a layer, for one sample, level and timestep",
    "time": "each channel over all timesteps and noise levels of the sample",
    "channel": "each channel over all samples, levels and timesteps",
    "layer": "all channels, samples, levels and timesteps of a layer",
    "global": "the same over all layers that were chosen",
}
# Those that last over all samples, so that pictures of several can be compared.
LASTING = ("channel", "layer", "global")
_BLOCK_BYTES = 32 * 2**20
# Quantiles that make up a curve for equalization.
_STEPS = 256


def check_normalisation(name: str) -> None:
    """See that there is such a normalisation.

    Raises
    ------
    FmxError
    """
    if name not in NORMALISATIONS:
        near = near_matches(name, NORMALISATIONS, most=len(NORMALISATIONS))
        raise FmxError(f"No normalisation is called {name}: {near}")


def lasting_ranges(store: Store, layers: list[str], normalisation: str, tone: Tone = PLAIN) -> dict[str, Ranges]:
    """Find the ranges over all samples, noise levels and timesteps of a store.

    Smallest and largest values come from saved statistics where there are any of these layers, whatever they are called
    (``fmx stats … --by channel --save NAME``), else from one read of the layers in little memory. Percentiles and
    equalization always take this read; their error is that of `fmx.reduce.Quantiles`.

    Parameters
    ----------
    store : Store
    layers : list of str
        Names; with ``global`` they share one range.
    normalisation : {"channel", "layer", "global"}
    tone : Tone

    Returns
    -------
    dict of str to Ranges
        By layer, one range a channel.
    """
    arrays = {name: store.activation(name) for name in layers}
    ends = _saved_ends(store, arrays, normalisation, tone)
    if ends is None:
        return _read_ranges(store, arrays, normalisation, tone)
    return {name: _ranges(low, high, None, arrays[name].sizes["channel"], tone) for name, (low, high) in ends.items()}


def sample_ranges(store: Store, array: xr.DataArray, tone: Tone = PLAIN) -> Ranges:
    """Find the range of each channel over all of a lazy array (noise, timestep, …native) of one sample, in one read."""
    return _read_ranges(store, {"": array}, "channel", tone)[""]


class Ranging:
    """The ranges that maps of some layers are drawn over, each found once.

    Parameters
    ----------
    store : Store
    layers : list of str
        Names of the layers that are drawn: with ``global`` they share one range.
    normalisation : str
        One of `NORMALISATIONS`.
    tone : Tone

    Raises
    ------
    FmxError
        There is no such normalisation.
    """

    def __init__(self, store: Store, layers: list[str], normalisation: str = "filter", tone: Tone = PLAIN) -> None:
        check_normalisation(normalisation)
        self.store, self.layers, self.name, self.tone = store, layers, normalisation, tone
        self._found: dict[tuple[object, ...], Ranges] = {}

    def of(self, layer: str, sample: str, maps: NDArray[Any]) -> Ranges:
        """Give the ranges of the maps, (channel, y, x), of a layer for one sample, at some level and timestep."""
        if self.name in {"filter", "sample"}:
            return value_ranges(maps, "filter" if self.name == "filter" else "layer", tone=self.tone)
        if self.name == "time":
            key: tuple[object, ...] = (layer, sample)
            if key not in self._found:
                array = self.store.activation(layer).sel(sample=sample)
                # Of the sample before nothing is needed any more.
                self._found = {key: sample_ranges(self.store, array, self.tone)}
            return self._found[key]
        if not self._found:
            wanted = self.layers if self.name == "global" else [layer]
            self._found = {(n,): r for n, r in self._lasting(wanted).items()}
        elif (layer,) not in self._found:
            self._found |= {(n,): r for n, r in self._lasting([layer]).items()}
        return self._found[layer,]

    def _lasting(self, layers: list[str]) -> dict[str, Ranges]:
        # Layers without channels can't be drawn, and so say nothing about the others.
        with_channels = [name for name in layers if "channel" in self.store.activation(name).dims]
        return lasting_ranges(self.store, with_channels, self.name, self.tone)


class RunningRange:
    """The range of many values that come one block after the other, in the memory of one.

    Parameters
    ----------
    count : int
        Number of maps that have a range each; 0 for one range of all.
    tone : Tone
        Percentiles and equalization are of all the values; their error is that of `fmx.reduce.Quantiles`.
    """

    def __init__(self, count: int, tone: Tone) -> None:
        self.tone = tone
        wanted = _quantiles(tone)
        self._reducer = ReducerSet({"ends": Moments()} | ({"quantiles": Quantiles(wanted)} if wanted else {}))
        self._state = self._reducer.identity((count,) if count else ())

    def add(self, values: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block; `axes` are those that are not of maps with a range of their own."""
        self._state = self._reducer.update(self._state, values, axes)

    def merge(self, other: RunningRange) -> RunningRange:
        """Take in what another has seen."""
        self._state = self._reducer.merge(self._state, other._state)
        return self

    def ranges(self, count: int) -> Ranges:
        """Give the ranges of so many maps."""
        results = {key.partition(".")[2]: value for key, value in self._reducer.finalize(self._state).items()}
        low, high, quantiles = results["min"], results["max"], results.get("quantiles")
        if self.tone.clipped and quantiles is not None:
            low, high, quantiles = quantiles[..., 0], quantiles[..., 1], quantiles[..., 2:]
        steps = quantiles if self.tone.equalise == "histogram" else None
        return _ranges(low, high, steps, count, self.tone)


def _read_ranges(store: Store, arrays: Mapping[str, xr.DataArray], normalisation: str, tone: Tone) -> dict[str, Ranges]:
    apart = normalisation == "channel"
    running = {name: _fold(store, array, tone, apart=apart) for name, array in arrays.items()}
    if normalisation == "global":
        running = dict.fromkeys(running, reduce(RunningRange.merge, running.values()))
    return {name: running[name].ranges(array.sizes["channel"]) for name, array in arrays.items()}


def _quantiles(tone: Tone) -> list[float]:
    ends = [p / 100 for p in tone.percentiles] if tone.clipped else []
    return ends + ([i / _STEPS for i in range(_STEPS + 1)] if tone.equalise == "histogram" else [])


def _fold(store: Store, array: xr.DataArray, tone: Tone, *, apart: bool) -> RunningRange:
    """Find the range of all values of a lazy array, or of each channel."""
    place = array.dims.index("channel")
    axes = [i for i in range(array.ndim) if not (apart and i == place)]
    running = RunningRange(array.sizes["channel"] if apart else 0, tone)
    for part in _parts(array):
        (block,) = store.compute(part)
        running.add(block.values, axes)
    return running


def _parts(array: xr.DataArray) -> Iterator[xr.DataArray]:
    """Cut a lazy array along its leading labels into parts that fit the memory, along its chunks."""
    leading = [dim for dim in LEADING_DIMS if dim in array.dims]
    bytes_each = array.nbytes // max(np.prod([array.sizes[dim] for dim in leading], dtype=int), 1)
    chunks = dict(zip(array.dims, array.data.chunks, strict=True)) if array.chunks else {}
    lengths = {}
    room = max(_BLOCK_BYTES // max(bytes_each, 1), 1)
    for dim in leading:
        whole = int(chunks[dim][0]) if dim in chunks else 1
        lengths[dim] = min(max(room // whole, 1) * whole, array.sizes[dim])
        room = max(room // lengths[dim], 1)
    starts = [range(0, array.sizes[dim], lengths[dim]) for dim in leading]
    for at in itertools.product(*starts):
        yield array.isel({dim: slice(i, i + lengths[dim]) for dim, i in zip(leading, at, strict=True)})


def _ranges(low: Any, high: Any, quantiles: NDArray[np.float64] | None, channels: int, tone: Tone) -> Ranges:
    """Make ranges, one a channel, of ends and quantiles of each channel or of all together."""
    lowest, highest = (np.resize(np.nan_to_num(np.asarray(end, np.float64)), channels) for end in (low, high))
    if tone.symmetric:
        lowest, highest = about_zero(lowest, highest)
    if quantiles is None:
        return Ranges(lowest, highest)
    if quantiles.ndim == 1:
        return Ranges(lowest, highest, [curve_of_quantiles(quantiles, lowest[0], highest[0])] * channels)
    each = zip(quantiles, lowest, highest, strict=True)
    return Ranges(lowest, highest, [curve_of_quantiles(*one) for one in each])


def _saved_ends(
    store: Store, arrays: Mapping[str, xr.DataArray], normalisation: str, tone: Tone
) -> dict[str, tuple[Any, Any]] | None:
    """Take smallest and largest values from saved statistics of the very values that the store holds now."""
    if _quantiles(tone):
        return None
    for analysis in saved_analyses(store.place):
        results = open_analysis(store.tree, analysis)
        if not all(name in results and _describes(results[name], arrays[name], normalisation) for name in arrays):
            continue
        ends = {}
        for name in arrays:
            low, high = store.compute(results[name]["min"], results[name]["max"])
            ends[name] = (
                (low.values, high.values) if normalisation == "channel" else (low.min().item(), high.max().item())
            )
        if normalisation == "global":
            lows, highs = zip(*ends.values(), strict=True)
            both = np.fmin.reduce(lows), np.fmax.reduce(highs)
            ends = dict.fromkeys(ends, both)
        return ends
    return None


def _describes(results: xr.Dataset, array: xr.DataArray, normalisation: str) -> bool:
    """Whether statistics are of all the values of an array, which a store that has grown has more of."""
    if not {"min", "max", "count", "nan", "inf"} <= set(results.data_vars):
        return False
    if normalisation == "channel" and results["min"].dims != ("channel",):
        return False
    counted = sum(int(results[key].sum()) for key in ("count", "nan", "inf"))
    return counted == array.size
