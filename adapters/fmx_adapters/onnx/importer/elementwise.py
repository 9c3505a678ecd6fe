"""Arithmetic, comparison and logic, element by element."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor, nn

from fmx_adapters.onnx.importer.builder import identity
from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator

# PyTorch has these types but hardly any arithmetic for them.
_WIDE = {TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": identity,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
}

_OF_ONE = {function.__name__ for function in _UNARY.values()}

_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}

_VARIADIC: dict[str, Callable[..., Any]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}


@operator(*_UNARY)
def _unary(call: Call) -> Value:
    function = _UNARY[call.node.op_type]
    if call.elem() in _WIDE and function is not identity:
        return call.call(in_int64, function.__name__, call[0])
    return call.call(function, call[0])


@operator(*_BINARY)
def _binary(call: Call) -> Value:
    function = _BINARY[call.node.op_type]
    if call.elem() in _WIDE:
        return call.call(in_int64, function.__name__, call[0], call[1])
    return call.call(function, call[0], call[1])


@operator(*_VARIADIC)
def _variadic(call: Call) -> Value:
    function, values = _VARIADIC[call.node.op_type], call.given()
    if call.elem() in _WIDE:
        return call.call(in_int64, function.__name__, *values)
    if len(values) == 2:
        # The newer exporter writes clamp(min=0) like this.
        if call.node.op_type == "Max" and call.number(1) == 0 and call.rank(1) == 0 and call.is_float():
            return call.module(nn.ReLU(), call[0])
        return call.call(function, *values)
    return call.call(fold, function.__name__, *values)


@operator("Mean")
def _mean(call: Call) -> Value:
    return call.call(mean_of, *call.given())


@operator("Div")
def _div(call: Call) -> Value:
    if call.elem() in _WIDE:
        return call.call(in_int64, "floor_divide", call[0], call[1])
    return call.call(torch.div if call.is_float() else divide, call[0], call[1])


@operator("Pow")
def _pow(call: Call) -> Value:
    same = call.is_float() and call.elem(0) == call.elem(1)
    return call.call(torch.pow if same else power, call[0], call[1])


@operator("Mod")
def _mod(call: Call) -> Value:
    function = torch.fmod if call.flag("fmod") else torch.remainder
    if call.elem() in _WIDE:
        return call.call(in_int64, function.__name__, call[0], call[1])
    return call.call(function if call.flag("fmod") or not call.is_float() else modulo, call[0], call[1])


@operator("BitShift")
def _bit_shift(call: Call) -> Value:
    return call.call(shift, call[0], call[1], left=call.one_of("direction", "", ("LEFT", "RIGHT")) == "LEFT")


@operator("IsInf")
def _is_inf(call: Call) -> Value:
    negative, positive = call.flag("detect_negative", True), call.flag("detect_positive", True)
    if negative and positive:
        return call.call(torch.isinf, call[0])
    return call.call(is_inf, call[0], negative=negative, positive=positive)


@operator("Where")
def _where(call: Call) -> Value:
    return call.call(torch.where, call[0], call[1], call[2])


def in_int64(name: str, *values: Tensor) -> Tensor:
    """Compute with 64-bit integers what PyTorch does not compute with the given type."""
    wide = [value.to(torch.int64) for value in values]
    result = getattr(torch, name)(wide[0]) if name in _OF_ONE else fold(name, *wide)
    return result if result.dtype == torch.bool else result.to(values[0].dtype)


def fold(name: str, *values: Tensor) -> Tensor:
    """Combine any number of values by a function of two."""
    return functools.reduce(getattr(torch, name), values)


def mean_of(*values: Tensor) -> Tensor:
    """Average values of shapes that broadcast."""
    return fold("add", *values) / len(values)


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Divide; integers are rounded toward zero."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def power(x: Tensor, y: Tensor) -> Tensor:
    """Raise to a power of any type; the result has the type of the base."""
    if y.dtype in {torch.uint16, torch.uint32, torch.uint64}:
        y = y.to(torch.int64)
    return torch.pow(x, y).to(x.dtype)


def modulo(x: Tensor, y: Tensor) -> Tensor:
    """Remainder with the sign of the divisor, which by an infinite divisor is the dividend or the divisor."""
    exact = torch.where((x < 0) != (y < 0), torch.where(x == 0, x, y), x)
    return torch.where(torch.isinf(y) & torch.isfinite(x), exact, torch.remainder(x, y))


def shift(x: Tensor, y: Tensor, left: bool) -> Tensor:
    """Shift bits; a distance below 0 or beyond the type's bits leaves nothing but the sign, going right."""
    bits = x.element_size() * 8
    wide, by = x.to(torch.int64), y.to(torch.int64)
    outside = (by < 0) | (by >= bits)
    by = by.clamp(0, bits - 1)
    if left:
        return torch.where(outside, 0, wide << by).to(x.dtype)
    signed = torch.iinfo(x.dtype).min < 0
    gone = torch.where(wide < 0, -1, 0) if signed else torch.zeros_like(wide)
    return torch.where(outside, gone, wide >> by).to(x.dtype)


def is_inf(x: Tensor, negative: bool, positive: bool) -> Tensor:
    """Say which elements are infinite, of one sign or neither."""
    if positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if negative else torch.zeros_like(x, dtype=torch.bool)
