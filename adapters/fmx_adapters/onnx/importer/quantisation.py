"""Quantised numbers: to and from them, and layers that compute with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from onnx import TensorProto
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.casting import to_float8
from fmx_adapters.onnx.importer.constants import CARRIED, DTYPES
from fmx_adapters.onnx.importer.convolution import convolve, kernel_of, padded, without_zero_point
from fmx_adapters.onnx.importer.kernels import along
from fmx_adapters.onnx.importer.registry import operator
from fmx_adapters.onnx.importer.windows import window_of


@operator("QuantizeLinear")
def _quantize(call: Call) -> Value:
    elem = call.integer("output_dtype") or call.elem(2) or TensorProto.UINT8
    dtype, saturate = call.dtype_of(elem), call.flag("saturate", True)
    zero, axis, block = call.get(2), call.integer("axis", 1), call.integer("block_size")
    precision = call.dtype("precision")
    if dtype.is_floating_point:
        return call.call(quantize_float8, call[0], call[1], zero, axis, block, dtype, saturate)
    limits = CARRIED[elem][1:] if elem in CARRIED else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return call.call(quantize, call[0], call[1], zero, axis, block, precision, dtype, limits)


@operator("DequantizeLinear")
def _dequantize(call: Call) -> Value:
    if call.elem() and call.elem() not in DTYPES and call.elem() not in CARRIED:
        call.dtype_of(call.elem())
    axis, block, dtype = call.integer("axis", 1), call.integer("block_size"), call.dtype("output_dtype")
    return call.call(dequantize, call[0], call[1], call.get(2), axis, block, dtype)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call) -> list[Value]:
    return call.several(dynamic_quantize, call[0])


@operator("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Value:
    return call.call(qlinear_matmul, *(call[i] for i in range(8)))


@operator("QLinearConv")
def _qlinear_conv(call: Call) -> Value:
    kernel = kernel_of(call, 3)
    window, groups = window_of(call, kernel), call.integer("group", 1)
    x = call.helper(without_zero_point, call[0], call[2], 0)
    x, padding = padded(call, window, x)
    weight = call.helper(without_zero_point, call[3], call[5], 0)
    scales, options = [call[1], call[4], call[6]], (window.strides, padding, window.dilations, groups)
    return call.call(qlinear_conv, x, weight, call.get(8), scales, call[7], *options)


def _spread(values: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Give scales or zero points the shape of what they belong to: one for all, one a place, or one a block."""
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return along(values, axis, x.ndim) if values.ndim == 1 and values.numel() > 1 else values.reshape(())


def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    axis: int,
    block: int,
    precision: torch.dtype | None,
    dtype: torch.dtype,
    limits: tuple[int, int],
) -> Tensor:
    """Divide by the scale, round to even, add the zero point and limit."""
    wide = precision or scale.dtype
    ratio = x.to(wide) / _spread(scale, x, axis, block).to(wide)
    # A type that holds the integers of 16 bits, and those limits, exactly.
    steps = torch.round(ratio).double()
    if zero is not None:
        steps = steps + _spread(zero, x, axis, block).double()
    return steps.clamp(*limits).to(torch.int64).to(dtype)


def quantize_float8(
    x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int, dtype: torch.dtype, saturate: bool
) -> Tensor:
    """Divide by the scale and round to an 8-bit float."""
    ratio = x.to(scale.dtype) / _spread(scale, x, axis, block)
    if zero is not None:
        ratio = ratio + _spread(zero.float(), x, axis, block)
    return to_float8(ratio, dtype, saturate)


def dequantize(
    x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int, dtype: torch.dtype | None
) -> Tensor:
    """Take off the zero point and multiply by the scale."""
    exact = torch.float64 if x.dtype == torch.int32 else torch.float32
    steps = x.to(exact)
    if zero is not None:
        steps = steps - _spread(zero.to(exact), x, axis, block)
    return (steps * _spread(scale, x, axis, block).to(exact)).to(dtype or scale.dtype)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to 8 bits over the range of the values; gives scale and zero point too."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1, scale)
    zero = torch.round((-low / scale).clamp(0, 255))
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


def _requantize(exact: Tensor, factor: Tensor, zero: Tensor) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    steps = torch.round(exact * factor) + zero.double()
    return steps.clamp(limits.min, limits.max).to(zero.dtype)


def _per_row(values: Tensor, x: Tensor) -> Tensor:
    return values.unsqueeze(-1) if values.ndim and values.numel() > 1 and values.ndim < x.ndim else values


def qlinear_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, scale: Tensor, zero: Tensor
) -> Tensor:
    """Product of quantised matrices, quantised again; scales are one a matrix, a row of a or a column of b."""
    left = a.double() - _per_row(a_zero, a).double()
    right = b.double() - b_zero.double()
    factor = _per_row(a_scale, a).double() * b_scale.double() / scale.double()
    return _requantize(left @ right, factor, zero)


def qlinear_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scales: list[Tensor],
    zero: Tensor,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of quantised values (their zero points taken off), quantised again."""
    wide_bias = None if bias is None else bias.double()
    exact = convolve(x.double(), weight.double(), wide_bias, strides, padding, dilations, groups)
    x_scale, w_scale, scale = (s.double() for s in scales)
    factor = x_scale * (along(w_scale, 1, x.ndim) if w_scale.numel() > 1 else w_scale.reshape(())) / scale
    return _requantize(exact, factor, zero)
