"""Small things that the functions of several themes need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Ints

__all__ = ["along", "int_list", "pad_axes", "wrapped"]


def int_list(values: Ints) -> list[int]:
    """Give integers that may have been computed at run time as a list."""
    if isinstance(values, Tensor):
        return [int(i) for i in values.reshape(-1).tolist()]
    return list(values)


def wrapped(indices: Tensor, size: int) -> Tensor:
    """Make indices that count from the end count from the start."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """Give a vector as many axes as a tensor has that it is to be combined with along one axis."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def pad_axes(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes with a number; negative widths cut off."""
    widths = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
    return F.pad(x, widths, value=value) if any(widths) else x
