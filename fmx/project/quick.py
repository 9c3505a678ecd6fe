"""Convolutions on the way back that are worth compiled code, and what lies around them done on their way.

A signal that is rectified, as the deconvnet has it, is rectified while a convolution writes it. What max-pooling
without overlap unpools is never written: the convolution behind it picks its pixels by the switches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fmx.project.rules import deconvnet
from fmx.project.steps import Signal, Step, few_channels
from fmx.project.stops import Stop

__all__ = ["quickened", "usable", "work"]

# Channels, and pixels along a side, from which on it takes less time than what torch does.
_CHANNELS = 32
_PIXELS = 7
# Bytes of transformed kernels, four times those of the model: where these are too many large maps come first.
_KEPT = 2**29
# The compiled code picks so many channels at once by their switches.
_TOGETHER = 16


@cache
def usable() -> bool:
    """Tell whether convolutions can be compiled here, and are right: what a processor or compiler makes of vectors
    that nobody tried, and a numba that is told not to compile, leave torch's.
    """
    values, kernels = torch.linspace(-1, 1, 1980).view(1, 33, 10, 6), torch.linspace(1, -2, 5643).view(33, 19, 3, 3)
    try:
        from fmx.project.winograd import Winograd

        found = Winograd(kernels, 1)(values)
    except Exception:  # whatever comes out of a compiler
        return False
    # What comes out reaches 150.
    return torch.allclose(found, F.conv2d(values, kernels.transpose(0, 1), padding=1), rtol=0, atol=1e-3)


def work(stops: Sequence[Stop]) -> int:
    """Count the multiplications that one signal costs, at most, in convolutions that can be quicker."""
    return sum(prod(stop.node._saved_weight.shape) * prod(stop.shape[2:]) for stop in stops if _suits(stop))


def quickened(stops: Sequence[Stop]) -> list[Stop]:
    """Put compiled convolutions in the place of those that they suit; the stops are for whole maps then."""
    made = list(stops)
    before = _before(stops)
    suited = _largest(stops)
    pools = {i: None if stops[i].first else _pool_before(stops, before, i) for i in suited}
    for i, pool in pools.items():
        codes = None
        if pool is not None:
            codes = _codes(stops[pool])
            made[pool] = replace(made[pool], step=_handed_on)
            for at in range(pool, i + 1):
                made[at] = replace(made[at], nbytes=4 * max(codes.size, prod(stops[i].onward) if at == i else 0))
        rectified = [] if stops[i].first else _rectified_behind(stops, before, i, pools.values())
        for at in rectified:
            made[at] = replace(made[at], step=_handed_on)
        made[i] = replace(made[i], step=_compiled(stops[i], 0.0 if rectified else -np.inf, codes))
    return made


def _largest(stops: Sequence[Stop]) -> list[int]:
    """List the convolutions that can be quicker, the largest maps first, until their kernels take too much memory."""
    found, room = [], _KEPT
    for i in sorted((i for i, stop in enumerate(stops) if _suits(stop)), key=lambda i: -prod(stops[i].shape[2:])):
        nbytes = 4 * 36 * prod(stops[i].node._saved_weight.shape[:2])
        if nbytes <= room:
            found.append(i)
            room -= nbytes
    return found


def _compiled(stop: Stop, floor: float, codes: NDArray[np.uint8] | None) -> Step:
    # Numba is loaded where it is needed.
    from fmx.project.winograd import Winograd

    convolve = Winograd(stop.node._saved_weight.flip(2, 3), 2 - stop.node._saved_padding[0], floor)
    sides = stop.onward[2:]

    def step(signal: Signal) -> Sequence[Signal | None]:
        if stop.first and few_channels(signal.values) is not None:
            return stop.step(signal)
        return [Signal(convolve(signal.values, codes, sides), True)]

    return step


def _handed_on(signal: Signal) -> Sequence[Signal]:
    return [signal]


def _suits(stop: Stop) -> bool:
    """Tell a convolution that compiled code makes quicker."""
    node = stop.node
    if node.name() != "ConvolutionBackward0" or len(stop.shape) != 4:
        return False
    weight, padding = node._saved_weight, node._saved_padding
    ones = (*node._saved_stride, *node._saved_dilation, node._saved_groups)
    return (
        tuple(weight.shape[2:]) == (3, 3)
        and weight.shape[0] >= _CHANNELS
        and min(stop.shape[2:]) >= _PIXELS
        and (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and padding[0] == padding[1] <= 2
        and set(ones) == {1}
        and not node._saved_transposed
    )


def _before(stops: Sequence[Stop]) -> list[list[int]]:
    """List for each stop those that lead to it."""
    found: list[list[int]] = [[] for _ in range(len(stops) + 1)]
    for i, stop in enumerate(stops):
        for to in stop.following:
            if to is not None:
                found[to].append(i)
    return found


def _alone_before(stops: Sequence[Stop], before: list[list[int]], i: int) -> int | None:
    """Give the stop before one if it has no other, and leads nowhere else."""
    if len(before[i]) != 1 or sum(to is not None for to in stops[before[i][0]].following) != 1:
        return None
    return before[i][0]


def _pool_before(stops: Sequence[Stop], before: list[list[int]], i: int) -> int | None:
    """Find the pool whose switches the convolution at a stop can go by."""
    at = _alone_before(stops, before, i)
    while at is not None and _keeps_places(stops[at]):
        at = _alone_before(stops, before, at)
    return at if at is not None and _pools_apart(stops[at]) else None


def _rectified_behind(stops: Sequence[Stop], before: list[list[int]], i: int, pools: Iterable[int | None]) -> list[int]:
    """List the stops behind a convolution that rectify what it gives."""
    found: list[int] = []
    while True:
        (*_, after) = (to for to in stops[i].following if to is not None)
        if after == len(stops) or _alone_before(stops, before, after) != i:
            return found
        if _rectifies(stops[after]):
            found.append(after)
        elif after not in pools and not _keeps_places(stops[after]):
            return found
        i = after


def _rectifies(stop: Stop) -> bool:
    return getattr(stop.node, "rule", None) is deconvnet


def _keeps_places(stop: Stop) -> bool:
    """Tell what does the same to every value, whatever the size of the maps."""
    kind = stop.node.name().removeprefix("torch::autograd::")
    return _rectifies(stop) or kind in ("CloneBackward0", "CopyBackwards", "_LimitedBackward")


def _pools_apart(stop: Stop) -> bool:
    """Tell a pool of 2×2 windows without overlap or padding."""
    node = stop.node
    if node.name() != "MaxPool2DWithIndicesBackward0" or len(stop.shape) != 4 or stop.shape[1] % _TOGETHER:
        return False
    windows = (*node._saved_kernel_size, *(node._saved_stride or node._saved_kernel_size))
    return set(windows) == {2} and set(node._saved_padding) == {0} and set(node._saved_dilation) == {1}


def _codes(stop: Stop) -> NDArray[np.uint8]:
    """Tell for each window (y, x, channel) where in it the largest value stood, 2·y + x."""
    switches = stop.node._saved_result1[0].permute(1, 2, 0)
    height, width = switches.shape[:2]
    y = switches // stop.onward[3] - 2 * torch.arange(height)[:, None, None]
    x = switches % stop.onward[3] - 2 * torch.arange(width)[:, None]
    found: NDArray[np.uint8] = (2 * y + x).to(torch.uint8).contiguous().numpy()
    return found
