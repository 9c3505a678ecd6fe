"""Resizing by interpolation along each axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.kernels import along, int_list
from fmx_adapters.onnx.importer.registry import operator

_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)
_NEAREST: dict[str, Callable[[Tensor, float], Tensor]] = {
    "round_prefer_floor": lambda x, _: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x, _: torch.floor(x + 0.5),
    "floor": lambda x, _: torch.floor(x),
    "ceil": lambda x, _: torch.ceil(x),
    # Before operator set 11 there was no word on it; this is what ONNX Runtime does.
    "old": lambda x, scale: torch.ceil(x) if scale < 1 else torch.floor(x),
}
_MODES = ("nearest", "linear", "cubic")
_MANY_TAPS = 8


class _Style(NamedTuple):
    """How positions are found and neighbours weighed; see ONNX's Resize for the words."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude: bool
    outside: float
    antialias: bool


@operator("Upsample")
def _upsample(call: Call) -> Value:
    return _resize_by_scales(call)


def _resize_by_scales(call: Call) -> Value:
    """Upsample, and Resize as it was at first."""
    scales = call.scales(1)
    mode = call.one_of("mode", "nearest", ("nearest", "linear"))
    style = _Style(mode, "asymmetric", "old", -0.75, False, 0.0, False)
    return call.call(resize, call[0], None, scales, None, None, "stretch", tuple(style))


@operator("Resize")
def _resize(call: Call) -> Value:
    if call.version < 11:
        return _resize_by_scales(call)
    style = _Style(
        mode=call.one_of("mode", "nearest", _MODES),
        coordinates=call.one_of("coordinate_transformation_mode", "half_pixel", _COORDINATES),
        nearest=call.one_of("nearest_mode", "round_prefer_floor", list(_NEAREST)[:4]),
        cubic=call.decimal("cubic_coeff_a", -0.75),
        exclude=call.flag("exclude_outside"),
        outside=call.decimal("extrapolation_value"),
        antialias=call.flag("antialias"),
    )
    policy = call.one_of("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    crop = call.get(1) if style.coordinates == "tf_crop_and_resize" else None
    return call.call(
        resize, call[0], crop, call.scales(2), call.int_list(3), call.integers("axes"), policy, tuple(style)
    )


def resize(
    x: Tensor,
    crop: Tensor | None,
    scales: Sequence[float] | Tensor | None,
    sizes: Ints | None,
    axes: Sequence[int] | None,
    policy: str,
    style: tuple[str, str, str, float, bool, float, bool],
) -> Tensor:
    """Resize by scales or to sizes, axis by axis."""
    how = _Style(*style)
    listed = [a % x.ndim for a in axes] if axes is not None else list(range(x.ndim))
    lengths = [x.shape[a] for a in listed]
    factors, targets = _targets(lengths, scales, sizes, policy)
    if not _is_plain(x, listed, lengths, factors, targets, how):
        starts = [(0.0, 1.0)] * len(listed) if crop is None else list(zip(*crop.reshape(2, -1).tolist(), strict=True))
        dtype = x.dtype
        for axis, factor, target, (a, b) in zip(listed, factors, targets, starts, strict=True):
            cropped = how.coordinates == "tf_crop_and_resize" and (a, b) != (0, 1)
            if factor != 1 or target != x.shape[axis] or cropped:
                x = _resize_axis(x, axis, factor, target, (a, b), how)
        return x.to(dtype)
    wanted = [targets[listed.index(a)] if a in listed else x.shape[a] for a in range(2, x.ndim)]
    return _interpolate(x, wanted, how)


def _targets(
    lengths: Sequence[int], scales: Sequence[float] | Tensor | None, sizes: Ints | None, policy: str
) -> tuple[list[float], list[int]]:
    """Scale and new length of each axis."""
    given = scales.tolist() if isinstance(scales, Tensor) else list(scales or ())
    if given:
        return given, [math.floor(n * s) for n, s in zip(lengths, given, strict=True)]
    wanted = int_list(sizes) if sizes is not None else list(lengths)
    ratios = [w / n for w, n in zip(wanted, lengths, strict=True)]
    if policy == "stretch":
        return ratios, wanted
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [ratio] * len(ratios), [math.floor(ratio * n + 0.5) for n in lengths]


def _is_plain(
    x: Tensor,
    axes: Sequence[int],
    lengths: Sequence[int],
    factors: Sequence[float],
    targets: Sequence[int],
    how: _Style,
) -> bool:
    """Whether PyTorch's own interpolation, which is faster, gives the same."""
    if x.ndim not in {3, 4, 5} or not x.is_floating_point() or how.antialias or how.exclude:
        return False
    for axis, length, factor, target in zip(axes, lengths, factors, targets, strict=True):
        if (axis < 2 and target != length) or factor * length != target:
            return False
    if how.mode == "nearest":
        return how.coordinates == "asymmetric" and (
            how.nearest == "floor" or (how.nearest == "old" and min(factors) >= 1)
        )
    if how.mode == "cubic" and (x.ndim != 4 or how.cubic != -0.75):
        return False
    return how.coordinates in {"half_pixel", "align_corners"} or (
        how.coordinates == "pytorch_half_pixel" and min(targets) > 1
    )


def _interpolate(x: Tensor, sizes: Sequence[int], how: _Style) -> Tensor:
    names = {"nearest": "nearest", "cubic": "bicubic", "linear": {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]}
    align = None if how.mode == "nearest" else how.coordinates == "align_corners"
    return F.interpolate(x, list(sizes), mode=names[how.mode], align_corners=align)


def _resize_axis(x: Tensor, axis: int, factor: float, target: int, crop: tuple[float, float], how: _Style) -> Tensor:
    """Interpolate along one axis: each new element is a weighted sum of old ones."""
    length = x.shape[axis]
    where = _positions(length, target, factor, crop, how.coordinates)
    if how.mode == "nearest":
        taps = _NEAREST[how.nearest](where, factor).reshape(-1, 1)
        weights = torch.ones_like(taps)
    else:
        taps, weights = _weighed(where, factor, how)
    if how.exclude and how.mode != "nearest":
        weights = torch.where((taps < 0) | (taps >= length), 0, weights)
        weights = weights / weights.sum(1, keepdim=True)
    outside = (where < 0) | (where > length - 1)
    taps = taps.clamp(0, length - 1).to(torch.int64).to(x.device)
    result = (
        _combined(x, axis, taps, weights.to(x.device)) if how.mode != "nearest" else x.index_select(axis, taps[:, 0])
    )
    if how.coordinates == "tf_crop_and_resize":
        mask = along(outside.to(x.device), axis, x.ndim)
        result = torch.where(mask, how.outside, result)
    return result


def _combined(x: Tensor, axis: int, taps: Tensor, weights: Tensor) -> Tensor:
    dtype = x.dtype if x.is_floating_point() else torch.float64
    x, weights = x.to(dtype), weights.to(dtype)
    if taps.shape[1] > _MANY_TAPS:
        matrix = weights.new_zeros(len(taps), x.shape[axis]).scatter_add(1, taps, weights)
        return (x.movedim(axis, -1) @ matrix.t()).movedim(-1, axis)
    parts = [
        x.index_select(axis, tap) * along(weight, axis, x.ndim)
        for tap, weight in zip(taps.unbind(1), weights.unbind(1), strict=True)
    ]
    return torch.stack(parts).sum(0)


def _positions(length: int, target: int, factor: float, crop: tuple[float, float], coordinates: str) -> Tensor:
    """Where the new elements lie among the old ones."""
    new = torch.arange(target, dtype=torch.float64)
    middle = (new + 0.5) / factor - 0.5
    if coordinates == "align_corners":
        return new * (length - 1) / (target - 1) if target > 1 else torch.zeros_like(new)
    if coordinates == "tf_crop_and_resize":
        start, end = (edge * (length - 1) for edge in crop)
        return start + new * (end - start) / (target - 1) if target > 1 else torch.full_like(new, 0.5 * (start + end))
    if coordinates in {"asymmetric", "tf_half_pixel_for_nn"}:
        return (new + (0.5 if coordinates == "tf_half_pixel_for_nn" else 0.0)) / factor
    if coordinates == "half_pixel_symmetric":
        return middle + length / 2 * (1 - target / (factor * length))
    return torch.zeros_like(new) if coordinates == "pytorch_half_pixel" and target == 1 else middle


def _weighed(where: Tensor, factor: float, how: _Style) -> tuple[Tensor, Tensor]:
    """The neighbours of each position and their weights; an antialiasing filter is stretched when scaling down."""
    stretch = max(1.0, 1 / factor) if how.antialias else 1.0
    reach = math.ceil((1 if how.mode == "linear" else 2) * stretch)
    taps = torch.floor(where).reshape(-1, 1) + torch.arange(1 - reach, reach + 1)
    distance = (taps - where.reshape(-1, 1)).abs() / stretch
    weights = (1 - distance).clamp(min=0) if how.mode == "linear" else _cubic(distance, how.cubic)
    return taps, weights / weights.sum(1, keepdim=True) if how.antialias else weights


def _cubic(d: Tensor, a: float) -> Tensor:
    """Cubic convolution (Keys 1981, equation 4)."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0))
