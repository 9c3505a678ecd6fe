"""Several analyses of a layer in one read of its values: what a page about it says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import channel_batches, merge_along
from fmx.analyze.class_fold import ClassFold, ClassParts, check_ranked, fold_of
from fmx.analyze.course import Points, course_of
from fmx.analyze.health import Gathered, of_layer
from fmx.analyze.parts import Part, clean_level, noise_levels
from fmx.analyze.rank import of_classes
from fmx.analyze.ranking import Ranking
from fmx.analyze.receptive import ReceptiveField
from fmx.analyze.store_reduce import summarise
from fmx.analyze.top_samples import labelled
from fmx.layers import LayerInfo
from fmx.reduce import Histogram, Moments, NoisePairs, Reducer, ReducerSet, TopSamples
from fmx.reduce.apart import BySample, OneLevel
from fmx.reduce.sums import Sums
from fmx.store import Store

__all__ = ["PARTS", "Overview", "Questions", "overview"]

# What can be asked beside moments and a histogram, which are always told.
PARTS = ("top", "health", "robustness", "classes", "course")


@dataclass(frozen=True)
class Questions:
    """What is asked of a layer.

    Attributes
    ----------
    level : int
        Position of the noise level that all but robustness is about.
    parts : collection of str
        Those of PARTS that are wanted.
    bins : int
        Of the histogram.
    top : int
        Samples of each channel.
    ranking : Ranking or None
        How channels are ranked for classes, settled for the same level; by the mean, selectivity or precision.
    top_of_class : int
        Channels of each class.
    points : Points or None
        Points of a training, for its course.
    """

    level: int
    parts: Collection[str] = PARTS
    bins: int = 48
    top: int = 6
    ranking: Ranking | None = None
    top_of_class: int = 5
    points: Points | None = None


@dataclass
class Overview:
    """What is known of a layer.

    Attributes
    ----------
    whole : mapping of str to float
        Moments of all values, as `fmx.reduce.Moments` names them.
    counts, edges : array (bin,), array (edge,)
        Histogram of all values.
    channels : xarray.Dataset or None
        Moments (channel); None for layers without channels, as all below.
    top, health, classes : xarray.Dataset or None
        As `fmx.analyze.top_samples`, `health` (per layer) and `rank` (per class) tell.
    robustness : xarray.Dataset or None
        What `fmx.reduce.NoisePairs` tells (noise).
    course : xarray.Dataset or None
        As `fmx.analyze.course.course_of` tells of a training.
    """

    whole: Mapping[str, float]
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    channels: xr.Dataset | None = None
    top: xr.Dataset | None = None
    health: xr.Dataset | None = None
    robustness: xr.Dataset | None = None
    classes: xr.Dataset | None = None
    course: xr.Dataset | None = None


def overview(store: Store, info: LayerInfo, asked: Questions, *, field: ReceptiveField | None = None) -> Overview:
    """Answer several questions about a layer in one read, some samples at a time.

    Parameters
    ----------
    store : Store
    info : LayerInfo
    asked : Questions
    field : ReceptiveField, optional
        What neurons of the layer see, for the boxes of top samples.
    """
    if "channel" not in info.dims:
        return _without_channels(store, info, asked)
    gathering = _Gathering(store, info, asked)
    for count, batch in channel_batches(store, info.name, gathering.reducers, part=gathering.part):
        gathering.take(count, batch)
    return gathering.told(field)


def _without_channels(store: Store, info: LayerInfo, asked: Questions) -> Overview:
    reducers: dict[str, Reducer] = {"moments": Moments(), "hist": Histogram(asked.bins)}
    states = summarise(store, reducers, layers=[info.name], part=Part(level=asked.level), states=True)[info.name]
    return Overview(*_whole(states["moments"].values[()], states["hist"].values[()], reducers["hist"]))


def _whole(moments: Any, counts: Any, histogram: Reducer) -> tuple[dict[str, float], Any, Any]:
    shape = histogram.finalize(counts)
    return {n: float(v) for n, v in Moments().finalize(moments).items()}, shape["counts"], shape["edges"]


class _Gathering:
    """Puts the batches of a layer together."""

    def __init__(self, store: Store, info: LayerInfo, asked: Questions) -> None:
        self.store, self.info, self.asked = store, info, asked
        clean = clean_level(store)
        paired = "robustness" in asked.parts and clean is not None
        levels = len(noise_levels(store))
        self.pairs = NoisePairs(levels, clean or 0) if paired and levels > 1 else None
        # Pairs take all noise levels; else no other one is read.
        self.part = Part(level=None if self.pairs else asked.level)
        own = Part(level=asked.level)
        self.health = Gathered(store, info, own) if "health" in asked.parts else None
        ranked = "classes" in asked.parts and asked.ranking is not None
        self.fold: ClassFold | None = None
        self.scored: list[ClassParts] = []
        if ranked and asked.ranking is not None:
            check_ranked(store, info.name)
            self.fold = fold_of(asked.ranking, reducer=Sums())
        self.points = asked.points if "course" in asked.parts else None
        dims = [str(dim) for dim in store.activation(info.name).dims if dim not in {"sample", "channel"}]
        self.merged: dict[str, Reducer] = {"moments": Moments(), "hist": Histogram(asked.bins)}
        if "top" in asked.parts:
            self.merged["top"] = TopSamples(asked.top, dims)
        self.states: dict[str, Any] = {}
        self.seen = 0
        self.labels = xr.Dataset()

    def reducers(self, samples: int) -> dict[str, Reducer]:
        """Give what a batch of so many samples is reduced by."""
        own: dict[str, Reducer] = dict(self.merged)
        if self.fold is not None:
            own["each"] = BySample(Sums(), samples)
        if self.points is not None:
            own["course"] = BySample(Moments(), samples)
        if self.health is not None:
            own |= self.health.reducers(samples)
        if self.pairs is None:
            return own
        return {"own": OneLevel(ReducerSet(own), self.asked.level), "pairs": self.pairs}

    def take(self, count: int, batch: xr.Dataset) -> None:
        """Take in the states of a batch of so many samples."""
        states: Any = {str(name): batch[name].values for name in batch}
        if self.pairs is not None:
            self._merge("pairs", self.pairs, states["pairs"])
            states = states["own"]
        self.labels = batch.coords.to_dataset().assign_attrs(batch.attrs)
        if self.fold is not None:
            own = np.moveaxis(states["each"]["sample"], -1, 0)
            scored = self.fold.take(own, slice(self.seen, self.seen + count))
            self.scored = [self.fold.join([*self.scored, scored])]
        for name, reducer in self.merged.items():
            state = states[name]
            if name == "top":
                state = state.copy()
                state["sample"] += np.where(state["sample"] >= 0, self.seen, 0)
            self._merge(name, reducer, state)
        if self.health is not None:
            self.health.take(states, states["moments"])
        if self.points is not None:
            self._take_course(states["course"]["sample"], self.points)
        self.seen += count

    def _take_course(self, states: Any, points: Points) -> None:
        """Take in the moments of samples apart (channel, sample)."""
        groups = points.groups[self.seen : self.seen + states.shape[1]]
        seen = self.states.setdefault("course", Moments().identity((len(points.at), len(states))))
        for point in np.unique(groups):
            own = merge_along(Moments(), np.moveaxis(states[:, groups == point], 1, 0))
            seen[point] = Moments().merge(seen[point], own)

    def _merge(self, name: str, reducer: Reducer, states: Any) -> None:
        self.states[name] = reducer.merge(self.states[name], states) if name in self.states else states

    def told(self, field: ReceptiveField | None) -> Overview:
        """Turn what was seen into results."""
        moments, hist = self.states["moments"], self.merged["hist"]
        together = merge_along(Moments(), moments), merge_along(hist, self.states["hist"])
        found = Overview(*_whole(*together, hist))
        values = {name: ("channel", v) for name, v in Moments().finalize(moments).items()}
        found.channels = xr.Dataset(values, coords={"channel": self.labels["channel"].values})
        if "top" in self.merged:
            top = self.merged["top"].finalize(self.states["top"])
            lost = {name: moments[name] for name in ("nan", "inf")}
            part = Part(level=self.asked.level)
            found.top = labelled(self.store, self.info.name, top, lost, self.labels, field, part)
        if self.health is not None:
            found.health = of_layer(self.health.channels())
        if self.pairs is not None:
            told = self.pairs.finalize(merge_along(self.pairs, self.states["pairs"]))
            levels = noise_levels(self.store)
            found.robustness = xr.Dataset({k: ("noise", v) for k, v in told.items()}, coords={"noise": levels})
        if self.fold is not None and self.asked.ranking is not None:
            top_of = self.asked.top_of_class
            scores = self.fold.finish(self.fold.join(self.scored))
            ranking, name = self.asked.ranking, self.info.name
            found.classes = of_classes(ranking, name, scores, top_of, votes=False, unique=False)
        if self.points is not None:
            found.course = course_of(self.states["course"], self.points.axis, self.points.at)
        return found
