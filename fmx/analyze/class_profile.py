"""What each channel says about each class: means, selectivity, precision and how often it is among a picture's top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.class_fold import LayerScores, fold_scores
from fmx.analyze.precision import top_channels
from fmx.analyze.ranking import METRICS, OF_CLASSES, Ranking, settle
from fmx.store import Store

__all__ = ["PROFILE", "Ranking", "class_profile", "profile_of", "selectivity_of", "settle"]

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
    found = fold_scores(ranking, [info.name for info in store.select(layers)])
    return {name: profile_of(ranking, name, scores, n_each_class, votes=True) for name, scores in found.items()}


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


def profile_of(ranking: Ranking, layer: str, seen: LayerScores, n_each_class: int, *, votes: bool) -> xr.Dataset:
    """Turn what was gone through into what `class_profile` returns; top channels by votes, or else by score."""
    with np.errstate(invalid="ignore", divide="ignore"):
        score, means = seen.scores / seen.count, seen.means / seen.count
    others, selectivity = selectivity_of(means)
    score = {"selectivity": selectivity, "precision": seen.precision}.get(ranking.metric, score)
    found: dict[str, NDArray[Any]] = {"score": score, "class_mean": means, "others_mean": others}
    found |= {"selectivity": selectivity, "precision": seen.precision}
    if seen.precision_held is not None:
        found["precision_held_out"] = seen.precision_held
    found["votes"] = seen.votes
    first, then = (
        (seen.votes.astype(np.float64), score) if votes and ranking.metric not in OF_CLASSES else (score, means)
    )
    found["place"] = _places(np.where(np.isnan(score), np.nan, first), then)
    best, values = top_channels(-found["place"], n_each_class)
    top = np.zeros(score.shape, bool)
    np.put_along_axis(top, best, np.isfinite(values), axis=1)
    found |= {"top": top, "unique": top & (top.sum(axis=0) == 1)}
    channels = ("label", "channel")
    variables = {name: (channels, values, {"definition": PROFILE[name]}) for name, values in found.items()}
    variables["score"][2]["of_a_sample"] = METRICS[ranking.metric]
    data = ranking.store.layer(layer)
    coords = {"label": np.asarray(ranking.names, dtype=object), "channel": data["channel"]}
    result = xr.Dataset(variables, coords=coords, attrs=dict(data.attrs))
    sizes = ranking.sizes
    return result.assign(
        samples=("label", sizes, {"definition": "samples of the class that are used"}),
        chance=("label", sizes / max(sizes.sum(), 1), {"definition": "share of the class among the samples used"}),
        samples_used=(channels, seen.count, {"definition": "samples of the class with a score"}),
        nan=("channel", seen.nan, {"definition": "values that are not a number"}),
        inf=("channel", seen.inf, {"definition": "values that are infinite"}),
    )


def _places(first: NDArray[np.float64], then: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number the entries of each row from the highest on; equal ones go by something else, then by their order."""
    places = np.full(first.shape, np.nan)
    for row in range(len(first)):
        order = np.lexsort((-np.nan_to_num(then[row]), -np.nan_to_num(first[row], nan=-np.inf)))
        places[row, order] = np.arange(1, first.shape[1] + 1)
    return np.where(np.isnan(first), np.nan, places)
