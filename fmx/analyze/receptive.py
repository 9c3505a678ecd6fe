"""Where in the input the values of a layer come from: measured by gradients, or guessed by proportion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError

__all__ = ["ReceptiveField", "add_boxes", "proportional_field", "receptive_field"]

_ABOUT = "{side} edge of the receptive field in the model's input, in pixels{how}"


@dataclass(frozen=True)
class ReceptiveField:
    """The region of the input that a layer's values depend on, along y and x.

    The value at position ``i`` sees the pixels from ``i * stride + offset`` to, not included, that plus `size`, cut at
    the input's edges.

    Attributes
    ----------
    size, stride, offset : tuple of (y, x)
        In pixels of the model's input.
    input_size : tuple of (y, x)
    exact : bool
        Whether it was measured; False where it is only in proportion to the map.
    """

    size: tuple[float, float]
    stride: tuple[float, float]
    offset: tuple[float, float]
    input_size: tuple[int, int]
    exact: bool

    def box(self, axis: int, position: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the first pixel and the one behind the last along y (0) or x (1), for any positions."""
        start = np.floor(position * self.stride[axis] + self.offset[axis])
        end = np.ceil(position * self.stride[axis] + self.offset[axis] + self.size[axis])
        clip = self.input_size[axis]
        return np.clip(start, 0, clip).astype(np.int64), np.clip(end, 0, clip).astype(np.int64)


def receptive_field(
    model: Any, layer: str, input_shape: Sequence[int], *, channels_last: bool = False
) -> ReceptiveField:
    """Measure the receptive field of a layer's neurons: where their gradient to the input is not 0.

    The gradients of some positions along each axis are taken, all channels together, to random inputs; what a ReLU or a
    max-pooling holds back for one input it lets through for another, and the union counts. Where the fields of these
    positions begin and end, as far as that is inside the input, gives stride, offset and size: the size may be larger
    than the input.

    Parameters
    ----------
    model : torch module
        What ``fmx.load(…).torch_module()`` gives: with ``forward_with(inputs, names)``.
    layer : str
        A layer (channel, y, x).
    input_shape : sequence of int
        (channel, y, x) of the input.
    channels_last : bool
        The model takes (y, x, channel).

    Raises
    ------
    FmxError
        The layer has no maps, or no gradient gets from it to the input.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = next(iter(model.parameters()), torch.zeros(1))
    inputs = torch.randn((4, *input_shape), generator=generator).to(weights.device, weights.dtype).requires_grad_()
    given = inputs.permute(0, 2, 3, 1) if channels_last else inputs
    values = model.forward_with(given, [layer])[1][layer]
    if values.ndim != 4:
        raise FmxError(f"{layer} has no maps, so that its values have no place in the picture: choose another layer.")
    height, width = values.shape[2:]
    centre = (height // 2, width // 2)
    found = [_along(axis, values, inputs, centre) for axis in (0, 1)]
    stride, offset, size = (tuple(part) for part in zip(*found, strict=True))
    return ReceptiveField(size, stride, offset, (int(input_shape[1]), int(input_shape[2])), True)


def _along(axis: int, values: Any, inputs: Any, centre: tuple[int, int]) -> tuple[float, float, float]:
    """Measure stride, offset and size along y (0) or x (1)."""
    length, pixels = int(values.shape[2 + axis]), int(inputs.shape[2 + axis])
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for i in sorted({0, 1, length // 4, length // 2, length // 2 + 1, 3 * length // 4, length - 2, length - 1}):
        if 0 <= i < length:
            starts[i], ends[i] = _reach(values, inputs, (i, centre[1]) if axis == 0 else (centre[0], i))[axis]
    # What is cut ends where anything ends at most, which lies before the edge where strides leave pixels over.
    first, last = min(starts.values()), max(ends.values())
    inside = [
        {i: start for i, start in starts.items() if start > 0},
        {i: end for i, end in ends.items() if end < pixels},
    ]
    starts = {i: start for i, start in starts.items() if start > first}
    ends = {i: end for i, end in ends.items() if end < last}
    stride = pixels / length
    # Two positions have no end besides the one furthest out: theirs are taken as they are.
    for edges in sorted(inside, key=_span) + sorted((starts, ends), key=_span):
        if len(edges) > 1:
            low, high = min(edges), max(edges)
            stride = (edges[high] - edges[low]) / (high - low)
    # An edge that lies outside of the input for every position is put where it is outside for all.
    begin = min((start - i * stride for i, start in starts.items()), default=-length * stride)
    finish = max((end - i * stride for i, end in ends.items()), default=float(pixels))
    return stride, begin, finish - begin


def _span(edges: dict[int, int]) -> int:
    return max(edges, default=0) - min(edges, default=0)


def _reach(values: Any, inputs: Any, place: tuple[int, int]) -> list[tuple[int, int]]:
    """Find the pixels that a position depends on, along y and x, over all inputs and channels."""
    import torch

    (gradient,) = torch.autograd.grad(values[:, :, place[0], place[1]].abs().sum(), inputs, retain_graph=True)
    seen = (gradient != 0).any(dim=0).any(dim=0)
    found = []
    for axis in (1, 0):
        lit = np.flatnonzero(seen.any(dim=axis).numpy(force=True))
        if not len(lit):
            raise FmxError("No gradient gets from the layer to the input: its receptive field can't be measured.")
        found.append((int(lit[0]), int(lit[-1]) + 1))
    return found


def proportional_field(map_size: Sequence[int], input_size: Sequence[int]) -> ReceptiveField:
    """Give the part of the input at the same place in proportion: smaller than the receptive field, and only a hint."""
    steps = [size / max(n, 1) for size, n in zip(input_size, map_size, strict=True)]
    pair = (float(steps[0]), float(steps[1]))
    return ReceptiveField(pair, pair, (0.0, 0.0), (int(input_size[0]), int(input_size[1])), False)


def add_boxes(found: xr.Dataset, field: ReceptiveField) -> xr.Dataset:
    """Add the boxes y0, y1, x0 and x1 to positions y and x; -1 where there is no position."""
    how = "" if field.exact else ", approximately: in proportion to the map"
    for axis, name in enumerate(("y", "x")):
        position = found[name].values
        sides = zip((f"{name}0", f"{name}1"), field.box(axis, position), ("first", "behind the last"), strict=True)
        for key, edge, side in sides:
            values = np.where(position < 0, -1, edge)
            found[key] = (found[name].dims, values, {"definition": _ABOUT.format(side=side, how=how)})
    return found.assign_attrs(receptive_field="measured" if field.exact else "in proportion to the map, approximate")
