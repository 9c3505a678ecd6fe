"""For each sample, the summed activation of each class's top channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.class_fold import fold_scores
from fmx.analyze.class_profile import profile_of
from fmx.analyze.not_finite import without_spoiled
from fmx.analyze.parts import Part, noise_levels
from fmx.analyze.ranking import Ranking, settle
from fmx.analyze.sample_folds import sample_folds
from fmx.errors import FmxError
from fmx.reduce import State
from fmx.reduce.sums import Sums
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
        held = np.zeros(len(store.complete), bool)
        held[np.flatnonzero(store.complete)[ranking.held]] = True
        summed = Part(held, summed.level)
    chosen = [info.name for info in store.select(layers)]
    if channels is not None:
        members = {name: _given(store, name, channels) for name in chosen}
        names = list(channels)
    else:
        seen = fold_scores(ranking, chosen)
        kind, names, voted = "unique" if unique else "top", ranking.names, n_each_image > 0
        members = {
            name: profile_of(ranking, name, scores, n_each_class, votes=voted)[kind].values
            for name, scores in seen.items()
        }
    found = sample_folds(store, {name: _SumFold(member) for name, member in members.items()}, part=summed)
    return {name: _described(ranking, name, summed, members[name], names, sums, nan) for name, sums in found.items()}


def _given(store: Store, layer: str, channels: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    numbers = store.layer(layer)["channel"].values
    for label, own in channels.items():
        for number in own:
            if number not in numbers:
                raise FmxError(
                    f"{layer} has no channel {number} for {label}: it has {len(numbers)}, from {numbers[0]}."
                )
    return np.stack([np.isin(numbers, own) for own in channels.values()])


@dataclass(frozen=True)
class _Sums:
    """Sums and values that are not finite (sample, label)."""

    total: NDArray[np.float64]
    lost: NDArray[np.int64]


@dataclass(frozen=True)
class _SumFold:
    """How the channels of each class are summed up; it can be sent to another machine.

    Attributes
    ----------
    member : array (label, channel) of bool
    """

    member: NDArray[np.bool_]
    reducer: ClassVar[Sums] = Sums()

    def take(self, states: State, _: slice) -> _Sums:
        """Take in the states of some samples."""
        lost = states["nan"] + states["inf"]
        return _Sums(states["sum"] @ self.member.T.astype(np.float64), lost @ self.member.T.astype(np.int64))

    def join(self, parts: Sequence[_Sums]) -> _Sums:
        """Put samples one after the other."""
        return _Sums(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("total", "lost")))

    def finish(self, whole: _Sums) -> _Sums:
        """Give them as they are."""
        return whole


def _described(
    ranking: Ranking, layer: str, part: Part, member: NDArray[np.bool_], names: list[str], sums: _Sums, nan: str
) -> xr.Dataset:
    labels = np.asarray(names, dtype=object)
    about = part.cut(ranking.store, ranking.store.layer(layer))[1]
    variables = {
        "sum": (("sample", "label"), sums.total),
        "not_finite": (("sample", "label"), sums.lost),
        "own": ("sample", about["label"].values.astype(object)),
        "channels": ("label", member.sum(axis=1)),
    }
    result = xr.Dataset(
        {name: (dims, values, {"definition": _ABOUT[name]}) for name, (dims, values) in variables.items()},
        coords={"sample": about["sample"], "label": labels},
        attrs=ranking.store.layer(layer).attrs,
    )
    result = without_spoiled(result, nan, ("not_finite",))
    total = result["sum"].values
    told = ~np.isnan(total) & member.any(axis=1)
    best = np.where(told, total, -np.inf).argmax(axis=1)
    largest = np.where(told.any(axis=1), labels[best], "").astype(object)
    result["largest"] = ("sample", largest, {"definition": _ABOUT["largest"]})
    level = float(noise_levels(ranking.store)[part.level or 0])
    without = [name for name, own in zip(names, member, strict=True) if not own.any()]
    return result.assign_attrs(metric=ranking.metric, noise=level, without_channels=", ".join(without))
