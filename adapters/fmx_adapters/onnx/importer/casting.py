"""Changing the element type."""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.constants import CARRIED
from fmx_adapters.onnx.importer.registry import operator

_FLOAT8 = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}


@operator("Cast")
def _cast(call: Call) -> Value:
    return _cast_to(call, call.integer("to"))


@operator("CastLike")
def _cast_like(call: Call) -> Value:
    elem = call.elem(1)
    if not elem:
        call.ignore("saturate", "round_mode")
        return call.call(cast_like, call[0], call[1])
    return _cast_to(call, elem)


def _cast_to(call: Call, elem: int) -> Value:
    saturate = call.flag("saturate", True)
    call.ignore("round_mode")  # matters for the one 8-bit type that is not supported
    dtype = call.dtype_of(elem)
    if call.elem() == TensorProto.STRING:
        call.unsupported("a tensor of strings")
    if elem in CARRIED:
        _, low, high = CARRIED[elem]
        return call.call(wrap, call[0], dtype, low, high)
    if dtype in _FLOAT8:
        return call.call(to_float8, call[0], dtype, saturate)
    return call.call(cast, call[0], dtype)


@operator("BitCast")
def _bit_cast(call: Call) -> Value:
    elem = call.integer("to")
    if elem in CARRIED or call.elem() in CARRIED:
        call.unsupported("an element type of less than a byte")
    return call.call(bit_cast, call[0], call.dtype_of(elem))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert the elements; numbers of a type that is too narrow lose their upper bits."""
    if x.is_floating_point() and not dtype.is_floating_point and dtype not in {torch.bool, torch.int64}:
        x = x.to(torch.int64) if not dtype.is_complex else x
    return x.to(dtype)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Convert the elements to the type of another tensor."""
    return to_float8(x, like.dtype, True) if like.dtype in _FLOAT8 else cast(x, like.dtype)


def wrap(x: Tensor, dtype: torch.dtype, low: int, high: int) -> Tensor:
    """Convert to integers of few bits, which a wider type carries."""
    return (torch.remainder(x.to(torch.int64) - low, high - low + 1) + low).to(dtype)


def to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Convert to an 8-bit float; what is too large becomes the largest number, or else infinite or NaN."""
    x = x.float()
    if saturate:
        largest = torch.finfo(dtype).max
        return x.clamp(-largest, largest).to(dtype)
    if dtype == torch.float8_e4m3fn:
        # PyTorch saturates for this type only. 464 is half a step above the largest number and rounds down to it.
        x = torch.where(x.abs() > 464, torch.nan, x)
    return x.to(dtype)


def bit_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Read the same bits as another type of the same size."""
    return x.view(dtype)
