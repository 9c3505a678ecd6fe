"""Reductions over axes, and positions of extremes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.kernels import int_list
from fmx_adapters.onnx.importer.registry import operator


def reduce_l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum of magnitudes."""
    return reduce_sum(x.abs(), axes, keep)


def reduce_l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Root of the sum of squares."""
    if x.is_floating_point():
        norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
        return norm
    return reduce_sum_square(x, axes, keep).double().sqrt().to(x.dtype)


def reduce_log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Logarithm of the sum."""
    return reduce_sum(x, axes, keep).log()


def reduce_log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Logarithm of the sum of exponentials."""
    return torch.logsumexp(x, axes, keep)


def reduce_max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Maximum; of nothing, the least number."""
    if x.numel():
        return x.amax(axes, keep)
    low = False if x.dtype == torch.bool else -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return reduce_sum(x, axes, keep).to(x.dtype).fill_(low)


def reduce_mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Mean; of integers, rounded toward zero."""
    return x.mean(axes, keep) if x.is_floating_point() else x.double().mean(axes, keep).to(x.dtype)


def reduce_min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Minimum; of nothing, the greatest number."""
    if x.numel():
        return x.amin(axes, keep)
    high = True if x.dtype == torch.bool else torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
    return reduce_sum(x, axes, keep).to(x.dtype).fill_(high)


def reduce_prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Product."""
    dtype = x.dtype
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keep, dtype=dtype)
    return x


def reduce_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum."""
    return x.sum(axes, keep, dtype=x.dtype)


def reduce_sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Sum of squares."""
    return reduce_sum(x * x, axes, keep)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_min,
    "ReduceProd": reduce_prod,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
}
_AXES_ARE_INPUT_SINCE = {"ReduceSum": 13}


@operator(*_REDUCTIONS)
def _reduce(call: Call) -> Value:
    name = call.node.op_type
    axes = call.attribute_or_input("axes", 1, since=_AXES_ARE_INPUT_SINCE.get(name, 18))
    keep, noop = call.flag("keepdims", True), call.flag("noop_with_empty_axes")
    return call.call(reduce, name, call[0], axes, keep=keep, noop=noop)


@operator("ArgMax", "ArgMin")
def _arg_extreme(call: Call) -> Value:
    axis, keep = call.integer("axis", 0), call.flag("keepdims", True)
    greatest, last = call.node.op_type == "ArgMax", call.flag("select_last_index")
    return call.call(arg_extreme, call[0], axis, keep=keep, greatest=greatest, last=last)


def reduce(name: str, x: Tensor, axes: Ints | None, keep: bool, noop: bool) -> Tensor:
    """Reduce over axes: over all where none are given, or over none where that is asked for."""
    listed = int_list(axes) if axes is not None else []
    if not listed and noop:
        listed = []
        # Only the reduction is left out: what is done to each element is done.
        return _REDUCTIONS[name](x.unsqueeze(0), [0], False)
    return _REDUCTIONS[name](x, listed or list(range(x.ndim)), keep)


def arg_extreme(x: Tensor, axis: int, keep: bool, greatest: bool, last: bool) -> Tensor:
    """Position of the greatest or least element along an axis, the first or last of equal ones."""
    find = torch.argmax if greatest else torch.argmin
    if last:
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keep)
    return find(x, axis, keep)
