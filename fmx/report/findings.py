"""What the report says: the analyses of a store, those of a layer in one read, and those that can't be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from fmx.analyze import ReceptiveField, similarity
from fmx.analyze.class_profile import Ranking, settle
from fmx.analyze.course import Points, training_points
from fmx.analyze.overview import PARTS, Overview, Questions, overview
from fmx.analyze.parts import check_complete, clean_level, find_level, noise_levels
from fmx.analyze.receptive import add_boxes
from fmx.analyze.robustness import flipped_predictions
from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.report.saved import METRIC, TOP_OF_CLASS, TOP_SAMPLES, SavedFindings
from fmx.store import Store

__all__ = ["Findings", "LayerFindings", "gather"]

BINS = 48
HELD_OUT = 0.5
# Samples, drawn at random where there are more, that tell how alike layers are: as many as are compared in seconds.
# Small batches of many samples say more in the same time than all pairs of fewer do.
COMPARED = (1000, 4000)
MOST_COMPARED = 2e9
BATCH = 128


@dataclass
class LayerFindings(Overview):
    """What is known of one layer: what `fmx.analyze.overview.Overview` has, its name and shape, and any quantiles."""

    info: LayerInfo = field(kw_only=True)
    quantiles: xr.DataArray | None = None

    def strongest(self, count: int) -> list[int]:
        """Number the channels whose top samples excite them most: by the mean of their listed values.

        Of equal ones, as where values are clipped, those with the larger mean over all samples come first.
        """
        if self.top is None:
            return []
        with np.errstate(invalid="ignore"):
            values = self.top["value"].values
            known = np.isfinite(values)
            score = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        means = np.zeros(len(score)) if self.channels is None else np.nan_to_num(self.channels["mean"].values)
        order = np.lexsort((-means, -np.where(known.any(axis=1), score, -np.inf)))
        alive = [int(i) for i in order if known[i].any() and np.nanmax(np.abs(values[i])) > 0]
        return [int(self.top["channel"].values[i]) for i in alive[:count]]


@dataclass
class Findings:
    """What is known of a store.

    Attributes
    ----------
    layers : list of LayerFindings
    noise : float
        The level that all but robustness is about.
    similarity : xarray.Dataset or None
    missing : mapping of str to str
        Why a part of the report is not there, by its name: ``similarity``, ``classes``, ``robustness``, ``course``, and
        of stores of summaries ``maps``, ``statistics``, ``hist``, ``top``.
    reused : mapping of str to str
        By part, the name of the saved results it comes from.
    seconds : mapping of str to float
        How long each part took.
    points : Points or None
        Of a recorded training.
    flipped : dict of float to float
        By noise level, the share of predictions that are another than the clean ones; empty where the store has none.
    """

    store: Store
    layers: list[LayerFindings]
    noise: float = 0.0
    similarity: xr.Dataset | None = None
    missing: dict[str, str] = field(default_factory=dict)
    reused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    points: Points | None = None
    flipped: dict[float, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add what is done inside to the seconds of a part."""
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


def gather(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    fields: Mapping[str, ReceptiveField] | None = None,
    allow_partial: bool = False,
    reading: Callable[[str], Any] | None = None,
) -> Findings:
    """Analyse a store for its report.

    Parameters
    ----------
    store : Store
    layers : str or iterable of str
        See `fmx.store.Store.select`.
    fields : mapping of str to ReceptiveField, optional
        What neurons of a layer see, as `fmx.analyze.receptive_field` measures it.
    allow_partial : bool
        Tell of the complete samples of an unfinished store.
    reading : callable, optional
        Given what is read next, a context in which that happens: progress, a cluster.

    Raises
    ------
    FmxError
        No such layers; an unfinished store, or one that holds nothing to tell of.
    """
    check_complete(store, allow_partial, summaries=True)
    if not store.layers:
        from fmx.report.summaries import gather_summaries

        return gather_summaries(store, layers)
    chosen = store.select(layers)
    level = find_level(store, None) if 0 in noise_levels(store) else 0
    found = Findings(store, [], float(noise_levels(store)[level]))
    check_classes(found)
    check_noise(found)
    found.points = training_points(store)
    if found.points is None:
        found.missing["course"] = "The samples have no epochs or steps: record a training with fmx.Recorder."
    work = _Work(found, level, SavedFindings(store, level, held_out(found)), _ranking(found, allow_partial))
    within = reading or (lambda _: nullcontext())
    for i, info in enumerate(chosen, start=1):
        with within(f"{info.name} ({i} of {len(chosen)})"), found.timed("layers"):
            found.layers.append(work.of(info, (fields or {}).get(info.name)))
    with within("similarity"), found.timed("similarity"):
        compare_layers(found, work.saved, allow_partial)
    return found


def check_noise(found: Findings) -> None:
    """Say why noise levels can't be compared, if they can't."""
    levels = noise_levels(found.store)
    if len(levels) < 2:
        found.missing["robustness"] = "The store has one noise level: extract with --noise 0,0.1,0.2 to see."
    elif (clean := clean_level(found.store)) is None:
        found.missing["robustness"] = "The store has no noise level 0 that others could be compared with."
    elif (flipped := flipped_predictions(found.store, clean)) is not None:
        found.flipped = {v: float(share) for v, share in zip(levels, flipped[0], strict=True) if v}


def check_classes(found: Findings) -> None:
    """Say why classes can't be told apart, if they can't."""
    names = np.unique(_labels(found.store))
    if not any(names):
        found.missing["classes"] = "The samples have no labels: extract a folder of subfolders, one a class."
    elif len(names) < 2:
        found.missing["classes"] = f"All samples have the label {names[0]}: classes take two labels."


def held_out(found: Findings) -> float:
    """Say which share of each class's samples is kept for a test: none where a class has fewer than four."""
    return HELD_OUT if np.unique(_labels(found.store), return_counts=True)[1].min() >= 4 else 0.0


def _ranking(found: Findings, allow_partial: bool) -> Ranking | None:
    if "classes" in found.missing:
        return None
    how: Any = {"metric": METRIC, "noise": found.noise, "held_out": held_out(found)}
    return settle(found.store, allow_partial=allow_partial, **how)


def compare_layers(found: Findings, saved: SavedFindings, allow_partial: bool) -> None:
    """Compare all pairs of layers, or say why they can't be."""
    count, names = int(found.store.complete.sum()), [one.info.name for one in found.layers]
    if len(names) < 2:
        found.missing["similarity"] = "There is one layer, and nothing to compare it with."
        return
    if count < 4:
        found.missing["similarity"] = f"Unbiased CKA takes 4 samples, and the store has {count}."
        return
    kept = saved.similarity(names)
    if kept is not None:
        found.reused["similarity"], found.similarity = kept
        return
    how: Any = {"noise": found.noise, "samples": samples_compared(found.store, names), "allow_partial": allow_partial}
    how |= {"estimator": "minibatch", "batch": BATCH}
    try:
        found.similarity = similarity(found.store, layers=names, **how)
    except FmxError as error:
        if not any(one.whole["nan"] + one.whole["inf"] for one in found.layers):
            found.missing["similarity"] = str(error)
            return
        # Samples that are not finite in one layer would be left out of all.
        found.similarity = similarity(found.store, layers=names, nan="keep", **how)


def samples_compared(store: Store, names: Iterable[str]) -> int:
    """Say of how many samples all pairs of layers are compared: fewer where layers are large."""
    features = sum(store.activation(name)[0, 0].size for name in names)
    return int(np.clip(MOST_COMPARED / max(features, 1), *COMPARED))


def _labels(store: Store) -> list[str]:
    return [str(v) for v in store.tree.to_dataset()["label"].values[store.complete]]


@dataclass
class _Work:
    """The analyses of layers, in one read each; what the store holds already is not made again."""

    found: Findings
    level: int
    saved: SavedFindings
    ranking: Ranking | None

    def of(self, info: LayerInfo, seen: ReceptiveField | None) -> LayerFindings:
        """Make all that can be made of a layer."""
        wanted = [part for part in PARTS if part not in self.found.missing and "channel" in info.dims]
        kept = {part: there for part in wanted if (there := self.saved.part(part, info)) is not None}
        described = self.saved.statistics(info) if len(kept) == len(wanted) else None
        if described is None:
            asked = Questions(
                level=self.level,
                parts=[part for part in wanted if part not in kept],
                bins=BINS,
                top=TOP_SAMPLES,
                ranking=self.ranking,
                top_of_class=TOP_OF_CLASS,
                points=self.found.points,
            )
            one = overview(self.found.store, info, asked, field=seen)
        else:
            self.found.reused["statistics"], one = described
        for part, (name, results) in kept.items():
            self.found.reused[part] = name
            boxes = part == "top" and seen is not None and "y" in results
            setattr(one, part, add_boxes(results, seen) if boxes and seen else results)
        return LayerFindings(**vars(one), info=info)
