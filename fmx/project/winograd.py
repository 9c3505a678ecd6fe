"""3×3 convolutions by Winograd's minimal filtering: a quarter of the multiplications.

Each tile of 4×4 pixels that come out is made of 6×6 that go in: these are transformed, multiplied by transformed
kernels at each of 36 spots, which are products of matrices (tile, channel)·(channel, channel), and transformed back
(Lavin & Gray 2016, Fast Algorithms for Convolutional Neural Networks, F(4×4, 3×3)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.project.winograd_kernels import FAR, LANES, NEAR, PANEL, ROWS, SPOTS, convolve

__all__ = ["Winograd"]

# Bytes of a block of transformed tiles; and tiles of it at least, for which the kernels are read once.
_BLOCK = 2**20
_TILES = 98
_NOWHERE = np.empty((0, 0, 0), np.uint8)


def _points() -> torch.Tensor:
    """Give the matrix (6, 3) that transforms kernels along one axis."""
    near, far = NEAR**2, FAR**2
    rows = [[1 / (near * far), 0, 0]]
    for point, square, other in ((NEAR, near, far), (FAR, far, near)):
        scale = 1 / (2 * square * (square - other))
        rows += [[scale, sign * point * scale, square * scale] for sign in (1, -1)]
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


def _transformed(kernels: torch.Tensor) -> torch.Tensor:
    """Transform kernels (channel in, channel out, 3, 3), as (spot, panel, channel in, channel of the panel)."""
    given, made = kernels.shape[:2]
    wide = LANES if made <= LANES else PANEL
    found = torch.zeros(SPOTS, -(-made // wide), -(-given // LANES) * LANES, wide)
    matrix = torch.kron(_points(), _points())
    for panel, some in enumerate(torch.split(kernels, wide, 1)):
        columns = some.double().permute(2, 3, 0, 1).reshape(9, -1)
        found[:, panel, :given, : some.shape[1]] = (matrix @ columns).view(SPOTS, given, -1)
    return found


class Winograd:
    """A convolution without stride, by kernels that were transformed.

    Parameters
    ----------
    kernels : tensor (channel in, channel out, 3, 3)
        Slid over the pixels as they are.
    edge : int
        Pixels of 0 around the maps.
    floor : float
        Nothing below it comes out.
    """

    def __init__(self, kernels: torch.Tensor, edge: int, floor: float = -np.inf) -> None:
        self._channels, self._edge, self._floor = kernels.shape[1], edge, np.float32(floor)
        self._weights = _transformed(kernels).numpy()
        self._depth = self._weights.shape[2]

    def __call__(
        self, values: torch.Tensor, codes: NDArray[np.uint8] | None = None, sides: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Convolve maps (signal, channel, y, x) of float32.

        Parameters
        ----------
        values : tensor
        codes : array of uint8 (y, x, channel), optional
            The values were pooled from windows of 2×2 pixels without overlap, and stood there: 2·y + x.
        sides : (int, int), optional
            Of the maps that come out, where not every pixel was pooled, or windows reached beyond.

        Returns
        -------
        tensor (signal, channel, y, x)
            Channels are last in memory.
        """
        pixels = values.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()
        times = 1 if codes is None else 2
        height, width = sides or (times * n + 2 * self._edge - 2 for n in pixels.shape[1:3])
        found = torch.empty((len(pixels), height, width, self._channels))
        wide = self._weights.shape[1] * self._weights.shape[3]
        tiles = len(pixels) * -(-height // 4) * -(-width // 4)
        block = max(_BLOCK // (4 * SPOTS * (self._depth + wide)), _TILES)
        block = -(-min(block, tiles) // ROWS) * ROWS
        convolve(
            pixels,
            _NOWHERE if codes is None else codes,
            self._weights,
            found.numpy(),
            self._edge,
            self._floor,
            torch.empty((SPOTS, block, self._depth)).numpy(),
            torch.empty((SPOTS, block, wide)).numpy(),
            torch.empty((6, 6, max(self._depth, wide))).numpy(),
        )
        return found.permute(0, 3, 1, 2)
