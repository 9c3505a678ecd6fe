"""Means, variances and covariances of the channels of one or two layers, from blocks that are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CrossMoments", "correlations"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CrossMoments:
    """Second moments of channels over points.

    Merged as Chan, Golub and LeVeque (1979) do it, so that means far from zero cost no digits.

    Attributes
    ----------
    count : int
        Points.
    mean, other_mean : array (channel,), (other_channel,)
    squares, other_squares : array (channel,), (other_channel,)
        Sums of squared differences from the mean.
    products : array (channel, other_channel)
        Sums of products of the differences from the means.
    """

    count: int
    mean: Floats
    other_mean: Floats
    squares: Floats
    other_squares: Floats
    products: Floats

    @classmethod
    def of(cls, values: NDArray[Any], others: NDArray[Any] | None = None) -> CrossMoments:
        """Take in points (channel, point), and as many of another layer, or the same again.

        What is too large for products becomes infinite; see `fmx.analyze.not_finite.check_products`.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return cls._of(values, others)

    @classmethod
    def _of(cls, values: NDArray[Any], others: NDArray[Any] | None) -> CrossMoments:
        a = np.asarray(values, dtype=np.float64)
        means = a.mean(axis=1) if a.shape[1] else np.zeros(len(a))
        a = a - means[:, None]
        squares = np.einsum("ij,ij->i", a, a)
        if others is None:
            return cls(a.shape[1], means, means, squares, squares, a @ a.T)
        b = np.asarray(others, dtype=np.float64)
        other_means = b.mean(axis=1) if b.shape[1] else np.zeros(len(b))
        b = b - other_means[:, None]
        return cls(a.shape[1], means, other_means, squares, np.einsum("ij,ij->i", b, b), a @ b.T)

    def __add__(self, other: CrossMoments) -> CrossMoments:
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        weight = self.count * other.count / count
        a, b = other.mean - self.mean, other.other_mean - self.other_mean
        share = other.count / count
        with np.errstate(over="ignore", invalid="ignore"):
            return CrossMoments(
                count,
                self.mean + share * a,
                self.other_mean + share * b,
                self.squares + other.squares + weight * a**2,
                self.other_squares + other.other_squares + weight * b**2,
                self.products + other.products + weight * np.outer(a, b),
            )

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which channels are the same at all points, but for rounding."""
        return _constant(self.squares, self.mean, self.count)

    @property
    def other_constant(self) -> NDArray[np.bool_]:
        """Which channels of the other layer are."""
        return _constant(self.other_squares, self.other_mean, self.count)


def _constant(squares: Floats, mean: Floats, count: int) -> NDArray[np.bool_]:
    return squares <= 1e-28 * count * mean**2


def correlations(moments: CrossMoments) -> Floats:
    """Give Pearson's correlation of all pairs of channels (channel, other_channel), 0 where one is constant."""
    a, b = np.sqrt(moments.squares), np.sqrt(moments.other_squares)
    a, b = np.where(moments.constant, np.inf, a), np.where(moments.other_constant, np.inf, b)
    return np.asarray(np.clip(moments.products / a[:, None] / b[None, :], -1, 1))
