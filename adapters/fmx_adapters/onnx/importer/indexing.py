"""Taking elements by position and putting them there, padding, sorting and counting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.kernels import along, int_list, pad_axes, wrapped
from fmx_adapters.onnx.importer.registry import operator

_SCATTER = {"none": "", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Slice")
def _slice(call: Call) -> Value:
    if call.version < 10:
        return call.call(slice_, call[0], call.integers("starts"), call.integers("ends"), call.integers("axes"), None)
    return call.call(slice_, call[0], *(call.int_list(i) for i in range(1, 5)))


@operator("Gather")
def _gather(call: Call) -> Value:
    indices, axis = call.constant(1), call.integer("axis", 0)
    if indices is not None and indices.ndim == 0:
        return call.call(torch.select, call[0], axis, int(indices))
    return call.call(gather, call[0], call[1], axis)


@operator("GatherElements")
def _gather_elements(call: Call) -> Value:
    return call.call(gather_elements, call[0], call[1], call.integer("axis", 0))


@operator("GatherND")
def _gather_nd(call: Call) -> Value:
    return call.call(gather_nd, call[0], call[1], call.integer("batch_dims", 0))


@operator("Scatter", "ScatterElements")
def _scatter_elements(call: Call) -> Value:
    how = _SCATTER[call.one_of("reduction", "none", list(_SCATTER))]
    return call.call(scatter_elements, call[0], call[1], call[2], call.integer("axis", 0), how)


@operator("ScatterND")
def _scatter_nd(call: Call) -> Value:
    how = _SCATTER[call.one_of("reduction", "none", list(_SCATTER))]
    return call.call(scatter_nd, call[0], call[1], call[2], how)


@operator("TensorScatter")
def _tensor_scatter(call: Call) -> Value:
    circular = call.one_of("mode", "linear", ("linear", "circular")) == "circular"
    return call.call(tensor_scatter, call[0], call[1], call.get(2), call.integer("axis", -2), circular)


@operator("Pad")
def _pad(call: Call) -> Value:
    mode = call.one_of("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    if call.version < 11:
        return call.call(pad, call[0], call.integers("pads"), call.decimal("value"), None, mode)
    return call.call(pad, call[0], call.int_list(1), call.scalar(2, 0), call.int_list(3), mode)


@operator("CenterCropPad")
def _center_crop_pad(call: Call) -> Value:
    return call.call(center_crop_pad, call[0], call.int_list(1), call.integers("axes"))


@operator("Compress")
def _compress(call: Call) -> Value:
    return call.call(compress, call[0], call[1], call.integer("axis") if call.has("axis") else None)


@operator("NonZero")
def _non_zero(call: Call) -> Value:
    return call.call(non_zero, call[0])


@operator("OneHot")
def _one_hot(call: Call) -> Value:
    return call.call(one_hot, call[0], call.scalar(1), call[2], call.integer("axis", -1))


@operator("TopK")
def _top_k(call: Call) -> list[Value]:
    count = call.integer("k") if call.version < 10 else call.scalar(1)
    axis, largest = call.integer("axis", -1), call.flag("largest", True)
    call.ignore("sorted")  # sorted is one of the orders that are allowed where none is asked for
    return call.several(top_k, call[0], count, axis, largest)


@operator("Unique")
def _unique(call: Call) -> list[Value]:
    axis = call.integer("axis") if call.has("axis") else None
    return call.several(unique, call[0], axis, call.flag("sorted", True))


@operator("ReverseSequence")
def _reverse_sequence(call: Call) -> Value:
    return call.call(reverse_sequence, call[0], call[1], call.integer("time_axis", 0), call.integer("batch_axis", 1))


@operator("Trilu")
def _trilu(call: Call) -> Value:
    return call.call(trilu, call[0], call.scalar(1, 0), call.flag("upper", True))


@operator("CumSum", "CumProd")
def _cumulate(call: Call) -> Value:
    product, exclusive, backward = call.node.op_type == "CumProd", call.flag("exclusive"), call.flag("reverse")
    return call.call(cumulate, call[0], call.scalar(1), product, exclusive, backward)


def slice_(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None, steps: Ints | None) -> Tensor:
    """Take ranges along axes; positions count from the end where negative, and steps may go backward."""
    first, last = int_list(starts), int_list(ends)
    where = int_list(axes) if axes is not None else range(len(first))
    step = int_list(steps) if steps is not None else [1] * len(first)
    for a, b, axis, by in zip(first, last, where, step, strict=True):
        length = x.shape[axis]
        wanted = range(*slice(a, b, by).indices(length))
        begin = wanted[0] if wanted else 0
        if by < 0:
            x, begin = x.flip(axis), length - 1 - begin
        stop = begin + (len(wanted) - 1) * abs(by) + 1 if wanted else begin
        x = x[(slice(None),) * (axis % x.ndim) + (slice(begin, stop, abs(by)),)]
    return x


def gather(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take slices along an axis; the axes of the indices replace it."""
    axis %= x.ndim
    flat = x.index_select(axis, wrapped(indices.reshape(-1), x.shape[axis]))
    return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Take, at each position, the element that has another position along an axis."""
    return x.gather(axis, wrapped(indices, x.shape[axis]))


def gather_nd(x: Tensor, indices: Tensor, batch: int) -> Tensor:
    """Take slices by positions on several axes, after axes that both have in common."""
    # A position on an axis that both have in common is the same on both.
    common = [along(torch.arange(x.shape[i], device=x.device), i, indices.ndim - 1) for i in range(batch)]
    picked = [wrapped(part, x.shape[batch + i]) for i, part in enumerate(indices.unbind(-1))]
    return x[(*common, *picked)]


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int, how: str) -> Tensor:
    """Put elements to, or combine them with those at, other positions along an axis."""
    indices = wrapped(indices, x.shape[axis])
    return x.scatter_reduce(axis, indices, updates, how) if how else x.scatter(axis, indices, updates)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, how: str) -> Tensor:
    """Put slices to, or combine them with those at, positions on several axes."""
    count = indices.shape[-1]
    picked = [wrapped(part, x.shape[i]) for i, part in enumerate(indices.unbind(-1))]
    if how in {"", "sum"}:
        return x.index_put(tuple(picked), updates, accumulate=how == "sum")
    lead, rest = x.shape[:count], x.shape[count:]
    flat = torch.zeros_like(picked[0])
    for part, length in zip(picked, lead, strict=True):
        flat = flat * length + part
    rows = updates.reshape(flat.numel(), -1)
    result = x.reshape(-1, rows.shape[1]).scatter_reduce(0, flat.reshape(-1, 1).expand_as(rows), rows, how)
    return result.reshape(*lead, *rest)


def tensor_scatter(past: Tensor, update: Tensor, starts: Tensor | None, axis: int, circular: bool) -> Tensor:
    """Write a run of slices into a cache, for each sample from its own position on."""
    axis, length = axis % past.ndim, update.shape[axis]
    if starts is None:
        starts = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device)
    where = starts.reshape(-1, 1) + torch.arange(length, device=past.device)
    if circular:
        where = where % past.shape[axis]
    shape = [1] * past.ndim
    shape[0], shape[axis] = past.shape[0], length
    return past.scatter(axis, where.reshape(shape).expand_as(update), update)


def pad(x: Tensor, pads: Ints, value: float | Tensor, axes: Ints | None, mode: str) -> Tensor:
    """Pad axes with a number or with the tensor's own elements; negative widths cut off."""
    widths = int_list(pads)
    listed = [a % x.ndim for a in int_list(axes)] if axes is not None else list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(listed):
        before[axis], after[axis] = widths[i], widths[i + len(listed)]
    if mode == "constant":
        return pad_axes(x, before, after, float(value) if not isinstance(value, Tensor) else value.item())
    for axis in range(x.ndim):
        if before[axis] or after[axis]:
            x = x.index_select(axis, _sources(x.shape[axis], before[axis], after[axis], mode, x.device))
    return x


def _sources(length: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Where the elements of a padded axis come from."""
    positions = torch.arange(-before, length + after, device=device)
    if mode == "edge" or length == 1:
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions % length
    period = 2 * (length - 1)
    positions = positions % period
    return torch.minimum(positions, period - positions)


def center_crop_pad(x: Tensor, shape: Ints, axes: Sequence[int] | None) -> Tensor:
    """Cut axes to a length, or pad them with zeros to it, evenly on both sides."""
    before, after = [0] * x.ndim, [0] * x.ndim
    for axis, wanted in zip(axes if axes is not None else range(x.ndim), int_list(shape), strict=True):
        extra = wanted - x.shape[axis]
        # Of an odd number, the smaller part goes before where it is padded and is cut off before where it is cut.
        half = extra // 2 if extra > 0 else -(-extra // 2)
        before[axis % x.ndim], after[axis % x.ndim] = half, extra - half
    return pad_axes(x, before, after)


def compress(x: Tensor, condition: Tensor, axis: int | None) -> Tensor:
    """Keep the slices along an axis, or of all elements, for which a condition holds."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, condition.nonzero().reshape(-1))


def non_zero(x: Tensor) -> Tensor:
    """Positions of the elements that are not zero: one column each."""
    return x.nonzero().t()


def one_hot(indices: Tensor, depth: float | Tensor, values: Tensor, axis: int) -> Tensor:
    """Give each index an axis that holds one value there and another elsewhere."""
    count = int(depth)
    where = indices.to(torch.int64)
    where = torch.where(where < 0, where + count, where).unsqueeze(axis)
    rank = where.ndim
    places = torch.arange(count, device=indices.device).reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    return torch.where(where == places, values[1], values[0])


def top_k(x: Tensor, count: int | Tensor, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """Greatest or least elements along an axis with their positions; of equal ones, the first."""
    order = x.to(torch.int64) if x.dtype in {torch.uint16, torch.uint32, torch.uint64} else x
    where = order.sort(dim=axis, descending=largest, stable=True).indices.narrow(axis, 0, int(count))
    return x.gather(axis, where), where


def unique(x: Tensor, axis: int | None, in_order: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Different slices along an axis, where each first occurs, which one each slice is, and how often it occurs."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    found, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    inverse = inverse.reshape(-1)
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if in_order:
        return found, first, inverse, counts
    order = first.argsort()
    return found.index_select(axis, order), first[order], order.argsort()[inverse], counts[order]


def reverse_sequence(x: Tensor, lengths: Tensor, time: int, batch: int) -> Tensor:
    """Reverse the first part of each sequence, as long as its length says."""
    x = x.movedim((time, batch), (0, 1))
    step = torch.arange(x.shape[0], device=x.device).reshape(-1, 1)
    source = torch.where(step < lengths, lengths - 1 - step, step)
    sample = torch.arange(x.shape[1], device=x.device).expand_as(source)
    return x[source, sample].movedim((0, 1), (time, batch))


def trilu(x: Tensor, diagonal: int | Tensor, upper: bool) -> Tensor:
    """Keep what is above or below a diagonal."""
    return torch.triu(x, int(diagonal)) if upper else torch.tril(x, int(diagonal))


def cumulate(x: Tensor, axis: int | Tensor, product: bool, exclusive: bool, backward: bool) -> Tensor:
    """Running sum or product along an axis, with or without the element itself, from either end."""
    dim = int(axis)
    if backward:
        x = x.flip(dim)
    if exclusive:
        start = torch.full_like(x.narrow(dim, 0, 1), int(product))
        x = torch.cat([start, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    total = x.cumprod(dim, dtype=x.dtype) if product else x.cumsum(dim, dtype=x.dtype)
    return total.flip(dim) if backward else total
