"""Estimators of mutual information between columns of numbers and a label or a number, in bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["binned", "cut", "entropy", "nearest"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def cut(values: Floats, bins: int) -> Counts:
    """Number the bins of equal frequency that values fall into; equal values share a bin.

    Parameters
    ----------
    values : array (sample, column)
    bins : int
        Of each column; where many values are equal, as zeros after a ReLU, fewer come out.
    """
    edges = np.quantile(values, np.arange(1, bins) / bins, axis=0)
    found = np.empty(values.shape, np.int64)
    for i, column in enumerate(values.T):
        # An edge belongs to the bin below it, so that ties at the smallest value have a bin of their own.
        found[:, i] = np.searchsorted(np.unique(edges[:, i]), column, side="left")
    return found


def entropy(counts: Counts, *, corrected: bool) -> Floats:
    """Give the entropy of distributions from how often each outcome came.

    Parameters
    ----------
    counts : array (…, outcome)
    corrected : bool
        Add (outcomes that came - 1) / 2n nats, which the plain estimate is too low by on average (Miller 1955, Madow).

    Returns
    -------
    array (…)
        In bits.
    """
    total = counts.sum(axis=-1, keepdims=True)
    shares = counts / np.maximum(total, 1)
    plain = -np.sum(np.where(counts > 0, shares * np.log2(np.where(counts > 0, shares, 1)), 0), axis=-1)
    if not corrected:
        return np.asarray(plain)
    more = ((counts > 0).sum(axis=-1) - 1) / (2 * np.maximum(total[..., 0], 1))
    return np.asarray(plain + np.maximum(more, 0) / np.log(2))


def binned(columns: Counts, labels: Counts, *, corrected: bool = True) -> Floats:
    """Estimate I(column; label) = H(column) + H(label) - H(column, label) from counts (sample, column), (sample,).

    Parameters
    ----------
    columns : array (sample, column) of int64
        Bins, from 0.
    labels : array (sample,) of int64
        From 0.
    corrected : bool
        Correct all three entropies as Miller and Madow do; independent columns then come out around 0, also below.

    Returns
    -------
    array (column,)
        In bits.
    """
    rows, count = columns.shape
    if not rows or not count:
        return np.zeros(count)
    wide, kinds = int(columns.max()) + 1, int(labels.max()) + 1
    # One table of counts for all columns (column, bin, label).
    where = (np.arange(count) * wide + columns) * kinds + labels[:, None]
    joint = np.bincount(where.ravel(), minlength=count * wide * kinds).reshape(count, wide, kinds)
    parts = [
        entropy(part, corrected=corrected) for part in (joint.sum(axis=2), joint.sum(axis=1), joint.reshape(count, -1))
    ]
    found = parts[0] + parts[1] - parts[2]
    # What rounding leaves where columns say nothing at all.
    return np.where(np.abs(found) < 1e-13, 0.0, found)


def nearest(columns: Floats, target: NDArray[np.generic], *, labels: bool, neighbours: int, seed: int) -> Floats:
    """Estimate mutual information from distances to nearest neighbours, by scikit-learn; 0 at the least.

    With labels as Ross (2014) does it, with numbers as Kraskov, Stögbauer and Grassberger (2004) do.

    Returns
    -------
    array (column,)
        In bits.
    """
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    estimate = mutual_info_classif if labels else mutual_info_regression
    found = estimate(columns, target, discrete_features=False, n_neighbors=neighbours, random_state=seed)
    return np.asarray(found / np.log(2))
