"""Convolutions: modules of `torch.nn` where the weights are constants."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmx_adapters.onnx.importer.call import Call, Ints, Value
from fmx_adapters.onnx.importer.constants import Const
from fmx_adapters.onnx.importer.kernels import along, int_list, pad_axes
from fmx_adapters.onnx.importer.registry import operator
from fmx_adapters.onnx.importer.windows import Window, pad_same, window_of

__all__ = ["convolve"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CONV_MODULES: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSE_MODULES: dict[int, type[nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


@operator("Conv")
def _conv(call: Call) -> Value:
    kernel = kernel_of(call, 1)
    window, groups = window_of(call, kernel), call.integer("group", 1)
    x, padding = padded(call, window)
    weight = call.constant(1)
    if weight is None or not _known(call, 2):
        bias = call.get(2)
        return call.call(convolve, x, call[1], bias, window.strides, padding, window.dilations, groups)
    module = _CONV_MODULES[len(kernel)](
        weight.shape[1] * groups, weight.shape[0], kernel, window.strides, padding, window.dilations, groups,
        bias=call.get(2) is not None, device="meta",
    )  # fmt: skip
    return call.module(_with_weights(module, call, 1, 2), x, path=call.weight_path())


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Value:
    kernel = kernel_of(call, 1)
    window, groups = window_of(call, kernel), call.integer("group", 1)
    if call.text("auto_pad").startswith("SAME") and not window.same:
        window = Window(kernel, window.strides, window.dilations, window.before, window.after, _same(call))
    extra, shape = call.integers("output_padding") or (0,) * len(kernel), call.integers("output_shape")
    weight = call.constant(1)
    free = max(window.strides + window.dilations) > 1 or not any(extra)
    fits = free and all(
        e < max(s, d) or e == 0 for e, s, d in zip(extra, window.strides, window.dilations, strict=True)
    )
    if weight is None or not _known(call, 2) or shape or not window.symmetric or not fits:
        pads = [window.before, window.after]
        return call.call(
            convolve_transposed, call[0], call[1], call.get(2), window.strides, window.dilations, groups,
            pads, extra, shape, window.same,
        )  # fmt: skip
    module = _TRANSPOSE_MODULES[len(kernel)](
        weight.shape[0], weight.shape[1] * groups, kernel, window.strides, window.before, extra, groups,
        bias=call.get(2) is not None, dilation=window.dilations, device="meta",
    )  # fmt: skip
    return call.module(_with_weights(module, call, 1, 2), call[0], path=call.weight_path())


def _same(call: Call) -> str:
    return call.text("auto_pad").removeprefix("SAME_").lower()


@operator("ConvInteger")
def _conv_integer(call: Call) -> Value:
    kernel = kernel_of(call, 1)
    window, groups = window_of(call, kernel), call.integer("group", 1)
    # Padding comes after the zero point has been taken off.
    x = call.helper(without_zero_point, call[0], call.get(2), 0)
    x, padding = padded(call, window, x)
    weight = call.helper(without_zero_point, call[1], call.get(3), 0)
    return call.call(convolve_integers, x, weight, window.strides, padding, window.dilations, groups)


@operator("DeformConv")
def _deform_conv(call: Call) -> Value:
    kernel = kernel_of(call, 1)
    window = window_of(call, kernel)
    if len(kernel) != 2 or not window.symmetric:
        call.unsupported("a window of other than two axes, or padding that differs between the sides,")
    call.ignore("group", "offset_group")  # both follow from the shapes
    options = (window.strides, window.before, window.dilations)
    return call.call(deform_convolve, call[0], call[1], call[2], call.get(3), call.get(4), *options)


@operator("Col2Im")
def _col2im(call: Call) -> Value:
    options = (call.integers("strides"), call.integers("dilations"), call.integers("pads"))
    return call.call(col2im, call[0], call.int_list(1), call.int_list(2), *options)


@operator("CausalConvWithState")
def _causal_conv(call: Call) -> list[Value]:
    activation = call.one_of("activation", "none", ("none", "silu", "swish"))
    return call.several(causal_conv, call[0], call[1], call.get(2), call.get(3), activation != "none")


def kernel_of(call: Call, weight: int) -> tuple[int, ...]:
    """Give the lengths of a kernel, which are an attribute or follow from the weight's shape."""
    given = call.integers("kernel_shape")
    tensor = call.constant(weight)
    shape = tuple(tensor.shape) if tensor is not None else call.builder.type_of(call.node.input[weight]).shape
    kernel = given or (shape[2:] if shape is not None else ())
    if len(kernel) not in _CONV or None in kernel:
        call.unsupported("a kernel of unknown shape, or of other than one to three axes,")
    return tuple(length for length in kernel if length is not None)


def padded(call: Call, window: Window, x: Value | None = None) -> tuple[Value, tuple[int, ...]]:
    """Pad the input unless the convolution itself can do it; gives the padding that is left to it."""
    x = call[0] if x is None else x
    none = (0,) * len(window.kernel)
    if window.symmetric:
        return x, window.before
    if window.same:
        return call.helper(pad_same, x, window.extents, window.strides, window.same), none
    return call.helper(pad_axes, x, window.before, window.after), none


def _known(call: Call, index: int) -> bool:
    value = call.get(index)
    return value is None or isinstance(value, Const)


def _with_weights(module: nn.Module, call: Call, weight: int, bias: int) -> nn.Module:
    module.weight = call.parameter(weight)
    if call.get(bias) is not None:
        module.bias = call.parameter(bias)
    return module


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution over one to three axes."""
    return _CONV[x.ndim - 2](x, weight, bias, strides, padding, dilations, groups)


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    pads: Sequence[Sequence[int]],
    extra: Sequence[int],
    shape: Sequence[int] | None,
    same: str,
) -> Tensor:
    """Transposed convolution whose padding, or result's shape, may be any."""
    n = x.ndim - 2
    full = _CONV_TRANSPOSE[n](x, weight, None, strides, 0, 0, groups, dilations)
    before, after = list(pads[0]), list(pads[1])
    if same or shape is not None:
        wanted = shape[-n:] if shape is not None else [s * d for s, d in zip(strides, x.shape[2:], strict=True)]
        sizes = zip(full.shape[2:], extra, wanted, strict=True)
        totals = [max(size + e - length, 0) for size, e, length in sizes]
        before = [t // 2 if same == "upper" else t - t // 2 for t in totals]
        after = [t - b for t, b in zip(totals, before, strict=True)]
        sizes = zip(full.shape[2:], before, wanted, strict=True)
        result = pad_axes(full, [-b for b in before], [length - size + b for size, b, length in sizes])
    else:
        result = pad_axes(full, [-b for b in before], [e - a for e, a in zip(extra, after, strict=True)])
    return result if bias is None else result + along(bias, 1, x.ndim)


def without_zero_point(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Take a zero point off quantised values: one number, or one for each place on an axis."""
    wide = x.to(torch.int32)
    if zero is None:
        return wide
    return wide - (along(zero, axis, x.ndim) if zero.numel() > 1 else zero.reshape(())).to(torch.int32)


def convolve_integers(
    x: Tensor, weight: Tensor, strides: Sequence[int], padding: Sequence[int], dilations: Sequence[int], groups: int
) -> Tensor:
    """Convolution of integers, in floating point numbers that hold them exactly."""
    options = (strides, padding, dilations, groups)
    return convolve(x.double(), weight.double(), None, *options).round().to(torch.int32)


def deform_convolve(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
) -> Tensor:
    """Convolution whose kernel's points are moved by offsets (Zhu et al. 2019, Deformable ConvNets v2)."""
    from torchvision.ops import deform_conv2d

    options = (tuple(strides), tuple(padding), tuple(dilations))
    made: Tensor = deform_conv2d(x, offset, weight, bias, *options, mask=mask)
    return made


def col2im(
    x: Tensor,
    image: Ints,
    block_shape: Ints,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
) -> Tensor:
    """Add up blocks, the columns, where they lie in a picture of any number of axes."""
    sizes, block = int_list(image), int_list(block_shape)
    strides, dilations = strides or (1,) * len(block), dilations or (1,) * len(block)
    pads = pads or (0,) * (2 * len(block))
    before, after = pads[: len(block)], pads[len(block) :]
    lengths = [size + a + b for size, a, b in zip(sizes, before, after, strict=True)]
    extents = [(k - 1) * d + 1 for k, d in zip(block, dilations, strict=True)]
    counts = [(length - e) // s + 1 for length, e, s in zip(lengths, extents, strides, strict=True)]
    columns = x.reshape(x.shape[0], -1, *block, *counts)
    out = x.new_zeros(*columns.shape[:2], *lengths)
    everywhere = (slice(None), slice(None))
    for place in itertools.product(*map(range, block)):
        geometry = zip(place, dilations, strides, counts, strict=True)
        where = tuple(slice(p * d, p * d + s * (c - 1) + 1, s) for p, d, s, c in geometry)
        out[everywhere + where] += columns[everywhere + place]
    return pad_axes(out, [-p for p in before], [-p for p in after])


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution over time that looks back only, and the last values that the next step needs."""
    behind = weight.shape[-1] - 1
    x = pad_axes(x, [behind], [0]) if past is None else torch.cat([past.to(x.dtype), x], -1)
    y = F.conv1d(x, weight, bias, groups=weight.shape[0])
    return F.silu(y) if silu else y, x[..., x.shape[-1] - behind :]
