"""Class precision: how many of the samples that excite a channel most belong to a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Highest", "among_top", "top_channels"]


@dataclass(frozen=True)
class Highest:
    """The classes of the samples with the highest scores, channel by channel; parts of it are joined in any order.

    Attributes
    ----------
    most : int
        As many are kept; precision takes as many as the largest class has.
    scores : array (channel, kept)
        Unordered; -inf stands for NaN.
    classes : array (channel, kept) of int
    ties : array (channel, label) of int, optional
        Where some were left out: samples of each class that have the lowest score that is kept, those that were left
        out included.
    """

    most: int
    scores: NDArray[np.float64]
    classes: NDArray[np.int32]
    ties: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, scores: NDArray[np.float64], classes: NDArray[np.int64], sizes: NDArray[np.int64]) -> Highest:
        """Take in scores (sample, channel) of samples of given classes (sample,), of which there are so many in all.

        NaN does not count.
        """
        low = np.where(np.isnan(scores), -np.inf, scores).T
        own = np.broadcast_to(classes.astype(np.int32), low.shape)
        return cls(int(sizes.max(initial=1)), low, own)._cut([], len(sizes))

    @classmethod
    def joined(cls, parts: Sequence[Highest], sizes: NDArray[np.int64]) -> Highest:
        """Join what was seen of the same channels; `sizes` (label,) are the samples of each class."""
        every, classes = (np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("scores", "classes"))
        return cls(parts[0].most, every, classes)._cut(parts, len(sizes))

    def _cut(self, parts: Sequence[Highest], labels: int) -> Highest:
        """Keep the highest of all that there are, which come from these parts."""
        whole = next((part for part in parts if part.ties is not None), None)
        if self.scores.shape[1] <= self.most:
            return self if whole is None else replace(self, ties=whole.ties)
        order = np.argpartition(-self.scores, self.most - 1, axis=1)[:, : self.most]
        kept = np.take_along_axis(self.scores, order, axis=1)
        last = kept.min(axis=1, keepdims=True)
        ties = np.zeros((len(last), labels), np.int32)
        for part in parts or [self]:
            own = _count(part.scores, part.classes, last, labels)
            if part.ties is not None:
                own = np.where(part.scores.min(axis=1, keepdims=True) == last, part.ties, own)
            ties += own
        return Highest(self.most, kept, np.take_along_axis(self.classes, order, axis=1), ties)

    def precision(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give the share of each class among as many of the highest samples as the class has (label, channel).

        Of samples with equal scores at the end of the list, each counts in part: what a random order gives on average.
        """
        order = np.argsort(-self.scores, axis=1, kind="stable")
        ordered, classes = (np.take_along_axis(each, order, axis=1) for each in (self.scores, self.classes))
        found = np.full((len(sizes), len(ordered)), np.nan)
        finite = np.isfinite(ordered).sum(axis=1)
        for label, size in enumerate(sizes):
            n = np.minimum(int(size), finite)
            rows = np.flatnonzero(n)
            n, scores, own = n[rows], ordered[rows], classes[rows] == label
            edge = scores[np.arange(len(rows)), n - 1][:, None]
            above, equal = scores > edge, scores == edge
            ties, tied = equal.sum(axis=1), (equal & own).sum(axis=1)
            if self.ties is not None:
                beyond = edge[:, 0] == scores[:, -1]
                ties = np.where(beyond, self.ties[rows].sum(axis=1), ties)
                tied = np.where(beyond, self.ties[rows, label], tied)
            found[label, rows] = ((above & own).sum(axis=1) + tied * (n - above.sum(axis=1)) / ties) / n
        return found


def _count(
    scores: NDArray[np.float64], classes: NDArray[np.int32], score: NDArray[np.float64], labels: int
) -> NDArray[np.int32]:
    """Count the samples of each class that have a score (channel, label)."""
    counts = np.zeros((len(scores), labels), np.int32)
    rows, columns = np.nonzero(scores == score)
    np.add.at(counts, (rows, classes[rows, columns]), 1)
    return counts


def among_top(scores: NDArray[np.float64], k: int) -> NDArray[np.bool_]:
    """Say which entries are among the `k` highest of their row; of equal ones the first are, NaN is below all others.

    Parameters
    ----------
    scores : array (row, entry)
    k : int

    Returns
    -------
    array (row, entry)
    """
    low = np.where(np.isnan(scores), np.inf, -scores)
    k = min(k, low.shape[1])
    edge = np.partition(low, k - 1, axis=1)[:, k - 1 : k]
    chosen, equal = low < edge, low == edge
    room = k - chosen.sum(axis=1)
    some = np.flatnonzero(equal.sum(axis=1) > room)
    equal[some] &= np.cumsum(equal[some], axis=1) <= room[some, None]
    return np.asarray(chosen | equal)


def top_channels(scores: NDArray[np.float64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the `k` highest entries of each row, best first; of equal ones the first comes first, NaN comes last.

    Returns
    -------
    array (row, rank) of int
    array (row, rank)
        Their scores.
    """
    chosen = np.nonzero(among_top(scores, k))[1].reshape(len(scores), min(k, scores.shape[1]))
    found = np.take_along_axis(scores, chosen, axis=1)
    order = np.argsort(np.where(np.isnan(found), np.inf, -found), axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, axis=1)
    return chosen.astype(np.int64), np.take_along_axis(scores, chosen, axis=1)
