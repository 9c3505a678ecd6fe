"""Canonical correlations of layers from their Gram matrices: SVCCA and PWCCA.

The left singular vectors of a layer's centred features (sample × feature) are the eigenvectors of its centred Gram
matrix; so no layer has to be in memory for its singular value decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.likeness.collect import GramSet
from fmx.analyze.likeness.gram import BLOCK_BYTES, SPAN, shifted
from fmx.analyze.likeness.kernels import centred
from fmx.analyze.sample_table import Column, SampleTable
from fmx.analyze.threads import compute_here
from fmx.errors import FmxError

__all__ = ["LEAST", "Basis", "bases", "pwcca", "svcca"]

Floats = NDArray[np.float64]

LEAST = 3
# Directions with less variance than this share of the largest are rounding error.
_RANK = 1e-9


@dataclass(frozen=True)
class Basis:
    """The strongest directions of a layer.

    Attributes
    ----------
    vectors : array (sample, component)
        Orthonormal.
    kept : array (sample,) of bool
        Samples that they are of.
    """

    vectors: Floats
    kept: NDArray[np.bool_]


def bases(found: GramSet, variance: float) -> list[Basis]:
    """Find the directions of each layer that together hold a share of its variance.

    Raises
    ------
    FmxError
        The share is not above 0 and at most 1.
    """
    if not 0 < variance <= 1:
        raise FmxError(f"The variance to keep is a share above 0 and up to 1, not {variance:g}: correct --variance.")
    return list(compute_here([delayed(_basis, pure=False)(gram, found.kept, variance) for gram in found.matrices()]))


def _basis(gram: Floats, kept: NDArray[np.bool_], variance: float) -> Basis:
    values, vectors = np.linalg.eigh(centred(gram, biased=True))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    rank = int((values > _RANK * values[0]).sum())
    share = np.cumsum(values[:rank]) / (values[:rank].sum() or 1.0)
    # A share that is met but for rounding is met.
    count = min(int((share < variance - 1e-12).sum()) + 1, rank)
    return Basis(np.ascontiguousarray(vectors[:, :count]), kept)


def svcca(layers: Sequence[Basis]) -> tuple[Floats, dict[str, Any]]:
    """Compare all pairs of layers by the mean of their canonical correlations (Raghu et al. 2017).

    Returns
    -------
    array (table, table)
        0 where a layer does not vary.
    dict
        ``varies`` and ``components`` (table,); ``trivial`` (table, table): correlations that are 1 whatever the values
        are, because both layers have more components than there are samples.
    """
    pairs = [(i, j) for i in range(len(layers)) for j in range(i + 1)]
    found = compute_here([delayed(_mean_correlation, pure=False)(layers[i], layers[j]) for i, j in pairs])
    values = np.zeros((len(layers), len(layers)))
    for (i, j), value in zip(pairs, found, strict=True):
        values[i, j] = values[j, i] = value
    return values, _about(layers)


def pwcca(tables: Sequence[SampleTable], layers: Sequence[Basis]) -> tuple[Floats, dict[str, Any]]:
    """Compare all pairs of layers by their canonical correlations, weighted by how much of a layer they account for.

    The weights are Σ_j |⟨h, x_j⟩| over the features x_j of the first layer (the row), for its canonical vectors h
    (Morcos et al. 2018). They take a second read of the stores, by this process.

    Returns
    -------
    array (table, table)
        The weights are those of the first.
    dict
        As of `svcca`.

    Raises
    ------
    FmxError
        A layer has so many features in a chunk that they do not fit the memory for all samples.
    """
    pairs = compute_here([delayed(_row, pure=False)(basis, layers) for basis in layers])
    lazy = [
        delayed(_weigh, pure=False)(
            table, basis.vectors @ np.concatenate([left for left, _ in row], axis=1), basis.kept
        )
        for table, basis, row in zip(tables, layers, pairs, strict=True)
    ]
    weights = compute_here(lazy)
    values = np.zeros((len(tables), len(tables)))
    for i, (row, weight) in enumerate(zip(pairs, weights, strict=True)):
        at = 0
        for j, (_, own) in enumerate(row):
            part = weight[at : at + len(own)]
            at += len(own)
            values[i, j] = part @ own / part.sum() if _both(layers, i, j) else 0
    return values, _about(layers)


def _both(layers: Sequence[Basis], i: int, j: int) -> bool:
    return bool(layers[i].vectors.shape[1] and layers[j].vectors.shape[1])


def _mean_correlation(a: Basis, b: Basis) -> float:
    if not (a.vectors.shape[1] and b.vectors.shape[1]):
        return 0.0
    return float(np.minimum(np.linalg.svd(a.vectors.T @ b.vectors, compute_uv=False), 1.0).mean())


def _row(basis: Basis, layers: Sequence[Basis]) -> list[tuple[Floats, Floats]]:
    return [_correlations(basis, other) for other in layers]


def _correlations(a: Basis, b: Basis) -> tuple[Floats, Floats]:
    """Give the canonical vectors of the first in its own basis, and the correlations."""
    left, own, _ = np.linalg.svd(a.vectors.T @ b.vectors, full_matrices=False)
    return left, np.minimum(own, 1.0)


def _about(layers: Sequence[Basis]) -> dict[str, Any]:
    counts = np.array([basis.vectors.shape[1] for basis in layers])
    room = len(layers[0].vectors) - 1
    trivial = np.maximum(counts[:, None] + counts[None, :] - room, 0)
    return {
        "varies": (counts > 0).astype(np.float64),
        "components": counts.astype(np.float64),
        "trivial": np.minimum(trivial, np.minimum.outer(counts, counts)).astype(np.float64),
    }


def _weigh(table: SampleTable, directions: Floats, kept: NDArray[np.bool_]) -> Floats:
    """Sum |⟨h, x⟩| over all features x of a layer for directions h (sample, direction)."""
    array = table.open()
    rows = np.flatnonzero(kept)
    total = np.zeros(directions.shape[1])
    for column in table.columns():
        _check_fits(table, column, len(rows))
        block = table.read(array, column, rows)
        values, _ = shifted(block.values)
        # With samples left out, none of these is left; with features left out, these are.
        values[:, block.bad] = 0
        for first in range(0, column.width, SPAN):
            total += np.abs(directions.T @ values[:, first : first + SPAN].astype(np.float64)).sum(axis=1)
    return total


def _check_fits(table: SampleTable, column: Column, samples: int) -> None:
    if samples * column.width * table.result_type.itemsize > 2 * BLOCK_BYTES:
        raise FmxError(
            f"{table.layer} has too many positions for PWCCA of {samples} samples: take the channels' means "
            "(--space mean), or fewer samples (--subsample)."
        )
