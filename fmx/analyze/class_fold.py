"""What a layer's scores by sample and channel come to: sums by class, votes, and the classes of the highest ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.precision import Highest, top_channels
from fmx.analyze.ranking import OF_CLASSES, Ranking
from fmx.analyze.sample_folds import SampleFold, sample_folds
from fmx.errors import FmxError
from fmx.reduce import Moments, Reducer, State
from fmx.reduce.sums import Sums
from fmx.store import Store

__all__ = [
    "ClassFold",
    "LayerScores",
    "SampleTops",
    "check_ranked",
    "fold_of",
    "fold_scores",
    "fold_tops",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# What is asked of each sample and channel where means do not do.
_WANTED = ("count", "mean", "l1", "nan", "inf", "max", "var", "sparsity")
_BY_MEANS = ("mean", "sum", *OF_CLASSES)


@dataclass(frozen=True)
class SampleTops:
    """The top channels of each sample.

    Attributes
    ----------
    channels : array (sample, rank) of int
        Positions on the channel axis.
    scores : array (sample, rank)
        NaN of ranks that no channel has.
    not_finite : array (sample, rank) of int
    """

    channels: Counts
    scores: Floats
    not_finite: Counts


@dataclass(frozen=True)
class ClassParts:
    """What the samples of some classes come to.

    Attributes
    ----------
    labels : array (own,) of int
        Which classes these are, in order.
    count, votes : array (own, channel) of int
        Samples with a score, and those that have the channel among their highest.
    scores, means : array (own, channel)
        Sums over samples.
    nan, inf : array (channel,) of int
        Values that are not finite.
    highest, highest_held : Highest or None
        None without classes, or without samples that are held out.
    """

    labels: Counts
    count: Counts
    votes: Counts
    scores: Floats
    means: Floats
    nan: Counts
    inf: Counts
    highest: Highest | None
    highest_held: Highest | None


@dataclass(frozen=True)
class LayerScores:
    """What is known of all classes of a layer (label, channel); see `ClassParts`.

    Attributes
    ----------
    count, votes, scores, means : array (label, channel)
    nan, inf : array (channel,)
    precision : array (label, channel)
        NaN without classes.
    precision_held : array (label, channel) or None
    """

    count: Counts
    votes: Counts
    scores: Floats
    means: Floats
    nan: Counts
    inf: Counts
    precision: Floats
    precision_held: Floats | None


@dataclass(frozen=True)
class ClassFold:
    """How scores are gone through; it can be sent to another machine.

    Attributes
    ----------
    metric : str
    reducer : Reducer
        `fmx.reduce.Moments`, or something that knows means and sums of sizes as it does where these will do.
    numbers : array (sample,) of int
        Class of each sample.
    held : array (sample,) of bool or None
        Samples that are held out.
    sizes, held_sizes : array (label,) of int
        Samples of each class that are used, and held out.
    votes : int
        So many channels get a sample's vote.
    keep_nan : bool
    classes : bool
        Whether there are any; else all samples are taken together.
    """

    metric: str
    reducer: Reducer
    numbers: Counts
    held: NDArray[np.bool_] | None
    sizes: Counts
    held_sizes: Counts
    votes: int
    keep_nan: bool
    classes: bool

    def take(self, states: State, samples: slice) -> ClassParts:
        """Take in the states of these samples."""
        found = self.reducer.finalize(states)
        scores, classes = _scores(self.metric, found, keep_nan=self.keep_nan), self.numbers[samples]
        held = None
        if self.held is not None:
            out = self.held[samples]
            held = Highest.of(scores[out], classes[out], self.held_sizes)
            scores, classes = scores[~out], classes[~out]
            found = {name: values[~out] for name, values in found.items()}
        there = ~np.isnan(scores)
        own = _ByClass(classes)
        return ClassParts(
            own.labels,
            own.sums(there.astype(np.int64)),
            own.sums(_votes(scores, self.votes)),
            own.sums(np.where(there, scores, 0)),
            own.sums(np.where(there, positive_means(found), 0)),
            found["nan"].sum(axis=0),
            found["inf"].sum(axis=0),
            Highest.of(scores, classes, self.sizes) if self.classes else None,
            held,
        )

    def join(self, parts: Sequence[ClassParts]) -> ClassParts:
        """Add up what samples came to."""
        if len(parts) == 1:
            return parts[0]
        labels = np.unique(np.concatenate([part.labels for part in parts]))
        each = {name: _spread(parts, name, labels) for name in ("count", "votes", "scores", "means")}
        lost = {name: np.sum([getattr(part, name) for part in parts], axis=0) for name in ("nan", "inf")}
        highest = [part.highest for part in parts if part.highest is not None]
        held = [part.highest_held for part in parts if part.highest_held is not None]
        return ClassParts(
            labels=labels,
            **each,
            **lost,
            highest=Highest.joined(highest, self.sizes) if highest else None,
            highest_held=Highest.joined(held, self.held_sizes) if held else None,
        )

    def finish(self, whole: ClassParts) -> LayerScores:
        """Give all classes, those without samples too."""
        labels = np.arange(len(self.sizes))
        each = {name: _spread([whole], name, labels) for name in ("count", "votes", "scores", "means")}
        return LayerScores(
            **each,
            nan=whole.nan,
            inf=whole.inf,
            precision=whole.highest.precision(self.sizes) if whole.highest else np.full(each["count"].shape, np.nan),
            precision_held=whole.highest_held.precision(self.held_sizes) if whole.highest_held else None,
        )


@dataclass(frozen=True)
class TopFold:
    """How the top channels of each sample are found; see `ClassFold`."""

    metric: str
    reducer: Reducer
    top: int
    keep_nan: bool

    def take(self, states: State, _: slice) -> SampleTops:
        """Take in the states of some samples."""
        found = self.reducer.finalize(states)
        best, values = top_channels(_scores(self.metric, found, keep_nan=self.keep_nan), self.top)
        return SampleTops(best, values, np.take_along_axis(found["nan"] + found["inf"], best, axis=1))

    def join(self, parts: Sequence[SampleTops]) -> SampleTops:
        """Put samples one after the other."""
        names = ("channels", "scores", "not_finite")
        return SampleTops(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def finish(self, whole: SampleTops) -> SampleTops:
        """Give them as they are."""
        return whole


class _ByClass:
    """Sums over the samples of each class that is there."""

    def __init__(self, classes: Counts) -> None:
        self._order = np.argsort(classes, kind="stable")
        self.labels, self._starts = np.unique(classes[self._order], return_index=True)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum up values (sample, channel) by class (own, channel)."""
        if not len(values):
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            return np.add.reduceat(values[self._order], self._starts, axis=0)


def _spread(parts: Sequence[ClassParts], name: str, labels: Counts) -> NDArray[Any]:
    """Add up what parts have of some classes, of which they need not have all."""
    first = getattr(parts[0], name)
    total = np.zeros((len(labels), first.shape[1]), first.dtype)
    for part in parts:
        with np.errstate(over="ignore", invalid="ignore"):
            total[np.searchsorted(labels, part.labels)] += getattr(part, name)
    return total


def _votes(scores: Floats, k: int) -> Counts:
    """Mark the `k` channels of each sample with the highest scores, above the lowest one of the sample."""
    best, values = top_channels(scores, k)
    with np.errstate(invalid="ignore"):
        counts = values > np.min(np.where(np.isnan(scores), np.inf, scores), axis=1, keepdims=True)
    found = np.zeros(scores.shape, np.int64)
    np.put_along_axis(found, best, counts.astype(np.int64), axis=1)
    return found


def _scores(metric: str, found: Mapping[str, NDArray[Any]], *, keep_nan: bool) -> Floats:
    name = {"variance": "var", "sum": "mean"}.get(metric, metric)
    chosen = positive_means(found) if name in OF_CLASSES else found[name]
    scores = np.asarray(chosen, dtype=np.float64)
    if metric == "sum":
        scores = scores * found["count"]
    return np.where(found["nan"] + found["inf"] > 0, np.nan, scores) if keep_nan else scores


def positive_means(found: Mapping[str, NDArray[Any]]) -> Floats:
    """Give the means of the values with those below 0 taken as 0: (Σ|x| + Σx) / 2n."""
    count = np.where(found["count"] > 0, found["count"], np.nan)
    return np.asarray(np.maximum(found["l1"] / count + found["mean"], 0) / 2)


def fold_of(ranking: Ranking, *, reducer: Reducer | None = None) -> ClassFold:
    """Say how the scores of a layer are gone through."""
    return ClassFold(
        metric=ranking.metric,
        reducer=reducer or _reducer(ranking),
        numbers=ranking.numbers,
        held=ranking.held,
        sizes=ranking.sizes,
        held_sizes=ranking.held_sizes,
        votes=ranking.n_each_image,
        keep_nan=ranking.keep_nan,
        classes=ranking.groups is not None,
    )


def _reducer(ranking: Ranking) -> Reducer:
    return Sums() if ranking.metric in _BY_MEANS else Moments(_WANTED)


def fold_scores(ranking: Ranking, layers: Iterable[str]) -> dict[str, LayerScores]:
    """Go through the scores of layers, all of them in one read.

    Raises
    ------
    FmxError
        A layer has no channels.
    """
    return _folded(ranking, layers, fold_of(ranking))


def fold_tops(ranking: Ranking, layers: Iterable[str], top: int) -> dict[str, SampleTops]:
    """Find the top channels of each sample, of all layers in one read; see `fold_scores`."""
    return _folded(ranking, layers, TopFold(ranking.metric, _reducer(ranking), top, ranking.keep_nan))


def _folded(ranking: Ranking, layers: Iterable[str], fold: SampleFold) -> dict[str, Any]:
    names = list(layers)
    for name in names:
        check_ranked(ranking.store, name)
    return sample_folds(ranking.store, dict.fromkeys(names, fold), part=ranking.used)


def check_ranked(store: Store, layer: str) -> None:
    """See that a layer has channels.

    Raises
    ------
    FmxError
        It has none.
    """
    if "channel" not in store.activation(layer).dims:
        raise FmxError(f"{layer} has no axis channel to be ranked: leave it out with --layers.")
