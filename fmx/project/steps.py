"""What a signal meets on its way back, operation by operation: the adjoint of each node of a graph of autograd.

The pass forward was of one copy; what a step keeps of it holds for all signals. Where only a part of the maps is not 0
a signal may be that part alone: it grows by each kernel on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fmx.project.rules import deconvnet

__all__ = ["Signal", "Step", "few_channels", "shape_of", "step_of", "sum_of", "whole"]


@dataclass(frozen=True, slots=True)
class Signal:
    """Some signals on their way back.

    Attributes
    ----------
    values : tensor (signal, …native)
    owned : bool
        Nobody else holds the values, so that they may be written to.
    at : (int, int), optional
        The values are a part of the maps, along the last two axes, that begins here; everything else is 0.
    """

    values: torch.Tensor
    owned: bool
    at: tuple[int, int] | None = None

    def made(self, values: torch.Tensor) -> Signal:
        """Give new values at the same place."""
        return Signal(values, True, self.at)


Step = Callable[[Signal], Sequence[Signal | None]]
Shape = tuple[int, ...]

# A part of a layer's channels is taken where it is no more than this share.
_FEW = 0.25


def shape_of(node: Any, number: int = 0) -> Shape:
    """Give the shape of the value that a node of autograd stands behind, for one copy."""
    return tuple(int(n) for n in node._input_metadata[number].shape)


def step_of(node: Any, *, first: bool) -> Step | None:
    """Make a step of a node; None where there is none for it.

    Parameters
    ----------
    node : node of autograd, of a pass of one copy
    first : bool
        No convolution lies between the layer and this node, so that few channels may hold all that is not 0.

    Returns
    -------
    callable or None
        ``step(signal)`` gives a signal or None for each of ``node.next_functions``; the last ones may be missing.
    """
    name = node.name().removeprefix("torch::autograd::")
    before = [shape_of(*edge) if edge[0] is not None else () for edge in node.next_functions]
    shape = shape_of(node)
    # Axis 0 is the copy. Weights that hang on the input are no constants.
    several = any(before[1:]) and name not in _SEVERAL
    if name not in _MAKERS or several or any(known[:1] != (1,) for known in (shape, *filter(None, before))):
        return None
    return _MAKERS[name](node, shape, before, first)


def whole(signal: Signal, shape: Shape) -> Signal:
    """Fill up with 0 what is a part of maps, shape (copy, …native)."""
    if signal.at is None:
        return signal
    return Signal(_placed(signal, (0, 0), shape[-2:]), True)


def sum_of(a: Signal, b: Signal) -> Signal:
    """Add signals up, into one that nobody else holds; parts in the smallest that holds both."""
    if a.at != b.at or a.values.shape != b.values.shape:
        corners = [signal.at or (0, 0) for signal in (a, b)]
        at = (min(y for y, _ in corners), min(x for _, x in corners))
        sides = [
            max(corner[axis] + signal.values.shape[axis - 2] for corner, signal in zip(corners, (a, b), strict=True))
            - at[axis]
            for axis in (0, 1)
        ]
        a, b = (Signal(_placed(signal, at, sides), True, at) for signal in (a, b))
    if b.owned and not a.owned:
        a, b = b, a
    return a.made(a.values.add_(b.values) if a.owned else a.values + b.values)


def _placed(signal: Signal, at: tuple[int, int], sides: Sequence[int]) -> torch.Tensor:
    """Put a part into a larger one that begins elsewhere."""
    corner = signal.at or (0, 0)
    y, x = corner[0] - at[0], corner[1] - at[1]
    height, width = signal.values.shape[-2:]
    found = signal.values.new_zeros((*signal.values.shape[:-2], *sides))
    found[..., y : y + height, x : x + width] = signal.values
    return found


def _like(values: torch.Tensor, signal: Signal) -> torch.Tensor:
    """Cut values of the pass (1, …native) as a signal is."""
    if signal.at is not None:
        (y, x), (height, width) = signal.at, signal.values.shape[-2:]
        values = values[..., y : y + height, x : x + width]
    return values.expand_as(signal.values)


def _handed_on(_node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    return (lambda signal: [signal]) if before[0] == shape else None


def _copied(_node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    """What was overwritten gets nothing: the signal goes where the values came from."""
    return (lambda signal: [None, signal]) if before[1] == shape else None


def _ruled(node: Any, _shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    if node.rule is deconvnet:
        return lambda s: [s.made(s.values.clamp_(min=0) if s.owned else s.values.clamp(min=0))]
    (values,), rule = node.saved_tensors, node.rule
    # A rule may hand on what it was given.
    return lambda signal: [Signal(rule(signal.values, _like(values, signal)), False, signal.at)]


def _relu(node: Any, _shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    passes = node._saved_result > 0
    return lambda signal: [signal.made(signal.values * _like(passes, signal))]


def _added(node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    if node._saved_alpha != 1 or any(known not in (shape, ()) for known in before):
        return None
    return lambda signal: [Signal(signal.values, False, signal.at)] * len(before)


def _concatenated(node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    # Counted from the end it is written as an unsigned number.
    axis = node._saved_dim % 2**64
    axis = axis - 2**64 + len(shape) if axis >= 2**63 else axis
    if axis == 0 or not all(before):
        return None
    lengths = [part[axis] for part in before]

    def step(signal: Signal) -> list[Signal]:
        signal = whole(signal, shape) if axis >= len(shape) - 2 else signal
        parts = signal.values.split_with_sizes(lengths, axis)
        return [Signal(part, signal.owned, signal.at) for part in parts]

    return step


def _normed(node: Any, shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    if node._saved_training:
        return None
    scale = torch.rsqrt(node._saved_running_var + node._saved_eps)
    if node._saved_weight is not None:
        scale = scale * node._saved_weight
    scale = scale.reshape(-1, *[1] * (len(shape) - 2))
    return lambda s: [s.made(s.values.mul_(scale) if s.owned else s.values * scale)]


def _averaged(node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    more = (
        node._saved_kernel_size,
        node._saved_stride,
        node._saved_padding,
        node._saved_ceil_mode,
        node._saved_count_include_pad,
        node._saved_divisor_override,
    )

    def step(signal: Signal) -> list[Signal]:
        values = whole(signal, shape).values
        return [Signal(torch.ops.aten.avg_pool2d_backward(values, _room(values, before[0][1:]), *more), True)]

    return step if len(before[0]) == 4 else None


def _maximum(node: Any, _shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    kernel, padding, dilation = (node._saved_kernel_size, node._saved_padding, node._saved_dilation)
    stride = node._saved_stride or kernel
    reach = _Reach(kernel, stride, padding, dilation, before[0][2:])
    # The switches of one copy, and of as many as signals have come at once.
    switches = node._saved_result1.contiguous(memory_format=torch.channels_last)

    def step(signal: Signal) -> list[Signal]:
        nonlocal switches
        if signal.at is not None:
            return [_unpooled(signal, switches[:1], reach)]
        count = len(signal.values)
        if len(switches) < count:
            switches = switches[:1].repeat(count, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        values = signal.values.contiguous(memory_format=torch.channels_last)
        more = (kernel, stride, padding, dilation, node._saved_ceil_mode, switches[:count])
        room = _room(values, before[0][1:])
        return [Signal(torch.ops.aten.max_pool2d_with_indices_backward(values, room, *more), True)]

    return step if len(before[0]) == 4 else None


@dataclass(frozen=True)
class _Reach:
    """Kernels along y and x, and the sides of the maps that they look at."""

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    sides: Sequence[int]

    def sides_of(self, signal: Signal) -> list[int]:
        """Give the sides of what a part of the values comes from, edges that lie outside included."""
        given = zip(signal.values.shape[2:], self.stride, self.dilation, self.kernel, strict=True)
        return [(n - 1) * stride + dilation * (k - 1) + 1 for n, stride, dilation, k in given]

    def inside(self, signal: Signal) -> list[tuple[int, int, int]]:
        """Give, along y and x, where that begins, and the first pixel and the one behind the last that exist."""
        at = signal.at or (0, 0)
        firsts = [i * stride - pad for i, stride, pad in zip(at, self.stride, self.padding, strict=True)]
        given = zip(firsts, self.sides_of(signal), self.sides, strict=True)
        return [(first, max(first, 0), min(first + side, n)) for first, side, n in given]


def _unpooled(signal: Signal, switches: torch.Tensor, reach: _Reach) -> Signal:
    """Put the values of a part where the maxima were."""
    (_, top, bottom), (_, left, right) = reach.inside(signal)
    chosen = _like(switches, Signal(signal.values[:1], False, signal.at))
    width = reach.sides[1]
    local = (chosen // width - top) * (right - left) + chosen % width - left
    count, channels = signal.values.shape[:2]
    found = signal.values.new_zeros((count, channels, (bottom - top) * (right - left)))
    found.scatter_add_(2, local.flatten(2).expand(count, -1, -1), signal.values.flatten(2))
    return Signal(found.view(count, channels, bottom - top, right - left), True, (top, left))


def _convolved(node: Any, shape: Shape, before: list[Shape], first: bool) -> Step | None:
    weight = node._saved_weight
    if weight.ndim != 4 or len(before[0]) != 4:
        return None
    stride, padding, dilation = node._saved_stride, node._saved_padding, node._saved_dilation
    transposed, groups = node._saved_transposed, node._saved_groups
    reach = _Reach(weight.shape[2:], stride, padding, dilation, before[0][2:])
    # A transposed convolution is one with the kernel turned round, and what is left of the kernel's reach as padding.
    edges = [d * (k - 1) for d, k in zip(dilation, reach.kernel, strict=True)]
    inner = [edge - pad for edge, pad in zip(edges, padding, strict=True)]
    plain = first and tuple(stride) == (1, 1) and not transposed and groups == 1 and min(inner) >= 0
    more = (node._saved_output_padding, groups, [True, False, False])

    def back(values: torch.Tensor, sides: Sequence[int], pads: Sequence[int], around: Sequence[int]) -> torch.Tensor:
        few = few_channels(values) if plain else None
        if few is not None:
            return _from_few(values, few, weight, around, dilation)
        values = values.contiguous(memory_format=torch.channels_last)
        room = _room(values, (before[0][1], *sides))
        found: torch.Tensor = torch.ops.aten.convolution_backward(
            values, room, weight, None, stride, pads, dilation, transposed, *more
        )[0]
        return found

    def step(signal: Signal) -> list[Signal]:
        if signal.at is None or transposed:
            return [Signal(back(whole(signal, shape).values, before[0][2:], padding, inner), True)]
        found = back(signal.values, reach.sides_of(signal), (0, 0), edges)
        (y, top, bottom), (x, left, right) = reach.inside(signal)
        if bottom <= top or right <= left:
            # It sees nothing but padding.
            return [Signal(found.new_zeros((*found.shape[:2], 1, 1)), True, (0, 0))]
        return [Signal(found[:, :, top - y : bottom - y, left - x : right - x], True, (top, left))]

    return step


def few_channels(values: torch.Tensor) -> torch.Tensor | None:
    """List for each signal as many channels as hold all that is not 0 (signal, few); None where these are many."""
    lit = (values != 0).flatten(2).any(dim=2)
    most = max(1, int(lit.sum(dim=1).max()))
    return lit.to(torch.uint8).topk(most, dim=1).indices if most <= _FEW * lit.shape[1] else None


def _from_few(
    values: torch.Tensor, few: torch.Tensor, weight: torch.Tensor, edges: Sequence[int], dilation: Any
) -> torch.Tensor:
    """Pull a few channels of each signal back through a convolution without stride: a matrix product for each."""
    count, kernel = len(values), weight.shape[2:]
    parts = values[torch.arange(count, device=values.device)[:, None], few]
    columns = torch.nn.functional.unfold(parts, tuple(kernel), dilation, tuple(edges))
    kernels = weight.flip(2, 3)[few].permute(0, 1, 3, 4, 2).reshape(count, -1, weight.shape[1])
    found = torch.bmm(columns.transpose(1, 2), kernels)
    given = zip(values.shape[2:], edges, dilation, kernel, strict=True)
    height, width = (n + 2 * edge - d * (k - 1) for n, edge, d, k in given)
    return found.view(count, height, width, -1).permute(0, 3, 1, 2)


def _room(values: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Give what has a shape and no values: operations ask for their input where they look at its shape alone."""
    return torch.empty(
        (len(values), *shape), dtype=values.dtype, device=values.device, memory_format=torch.channels_last
    )


# What hands signals to more than one value.
_SEVERAL = ("AddBackward0", "CatBackward0", "CopyBackwards")
_MAKERS: dict[str, Callable[[Any, Shape, list[Shape], bool], Step | None]] = {
    "AddBackward0": _added,
    "AvgPool2DBackward0": _averaged,
    "CatBackward0": _concatenated,
    "CloneBackward0": _handed_on,
    "ConvolutionBackward0": _convolved,
    "CopyBackwards": _copied,
    "MaxPool2DWithIndicesBackward0": _maximum,
    "NativeBatchNormBackward0": _normed,
    "ReluBackward0": _relu,
    "_LimitedBackward": _handed_on,
    "_RuledBackward": _ruled,
}
