"""Boxes: pooling inside them and choosing among them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator


@operator("RoiAlign")
def _roi_align(call: Call) -> Value:
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"
    half = call.one_of("coordinate_transformation_mode", default, ("half_pixel", "output_half_pixel")) == "half_pixel"
    size = (call.integer("output_height", 1), call.integer("output_width", 1))
    scale, samples = call.decimal("spatial_scale", 1.0), call.integer("sampling_ratio", 0)
    kernel = roi_align if call.one_of("mode", "avg", ("avg", "max")) == "avg" else roi_align_max
    return call.call(kernel, call[0], call[1], call[2], size, scale, samples, half)


@operator("MaxRoiPool")
def _max_roi_pool(call: Call) -> Value:
    size = call.integers("pooled_shape") or (1, 1)
    return call.call(max_roi_pool, call[0], call[1], size, call.decimal("spatial_scale", 1.0))


@operator("NonMaxSuppression")
def _non_max_suppression(call: Call) -> Value:
    most, overlap, score = (call.scalar(i) for i in (2, 3, 4))
    centres = call.flag("center_point_box")
    return call.call(non_max_suppression, call[0], call[1], most, overlap, score, centres)


def roi_align(
    x: Tensor, rois: Tensor, samples_of: Tensor, size: tuple[int, int], scale: float, ratio: int, half: bool
) -> Tensor:
    """Mean of points sampled in each cell of each box (He et al. 2017, Mask R-CNN)."""
    from torchvision.ops import roi_align as pool

    boxes = torch.cat([samples_of.to(rois.dtype).reshape(-1, 1), rois], 1)
    made: Tensor = pool(x, boxes, size, scale, ratio, half)
    return made


def roi_align_max(
    x: Tensor, rois: Tensor, samples_of: Tensor, size: tuple[int, int], scale: float, ratio: int, half: bool
) -> Tensor:
    """Maximum over points sampled in each cell of each box; a point is the greatest of its weighted neighbours."""
    results = []
    for box, sample in zip((rois * scale - (0.5 if half else 0.0)).tolist(), samples_of.tolist(), strict=True):
        picture = x[sample]
        rows = _points(box[1], box[3], size[0], ratio, picture.shape[1], half, x)
        columns = _points(box[0], box[2], size[1], ratio, picture.shape[2], half, x)
        corners = [
            picture[:, r][:, :, c] * (rw.reshape(-1, 1) * cw)
            for r, rw in zip(*rows, strict=True)
            for c, cw in zip(*columns, strict=True)
        ]
        found = torch.stack(corners).amax(0)
        cells = found.reshape(found.shape[0], size[0], found.shape[1] // size[0], size[1], -1)
        results.append(cells.amax((2, 4)))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], *size)


def _points(
    start: float, end: float, cells: int, ratio: int, length: int, half: bool, like: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Sample one axis of a box: the neighbours below and above each point, and their weights."""
    extent = end - start if half else max(end - start, 1.0)
    count = ratio if ratio > 0 else max(math.ceil(extent / cells), 1)
    step = extent / cells / count
    at = start + (torch.arange(cells * count, dtype=torch.float64, device=like.device) + 0.5) * step
    inside = (at >= -1) & (at <= length)
    at = at.clamp(0, length - 1)
    low = at.floor().to(torch.int64)
    part = at - low
    weights = (torch.where(inside, 1 - part, 0).to(like.dtype), torch.where(inside, part, 0).to(like.dtype))
    return (low, (low + 1).clamp(max=length - 1)), weights


def max_roi_pool(x: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Maximum over each cell of each box (Girshick 2015, Fast R-CNN)."""
    from torchvision.ops import roi_pool

    made: Tensor = roi_pool(x, rois, tuple(size), scale)
    return made


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: float | Tensor | None,
    overlap: float | Tensor | None,
    least: float | Tensor | None,
    centres: bool,
) -> Tensor:
    """Choose boxes by falling score, leaving out those that overlap a chosen one.

    Returns
    -------
    Tensor
        (box, 3): sample, class and number of each chosen box.
    """
    from torchvision.ops import nms

    limit = 0 if most is None else int(most)
    if centres:
        centre, size = boxes[..., :2], boxes[..., 2:]
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)
    else:
        ends = boxes[..., :2], boxes[..., 2:]
        corners = torch.cat([torch.minimum(*ends), torch.maximum(*ends)], -1)
    chosen = [torch.zeros(0, 3, dtype=torch.int64, device=boxes.device)]
    for sample in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            own = scores[sample, kind]
            known = torch.arange(len(own), device=own.device) if least is None else (own > least).nonzero().reshape(-1)
            kept = known[nms(corners[sample][known], own[known], 0.0 if overlap is None else float(overlap))[:limit]]
            place = kept.new_tensor([sample, kind]).expand(len(kept), 2)
            chosen.append(torch.cat([place, kept.reshape(-1, 1)], 1))
    return torch.cat(chosen)
