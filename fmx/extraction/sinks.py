"""Where captured batches end up: in a store, unit by unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Capture
from fmx.extraction.feed import Fed
from fmx.extraction.pipeline import Meter
from fmx.extraction.settle import Settled
from fmx.layers import LayerInfo
from fmx.store import UnitWriter

__all__ = ["StoreSink", "by_timestep", "kept_block"]


def by_timestep(settled: Settled, layer: LayerInfo, block: NDArray[Any], rows: slice) -> tuple[NDArray[Any], slice]:
    """Bring a block into rows of one timestep each: (sample·timestep, …native).

    A model that runs frame by frame gives that already. In what a clip model gives, the axis z is time.
    """
    if not settled.clip or "z" not in layer.dims:
        return block, rows
    moved = np.moveaxis(block, 1 + layer.dims.index("z"), 1)
    steps = moved.shape[1]
    return moved.reshape(-1, *moved.shape[2:]), slice(rows.start * steps, rows.stop * steps)


def kept_block(settled: Settled, layer: LayerInfo, capture: Capture, fed: Fed) -> tuple[NDArray[Any], slice]:
    """Give what is kept of a layer's maps, of all channels, a timestep a row, and which rows of the unit these are."""
    block, rows = by_timestep(settled, layer, capture[layer.name], fed.rows)
    return settled.keep.summarise(settled.without_time(layer), block), rows


class StoreSink:
    """Puts what is kept of each batch into a store, and records which units are done."""

    def __init__(self, settled: Settled, writer: UnitWriter, meter: Meter) -> None:
        self._settled = settled
        self._writer = writer
        self._meter = meter

    def start(self, unit: range) -> None:
        """Begin a write unit; waits until there is room for it."""
        with self._meter.stage("write"):
            self._writer.start_unit(unit)

    def take(self, fed: Fed, capture: Capture) -> None:
        """Put a batch into the unit."""
        settled = self._settled
        if settled.request.reduce:
            return
        with self._meter.stage("copy"):
            for layer in settled.layers:
                if layer.name not in capture:
                    continue  # an append leaves out what is there
                block, rows = kept_block(settled, layer, capture, fed)
                self._meter.nbytes += block.nbytes
                self._writer.put(layer.name, rows, block, noise=fed.level)
            for name, block in capture.outputs.items():
                self._writer.put(f"outputs/{name}", fed.rows, block, noise=fed.level)
            if fed.pictures is not None:
                self._writer.put("inputs", fed.picture_rows, fed.pictures)

    def finish(self, unit: range) -> None:
        """End a write unit: it is written while the next one fills."""
        with self._meter.stage("write"):
            self._writer.finish_unit(unit)
