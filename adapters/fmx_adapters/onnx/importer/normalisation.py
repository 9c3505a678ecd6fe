"""Normalisation: modules of `torch.nn` where their parameters are constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.constants import DTYPES
from fmx_adapters.onnx.importer.kernels import along
from fmx_adapters.onnx.importer.registry import operator

_BATCH_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS: dict[int, type[nn.Module]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def _all_known(call: Call, *indices: int) -> bool:
    return all(call.constant(i) is not None for i in indices)


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Value | list[Value]:
    epsilon, momentum = call.decimal("epsilon", 1e-5), call.decimal("momentum", 0.9)
    if call.flag("training_mode"):
        return call.several(batch_norm_training, *(call[i] for i in range(5)), epsilon, momentum)
    if any(call.wants(i) for i in range(1, 5)):
        call.unsupported("training mode before operator set 14")
    rank = call.rank()
    if rank not in _BATCH_NORMS or not _all_known(call, 1, 2, 3, 4):
        return call.call(batch_norm, call[0], call[1], call[2], call[3], call[4], epsilon)
    mean, variance = call.constant(3), call.constant(4)
    assert mean is not None and variance is not None
    module = _BATCH_NORMS[rank](mean.numel(), epsilon, 1 - momentum, device="meta")
    _set_weights(module, call)
    module.running_mean, module.running_var = mean, variance
    module.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return call.module(module, call[0], path=call.weight_path())


def _set_weights(module: nn.Module, call: Call, *, bias: bool = True) -> None:
    module.weight = call.parameter(1)
    if bias:
        module.bias = call.parameter(2)


@operator("InstanceNormalization")
def _instance_norm(call: Call) -> Value:
    epsilon, rank = call.decimal("epsilon", 1e-5), call.rank()
    scale = call.constant(1)
    if rank not in _INSTANCE_NORMS or scale is None or not _all_known(call, 2):
        return call.call(instance_norm, call[0], call[1], call[2], epsilon)
    module = _INSTANCE_NORMS[rank](scale.numel(), epsilon, affine=True, device="meta")
    _set_weights(module, call)
    return call.module(module, call[0], path=call.weight_path())


@operator("LayerNormalization")
def _layer_norm(call: Call) -> Value | list[Value]:
    axis, epsilon, stash = call.integer("axis", -1), call.decimal("epsilon", 1e-5), call.integer("stash_type", 1)
    scale, bias = call.constant(1), call.get(2)
    plain = _last_axes(call, axis, scale) and not call.wants(1) and not call.wants(2)
    if plain and scale is not None and (bias is None or _all_known(call, 2)):
        module = nn.LayerNorm(tuple(scale.shape), epsilon, bias=bias is not None, device="meta")
        _set_weights(module, call, bias=bias is not None)
        return call.module(module, call[0], path=call.weight_path())
    return call.several(layer_norm, call[0], call[1], bias, axis, epsilon, DTYPES[stash])


@operator("RMSNormalization")
def _rms_norm(call: Call) -> Value:
    axis, epsilon, stash = call.integer("axis", -1), call.decimal("epsilon", 1e-5), call.integer("stash_type", 1)
    scale = call.constant(1)
    if scale is not None and _last_axes(call, axis, scale):
        module = nn.RMSNorm(tuple(scale.shape), epsilon, device="meta")
        _set_weights(module, call, bias=False)
        return call.module(module, call[0], path=call.weight_path())
    return call.call(rms_norm, call[0], call[1], axis, epsilon, DTYPES[stash])


def _last_axes(call: Call, axis: int, scale: Tensor | None) -> bool:
    """Say whether a scale belongs to just the axes from one on, element by element, in the type of the input."""
    rank = call.rank()
    if scale is None or rank is None or not call.is_float() or DTYPES.get(call.elem()) != scale.dtype:
        return False
    shape = call.builder.type_of(call.node.input[0]).shape
    own = shape[axis % rank :] if shape is not None else ()
    return scale.dtype in {torch.float32, torch.float64} and tuple(scale.shape) == own


@operator("GroupNormalization")
def _group_norm(call: Call) -> Value:
    groups, epsilon = call.integer("num_groups"), call.decimal("epsilon", 1e-5)
    stash = call.integer("stash_type", 1)
    per_channel = call.version >= 21
    scale = call.constant(1)
    if scale is None or not per_channel or not _all_known(call, 2):
        return call.call(group_norm, call[0], call[1], call[2], groups, epsilon, per_channel, DTYPES[stash])
    module = nn.GroupNorm(groups, scale.numel(), epsilon, device="meta")
    _set_weights(module, call)
    return call.module(module, call[0], path=call.weight_path())


@operator("LRN")
def _local_response_norm(call: Call) -> Value:
    size = call.integer("size")
    alpha, beta, bias = call.decimal("alpha", 1e-4), call.decimal("beta", 0.75), call.decimal("bias", 1.0)
    if size % 2:
        return call.module(nn.LocalResponseNorm(size, alpha, beta, bias), call[0])
    return call.call(local_response_norm, call[0], size, alpha, beta, bias)


@operator("LpNormalization")
def _lp_normalization(call: Call) -> Value:
    return call.call(lp_normalize, call[0], call.integer("p", 2), call.integer("axis", -1))


@operator("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Value:
    return call.call(standardize, call[0], call.integers("axes") or (0, 2, 3))


def batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Normalise channels by given means and variances."""
    return F.batch_norm(x, mean.detach(), variance.detach(), scale, bias, eps=epsilon)


def batch_norm_training(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float, momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise channels by their own means and variances; gives the running means and variances, too."""
    axes = [0, *range(2, x.ndim)]
    own_mean, own_variance = x.mean(axes), x.var(axes, correction=0)
    result = F.batch_norm(x, None, None, scale, bias, True, eps=epsilon)
    running = [momentum * old + (1 - momentum) * new for old, new in ((mean, own_mean), (variance, own_variance))]
    return result, running[0], running[1]


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Normalise each channel of each sample."""
    axes = list(range(2, x.ndim))
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    normal = (x - mean) * torch.rsqrt(variance + epsilon)
    return normal * along(scale, 1, x.ndim) + along(bias, 1, x.ndim)


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float, stash: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over the axes from one on; gives mean and inverse standard deviation too."""
    axes = list(range(axis % x.ndim, x.ndim))
    wide = x.to(torch.promote_types(x.dtype, stash))
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt(wide.var(axes, correction=0, keepdim=True) + epsilon)
    result = ((wide - mean) * inverse).to(x.dtype) * scale
    return result if bias is None else result + bias, mean, inverse


def rms_norm(x: Tensor, scale: Tensor, axis: int, epsilon: float, stash: torch.dtype) -> Tensor:
    """Divide by the root of the mean square over the axes from one on."""
    wide = x.to(torch.promote_types(x.dtype, stash))
    mean = wide.square().mean(list(range(axis % x.ndim, x.ndim)), keepdim=True)
    return ((wide * torch.rsqrt(mean + epsilon)).to(scale.dtype) * scale).to(scale.dtype)


def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, groups: int, epsilon: float, per_channel: bool, stash: torch.dtype
) -> Tensor:
    """Normalise groups of channels; scale and bias are one a channel or, before operator set 21, one a group."""
    if not per_channel:
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    wide = F.group_norm(x.to(torch.promote_types(x.dtype, stash)), groups, eps=epsilon).to(x.dtype)
    return wide * along(scale, 1, x.ndim) + along(bias, 1, x.ndim)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """Divide by a power of the squares of neighbouring channels; of an even number, one more of those after."""
    before = (size - 1) // 2
    flat = x.square().reshape(x.shape[0], 1, x.shape[1], -1)
    sums = F.pad(flat, (0, 0, before, size - 1 - before)).unfold(2, size, 1).sum(-1)
    return x / (bias + alpha / size * sums.reshape(x.shape)) ** beta


def lp_normalize(x: Tensor, p: int, axis: int) -> Tensor:
    """Divide by the p-norm along an axis; where that is zero, the result is."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, 0, x / torch.where(norm == 0, 1, norm))


def standardize(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Take off the mean and divide by the standard deviation."""
    axes = list(axes)
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)
