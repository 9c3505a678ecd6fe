"""A deconvnet as the paper defines it (Zeiler & Fergus 2014), layer by layer, for networks that are a sequence.

Slow and obvious: each layer runs forward, pooling remembers where its maxima were, and the way back undoes one layer
after the other: unpooling puts each value where its maximum was (overlapping windows add up), rectification keeps what
is positive, filtering is a convolution with the transposed filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def forward(net: Sequence[nn.Module], x: Tensor) -> list[dict[str, Any]]:
    """Run a sequence, and keep what the way back needs: the layer, its input, its output, the switches."""
    seen = []
    for layer in net:
        switches = None
        before = x.clone()
        if isinstance(layer, nn.MaxPool2d):
            x, switches = F.max_pool2d(
                x, layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode, return_indices=True
            )
        else:
            x = layer(x.clone())
        seen.append({"layer": layer, "before": before, "after": x.clone(), "switches": switches})
    return seen


def backward(seen: list[dict[str, Any]], signal: Tensor) -> Tensor:
    """Undo the layers, the last one first."""
    for step in reversed(seen):
        signal = undo(step["layer"], signal, step["before"], step["switches"])
    return signal


def undo(layer: nn.Module, signal: Tensor, before: Tensor, switches: Tensor | None) -> Tensor:
    if isinstance(layer, nn.ReLU | nn.ReLU6):
        return signal.clamp(min=0)
    if isinstance(layer, nn.Conv2d):
        return filtered(layer, signal, before)
    if isinstance(layer, nn.MaxPool2d):
        return unpooled(signal, before, switches)
    if isinstance(layer, nn.AvgPool2d):
        return spread(layer, signal, before)
    if isinstance(layer, nn.BatchNorm2d):
        scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
        return signal * scale.view(1, -1, 1, 1)
    if isinstance(layer, nn.Linear):
        return signal @ layer.weight
    if isinstance(layer, nn.Flatten):
        return signal.reshape(before.shape)
    if isinstance(layer, nn.Dropout | nn.Identity):
        return signal
    raise NotImplementedError(type(layer).__name__)


def filtered(conv: nn.Conv2d, signal: Tensor, before: Tensor) -> Tensor:
    """Convolve with the transposed filters; positions that no filter reached at the edge get 0."""
    full = F.conv_transpose2d(
        signal, conv.weight, stride=conv.stride, padding=conv.padding, groups=conv.groups, dilation=conv.dilation
    )
    height, width = before.shape[2:]
    return F.pad(full, (0, width - full.shape[3], 0, height - full.shape[2]))


def unpooled(signal: Tensor, before: Tensor, switches: Tensor) -> Tensor:
    placed = torch.zeros_like(before)
    for n in range(signal.shape[0]):
        for c in range(signal.shape[1]):
            flat = placed[n, c].view(-1)
            for value, switch in zip(signal[n, c].flatten(), switches[n, c].flatten(), strict=True):
                flat[switch] += value
    return placed


def spread(pool: nn.AvgPool2d, signal: Tensor, before: Tensor) -> Tensor:
    placed = torch.zeros_like(before)
    size, step = int(pool.kernel_size), int(pool.stride)
    for y in range(signal.shape[2]):
        for x in range(signal.shape[3]):
            window = placed[:, :, y * step : y * step + size, x * step : x * step + size]
            window += signal[:, :, y : y + 1, x : x + 1] / size**2
    return placed


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
