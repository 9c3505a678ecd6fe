"""Pooling: modules of `torch.nn` where the attributes allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.convolution import convolve
from fmx_adapters.onnx.importer.kernels import int_list, pad_axes
from fmx_adapters.onnx.importer.registry import operator
from fmx_adapters.onnx.importer.windows import Window, fit, window_of

_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MAX_MODULES: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_MODULES: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_GLOBAL_MODULES: dict[str, dict[int, type[nn.Module]]] = {
    "GlobalAveragePool": {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d},
    "GlobalMaxPool": {3: nn.AdaptiveMaxPool1d, 4: nn.AdaptiveMaxPool2d, 5: nn.AdaptiveMaxPool3d},
}


def _window(call: Call) -> tuple[Window, bool]:
    """Read the window of a pooling, and whether one that is not full counts."""
    kernel = call.integers("kernel_shape") or ()
    if len(kernel) not in _MAX_POOL:
        call.unsupported(f"a kernel of {len(kernel)} axes")
    return window_of(call, kernel), call.flag("ceil_mode")


@operator("MaxPool")
def _max_pool(call: Call) -> Value | list[Value]:
    window, round_up = _window(call)
    columns_first = call.flag("storage_order")
    if call.wants(1):
        return call.several(max_pool_with_indices, call[0], window, round_up, columns_first)
    if window.poolable and call.is_float(unknown=True):
        kind = _MAX_MODULES[len(window.kernel)]
        module = kind(window.kernel, window.strides, window.before, window.dilations, ceil_mode=round_up)
        return call.module(module, call[0])
    return call.call(max_pool, call[0], window, round_up)


@operator("AveragePool")
def _average_pool(call: Call) -> Value:
    window, round_up = _window(call)
    with_padding = call.flag("count_include_pad")
    if window.poolable and set(window.dilations) == {1}:
        kind = _AVERAGE_MODULES[len(window.kernel)]
        module = kind(window.kernel, window.strides, window.before, round_up, with_padding)
        return call.module(module, call[0])
    return call.call(average_pool, call[0], window, round_up, with_padding)


@operator("LpPool")
def _lp_pool(call: Call) -> Value:
    return call.call(lp_pool, call[0], *_window(call), call.integer("p", 2))


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call: Call) -> Value:
    kind, rank = call.node.op_type, call.rank()
    module = _GLOBAL_MODULES[kind].get(rank or 0)
    if module is not None:
        return call.module(module(1), call[0])
    return call.call(global_average_pool if kind == "GlobalAveragePool" else global_max_pool, call[0])


@operator("GlobalLpPool")
def _global_lp_pool(call: Call) -> Value:
    return call.call(global_lp_pool, call[0], call.integer("p", 2))


@operator("MaxUnpool")
def _max_unpool(call: Call) -> Value:
    kernel = call.integers("kernel_shape") or ()
    window = window_of(call, kernel)
    pads = [window.before, window.after]
    return call.call(max_unpool, call[0], call[1], call.int_list(2), kernel, window.strides, pads)


def _fitted(x: Tensor, window: Window, round_up: bool, value: float) -> Tensor:
    """Pad or cut so that the windows fill the axes exactly."""
    sizes = x.shape[2:]
    before, _, needed = fit(sizes, window, round_up=round_up)
    after = [n - b - size for n, b, size in zip(needed, before, sizes, strict=True)]
    return pad_axes(x, before, after, value)


def _highest(x: Tensor, window: Window, round_up: bool, **how: bool) -> Any:
    wide = _fitted(x if x.is_floating_point() else x.double(), window, round_up, -math.inf)
    return _MAX_POOL[len(window.kernel)](wide, window.kernel, window.strides, 0, window.dilations, **how)


def max_pool(x: Tensor, window: Window, round_up: bool) -> Tensor:
    """Maximum over windows of any padding, of any type."""
    found: Tensor = _highest(x, window, round_up).to(x.dtype)
    return found


def max_pool_with_indices(x: Tensor, window: Window, round_up: bool, columns_first: bool) -> tuple[Tensor, Tensor]:
    """Maximum over windows, and where in the whole tensor it lies, counted by rows or by columns."""
    found, where = _highest(x, window, round_up, return_indices=True)
    start, _, needed = fit(x.shape[2:], window, round_up=round_up)
    coordinates = []
    for length, left in zip(reversed(needed), reversed(start), strict=True):
        coordinates.append(where % length - left)
        where = where // length
    lengths = list(reversed(x.shape[2:]))
    if columns_first:
        coordinates, lengths = coordinates[::-1], lengths[::-1]
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    index = planes.reshape(*x.shape[:2], *[1] * len(window.kernel)).expand_as(where)
    for coordinate, length in zip(reversed(coordinates), reversed(lengths), strict=True):
        index = index * length + coordinate
    return found.to(x.dtype), index


def _window_sums(x: Tensor, window: Window) -> Tensor:
    """Sum over windows that fill the axes."""
    n = len(window.kernel)
    single = x.reshape(-1, 1, *x.shape[2:])
    ones = x.new_ones(1, 1, *window.kernel)
    sums = convolve(single, ones, None, window.strides, (0,) * n, window.dilations, 1)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


def average_pool(x: Tensor, window: Window, round_up: bool, with_padding: bool) -> Tensor:
    """Mean over windows of any padding; padding counts as zeros or not at all."""
    counted = x.new_ones(1, 1, *x.shape[2:])
    if with_padding:
        left, right, needed = fit(x.shape[2:], window, round_up=round_up)
        counted = pad_axes(counted, left, right, 1.0)
        # What is added beyond the padding, to fill the last window, is not counted.
        beyond = [n - c for n, c in zip(needed, counted.shape[2:], strict=True)]
        counted = pad_axes(counted, [0] * len(beyond), beyond)
    else:
        counted = _fitted(counted, window, round_up, 0.0)
    return _window_sums(_fitted(x, window, round_up, 0.0), window) / _window_sums(counted, window)


def lp_pool(x: Tensor, window: Window, round_up: bool, p: int) -> Tensor:
    """p-norm over windows."""
    sums = _window_sums(_fitted(x.abs() ** p, window, round_up, 0.0), window)
    # The root has no gradient at zero.
    return torch.where(sums > 0, torch.where(sums > 0, sums, 1) ** (1 / p), 0)


def global_average_pool(x: Tensor) -> Tensor:
    """Mean over the spatial axes."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over the spatial axes."""
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def global_lp_pool(x: Tensor, p: int) -> Tensor:
    """p-norm over the spatial axes."""
    norm: Tensor = torch.linalg.vector_norm(x, p, list(range(2, x.ndim)), keepdim=True)
    return norm


def max_unpool(
    x: Tensor,
    indices: Tensor,
    shape: Ints | None,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[Sequence[int]],
) -> Tensor:
    """Put maxima back to where they were, in zeros."""
    geometry = zip(x.shape[2:], kernel, strides, *pads, strict=True)
    natural = [*x.shape[:2], *((n - 1) * s + k - a - b for n, k, s, a, b in geometry)]
    # The indices count in the tensor that was pooled, whose shape may be smaller than the one that is asked for.
    flat = x.new_zeros(math.prod(natural)).scatter(0, indices.reshape(-1), x.reshape(-1))
    result = flat.reshape(natural)
    if shape is None:
        return result
    wanted = int_list(shape)
    return pad_axes(result, [0] * x.ndim, [w - n for w, n in zip(wanted, natural, strict=True)])
