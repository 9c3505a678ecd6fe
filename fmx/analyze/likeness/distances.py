"""Representational dissimilarity matrices, and how they are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.likeness.collect import GramSet, collect
from fmx.analyze.likeness.gram import add_exact_products
from fmx.analyze.likeness.kernels import cosines, products, squared_distances
from fmx.analyze.sample_table import SampleTable
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["COMPARISONS", "DISTANCES", "collect_distances", "compare_distances", "rdms"]

Floats = NDArray[np.float64]

DISTANCES = {
    "correlation": "1 - Pearson's correlation of the features of two samples",
    "cosine": "1 - cosine of the angle between two samples",
    "euclidean": "root of the sum of squared differences",
    "sqeuclidean": "sum of squared differences",
    "cityblock": "sum of absolute differences",
}
COMPARISONS = {
    "spearman": "Spearman's rank correlation of the distances of all pairs of samples (Kriegeskorte et al. 2008)",
    "pearson": "Pearson's correlation of the distances of all pairs of samples",
    "cosine": "cosine of the angle between the distances of all pairs of samples",
    "kendall": "Kendall's tau-a of the distances of all pairs of samples (Nili et al. 2014)",
}
LEAST = 3


def collect_distances(store: Store, tables: Sequence[SampleTable], metric: str, skip: str) -> GramSet:
    """Read what distances of a metric are made from, for all tables in one read; see `rdms`.

    Raises
    ------
    FmxError
        There is no such metric, or there are too few samples.
    """
    if metric not in DISTANCES:
        raise FmxError(f"There is no distance {metric}: {near_matches(metric, DISTANCES)}")
    how: dict[str, Any] = {}
    if metric in ("correlation", "cosine"):
        how = {"raw": True, "multiply": add_exact_products}
    elif metric == "cityblock":
        how = {"raw": True, "multiply": _add_cityblock}
    return collect(store, tables, least=LEAST, skip=skip, **how)


def rdms(found: GramSet, tables: Sequence[SampleTable], metric: str) -> Iterator[tuple[Floats, int]]:
    """Give the dissimilarity matrix of every table in turn.

    Yields
    ------
    array (sample, sample)
        Distances of all pairs of samples, 0 on the diagonal. A sample without a direction (all features 0, or for
        correlation all equal) is at a distance of 1 from all others.
    int
        How many such samples there are.
    """
    sums = [gram.sums[found.kept] for gram in found.grams]
    for gram, matrix, table, total in zip(found.grams, found.matrices(), tables, sums, strict=True):
        if metric == "cityblock":
            yield matrix, 0
        elif metric.endswith("euclidean"):
            squared = squared_distances(matrix)
            yield (np.sqrt(squared) if metric == "euclidean" else squared), 0
        else:
            yield _angles(matrix, total, table.features - gram.bad if metric == "correlation" else 0)


def _angles(gram: Floats, sums: Floats, features: int) -> tuple[Floats, int]:
    own = np.diagonal(gram).copy()
    if features:
        gram = gram - np.outer(sums, sums / features)
    inner = np.diagonal(gram)
    # What is left of a sample whose features are all equal is rounding.
    gram = np.where(np.minimum.outer(inner - 1e-13 * own, inner - 1e-13 * own) > 0, gram, 0)
    alike, there = cosines(gram)
    distances = 1 - alike
    np.fill_diagonal(distances, 0)
    return distances, int((~there).sum())


def _add_cityblock(total: Floats, left: NDArray[Any], right: NDArray[Any] | None = None) -> None:
    from scipy.spatial.distance import cdist

    total += cdist(left, left if right is None else right, "cityblock")


def compare_distances(matrices: Iterator[tuple[Floats, int]], comparison: str) -> tuple[Floats, dict[str, Floats]]:
    """Compare all pairs of dissimilarity matrices.

    Parameters
    ----------
    matrices : iterator of (array (sample, sample), int)
        What `rdms` gives.
    comparison : str
        One of COMPARISONS.

    Returns
    -------
    array (table, table)
        0 where all distances of a layer are equal.
    dict of str to array (table,)
        ``varies``: 1 where they are not; ``undirected``: samples that have no direction.

    Raises
    ------
    FmxError
        There is no such comparison.
    """
    if comparison not in COMPARISONS:
        raise FmxError(f"Distances can't be compared by {comparison}: {near_matches(comparison, COMPARISONS)}")
    vectors, undirected = [], []
    for matrix, without in matrices:
        # Where no sample has a direction, the distances say nothing.
        scale = float(without < len(matrix))
        vectors.append(_prepared(scale * matrix[np.triu_indices(len(matrix), 1)], comparison))
        undirected.append(float(without))
    values, varies = cosines(products(vectors))
    if comparison == "kendall":
        values = _kendall(vectors, varies)
    return values, {"varies": varies.astype(np.float64), "undirected": np.array(undirected)}


def _prepared(distances: Floats, comparison: str) -> Floats:
    from scipy.stats import rankdata

    peak = distances.max(initial=0.0)
    if comparison == "cosine":
        return distances / (peak or 1.0)
    if comparison in ("spearman", "kendall"):
        distances = rankdata(distances)
        peak = len(distances)
    found = distances - distances.mean()
    return found / peak if np.abs(found).max(initial=0.0) > 1e-12 * peak else np.zeros_like(found)


def _kendall(ranks: Sequence[Floats], varies: NDArray[np.bool_]) -> Floats:
    from scipy.stats import kendalltau

    pairs = len(ranks[0]) * (len(ranks[0]) - 1) / 2
    untied = [pairs - _ties(rank) for rank in ranks]
    found = np.zeros((len(ranks), len(ranks)))
    for i, j in itertools.combinations_with_replacement(np.flatnonzero(varies).tolist(), 2):
        tau = kendalltau(ranks[i], ranks[j]).statistic
        found[i, j] = found[j, i] = tau * np.sqrt(untied[i] * untied[j]) / pairs
    return found


def _ties(ranks: Floats) -> float:
    counts = np.unique(ranks, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())
