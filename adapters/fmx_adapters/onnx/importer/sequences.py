"""Sequences, which are lists, and values that may be missing, which are None."""

from __future__ import annotations

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator


@operator("SequenceConstruct")
def _construct(call: Call) -> Value:
    return call.run_time(sequence, *call.given())


@operator("SequenceEmpty")
def _empty(call: Call) -> Value:
    call.ignore("dtype")  # an empty list has no type
    return call.run_time(sequence)


@operator("SequenceAt")
def _at(call: Call) -> Value:
    return call.run_time(sequence_at, call[0], call.scalar(1))


@operator("SequenceInsert")
def _insert(call: Call) -> Value:
    return call.run_time(sequence_insert, call[0], call[1], call.scalar(2))


@operator("SequenceErase")
def _erase(call: Call) -> Value:
    return call.run_time(sequence_erase, call[0], call.scalar(1))


@operator("SequenceLength")
def _length(call: Call) -> Value:
    return call.run_time(sequence_length, call[0])


@operator("SplitToSequence")
def _split(call: Call) -> Value:
    return call.run_time(split_to_sequence, call[0], call.get(1), call.integer("axis", 0), call.flag("keepdims", True))


@operator("ConcatFromSequence")
def _concat(call: Call) -> Value:
    return call.run_time(concat_from_sequence, call[0], call.integer("axis"), call.flag("new_axis"))


@operator("Optional")
def _optional(call: Call) -> Value:
    call.ignore("type")
    return call.run_time(optional, call.get(0))


@operator("OptionalGetElement")
def _get_element(call: Call) -> Value:
    return call.run_time(optional, call[0])


@operator("OptionalHasElement")
def _has_element(call: Call) -> Value:
    return call.run_time(has_element, call.get(0))


def sequence(*values: Tensor) -> list[Tensor]:
    """A list of values."""
    return list(values)


def sequence_at(values: list[Tensor], position: int | Tensor) -> Tensor:
    """One element."""
    return values[int(position)]


def sequence_insert(values: list[Tensor], value: Tensor, position: int | Tensor | None) -> list[Tensor]:
    """A list with one more element, at a position or at the end."""
    at = len(values) if position is None else int(position)
    return [*values[:at], value, *values[at:]]


def sequence_erase(values: list[Tensor], position: int | Tensor | None) -> list[Tensor]:
    """A list without an element: that of a position, or the last."""
    at = len(values) - 1 if position is None else int(position) % len(values)
    return [*values[:at], *values[at + 1 :]]


def sequence_length(values: list[Tensor]) -> Tensor:
    """Number of elements."""
    return torch.tensor(len(values))


def split_to_sequence(x: Tensor, sizes: Tensor | None, axis: int, keep: bool) -> list[Tensor]:
    """Cut along an axis: into parts of one size, of several, or into slices, which may lose the axis."""
    if sizes is None:
        return list(torch.split(x, 1, axis)) if keep else list(x.unbind(axis))
    return list(torch.split(x, int(sizes) if sizes.ndim == 0 else sizes.tolist(), axis))


def concat_from_sequence(values: list[Tensor], axis: int, new: bool) -> Tensor:
    """Join the elements along an axis of theirs or a new one."""
    return torch.stack(values, axis) if new else torch.cat(values, axis)


def optional(value: Tensor | None) -> Tensor | None:
    """A value that may be missing."""
    return value


def has_element(value: Tensor | None) -> Tensor:
    """Whether a value is there."""
    return torch.tensor(value is not None)
