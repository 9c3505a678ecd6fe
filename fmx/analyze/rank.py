"""Top channels: over all samples, for each class, or for each sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from fmx.analyze.class_fold import LayerScores, SampleTops, fold_scores, fold_tops
from fmx.analyze.class_profile import PROFILE, profile_of
from fmx.analyze.parts import noise_levels
from fmx.analyze.precision import top_channels
from fmx.analyze.ranking import OF_CLASSES, Ranking, settle
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["of_classes", "rank"]

_PER = ("all", "class", "sample")


def rank(
    store: Store,
    *,
    per: str = "all",
    metric: str = "max",
    top: int = 10,
    layers: str | Iterable[str] = "all",
    n_each_image: int = 0,
    unique: bool = False,
    noise: float | None = None,
    held_out: float = 0,
    seed: int = 0,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """List the top channels of each layer, in one read of the store.

    The score of a channel for a sample is the `metric` of its values there; for a class, and over all, it is the mean
    of the scores of the samples, so that each sample counts once. With ``metric="selectivity"`` the score is the class
    selectivity index (Morcos et al. 2018), with ``"precision"`` the class precision: for a class that of this class,
    over all that of the class with the largest mean; of equal ones the channel with the larger mean comes first. Of
    channels with equal scores the one with the lower number is listed first.

    Parameters
    ----------
    store : Store
    per : str
        ``all``, ``class`` or ``sample``.
    metric : str
        max, mean, sum, variance, sparsity, selectivity or precision.
    top : int
        Channels listed; those of a class are its ``n_each_class`` top channels.
    layers : str or iterable of str
    n_each_image : int
        With ``per="class"``: rank channels by their votes, the number of the class's samples that have the channel
        among so many with the highest scores; of as many votes by score. 0 ranks by score, and counts votes for 10.
    unique : bool
        With ``per="class"``: list only channels that are among the top of no other class.
    noise : float, optional
        Level; 0 where left out.
    held_out, seed, nan, allow_partial
        See `fmx.analyze.class_profile`.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer. ``all``: channel and score (rank); where samples have labels also label (the one with the largest
        mean), and class_mean, others_mean, selectivity, precision and chance for it. ``class``: channel, score,
        class_mean, others_mean, selectivity, precision, votes and unique (label, rank), chance and samples (label).
        ``sample``: channel and score (sample, rank). Of ranks that no channel has, the channel is -1. ``not_finite``
        counts values that are NaN or infinite, in the channel, or in the channel and sample.

    Raises
    ------
    FmxError
        No such metric, noise level or layer; classes are asked for and there are fewer than two; unfinished store.
    """
    if per not in _PER:
        raise FmxError(f"Channels are ranked per all, class or sample, not {per}: {near_matches(per, _PER)}")
    if top < 1:
        raise FmxError(f"At least one channel is listed, not {top}.")
    if n_each_image < 0:
        raise FmxError(f"At least one channel of each sample gets its vote, not {n_each_image}.")
    if per == "sample" and metric in OF_CLASSES:
        raise FmxError(
            f"{metric.capitalize()} is about classes and can't be told for one sample: use --per class or all."
        )
    ranking = settle(
        store,
        metric=metric,
        n_each_image=n_each_image or 10,
        noise=noise,
        held_out=held_out,
        seed=seed,
        nan=nan,
        need_classes=per == "class",
        allow_partial=allow_partial,
    )
    names = [info.name for info in store.select(layers)]
    if per == "sample":
        tops = fold_tops(ranking, names, top)
        return {name: _of_samples(ranking, name, found) for name, found in tops.items()}
    seen = fold_scores(ranking, names)
    if per == "class":
        voted = n_each_image > 0
        return {n: of_classes(ranking, n, scores, top, votes=voted, unique=unique) for n, scores in seen.items()}
    return {name: _over_all(ranking, name, scores, top) for name, scores in seen.items()}


def of_classes(ranking: Ranking, layer: str, seen: LayerScores, top: int, *, votes: bool, unique: bool) -> xr.Dataset:
    """List the top channels of each class; see `rank`."""
    profile = profile_of(ranking, layer, seen, top, votes=votes)
    shown = profile["unique" if unique else "top"].values
    order = np.where(shown, -profile["place"].values, np.nan)
    best, values = top_channels(order, top)
    names = ["score", "class_mean", "others_mean", "selectivity", "precision", "precision_held_out", "votes", "unique"]
    return _listed(profile, best, ~np.isnan(values), [n for n in names if n in profile], ranking)


def _of_samples(ranking: Ranking, layer: str, seen: SampleTops) -> xr.Dataset:
    data = ranking.used.cut(ranking.store, ranking.store.layer(layer))[1]
    dims = ("sample", "rank")
    found = {
        "channel": (dims, np.where(np.isnan(seen.scores), -1, data["channel"].values[seen.channels])),
        "score": (dims, seen.scores),
        "not_finite": (dims, seen.not_finite),
    }
    coords = {"sample": data["sample"], "label": data["label"], "rank": np.arange(1, seen.scores.shape[1] + 1)}
    return _described(xr.Dataset(found, coords=coords, attrs=dict(data.attrs)), ranking)


def _over_all(ranking: Ranking, layer: str, seen: LayerScores, top: int) -> xr.Dataset:
    with np.errstate(invalid="ignore", divide="ignore"):
        score = seen.scores.sum(axis=0) / seen.count.sum(axis=0)
    data, lost = ranking.store.layer(layer), seen.nan + seen.inf
    coords = {"channel": data["channel"], "rank": np.arange(1, min(top, len(score)) + 1)}
    if ranking.groups is None:
        best, values = top_channels(score[None], top)
        channel = np.where(np.isnan(values), -1, data["channel"].values[best])[0]
        found = {"channel": ("rank", channel), "score": ("rank", values[0])}
        found["not_finite"] = ("rank", lost[best[0]])
        return _described(xr.Dataset(found, coords={"rank": coords["rank"]}, attrs=dict(data.attrs)), ranking)
    profile = profile_of(ranking, layer, seen, 1, votes=False)
    means = profile["class_mean"].values
    label = np.argmax(np.where(np.isnan(means), -np.inf, means), axis=0)
    if ranking.metric in OF_CLASSES:
        score = np.take_along_axis(profile[ranking.metric].values, label[None], axis=0)[0]
    best, values = top_channels(score[None], top)
    names = ["class_mean", "others_mean", "selectivity", "precision", "precision_held_out"]
    parts = {}
    for name in names:
        if name in profile:
            own = np.take_along_axis(profile[name].values, label[None], axis=0)
            parts[name] = ("rank", own[0, best[0]], profile[name].attrs)
    labels = np.asarray(ranking.names, dtype=object)[label[best[0]]]
    result = xr.Dataset(
        {
            "channel": ("rank", np.where(np.isnan(values), -1, data["channel"].values[best])[0]),
            "score": ("rank", values[0]),
            "label": ("rank", labels, {"definition": "class with the largest mean"}),
            **parts,
            "chance": ("rank", profile["chance"].values[label[best[0]]], profile["chance"].attrs),
            "not_finite": ("rank", lost[best[0]]),
        },
        coords={"rank": coords["rank"]},
        attrs=dict(data.attrs),
    )
    return _described(result, ranking)


def _listed(profile: xr.Dataset, best: np.ndarray, there: np.ndarray, names: list[str], ranking: Ranking) -> xr.Dataset:
    """Take the listed channels (label, rank) out of what is known of all (label, channel)."""
    dims = ("label", "rank")
    variables: dict[str, Any] = {"channel": (dims, np.where(there, profile["channel"].values[best], -1))}
    for name in names:
        values = np.take_along_axis(profile[name].values, best, axis=1)
        blank = np.nan if values.dtype.kind == "f" else 0
        variables[name] = (dims, np.where(there, values, blank).astype(values.dtype), profile[name].attrs)
    lost = (profile["nan"] + profile["inf"]).values
    variables["not_finite"] = (dims, lost[best])
    coords = {"label": profile["label"], "rank": np.arange(1, best.shape[1] + 1)}
    result = xr.Dataset(variables, coords=coords, attrs=profile.attrs)
    return _described(result.assign(chance=profile["chance"], samples=profile["samples"]), ranking)


def _described(result: xr.Dataset, ranking: Ranking) -> xr.Dataset:
    level = float(noise_levels(ranking.store)[ranking.used.level or 0])
    about = {
        "channel": "number of the channel, -1 for none",
        "score": f"mean over samples of {ranking.metric}" if "sample" not in result.dims else ranking.metric,
        "not_finite": "values that are NaN or infinite",
    }
    for name, text in about.items():
        result[name].attrs.setdefault(
            "definition", PROFILE[ranking.metric] if name == "score" and ranking.metric in OF_CLASSES else text
        )
    return result.assign_attrs(metric=ranking.metric, noise=level)
