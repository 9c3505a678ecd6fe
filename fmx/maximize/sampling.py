"""Looking at pictures through affine maps, and gradients on their way back, compiled for processors.

The values are those of bilinear `torch.nn.functional.grid_sample`, whose way back takes far longer there than the rest
of a step outside the network, because it also computes what nobody asks for: the gradient of the places.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmx.reduce.compiled import entry, part

__all__ = ["looked_at"]


@part
def _place(maps: Any, n: int, i: int, j: int, window: Any, picture: Any) -> Any:
    """Say where a pixel of the window lies in the picture: row and column above and left of it, and the rest."""
    v, u = i + 0.5 - window[0] / 2, j + 0.5 - window[1] / 2
    x = maps[n, 0] * u + maps[n, 1] * v + maps[n, 2] + picture[1] / 2 - 0.5
    y = maps[n, 3] * u + maps[n, 4] * v + maps[n, 5] + picture[0] / 2 - 0.5
    left, top = int(np.floor(x)), int(np.floor(y))
    return top, left, np.float32(y - top), np.float32(x - left)


@entry
def _look(pictures: Any, maps: Any, outside: Any, out: Any) -> None:
    """Fill windows (picture, band, y, x) with what maps (picture, 6) show, `outside` where there is no picture."""
    bands, height, width = pictures.shape[1:]
    one = np.float32(1)
    for n in range(out.shape[0]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                top, left, low, right = _place(maps, n, i, j, out.shape[2:], (height, width))
                inside = 0 <= top < height - 1 and 0 <= left < width - 1
                for band in range(bands):
                    picture = pictures[n, band]
                    if inside:
                        upper = picture[top, left] * (one - right) + picture[top, left + 1] * right
                        lower = picture[top + 1, left] * (one - right) + picture[top + 1, left + 1] * right
                        out[n, band, i, j] = upper * (one - low) + lower * low
                        continue
                    total = outside
                    for row in range(max(top, 0), min(top + 2, height)):
                        for column in range(max(left, 0), min(left + 2, width)):
                            weight = (low if row > top else one - low) * (right if column > left else one - right)
                            total += weight * (picture[row, column] - outside)
                    out[n, band, i, j] = total


@entry
def _look_back(gradient: Any, maps: Any, into: Any) -> None:
    """Add gradients on windows to those on pictures: each to the places that it was looked up at."""
    bands, height, width = into.shape[1:]
    one = np.float32(1)
    for n in range(gradient.shape[0]):
        for i in range(gradient.shape[2]):
            for j in range(gradient.shape[3]):
                top, left, low, right = _place(maps, n, i, j, gradient.shape[2:], (height, width))
                inside = 0 <= top < height - 1 and 0 <= left < width - 1
                for band in range(bands):
                    value, picture = gradient[n, band, i, j], into[n, band]
                    if inside:
                        upper, lower = value * (one - low), value * low
                        picture[top, left] += upper * (one - right)
                        picture[top, left + 1] += upper * right
                        picture[top + 1, left] += lower * (one - right)
                        picture[top + 1, left + 1] += lower * right
                        continue
                    for row in range(max(top, 0), min(top + 2, height)):
                        for column in range(max(left, 0), min(left + 2, width)):
                            weight = (low if row > top else one - low) * (right if column > left else one - right)
                            picture[row, column] += weight * value


class _Looked(torch.autograd.Function):
    """What `_look` gives, and `_look_back` on the way back."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, maps: Tensor, size: tuple[int, int], outside: float) -> Tensor:
        """Look at pictures."""
        ctx.save_for_backward(maps)
        ctx.shape = pictures.shape
        out = pictures.new_empty(*pictures.shape[:2], *size)
        _look(pictures.contiguous().numpy(), maps.numpy(), np.float32(outside), out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Take gradients back."""
        (maps,) = ctx.saved_tensors
        into = gradients[0].new_zeros(ctx.shape)
        _look_back(gradients[0].contiguous().numpy(), maps.numpy(), into.numpy())
        return into, None, None, None


def looked_at(pictures: Tensor, maps: Tensor, size: tuple[int, int], outside: float) -> Tensor:
    """Look at pictures through maps.

    Parameters
    ----------
    pictures : tensor of float32 (picture, band, y, x)
        On a processor.
    maps : tensor of float64 (picture, 6)
        (a, b, dx, c, d, dy) of each, from places in the window to those in the picture; both count in pixels from the
        middle.
    size : tuple of int
        (height, width) of the window.
    outside : float
        What is seen beside the picture.

    Returns
    -------
    tensor of float32 (picture, band, y, x)
    """
    looked: Tensor = _Looked.apply(pictures, maps, size, outside)
    return looked
