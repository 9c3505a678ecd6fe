"""Sampling pictures at given places."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.kernels import int_list
from fmx_adapters.onnx.importer.registry import operator

_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


@operator("GridSample")
def _grid_sample(call: Call) -> Value:
    mode = _MODES[call.one_of("mode", "linear", list(_MODES))]
    padding = call.one_of("padding_mode", "zeros", ("zeros", "border", "reflection"))
    if mode == "bicubic" and call.rank() == 5:
        call.unsupported("cubic interpolation of volumes")
    return call.call(F.grid_sample, call[0], call[1], mode, padding, align_corners=call.flag("align_corners"))


@operator("AffineGrid")
def _affine_grid(call: Call) -> Value:
    return call.call(affine_grid, call[0], call.int_list(1), call.flag("align_corners"))


def affine_grid(theta: Tensor, size: Ints, align_corners: bool) -> Tensor:
    """Places at which to sample for an affine transformation."""
    return F.affine_grid(theta, int_list(size), align_corners)
