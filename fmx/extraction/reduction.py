"""Summaries on the fly: reducers run while the model does, and only what they find is kept.

Each write unit has states of its own, written before the unit counts as done, so that an interrupted run goes on
unit by unit here too. At the end the states are merged in the order of the units and turned into results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numcodecs.blosc import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fmx.adapter import Capture
from fmx.errors import StoreError
from fmx.extraction.feed import Fed
from fmx.extraction.pipeline import Meter
from fmx.extraction.settle import Settled
from fmx.extraction.sinks import kept_block
from fmx.layers import LayerInfo
from fmx.reduce import Histogram, Moments, Quantiles, Reducer, ReducerSet, State, TopSamples
from fmx.store import Place, layer_key, read_layout, save_analysis

__all__ = ["ReduceSink", "finish_reduction"]

# By name, each made for a layer whose values are summed up over these dims beside sample and timestep.
_REDUCERS: Mapping[str, Callable[[Sequence[str]], Reducer]] = {
    "stats": lambda _dims: Moments(),
    "hist": lambda _dims: Histogram(),
    "quantiles": lambda _dims: Quantiles(),
    "top-samples": lambda dims: TopSamples(position=dims),
}
_STATES = ".fmx-states"
_KEPT = ("noise", "channel")


def _reducers(settled: Settled, layer: LayerInfo) -> ReducerSet:
    """Make the reducers for a layer as it is kept."""
    summed = [dim for dim in layer.dims if dim != "channel"]
    return ReducerSet({name: _REDUCERS[name](summed) for name in settled.request.reduce})


class ReduceSink:
    """Takes batches into states (noise, channel), by layer, and writes these down at the end of each unit."""

    def __init__(self, settled: Settled, place: Place, meter: Meter) -> None:
        self._settled = settled
        self._place = place
        self._meter = meter
        self._reducers = {layer.name: _reducers(settled, layer) for layer in settled.kept}
        self._unit = read_layout(place).unit
        self._states: dict[str, State] = {}

    def start(self, unit: range) -> None:  # noqa: ARG002 - units are filled in order
        """Begin with nothing seen."""
        self._states = {
            layer.name: self._reducers[layer.name].identity(_labels(self._settled, layer))
            for layer in self._settled.layers
        }

    def take(self, fed: Fed, capture: Capture) -> None:
        """Take a batch in."""
        settled = self._settled
        with self._meter.stage("reduce"):
            for layer, kept in zip(settled.layers, settled.kept, strict=True):
                block, rows = kept_block(settled, layer, capture, fed)
                block = settled.keep.pick(kept, block)
                axes = [0, *(1 + i for i, dim in enumerate(kept.dims) if dim != "channel")]
                start = [fed.unit.start * len(settled.timesteps(layer)) + rows.start, *(0 for _ in kept.dims)]
                self._reducers[layer.name].update(self._states[layer.name][fed.level], block, axes, start=start)
                self._meter.nbytes += block.nbytes

    def finish(self, unit: range) -> None:
        """Write the states down."""
        with self._meter.stage("write"):
            for name, state in self._states.items():
                self._place.write(_state_name(unit.start // self._unit, name), _packed(state))


def _labels(settled: Settled, layer: LayerInfo) -> tuple[int, ...]:
    levels = len(settled.levels)
    if "channel" not in layer.dims:
        return (levels,)
    picked = settled.keep.channels.get(layer.name)
    return levels, len(picked) if picked is not None else layer.shape[layer.dims.index("channel")]


def _state_name(unit: int, layer: str) -> str:
    return f"{_STATES}/{unit}/{layer_key(layer)}"


def _packed(state: State) -> bytes:
    packed: bytes = Blosc("zstd", 1, Blosc.SHUFFLE).encode(np.ascontiguousarray(state).view(np.int64))
    return packed


def finish_reduction(settled: Settled, place: Place) -> None:
    """Merge the states of all units and save what they say as ``analysis/<reducer>``."""
    results: dict[str, dict[str, xr.Dataset]] = {name: {} for name in settled.request.reduce}
    units = len(read_layout(place).units())
    for layer, kept in zip(settled.layers, settled.kept, strict=True):
        reducers = _reducers(settled, kept)
        state = reducers.identity(_labels(settled, layer))
        for unit in range(units):
            state = reducers.merge(state, _read(place, unit, layer.name, state))
        for name, reducer in reducers.reducers.items():
            found = _by_sample(settled, layer, reducer.finalize(state[name]))
            results[name][layer.name] = _dataset(settled, layer, found, reducer)
    for name, by_layer in results.items():
        save_analysis(place, name, by_layer, {"reduced": "while the model ran"})
    place.delete([name for name, _ in place.list(_STATES)])


def _read(place: Place, unit: int, layer: str, like: State) -> State:
    data = place.read(_state_name(unit, layer))
    if data is None:
        raise StoreError(f"{place} lost a summary of {layer}: extract it again with --overwrite.")
    try:
        return np.frombuffer(Blosc().decode(data), np.int64).view(like.dtype).reshape(like.shape)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{place} has a damaged summary of {layer}: extract it again with --overwrite.") from error


def _by_sample(settled: Settled, layer: LayerInfo, results: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Split positions among all timesteps of all samples into those of the sample and of the timestep.

    They are called ``sample_index`` and ``timestep_index``, as ``sample`` and ``timestep`` are the store's own labels.
    """
    if "sample" not in results:
        return dict(results)
    steps = len(settled.timesteps(layer))
    position = results["sample"]
    others = {name: values for name, values in results.items() if name != "sample"}
    split = {"sample_index": position // steps, "timestep_index": position % steps}
    return others | {name: np.where(position < 0, -1, values) for name, values in split.items()}


def _dataset(settled: Settled, layer: LayerInfo, results: Mapping[str, NDArray[Any]], reducer: Reducer) -> xr.Dataset:
    kept = _KEPT if "channel" in layer.dims else _KEPT[:1]
    channels = settled.keep.channels.get(layer.name, range(_labels(settled, layer)[-1]))
    coords: dict[str, Any] = {"noise": list(settled.levels)}
    if "channel" in layer.dims:
        coords["channel"] = list(channels)
    if isinstance(reducer, Quantiles):
        coords["quantile"] = list(reducer.q)
    dims = {"sample_index": ("rank",), "timestep_index": ("rank",), **reducer.dims}
    return xr.Dataset(
        {name: ((*kept, *dims.get(name, ())), values) for name, values in results.items()},
        coords=coords,
        attrs={"layer": layer.name, "kind": layer.kind},
    )
