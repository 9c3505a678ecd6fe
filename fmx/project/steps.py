"""What a signal meets on its way back, operation by operation: the adjoint of each node of a graph of autograd.

A step takes signals (signal, …) and says of what it gives whether nobody else holds it: that may be written to. The
pass forward was of one copy; what a step keeps of it holds for all signals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fmx.project.rules import deconvnet

__all__ = ["Given", "Step", "shape_of", "step_of"]

# A signal, and whether nobody else holds it.
Given = tuple[torch.Tensor, bool]
Step = Callable[[torch.Tensor, bool], Sequence[Given | None]]
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
        ``step(signals, owned)`` gives a signal, and whether it is owned, for each of ``node.next_functions``.
    """
    name = node.name().removeprefix("torch::autograd::")
    before = [shape_of(*edge) if edge[0] is not None else () for edge in node.next_functions]
    shape = shape_of(node)
    # Axis 0 is the copy. Weights that hang on the input are no constants.
    several = any(before[1:]) and name not in _SEVERAL
    if name not in _MAKERS or several or any(known[:1] != (1,) for known in (shape, *filter(None, before))):
        return None
    return _MAKERS[name](node, shape, before, first)


def _handed_on(_node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    return (lambda signal, owned: [(signal, owned)]) if before[0] == shape else None


def _copied(_node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    """What was overwritten gets nothing: the signal goes where the values came from."""
    if before[1] != shape:
        return None

    return lambda signal, owned: [None, (signal, owned)]


def _ruled(node: Any, _shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    if node.rule is deconvnet:
        return lambda signal, owned: [(signal.clamp_(min=0) if owned else signal.clamp(min=0), True)]
    (values,), rule = node.saved_tensors, node.rule
    return lambda signal, _: [(rule(signal, values.expand_as(signal)), False)]


def _relu(node: Any, _shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    open_ = node._saved_result > 0
    return lambda signal, owned: [(signal.mul_(open_) if owned else signal * open_, True)]


def _added(node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    if node._saved_alpha != 1 or any(known not in (shape, ()) for known in before):
        return None
    return lambda signal, _: [(signal, False)] * len(before)


def _concatenated(node: Any, shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    axis = node._saved_dim
    axis = axis - 2**64 if axis >= 2**63 else axis
    axis %= len(shape)
    if axis == 0 or not all(before):
        return None
    lengths = [part[axis] for part in before]
    return lambda signal, owned: [(part, owned) for part in signal.split_with_sizes(lengths, axis)]


def _normed(node: Any, shape: Shape, _before: list[Shape], _first: bool) -> Step | None:
    if node._saved_training:
        return None
    scale = torch.rsqrt(node._saved_running_var + node._saved_eps)
    if node._saved_weight is not None:
        scale = scale * node._saved_weight
    scale = scale.reshape(-1, *[1] * (len(shape) - 2))
    return lambda signal, owned: [(signal.mul_(scale) if owned else signal * scale, True)]


def _averaged(node: Any, _shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    more = (
        node._saved_kernel_size,
        node._saved_stride,
        node._saved_padding,
        node._saved_ceil_mode,
        node._saved_count_include_pad,
        node._saved_divisor_override,
    )

    def step(signal: torch.Tensor, _: bool) -> list[Given]:
        return [(torch.ops.aten.avg_pool2d_backward(signal, _room(signal, before[0]), *more), True)]

    return step if len(before[0]) == 4 else None


def _maximum(node: Any, _shape: Shape, before: list[Shape], _first: bool) -> Step | None:
    more = (
        node._saved_kernel_size,
        node._saved_stride,
        node._saved_padding,
        node._saved_dilation,
        node._saved_ceil_mode,
    )
    # The switches of one copy, and of as many as signals have come at once.
    switches = node._saved_result1.contiguous(memory_format=torch.channels_last)

    def step(signal: torch.Tensor, _: bool) -> list[Given]:
        nonlocal switches
        count = len(signal)
        if len(switches) < count:
            switches = switches[:1].repeat(count, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        room = _room(signal, before[0])
        signal = signal.contiguous(memory_format=torch.channels_last)
        return [(torch.ops.aten.max_pool2d_with_indices_backward(signal, room, *more, switches[:count]), True)]

    return step if len(before[0]) == 4 else None


def _convolved(node: Any, _shape: Shape, before: list[Shape], first: bool) -> Step | None:
    weight = node._saved_weight
    if weight.ndim != 4 or len(before[0]) != 4:
        return None
    settings = (node._saved_stride, node._saved_padding, node._saved_dilation, node._saved_transposed)
    stride, padding, dilation, transposed = settings
    # A transposed convolution is one with the kernel turned round, and what is left of the kernel's reach as padding.
    edges = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    plain = tuple(stride) == (1, 1) and not transposed and node._saved_groups == 1 and min(edges) >= 0
    more = (*settings, node._saved_output_padding, node._saved_groups, [True, False, False])

    def step(signal: torch.Tensor, _: bool) -> list[Given]:
        if first and plain:
            few = _channels(signal)
            if few.shape[1] <= _FEW * signal.shape[1]:
                return [(_from_few(signal, few, weight, edges, dilation, before[0]), True)]
        signal = signal.contiguous(memory_format=torch.channels_last)
        found, _, _ = torch.ops.aten.convolution_backward(signal, _room(signal, before[0]), weight, None, *more)
        return [(found, True)]

    return step


def _channels(signal: torch.Tensor) -> torch.Tensor:
    """List for each signal as many channels as hold all that is not 0 (signal, few)."""
    lit = (signal != 0).flatten(2).any(dim=2)
    most = max(1, int(lit.sum(dim=1).max()))
    return lit.to(torch.uint8).topk(most, dim=1).indices


def _from_few(
    signal: torch.Tensor, few: torch.Tensor, weight: torch.Tensor, edges: Any, dilation: Any, before: Shape
) -> torch.Tensor:
    """Pull a few channels of each signal back through a convolution without stride: a matrix product for each."""
    count, (height, width) = len(signal), before[2:]
    parts = signal[torch.arange(count, device=signal.device)[:, None], few]
    turned = weight.flip(2, 3)[few]
    columns = torch.nn.functional.unfold(parts, weight.shape[2:], dilation, edges)
    kernels = turned.permute(0, 1, 3, 4, 2).reshape(count, -1, weight.shape[1])
    found = torch.bmm(columns.transpose(1, 2), kernels)
    return found.view(count, height, width, -1).permute(0, 3, 1, 2)


def _room(signal: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Give what has a shape and no values: operations ask for their input where they look at its shape alone."""
    return torch.empty(
        (len(signal), *shape[1:]), dtype=signal.dtype, device=signal.device, memory_format=torch.channels_last
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
