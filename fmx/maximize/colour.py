"""Colours of photographs vary together, mostly in brightness: axes along which they vary apart, and back."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["colour_axes", "mixed", "unmixed"]

# A square root of the covariance of ImageNet's colours (R, G, B in rows; the axes in columns, by their variance), as
# published with Lucid (Olah, Mordvintsev and Schubert 2017, "Feature Visualization").
_IMAGENET = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def colour_axes(bands: int) -> Tensor | None:
    """Give the matrix from decorrelated axes to colours (band, axis), None where pictures are no RGB.

    The published square root, scaled so that its longest column has length 1.
    """
    if bands != 3:
        return None
    axes = torch.tensor(_IMAGENET)
    longest: Tensor = torch.linalg.vector_norm(axes, dim=0).max()
    return axes.div(longest)


def mixed(values: Tensor, axes: Tensor | None) -> Tensor:
    """Turn (picture, axis, y, x) into (picture, band, y, x)."""
    return values if axes is None else torch.einsum("ba,nayx->nbyx", axes.to(values), values)


def unmixed(values: Tensor, axes: Tensor | None) -> Tensor:
    """Turn (picture, band, y, x) into (picture, axis, y, x): the inverse of `mixed`."""
    return values if axes is None else mixed(values, torch.linalg.inv(axes))
