"""What a picture may be made to avoid: each gives one number a picture, which is subtracted from its objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Penalties", "blur_difference", "l2_norm", "total_variation"]

_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)


def total_variation(pictures: Tensor) -> Tensor:
    """Give the mean absolute difference between neighbours, down plus along, (picture,)."""
    down = (pictures[:, :, 1:] - pictures[:, :, :-1]).abs().mean((1, 2, 3))
    along = (pictures[:, :, :, 1:] - pictures[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + along


def l2_norm(pictures: Tensor) -> Tensor:
    """Give the root of the mean squared distance from mid-grey, (picture,)."""
    return ((pictures - 0.5).square().mean((1, 2, 3)) + 1e-12).sqrt()


def blur_difference(pictures: Tensor) -> Tensor:
    """Give the mean absolute difference from the picture blurred by the binomial kernel 1 4 6 4 1, (picture,)."""
    bands = pictures.shape[1]
    line = torch.tensor(_BLUR, dtype=pictures.dtype, device=pictures.device) / sum(_BLUR)
    kernel = (line[:, None] * line).expand(bands, 1, -1, -1)
    padded = torch.nn.functional.pad(pictures, (2, 2, 2, 2), mode="replicate")
    return (pictures - torch.nn.functional.conv2d(padded, kernel, groups=bands)).abs().mean((1, 2, 3))


@dataclass(frozen=True)
class Penalties:
    """Weights of the penalties on the picture's pixels (0 to 1), in units of the objective.

    Attributes
    ----------
    tv : float
        Of `total_variation` (Mahendran and Vedaldi 2015).
    l2 : float
        Of `l2_norm`.
    blur : float
        Of `blur_difference`: what a slight blur would take away.
    """

    tv: float = 0.0
    l2: float = 0.0
    blur: float = 0.0

    def __call__(self, pictures: Tensor) -> Tensor | None:
        """Give what is subtracted, (picture,), or None if nothing is."""
        parts = ((self.tv, total_variation), (self.l2, l2_norm), (self.blur, blur_difference))
        found = [weight * measure(pictures) for weight, measure in parts if weight]
        return sum(found[1:], start=found[0]) if found else None
