"""Class precision: how many of the samples that excite a channel most belong to a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Highest", "among_top", "top_channels"]


class Highest:
    """The classes of the samples with the highest scores, channel by channel, from any number of batches.

    Parameters
    ----------
    sizes : array (label,) of int
        Samples of each class; as many as the largest one has are kept.
    """

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._most = int(sizes.max(initial=1))
        self._scores = np.empty((0, 0))
        self._classes = np.empty((0, 0), np.int32)
        # How many samples of each class have the last score that is kept, those that are not kept included.
        self._ties = np.empty((0, 0), np.int64)

    def take(self, scores: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
        """Take in a batch of scores (sample, channel), of samples of given classes (sample,); NaN does not count."""
        low = np.where(np.isnan(scores), -np.inf, scores).T
        own = np.broadcast_to(classes.astype(np.int32), low.shape)
        if not self._scores.size:
            self._scores, self._classes = np.empty((len(low), 0)), np.empty((len(low), 0), np.int32)
            self._ties = np.zeros((len(low), len(self.sizes)), np.int64)
            last = np.full((len(low), 1), np.nan)
        else:
            last = self._scores[:, -1:]
        every = np.concatenate([self._scores, low], axis=1)
        labels = np.concatenate([self._classes, own], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, : self._most]
        kept = np.take_along_axis(every, order, axis=1)
        held = self._count(self._scores, self._classes, kept[:, -1:])
        now = self._count(every, labels, kept[:, -1:])
        # Of the score that was last before, more samples may have been seen than were kept.
        same = last == kept[:, -1:] if self._scores.shape[1] == self._most else np.zeros(last.shape, bool)
        self._ties = now - held + np.where(same, self._ties, held)
        self._scores, self._classes = kept, np.take_along_axis(labels, order, axis=1)

    def precision(self) -> NDArray[np.float64]:
        """Give the share of each class among as many of the highest samples as the class has (label, channel).

        Of samples with equal scores at the end of the list, each counts in part: what a random order gives on average.
        """
        found = np.full((len(self.sizes), len(self._scores)), np.nan)
        finite = np.isfinite(self._scores).sum(axis=1)
        for label, size in enumerate(self.sizes):
            n = np.minimum(int(size), finite)
            rows = np.flatnonzero(n)
            n, scores, own = n[rows], self._scores[rows], self._classes[rows] == label
            edge = scores[np.arange(len(rows)), n - 1][:, None]
            above, equal = scores > edge, scores == edge
            beyond = edge[:, 0] == scores[:, -1]
            ties = np.where(beyond, self._ties[rows].sum(axis=1), equal.sum(axis=1))
            tied = np.where(beyond, self._ties[rows, label], (equal & own).sum(axis=1))
            found[label, rows] = ((above & own).sum(axis=1) + tied * (n - above.sum(axis=1)) / ties) / n
        return found

    def _count(
        self, scores: NDArray[np.float64], classes: NDArray[np.int32], score: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Count the samples of each class that have a score (channel, label)."""
        counts = np.zeros((len(scores), len(self.sizes)), np.int64)
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
