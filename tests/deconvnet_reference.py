"""A deconvnet as the paper defines it (Zeiler & Fergus 2014), layer by layer, for sequences that may have branches.

Slow and obvious: each layer runs forward, pooling remembers where its maxima were, and the way back undoes one layer
after the other: unpooling puts each value where its maximum was (overlapping windows add up), rectification keeps what
is positive, filtering is a convolution with the transposed filters. What the paper has no rule for passes its
derivative, written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Branches(nn.Module):
    """Sequences side by side: what they give is added up, or concatenated along the channels."""

    def __init__(self, branches: Sequence[nn.Sequential], *, added: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        made = [branch(x) for branch in self.branches]
        if not self.added:
            return torch.cat(made, 1)
        total = made[0]
        for more in made[1:]:
            total = total + more
        return total


class Gate(nn.Module):
    """Squeeze-and-excitation with a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]


def forward(net: Sequence[nn.Module], x: Tensor) -> list[dict[str, Any]]:
    """Run a sequence, and keep what the way back needs: the layer, its input, its output, the switches."""
    seen = []
    for layer in net:
        kept: Any = None
        before = x.clone()
        if isinstance(layer, nn.MaxPool2d):
            how = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            x, kept = F.max_pool2d(x, *how, ceil_mode=layer.ceil_mode, return_indices=True)
        elif isinstance(layer, Branches):
            kept = [forward(list(branch), x.clone()) for branch in layer.branches]
            ends = [branch[-1]["after"] if branch else before for branch in kept]
            x = sum(ends[1:], ends[0]) if layer.added else torch.cat(ends, 1)
        else:
            x = layer(x.clone())
        seen.append({"layer": layer, "before": before, "after": x.clone(), "kept": kept})
    return seen


def backward(seen: list[dict[str, Any]], signal: Tensor) -> Tensor:
    """Undo the layers, the last one first."""
    for step in reversed(seen):
        signal = undo(step["layer"], signal, step["before"], step["kept"])
    return signal


DERIVATIVES: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.LeakyReLU: lambda x: torch.where(x > 0, 1.0, 0.01),
    nn.ELU: lambda x: torch.where(x > 0, 1.0, torch.exp(x)),
    nn.SiLU: lambda x: torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))),
    nn.GELU: lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2 + x * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    nn.Hardswish: lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5)),
    nn.Hardsigmoid: lambda x: torch.where((x > -3) & (x < 3), 1 / 6, 0.0),
    nn.Tanh: lambda x: 1 - torch.tanh(x) ** 2,
    nn.Sigmoid: lambda x: torch.sigmoid(x) * (1 - torch.sigmoid(x)),
}


def undo(layer: nn.Module, signal: Tensor, before: Tensor, kept: Any) -> Tensor:
    if type(layer) in DERIVATIVES:
        return signal * DERIVATIVES[type(layer)](before).to(signal.dtype)
    if isinstance(layer, Branches):
        ends = [branch[-1]["after"] if branch else before for branch in kept]
        parts = [signal] * len(ends) if layer.added else signal.split([end.shape[1] for end in ends], 1)
        back = [backward(branch, part) for branch, part in zip(kept, parts, strict=True)]
        return sum(back[1:], back[0])
    if isinstance(layer, nn.MaxPool2d):
        return unpooled(signal, before, kept)
    return UNDONE[type(layer)](layer, signal, before)


def filtered(conv: nn.Conv2d, signal: Tensor, before: Tensor) -> Tensor:
    """Convolve with the transposed filters, and cut the padding off; what no filter reached at the edge gets 0."""
    full = F.conv_transpose2d(signal, conv.weight, stride=conv.stride, groups=conv.groups, dilation=conv.dilation)
    (height, width), (top, left) = before.shape[2:], conv.padding
    full = F.pad(full, (0, max(0, left + width - full.shape[3]), 0, max(0, top + height - full.shape[2])))
    return full[:, :, top : top + height, left : left + width]


def unpooled(signal: Tensor, before: Tensor, switches: Tensor) -> Tensor:
    placed = torch.zeros_like(before)
    for n in range(signal.shape[0]):
        for c in range(signal.shape[1]):
            flat = placed[n, c].view(-1)
            for value, switch in zip(signal[n, c].flatten(), switches[n, c].flatten(), strict=True):
                flat[switch] += value
    return placed


def spread(pool: nn.AvgPool2d | nn.AdaptiveAvgPool2d, signal: Tensor, before: Tensor) -> Tensor:
    """Share each value out among the pixels of its window."""
    placed = torch.zeros_like(before)
    sides = before.shape[2:]
    for y in range(signal.shape[2]):
        for x in range(signal.shape[3]):
            at = [window(pool, axis, i, sides[axis], signal.shape[2 + axis]) for axis, i in ((0, y), (1, x))]
            (top, bottom), (left, right) = (
                [max(first, 0), min(end, n)] for (first, end), n in zip(at, sides, strict=True)
            )
            count = (bottom - top) * (right - left)
            if isinstance(pool, nn.AvgPool2d) and pool.count_include_pad:
                count = (at[0][1] - at[0][0]) * (at[1][1] - at[1][0])
            if isinstance(pool, nn.AvgPool2d) and pool.divisor_override:
                count = pool.divisor_override
            placed[:, :, top:bottom, left:right] += signal[:, :, y : y + 1, x : x + 1] / count
    return placed


def window(pool: nn.AvgPool2d | nn.AdaptiveAvgPool2d, axis: int, i: int, before: int, after: int) -> tuple[int, int]:
    """Give where a window begins and ends along an axis, padding included, but not what lies behind that."""
    if isinstance(pool, nn.AdaptiveAvgPool2d):
        return i * before // after, -(-(i + 1) * before // after)
    size, step, pad = (pair(n)[axis] for n in (pool.kernel_size, pool.stride, pool.padding))
    first = i * step - pad
    return first, min(first + size, before + pad)


def pair(n: Any) -> tuple[int, int]:
    return n if isinstance(n, tuple) else (n, n)


def gated(layer: Gate, signal: Tensor, before: Tensor) -> Tensor:
    """Scale by the gate, and go through the gate by its derivative."""
    gate = torch.sigmoid(layer.fc(before.mean((2, 3))))
    through = ((signal * before).sum((2, 3)) * gate * (1 - gate)) @ layer.fc.weight
    return signal * gate[:, :, None, None] + (through / before[0, 0].numel())[:, :, None, None]


def normed(layer: nn.LayerNorm, signal: Tensor, before: Tensor) -> Tensor:
    """Undo a layer norm over all of a sample: its Jacobian, written out."""
    x, given = before.flatten(1), (signal * layer.weight).flatten(1)
    centred = x - x.mean(1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(1, keepdim=True) + layer.eps)
    unit = centred / scale
    found = given - given.mean(1, keepdim=True) - unit * (given * unit).mean(1, keepdim=True)
    return (found / scale).view_as(before)


def scaled(layer: nn.BatchNorm2d, signal: Tensor, _before: Tensor) -> Tensor:
    scale = 1 / torch.sqrt(layer.running_var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight
    return signal * scale.view(1, -1, 1, 1)


def narrowed(layer: nn.ConvTranspose2d, signal: Tensor, before: Tensor) -> Tensor:
    found = F.conv2d(signal, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return found[:, :, : before.shape[2], : before.shape[3]]


def rectified(_layer: nn.Module, signal: Tensor, _before: Tensor) -> Tensor:
    return signal.clamp(min=0)


def handed_on(_layer: nn.Module, signal: Tensor, before: Tensor) -> Tensor:
    return signal.reshape(before.shape)


UNDONE: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.AdaptiveAvgPool2d: spread,
    nn.AvgPool2d: spread,
    nn.BatchNorm2d: scaled,
    nn.ChannelShuffle: lambda layer, signal, _: nn.ChannelShuffle(signal.shape[1] // layer.groups)(signal),
    nn.Conv2d: filtered,
    nn.ConvTranspose2d: narrowed,
    nn.Dropout: handed_on,
    nn.Flatten: handed_on,
    nn.Identity: handed_on,
    nn.LayerNorm: normed,
    nn.Linear: lambda layer, signal, _: signal @ layer.weight,
    nn.ReLU: rectified,
    nn.ReLU6: rectified,
    Gate: gated,
}


def deconv(net: nn.Sequential, x: Tensor, layer: int, channels: Sequence[int], activations: int) -> Tensor:
    """Project the strongest activations of some maps of a layer, together, to the input.

    Parameters
    ----------
    net : Sequential
    x : tensor (1, colour, y, x)
    layer : int
        The signal starts from what comes out of this one.
    channels : sequence of int
    activations : int
        How many of each map.
    """
    with torch.no_grad():
        seen = forward(list(net)[: layer + 1], x)
        value = seen[-1]["after"]
        signal = torch.zeros_like(value)
        for channel in channels:
            flat = value[0, channel].flatten()
            for position in sorted(range(len(flat)), key=lambda i: -float(flat[i]))[:activations]:
                if flat[position] > 0:
                    signal[0, channel].view(-1)[position] = flat[position]
        return backward(seen, signal)
