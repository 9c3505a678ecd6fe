"""Matrix products."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator


@operator("MatMul")
def _matmul(call: Call) -> Value:
    weight = call.constant(1)
    if weight is not None and weight.ndim == 2 and weight.is_floating_point() and _rank_above(call, 1):
        return _linear(call, transposed=True)
    return call.call(torch.matmul, call[0], call[1])


@operator("Gemm")
def _gemm(call: Call) -> Value:
    alpha, beta = call.decimal("alpha", 1.0), call.decimal("beta", 1.0)
    first, second = call.flag("transA"), call.flag("transB")
    weight, bias = call.constant(1), call.constant(2)
    plain = (alpha, first) == (1, False) and (beta == 1 or bias is None) and call.is_float(unknown=True)
    if plain and weight is not None and (call.get(2) is None or _is_bias(bias, weight.shape[0 if second else 1])):
        return _linear(call, transposed=not second)
    return call.call(gemm, call[0], call[1], call.get(2), alpha, beta, first, second)


def _rank_above(call: Call, least: int) -> bool:
    rank = call.rank()
    return rank is not None and rank > least


def _is_bias(bias: Tensor | None, length: int) -> bool:
    return bias is not None and bias.numel() in {1, length} and bias.shape[-1:] in {(), (1,), (length,)}


def _linear(call: Call, *, transposed: bool) -> Value:
    """Add a linear layer; weights and biases are the graph's own parameters where their shapes fit."""
    weight, bias = call.parameter(1, transposed=transposed), call.constant(2)
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = weight
    if bias is not None:
        fits = bias.shape == weight.shape[:1]
        own = call.parameter(2) if fits else nn.Parameter(bias.reshape(-1).repeat(len(weight) // bias.numel()))
        module.bias = own
    return call.module(module, call[0], path=call.weight_path())


@operator("MatMulInteger")
def _matmul_integer(call: Call) -> Value:
    return call.call(matmul_integers, call[0], call[1], call.get(2), call.get(3))


@operator("Einsum")
def _einsum(call: Call) -> Value:
    equation = re.sub(r"\s", "", call.text("equation"))
    return call.call(torch.einsum, equation, *call.given())


@operator("Det")
def _det(call: Call) -> Value:
    return call.call(torch.linalg.det, call[0])


def gemm(a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, first: bool, second: bool) -> Tensor:
    """``alpha * a @ b + beta * c``, with either matrix transposed."""
    product = (a.t() if first else a) @ (b.t() if second else b)
    if alpha != 1:
        product = alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def matmul_integers(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Product of quantised matrices, less their zero points: one each, one a row of the first, one a column."""
    left, right = a.to(torch.int32), b.to(torch.int32)
    if a_zero is not None:
        left = left - (a_zero.unsqueeze(-1) if a_zero.ndim == 1 and a_zero.numel() > 1 else a_zero).to(torch.int32)
    if b_zero is not None:
        right = right - b_zero.to(torch.int32)
    return left @ right
