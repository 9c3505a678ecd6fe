"""From Gram matrices to kernels, distances and HSIC: what centred kernel alignment is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.likeness.gram import pack

__all__ = ["centred", "cosines", "flat", "median_distance", "products", "rbf", "squared_distances"]

Floats = NDArray[np.float64]

# Below this share of its kernel's size a centred kernel is rounding error.
_NOTHING = 1e-12
_SPAN = 2**16


def squared_distances(gram: Floats) -> Floats:
    """Give squared Euclidean distances of samples from their Gram matrix (sample, sample)."""
    own = np.diagonal(gram)
    found = own[:, None] + own[None, :] - 2 * gram
    # What the subtraction leaves of equal samples is rounding.
    found[found < _NOTHING * (own[:, None] + own[None, :])] = 0
    np.fill_diagonal(found, 0)
    return found


def median_distance(squared: Floats) -> float:
    """Give the median distance of different samples; the mean where more than half of them are equal."""
    found = np.sqrt(squared[np.triu_indices(len(squared), 1)])
    middle = float(np.median(found)) if len(found) else 0.0
    return middle or (float(found.mean()) if len(found) else 0.0)


def rbf(squared: Floats, width: float) -> Floats:
    """Give exp(-d² / (2 width²)) for squared distances d²; all samples are alike where the width is 0."""
    return np.asarray(np.exp(-squared / (2 * width**2))) if width else np.ones_like(squared)


def centred(kernel: Floats, *, biased: bool) -> Floats:
    """Centre a kernel, so that inner products of centred kernels are their HSIC, up to a factor.

    Parameters
    ----------
    kernel : array (sample, sample)
    biased : bool
        Centre rows and columns, HKH (Gretton et al. 2005); else centre them without the diagonal, which becomes 0
        (Song et al. 2012, in the form of Székely and Rizzo 2014).

    Returns
    -------
    array (sample, sample)
        All 0 where the kernel does not vary.
    """
    n = len(kernel)
    size = float(np.abs(kernel).max(initial=0.0))
    found: Floats
    if biased:
        means = kernel.mean(axis=0)
        found = kernel - means[:, None] - means[None, :] + means.mean()
    else:
        found = kernel.copy()
        np.fill_diagonal(found, 0)
        sums = found.sum(axis=0) / (n - 2)
        found += sums.sum() / (n - 1) - sums[:, None] - sums[None, :]
        np.fill_diagonal(found, 0)
    if float(np.abs(found).max(initial=0.0)) <= _NOTHING * size:
        found[...] = 0
    return found


def flat(matrix: Floats) -> Floats:
    """Pack a symmetric matrix so that inner products of packed matrices are those of the whole ones."""
    whole = matrix * np.sqrt(2)
    np.fill_diagonal(whole, np.diagonal(matrix))
    return pack(whole)


def products(vectors: Sequence[Floats]) -> Floats:
    """Give the inner products of all pairs of vectors of equal length, as one product of matrices.

    Returns
    -------
    array (vector, vector)
    """
    total = np.zeros((len(vectors), len(vectors)))
    for first in range(0, len(vectors[0]), _SPAN):
        part = np.stack([vector[first : first + _SPAN] for vector in vectors])
        total += part @ part.T
    return total


def cosines(inner: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Divide inner products by the lengths of both vectors.

    Returns
    -------
    array (vector, vector)
        0 where one of them is 0, and 1 on the diagonal where it is not.
    array (vector,) of bool
        Which vectors are not 0.
    """
    lengths = np.sqrt(np.maximum(np.diagonal(inner), 0))
    there = lengths > 0
    found = inner / np.where(there, lengths, 1)[:, None] / np.where(there, lengths, 1)[None, :]
    np.fill_diagonal(found, there.astype(np.float64))
    return np.asarray(np.clip(found, -1, 1)), there
