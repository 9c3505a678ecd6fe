"""Activations: modules of `torch.nn` wherever there is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)

_MODULES: dict[str, Callable[[Call], nn.Module]] = {
    "Celu": lambda call: nn.CELU(call.decimal("alpha", 1.0)),
    "Elu": lambda call: nn.ELU(call.decimal("alpha", 1.0)),
    "Gelu": lambda call: nn.GELU(call.one_of("approximate", "none", ("none", "tanh"))),
    "HardSwish": lambda _: nn.Hardswish(),
    "LeakyRelu": lambda call: nn.LeakyReLU(call.decimal("alpha", 0.01)),
    "Mish": lambda _: nn.Mish(),
    "Relu": lambda _: nn.ReLU(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Softplus": lambda _: nn.Softplus(),
    "Softsign": lambda _: nn.Softsign(),
    "Tanh": lambda _: nn.Tanh(),
    "ThresholdedRelu": lambda call: nn.Threshold(call.decimal("alpha", 1.0), 0.0),
}


@operator(*_MODULES)
def _module(call: Call) -> Value:
    return call.module(_MODULES[call.node.op_type](call), call[0])


@operator("PRelu")
def _prelu(call: Call) -> Value:
    slope, rank = call.constant(1), call.rank()
    if slope is None or rank is None or rank < 2 or not slope.is_floating_point():
        return call.call(prelu, call[0], call[1])
    per_channel = slope.ndim in {rank - 1, rank} and slope.shape[slope.ndim - rank + 1] == slope.numel()
    if not per_channel and slope.numel() != 1:
        return call.call(prelu, call[0], call[1])
    module = nn.PReLU(slope.numel(), device="meta")
    module.weight = nn.Parameter(slope.reshape(-1))
    return call.module(module, call[0], path=call.weight_path())


@operator("Clip")
def _clip(call: Call) -> Value:
    low: float | Value | None
    high: float | Value | None
    if call.version < 11:
        low = call.decimal("min") if call.has("min") else None
        high = call.decimal("max") if call.has("max") else None
    else:
        low, high = call.scalar(1), call.scalar(2)
    if low == 0 and (high is None or (isinstance(high, int | float) and high > 0)) and call.is_float(unknown=True):
        if high is None:
            return call.module(nn.ReLU(), call[0])
        return call.module(nn.ReLU6() if high == 6 else nn.Hardtanh(0, high), call[0])
    return call.call(clip, call[0], low, high)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Value:
    alpha, beta = call.decimal("alpha", 0.2), call.decimal("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return call.module(nn.Hardsigmoid(), call[0])
    return call.call(hard_sigmoid, call[0], alpha, beta)


@operator("Selu")
def _selu(call: Call) -> Value:
    alpha, gamma = call.decimal("alpha", _SELU[0]), call.decimal("gamma", _SELU[1])
    if all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip((alpha, gamma), _SELU, strict=True)):
        return call.module(nn.SELU(), call[0])
    return call.call(selu, call[0], alpha, gamma)


@operator("Shrink")
def _shrink(call: Call) -> Value:
    return call.call(shrink, call[0], call.decimal("bias"), call.decimal("lambd", 0.5))


@operator("Swish")
def _swish(call: Call) -> Value:
    alpha = call.decimal("alpha", 1.0)
    return call.module(nn.SiLU(), call[0]) if alpha == 1 else call.call(swish, call[0], alpha)


@operator("SwiGLU")
def _swiglu(call: Call) -> Value:
    return call.call(swiglu, call[0], call[1], call.decimal("alpha", 1.0))


@operator("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Value:
    kind = call.node.op_type
    # Before 13, all axes from this one on are taken together.
    axis = call.integer("axis", -1 if call.version >= 13 else 1)
    rank = call.rank()
    if call.version < 13 and not (rank is not None and axis % rank == rank - 1):
        return call.call(over_last_axes, kind, call[0], axis)
    dim = axis if call.version >= 13 else -1
    if kind == "Hardmax":
        return call.call(hardmax, call[0], dim)
    return call.module(nn.Softmax(dim) if kind == "Softmax" else nn.LogSoftmax(dim), call[0])


@operator("Dropout")
def _dropout(call: Call) -> Value | list[Value]:
    call.ignore("seed")  # PyTorch draws other numbers in any case
    ratio = call.decimal("ratio", 0.5) if call.version < 12 else call.scalar(1, 0.5)
    training = call.constant(2)
    if call.get(2) is not None and (training is None or bool(training)):
        return call.split(call.run_time(dropout, call[0], ratio, call[2]))
    if call.wants(1):
        return [call.call(torch.clone, call[0]), call.call(mask_of_ones, call[0])]
    # A ratio that is computed is left to nobody: nothing is dropped here in any case.
    return call.module(nn.Dropout(ratio if isinstance(ratio, int | float) else 0.5), call[0])


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Multiply what is below zero by a slope."""
    return torch.where(x < 0, slope * x, x)


def clip(x: Tensor, low: float | Tensor | None, high: float | Tensor | None) -> Tensor:
    """Limit the elements; the upper limit wins where the limits cross."""
    if low is not None:
        x = torch.clamp(x, min=low)
    return x if high is None else torch.clamp(x, max=high)


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Limit ``alpha * x + beta`` to 0…1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Scaled exponential linear unit."""
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


def shrink(x: Tensor, bias: float, limit: float) -> Tensor:
    """Move what is beyond the limits toward zero, and set what is within to zero."""
    beyond = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, 0))
    return beyond.to(x.dtype)


def swish(x: Tensor, alpha: float) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(alpha * x)


def swiglu(gate: Tensor, x: Tensor, alpha: float) -> Tensor:
    """Multiply by the swish of a gate."""
    return swish(gate, alpha) * x


def hardmax(x: Tensor, dim: int) -> Tensor:
    """Set the first of the greatest elements to 1, the others to 0."""
    return torch.zeros_like(x).scatter(dim, x.argmax(dim, keepdim=True), 1)


def over_last_axes(kind: str, x: Tensor, axis: int) -> Tensor:
    """Softmax and its kin over all axes from one on, taken as one."""
    flat = x.reshape(*x.shape[: axis % x.ndim], -1)
    functions: dict[str, Callable[[Tensor, int], Tensor]] = {
        "Softmax": torch.softmax,
        "LogSoftmax": torch.log_softmax,
        "Hardmax": hardmax,
    }
    return functions[kind](flat, -1).reshape(x.shape)


def dropout(x: Tensor, ratio: float | Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Set random elements to zero in training; gives the mask of those that stay, too."""
    share = float(ratio) if bool(training) else 0.0
    mask = torch.rand(x.shape, device=x.device) >= share
    return torch.where(mask, x / (1 - share), 0).to(x.dtype), mask


def mask_of_ones(x: Tensor) -> Tensor:
    """The mask of a dropout that drops nothing."""
    return torch.ones_like(x, dtype=torch.bool)
