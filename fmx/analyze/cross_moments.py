"""Means, variances and covariances of the channels of one or two layers, from blocks that are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CrossMoments", "channels_first", "correlations", "slabs"]

Floats = NDArray[np.float64]

# Values (sample, channel, position) of which moments are taken at once: as many as stay in the cache as float64.
SLAB_BYTES = 2**20


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
        """Take in points (channel, point), and as many of another layer, or the same again; they are changed.

        What is too large for products becomes infinite; see `fmx.analyze.not_finite.check_products`.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return cls._of(values, others)

    @classmethod
    def _of(cls, values: NDArray[Any], others: NDArray[Any] | None) -> CrossMoments:
        a, means = _centred(values)
        if others is None:
            products = a @ a.T
            squares = np.diagonal(products).copy()
            return cls(a.shape[1], means, means, squares, squares, products)
        b, other_means = _centred(others)
        squares, other_squares = (np.einsum("ij,ij->i", x, x) for x in (a, b))
        return cls(a.shape[1], means, other_means, squares, other_squares, a @ b.T)

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


def _centred(values: NDArray[Any]) -> tuple[Floats, Floats]:
    """Give points (channel, point) less their means, as float64, and the means; in place where the type allows."""
    found = np.ascontiguousarray(values, dtype=np.float64)
    means = found.mean(axis=1) if found.shape[1] else np.zeros(len(found))
    found -= means[:, None]
    return found, means


def _constant(squares: Floats, mean: Floats, count: int) -> NDArray[np.bool_]:
    return squares <= 1e-28 * count * mean**2


def correlations(moments: CrossMoments) -> Floats:
    """Give Pearson's correlation of all pairs of channels (channel, other_channel), 0 where one is constant."""
    a, b = np.sqrt(moments.squares), np.sqrt(moments.other_squares)
    a, b = np.where(moments.constant, np.inf, a), np.where(moments.other_constant, np.inf, b)
    return np.asarray(np.clip(moments.products / a[:, None] / b[None, :], -1, 1))


def slabs(layers: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    """Cut values (sample, channel, position) of the same samples into slabs of samples, at least one."""
    sample = max(layers[0].nbytes // max(len(layers[0]), 1), 1)
    length = max(SLAB_BYTES // sample, 1)
    for first in range(0, max(len(layers[0]), 1), length):
        yield [values[first : first + length] for values in layers]


def channels_first(values: NDArray[Any]) -> Floats:
    """Give values (sample, channel, position) as points (channel, point) of float64, in memory of their own."""
    found = np.array(values.swapaxes(0, 1), dtype=np.float64, order="C")
    return found.reshape(len(found), -1)
