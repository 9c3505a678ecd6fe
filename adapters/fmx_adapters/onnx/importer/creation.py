"""Tensors out of nothing: constants, ranges and random values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.constants import Const
from fmx_adapters.onnx.importer.kernels import int_list
from fmx_adapters.onnx.importer.registry import operator

_NUMBERS: dict[str, tuple[Callable[[Call, str], Any], torch.dtype]] = {
    "value_float": (Call.decimal, torch.float32),
    "value_floats": (Call.decimals, torch.float32),
    "value_int": (Call.integer, torch.int64),
    "value_ints": (Call.integers, torch.int64),
}


@operator("Constant")
def _constant(call: Call) -> Value:
    name = call.node.output[0]
    for attribute, (read, dtype) in _NUMBERS.items():
        if call.has(attribute):
            return Const(torch.tensor(read(call, attribute), dtype=dtype), name)
    tensor = call.tensor("value")
    if tensor is None:
        call.unsupported("a constant of strings or a sparse one")
    # Some exporters write weights this way; a single number is none.
    return Const(tensor, name, weight=tensor.is_floating_point() and tensor.numel() > 1)


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Value:
    value = call.tensor("value")
    filled = torch.zeros(1) if value is None else value
    return call.call(filled_like_shape, call.int_list(0), Const(filled, f"{call.node.output[0]}_fill"))


@operator("EyeLike")
def _eye_like(call: Call) -> Value:
    return call.call(eye_like, call[0], call.integer("k", 0), call.dtype("dtype"))


@operator("Range")
def _range(call: Call) -> Value:
    call.ignore("stash_type")
    return call.call(range_, call[0], call[1], call[2])


@operator("RandomNormal", "RandomUniform")
def _random(call: Call) -> Value:
    dtype = call.dtype("dtype", 1)
    return call.run_time(random, call.integers("shape"), dtype, None, _limits(call), _seed(call), _normal(call))


@operator("RandomNormalLike", "RandomUniformLike")
def _random_like(call: Call) -> Value:
    dtype = call.dtype("dtype")
    return call.run_time(random, None, dtype, call[0], _limits(call), _seed(call), _normal(call))


@operator("Bernoulli")
def _bernoulli(call: Call) -> Value:
    return call.run_time(bernoulli, call[0], call.dtype("dtype"), _seed(call))


def _normal(call: Call) -> bool:
    return "Normal" in call.node.op_type


def _limits(call: Call) -> tuple[float, float]:
    names = (("mean", 0.0), ("scale", 1.0)) if _normal(call) else (("low", 0.0), ("high", 1.0))
    return call.decimal(*names[0]), call.decimal(*names[1])


def _seed(call: Call) -> int | None:
    return hash(call.decimal("seed")) if call.has("seed") else None


def filled_like_shape(shape: Ints, value: Tensor) -> Tensor:
    """A tensor of one value."""
    return value.reshape(()).expand(int_list(shape)).contiguous()


def eye_like(x: Tensor, diagonal: int, dtype: torch.dtype | None) -> Tensor:
    """Ones on a diagonal of a matrix of the same shape, zeros elsewhere."""
    ones = torch.ones(x.shape, device=x.device)
    return (ones.triu(diagonal) * ones.tril(diagonal)).to(dtype or x.dtype)


def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """Numbers from a start up to a limit, which is left out."""
    wide = torch.float64 if start.is_floating_point() else torch.int64
    first, last, step = (value.to(wide).reshape(()).item() for value in (start, limit, delta))
    count = max(-int((first - last) // step), 0)
    exact = torch.float32 if start.dtype in {torch.float16, torch.bfloat16} else start.dtype
    steps = torch.arange(count, device=start.device).to(exact)
    return (start.reshape(()).to(exact) + steps * delta.reshape(()).to(exact)).to(start.dtype)


def random(
    shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
    like: Tensor | None,
    limits: tuple[float, float],
    seed: int | None,
    normal: bool,
) -> Tensor:
    """Random numbers of a normal distribution (mean, standard deviation) or a uniform one (from, to)."""
    device = like.device if like is not None else torch.device("cpu")
    sizes = (shape or ()) if like is None else tuple(like.shape)
    made = torch.empty(sizes, dtype=dtype or (like.dtype if like is not None else None))
    generator = _generator(seed)
    made = made.normal_(*limits, generator=generator) if normal else made.uniform_(*limits, generator=generator)
    return made.to(device)


def bernoulli(x: Tensor, dtype: torch.dtype | None, seed: int | None) -> Tensor:
    """Ones with the given probabilities, else zeros."""
    return torch.bernoulli(x.detach().cpu(), generator=_generator(seed)).to(x.device, dtype or x.dtype)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed % 2**63)
