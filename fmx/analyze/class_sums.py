"""For each sample, the summed activation of each class's top channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import sample_batches
from fmx.analyze.class_profile import Ranking, fold_layer, profile_of, settle
from fmx.analyze.not_finite import without_spoiled
from fmx.analyze.parts import Part, noise_levels
from fmx.errors import FmxError
from fmx.reduce import Moments
from fmx.store import Store

__all__ = ["class_sums"]

_ABOUT = {
    "sum": "sum over the class's top channels of the sample's sum over positions and timesteps",
    "own": "label of the sample",
    "largest": "class with the largest sum; classes without channels have none; empty where there is none",
    "not_finite": "values of the class's channels that are NaN or infinite; they are left out",
    "channels": "top channels of the class that are summed up; a class without any has sums of 0, which say nothing",
}


def class_sums(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    metric: str = "mean",
    n_each_class: int = 10,
    n_each_image: int = 0,
    unique: bool = True,
    channels: Mapping[str, Sequence[int]] | None = None,
    noise: float | None = None,
    held_out: float = 0,
    seed: int = 0,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Sum up each class's top channels for each sample: one figure, with the samples on x and one colour a class.

    Parameters
    ----------
    store : Store
    layers : str or iterable of str
    metric, n_each_image, noise, seed, allow_partial
        How the top channels of the classes are found; see `fmx.analyze.rank`.
    n_each_class : int
        Top channels of each class.
    unique : bool
        Leave out channels that are top channels of several classes.
    channels : mapping of str to sequence of int, optional
        Channels of each class, instead of finding them: the store is then read once and not twice.
    held_out : float
        Share of each class's samples that are summed up and have no part in finding the channels; 0 uses all samples
        for both.
    nan : str
        ``skip`` leaves out values that are not finite; ``keep`` leaves out samples when the channels are found, and
        makes sums NaN that have one among their values.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: sum and not_finite (sample, label), own and largest (sample), channels (label). The attribute
        ``without_channels`` names the classes all of whose top channels are those of other classes, too.

    Raises
    ------
    FmxError
        As `fmx.analyze.rank`; or a channel that the layer has not.
    """
    if n_each_class < 1:
        raise FmxError(f"At least one channel of each class is summed up, not {n_each_class}.")
    ranking = settle(
        store,
        metric=metric,
        n_each_image=n_each_image or 10,
        noise=noise,
        held_out=held_out,
        seed=seed,
        nan=nan,
        allow_partial=allow_partial,
    )
    summed = ranking.used
    if ranking.held is not None:
        chosen = np.zeros(len(store.complete), bool)
        chosen[np.flatnonzero(store.complete)[ranking.held]] = True
        summed = Part(chosen, summed.level)
    found = {}
    for info in store.select(layers):
        if channels is not None:
            member, names = _given(store, info.name, channels)
        else:
            fold = fold_layer(ranking, info.name)
            profile = profile_of(ranking, fold, n_each_class, votes=n_each_image > 0)
            member, names = profile["unique" if unique else "top"].values, ranking.names
        found[info.name] = _summed(ranking, info.name, summed, member, names, nan)
    return found


def _given(store: Store, layer: str, channels: Mapping[str, Sequence[int]]) -> tuple[NDArray[np.bool_], list[str]]:
    numbers = store.layer(layer)["channel"].values
    for label, own in channels.items():
        for number in own:
            if number not in numbers:
                raise FmxError(
                    f"{layer} has no channel {number} for {label}: it has {len(numbers)}, from {numbers[0]}."
                )
    return np.stack([np.isin(numbers, own) for own in channels.values()]), list(channels)


def _summed(
    ranking: Ranking, layer: str, part: Part, member: NDArray[np.bool_], names: list[str], nan: str
) -> xr.Dataset:
    wanted, parts, lost = ("count", "mean", "nan", "inf"), [], []
    weights = member.T.astype(np.float64)
    for batch in sample_batches(ranking.store, layer, {"s": Moments(wanted)}, by=("sample", "channel"), part=part):
        sums = np.where(batch["s.count"].values > 0, batch["s.mean"].values * batch["s.count"].values, 0)
        parts.append(sums @ weights)
        lost.append((batch["s.nan"] + batch["s.inf"]).values @ member.T.astype(np.int64))
    total, labels = np.concatenate(parts), np.asarray(names, dtype=object)
    about = part.cut(ranking.store, ranking.store.layer(layer))[1]
    variables = {
        "sum": (("sample", "label"), total),
        "not_finite": (("sample", "label"), np.concatenate(lost)),
        "own": ("sample", about["label"].values.astype(object)),
        "channels": ("label", member.sum(axis=1)),
    }
    result = xr.Dataset(
        {name: (dims, values, {"definition": _ABOUT[name]}) for name, (dims, values) in variables.items()},
        coords={"sample": about["sample"], "label": labels},
        attrs=ranking.store.layer(layer).attrs,
    )
    result = without_spoiled(result, nan, ("not_finite",))
    sums = result["sum"].values
    told = ~np.isnan(sums) & member.any(axis=1)
    best = np.where(told, sums, -np.inf).argmax(axis=1)
    largest = np.where(told.any(axis=1), labels[best], "").astype(object)
    result["largest"] = ("sample", largest, {"definition": _ABOUT["largest"]})
    level = float(noise_levels(ranking.store)[part.level or 0])
    without = [name for name, own in zip(names, member, strict=True) if not own.any()]
    return result.assign_attrs(metric=ranking.metric, noise=level, without_channels=", ".join(without))
