"""Shapes: reading them, and giving the same elements another one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.kernels import int_list
from fmx_adapters.onnx.importer.registry import operator


@operator("Shape")
def _shape(call: Call) -> Value:
    end = call.integer("end") if call.has("end") else None
    return call.call(shape_of, call[0], call.integer("start", 0), end)


@operator("Size")
def _size(call: Call) -> Value:
    return call.call(size_of, call[0])


@operator("Reshape")
def _reshape(call: Call) -> Value:
    shape = call.int_list(1)
    allow_zero = call.flag("allowzero")
    if isinstance(shape, tuple) and (allow_zero or 0 not in shape):
        return call.call(torch.reshape, call[0], shape)
    return call.call(reshape, call[0], shape, allow_zero)


@operator("Flatten")
def _flatten(call: Call) -> Value:
    axis, rank = call.integer("axis", 1), call.rank()
    if axis == 1 and rank is not None and rank > 1:
        return call.call(torch.flatten, call[0], 1)
    return call.call(flatten, call[0], axis)


@operator("Squeeze")
def _squeeze(call: Call) -> Value:
    axes = call.attribute_or_input("axes", 1, since=13)
    return call.call(torch.squeeze, call[0], axes) if isinstance(axes, tuple) else call.call(squeeze, call[0], axes)


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Value:
    axes = call.attribute_or_input("axes", 1, since=13)
    if isinstance(axes, tuple) and len(axes) == 1:
        return call.call(torch.unsqueeze, call[0], axes[0])
    return call.call(unsqueeze, call[0], axes)


@operator("Transpose")
def _transpose(call: Call) -> Value:
    order = call.integers("perm")
    return call.call(reverse_axes, call[0]) if order is None else call.call(torch.permute, call[0], order)


@operator("Concat")
def _concat(call: Call) -> Value:
    return call.call(torch.cat, call.given(), call.integer("axis"))


@operator("Split")
def _split(call: Call) -> list[Value]:
    sizes, axis = call.attribute_or_input("split", 1, since=13), call.integer("axis", 0)
    parts = call.integer("num_outputs", len(call.node.output))
    return call.several(split, call[0], sizes, axis, parts)


@operator("Expand")
def _expand(call: Call) -> Value:
    return call.call(expand, call[0], call.int_list(1))


@operator("Tile")
def _tile(call: Call) -> Value:
    return call.call(tile, call[0], call.int_list(1))


@operator("DepthToSpace", "SpaceToDepth")
def _depth_to_space(call: Call) -> Value:
    block, mode = call.integer("blocksize"), call.one_of("mode", "DCR", ("DCR", "CRD"))
    return call.call(depth_to_space if call.node.op_type == "DepthToSpace" else space_to_depth, call[0], block, mode)


def shape_of(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    """Lengths of axes, as a tensor beside the data."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


def size_of(x: Tensor) -> Tensor:
    """Number of elements."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)


def reshape(x: Tensor, shape: Ints, allow_zero: bool) -> Tensor:
    """Give another shape, in which 0 stands for the length that the axis had, and -1 for what is left."""
    lengths = int_list(shape)
    if not allow_zero:
        lengths = [x.shape[i] if length == 0 else length for i, length in enumerate(lengths)]
    return x.reshape(lengths)


def flatten(x: Tensor, axis: int) -> Tensor:
    """Make a matrix: the axes before one, and those from it on."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes: Ints | None) -> Tensor:
    """Remove axes of length 1: all, or those that are named."""
    return x.squeeze() if axes is None else x.squeeze(int_list(axes))


def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Add axes of length 1, counted in the result."""
    listed = int_list(axes)
    rank = x.ndim + len(listed)
    for axis in sorted(a % rank for a in listed):
        x = x.unsqueeze(axis)
    return x


def reverse_axes(x: Tensor) -> Tensor:
    """Put the axes into the opposite order."""
    return x.permute(*range(x.ndim - 1, -1, -1))


def split(x: Tensor, sizes: Ints | None, axis: int, parts: int) -> tuple[Tensor, ...]:
    """Cut along an axis into parts of given sizes, or of equal sizes but for the last."""
    if sizes is not None:
        return torch.split(x, int_list(sizes), axis)
    length = x.shape[axis]
    size = -(-length // parts)
    return torch.split(x, [min(size, max(length - i * size, 0)) for i in range(parts)], axis)


def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast with a shape, either way."""
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(int_list(shape))))


def tile(x: Tensor, repeats: Ints) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(int_list(repeats))


def depth_to_space(x: Tensor, block: int, mode: str) -> Tensor:
    """Move channels into blocks of pixels; in DCR the block's axes come before the channels."""
    n, c, h, w = x.shape
    depth = c // block**2
    if mode == "DCR":
        x = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, depth, h * block, w * block)


def space_to_depth(x: Tensor, block: int, mode: str) -> Tensor:
    """Move blocks of pixels into channels; in DCR the block's axes come before the channels."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * block**2, h // block, w // block)
