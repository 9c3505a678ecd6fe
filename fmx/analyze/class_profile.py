"""What each channel says about each class: means, selectivity, precision and how often it is among a picture's top."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import sample_batches
from fmx.analyze.labels import Groups, groups_of
from fmx.analyze.not_finite import check_nan
from fmx.analyze.parts import Part, check_complete, find_level, split_samples
from fmx.analyze.precision import Highest, top_channels
from fmx.errors import FmxError, near_matches
from fmx.reduce import Moments
from fmx.store import Store

__all__ = [
    "METRICS",
    "OF_CLASSES",
    "PROFILE",
    "WANTED",
    "Ranking",
    "blank_fold",
    "class_profile",
    "fold_layer",
    "profile_of",
    "selectivity_of",
    "settle",
]

METRICS = {
    "max": "largest value of the sample",
    "mean": "mean over the sample's positions and timesteps",
    "sum": "sum over the sample's positions and timesteps",
    "variance": "population variance over the sample's positions and timesteps",
    "sparsity": "share of the sample's values that are exactly 0",
    "selectivity": "class selectivity index; precision and votes go by the mean, values below 0 taken as 0",
    "precision": "class precision; it and votes go by the mean, values below 0 taken as 0",
}
# What is asked of each sample and channel.
WANTED = ("count", "mean", "l1", "nan", "inf", "max", "var", "sparsity")
# Scores of classes, which one sample has not.
OF_CLASSES = ("selectivity", "precision")
PROFILE = {
    "score": "mean over the class's samples of the score",
    "class_mean": "mean over the class's samples of the channel's mean, values below 0 taken as 0",
    "others_mean": "mean of the other classes' means",
    "selectivity": "(μ - μ₋)/(μ + μ₋), μ being class_mean and μ₋ others_mean; 0 where both are 0. For the class with "
    "the largest mean it is the class selectivity index of Morcos et al. 2018, which by itself overstates selectivity "
    "(Gale et al. 2020)",
    "precision": "share of the class among as many of the samples with the highest scores as the class has (of equal "
    "scores each counts in part); by chance it is the class's share of the samples",
    "precision_held_out": "the same among samples that were held out: they had no part in score, means, selectivity, "
    "precision and votes",
    "votes": "samples of the class of which the channel is among the n_each_image channels with the highest scores, "
    "above the lowest one of the sample",
    "place": "place among the channels of the class, from 1; by votes or by score",
    "top": "whether it is among the n_each_class top channels of the class",
    "unique": "whether it is a top channel of this class and of no other",
}


@dataclass
class Ranking:
    """How channels are ranked, settled against a store; see `class_profile` for what the settings mean."""

    store: Store
    metric: str
    groups: Groups | None
    used: Part
    held: NDArray[np.bool_] | None
    n_each_image: int
    keep_nan: bool

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each class that are used (label,)."""
        return self._sizes(~self.held if self.held is not None else None)

    @property
    def held_sizes(self) -> NDArray[np.int64]:
        """Samples of each class that are held out (label,)."""
        return self._sizes(self.held)

    @property
    def names(self) -> list[str]:
        """Labels; an empty one where there are none."""
        return self.groups.names if self.groups else [""]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Which label each complete sample has (sample,)."""
        return self.groups.numbers if self.groups else np.zeros(int(self.store.complete.sum()), np.int64)

    def _sizes(self, chosen: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        numbers = self.numbers if chosen is None else self.numbers[chosen]
        return np.bincount(numbers, minlength=len(self.names)).astype(np.int64)


def settle(
    store: Store,
    *,
    metric: str = "max",
    n_each_image: int = 10,
    noise: float | None = None,
    held_out: float = 0,
    seed: int = 0,
    nan: str = "skip",
    need_classes: bool = True,
    allow_partial: bool = False,
) -> Ranking:
    """Check how channels are to be ranked; see `class_profile`."""
    if metric not in METRICS:
        raise FmxError(f"Channels can't be ranked by {metric}: {near_matches(metric, METRICS, most=len(METRICS))}")
    if n_each_image < 1:
        raise FmxError(f"At least one channel of each sample is counted, not {n_each_image}.")
    check_nan(nan)
    check_complete(store, allow_partial)
    labels = [str(name) for name in store.tree.to_dataset()["label"].values[store.complete]]
    groups = None
    if need_classes or metric in OF_CLASSES or held_out or len({label for label in labels if label}) > 1:
        groups = groups_of(store.tree.to_dataset().isel(sample=np.flatnonzero(store.complete)), store.path)
        if len(groups.names) < 2:
            raise FmxError(f"All samples of {store.path} have the label {groups.names[0]}: classes take two labels.")
    held = split_samples(labels, held_out, seed)[1] if held_out else None
    return Ranking(store, metric, groups, Part(level=find_level(store, noise)), held, n_each_image, nan == "keep")


def class_profile(
    store: Store,
    *,
    metric: str = "max",
    layers: str | Iterable[str] = "all",
    n_each_image: int = 10,
    n_each_class: int = 10,
    noise: float | None = None,
    held_out: float = 0,
    seed: int = 0,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Describe every channel for every class, in one read of the store.

    Each sample has one score for each channel, the `metric` of its values; each sample counts once, so that one outlier
    can't rank a channel by itself.

    Parameters
    ----------
    store : Store
    metric : str
        max, mean, sum, variance, sparsity; or selectivity or precision (of the mean,
        values below 0 taken as 0).
    layers : str or iterable of str
    n_each_image : int
        Channels of each sample that get its vote.
    n_each_class : int
        Channels that count as a class's top ones, with the most votes or, if the metric is one of classes, the highest
        score.
    noise : float, optional
        Level; 0 where left out.
    held_out : float
        Share of each class's samples that is kept aside and used for ``precision_held_out`` alone.
    seed : int
        Of which samples these are.
    nan : str
        ``skip`` leaves out values that are not finite, ``keep`` leaves out samples that have one in the channel.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: score, class_mean, others_mean, selectivity, precision, precision_held_out (if held out), votes,
        place, top, unique and samples_used (label, channel); samples and chance (label); nan and inf (channel).
        Definitions in the attributes.

    Raises
    ------
    FmxError
        No labels, or only one; no such metric or noise level; an unfinished store.
    """
    ranking = settle(
        store,
        metric=metric,
        n_each_image=n_each_image,
        noise=noise,
        held_out=held_out,
        seed=seed,
        nan=nan,
        allow_partial=allow_partial,
    )
    chosen = [info.name for info in store.select(layers)]
    return {name: profile_of(ranking, fold_layer(ranking, name), n_each_class, votes=True) for name in chosen}


@dataclass
class Fold:
    """What is left of a layer's scores when they have been seen: sums by class, and the classes of the highest."""

    data: xr.Dataset
    ranking: Ranking
    highest: Highest
    highest_held: Highest | None
    per_sample: int = 0
    tops: list[xr.Dataset] = field(default_factory=list)
    seen: int = 0

    def __post_init__(self) -> None:
        shape = (len(self.ranking.names), self.data.sizes["channel"])
        self.count, self.votes = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.scores, self.means = np.zeros(shape), np.zeros(shape)
        self.nan, self.inf = np.zeros(shape[1], np.int64), np.zeros(shape[1], np.int64)

    def see(self, batch: xr.Dataset) -> None:
        """Take in the next samples' moments (sample, channel), those of `WANTED`, as ``s.mean`` and so on."""
        scores, held = _scores(self.ranking, batch), self.ranking.held
        own = slice(self.seen, self.seen + batch.sizes["sample"])
        self.seen, classes = own.stop, self.ranking.numbers[own]
        if self.per_sample:
            self.tops.append(_top_of_samples(batch, scores, self.per_sample))
        if held is None or self.highest_held is None:
            self._take(scores, batch, classes)
            return
        used = np.flatnonzero(~held[own])
        self._take(scores[used], batch.isel(sample=used), classes[used])
        self.highest_held.take(scores[held[own]], classes[held[own]])

    def _take(self, scores: NDArray[np.float64], batch: xr.Dataset, classes: NDArray[np.int64]) -> None:
        """Take in samples that have some part in the ranking."""
        there = ~np.isnan(scores)
        best, values = top_channels(scores, self.ranking.n_each_image)
        with np.errstate(invalid="ignore"):
            counts = values > np.min(np.where(there, scores, np.inf), axis=1, keepdims=True)
        rows = np.repeat(classes, best.shape[1]).reshape(best.shape)
        np.add.at(self.votes, (rows[counts], best[counts]), 1)
        means = positive_means(batch)
        np.add.at(self.count, classes, there)
        np.add.at(self.scores, classes, np.where(there, scores, 0))
        np.add.at(self.means, classes, np.where(there, means, 0))
        self.nan += batch["s.nan"].values.sum(axis=0)
        self.inf += batch["s.inf"].values.sum(axis=0)
        self.highest.take(scores, classes)


def blank_fold(ranking: Ranking, layer: str, *, per_sample: int = 0) -> Fold:
    """Begin to go through a layer's scores; see `fold_layer`.

    Raises
    ------
    FmxError
        It has no channels.
    """
    data = ranking.used.cut(ranking.store, ranking.store.layer(layer))[1]
    if "channel" not in data["activation"].dims:
        raise FmxError(f"{layer} has no axis channel to be ranked: leave it out with --layers.")
    held = None if ranking.held is None else Highest(ranking.held_sizes)
    return Fold(data, ranking, Highest(ranking.sizes), held, per_sample)


def fold_layer(ranking: Ranking, layer: str, *, per_sample: int = 0) -> Fold:
    """Go through a layer's scores batch by batch.

    Parameters
    ----------
    ranking : Ranking
    layer : str
    per_sample : int
        So many top channels are kept for each sample, too.
    """
    fold = blank_fold(ranking, layer, per_sample=per_sample)
    moments = {"s": Moments(WANTED)}
    for batch in sample_batches(ranking.store, layer, moments, by=("sample", "channel"), part=ranking.used):
        fold.see(batch)
    return fold


def _scores(ranking: Ranking, batch: xr.Dataset) -> NDArray[np.float64]:
    name = {"variance": "var", "sum": "mean"}.get(ranking.metric, ranking.metric)
    chosen = positive_means(batch) if name in OF_CLASSES else batch[f"s.{name}"].values
    scores = np.asarray(chosen, dtype=np.float64)
    if ranking.metric == "sum":
        scores = scores * batch["s.count"].values
    if ranking.keep_nan:
        scores = np.where(batch["s.nan"].values + batch["s.inf"].values > 0, np.nan, scores)
    return scores


def _top_of_samples(batch: xr.Dataset, scores: NDArray[np.float64], k: int) -> xr.Dataset:
    best, values = top_channels(scores, k)
    numbers = batch["channel"].values[best]
    lost = (batch["s.nan"] + batch["s.inf"]).values
    return xr.Dataset(
        {
            "channel": (("sample", "rank"), np.where(np.isnan(values), -1, numbers)),
            "score": (("sample", "rank"), values),
            "not_finite": (("sample", "rank"), np.take_along_axis(lost, best, axis=1)),
        },
        coords={"sample": batch["sample"], "label": batch["label"], "rank": np.arange(1, best.shape[1] + 1)},
    )


def positive_means(batch: xr.Dataset) -> NDArray[np.float64]:
    """Give the means of the values with those below 0 taken as 0: (Σ|x| + Σx) / 2n."""
    count = np.where(batch["s.count"].values > 0, batch["s.count"].values, np.nan)
    return np.asarray(np.maximum(batch["s.l1"].values / count + batch["s.mean"].values, 0) / 2)


def selectivity_of(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the mean of the other classes' means, and the selectivity for each class (label, channel)."""
    there, known = np.isfinite(means), np.where(np.isfinite(means), means, 0)
    blank = np.zeros((1, means.shape[1]))
    # Sums of those before and behind each class: taking its own from the sum of all would lose small ones beside it.
    before = np.concatenate([blank, np.cumsum(known, axis=0)[:-1]])
    behind = np.concatenate([np.cumsum(known[::-1], axis=0)[::-1][1:], blank])
    classes = there.sum(axis=0) - there
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (before + behind) / np.where(classes > 0, classes, np.nan)
        return others, np.where(means + others == 0, 0.0, (means - others) / (means + others))


def profile_of(ranking: Ranking, fold: Fold, n_each_class: int, *, votes: bool) -> xr.Dataset:
    """Turn what was gone through into what `class_profile` returns; top channels by votes, or else by score."""
    with np.errstate(invalid="ignore", divide="ignore"):
        score, means = fold.scores / fold.count, fold.means / fold.count
    others, selectivity = selectivity_of(means)
    precision = fold.highest.precision()
    score = {"selectivity": selectivity, "precision": precision}.get(ranking.metric, score)
    found: dict[str, NDArray[Any]] = {"score": score, "class_mean": means, "others_mean": others}
    found |= {"selectivity": selectivity, "precision": precision}
    if fold.highest_held is not None:
        found["precision_held_out"] = fold.highest_held.precision()
    found["votes"] = fold.votes
    first, then = (
        (fold.votes.astype(np.float64), score) if votes and ranking.metric not in OF_CLASSES else (score, means)
    )
    found["place"] = _places(np.where(np.isnan(score), np.nan, first), then)
    best, values = top_channels(-found["place"], n_each_class)
    top = np.zeros(score.shape, bool)
    np.put_along_axis(top, best, np.isfinite(values), axis=1)
    found |= {"top": top, "unique": top & (top.sum(axis=0) == 1)}
    channels = ("label", "channel")
    variables = {name: (channels, values, {"definition": PROFILE[name]}) for name, values in found.items()}
    variables["score"][2]["of_a_sample"] = METRICS[ranking.metric]
    coords = {"label": np.asarray(ranking.names, dtype=object), "channel": fold.data["channel"]}
    result = xr.Dataset(variables, coords=coords, attrs=dict(fold.data.attrs))
    sizes = ranking.sizes
    return result.assign(
        samples=("label", sizes, {"definition": "samples of the class that are used"}),
        chance=("label", sizes / max(sizes.sum(), 1), {"definition": "share of the class among the samples used"}),
        samples_used=(channels, fold.count, {"definition": "samples of the class with a score"}),
        nan=("channel", fold.nan, {"definition": "values that are not a number"}),
        inf=("channel", fold.inf, {"definition": "values that are infinite"}),
    )


def _places(first: NDArray[np.float64], then: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number the entries of each row from the highest on; equal ones go by something else, then by their order."""
    places = np.full(first.shape, np.nan)
    for row in range(len(first)):
        order = np.lexsort((-np.nan_to_num(then[row]), -np.nan_to_num(first[row], nan=-np.inf)))
        places[row, order] = np.arange(1, first.shape[1] + 1)
    return np.where(np.isnan(first), np.nan, places)
