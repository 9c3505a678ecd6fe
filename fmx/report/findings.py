"""What the report says: the analyses of a store, several of them in one read, and those that can't be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze import ReceptiveField, health, rank, similarity, top_samples
from fmx.analyze.batches import merge_along
from fmx.analyze.parts import Part, check_complete, clean_level, find_level, noise_levels
from fmx.analyze.store_reduce import reduce_store
from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.reduce import Histogram, Moments, NoisePairs, Reducer
from fmx.report.saved import saved_results
from fmx.store import Store

__all__ = ["Findings", "LayerFindings", "gather"]

BINS = 48
TOP_SAMPLES = 6
TOP_OF_CLASS = 5
# Of more samples, so many that are drawn at random tell how alike layers are.
MOST_COMPARED = 1000
HELD_OUT = 0.5


@dataclass
class LayerFindings:
    """What is known of one layer.

    Attributes
    ----------
    info : LayerInfo
    whole : mapping of str to float
        Moments of all values, as `fmx.reduce.Moments` names them.
    channels : xarray.Dataset or None
        The same (channel); None for layers without channels.
    counts, edges : array (bin,), array (edge,)
        Histogram of all values.
    top : xarray.Dataset or None
        What `fmx.analyze.top_samples` gives.
    health, robustness, classes : xarray.Dataset or None
        Per layer; the top channels of each class.
    """

    info: LayerInfo
    whole: Mapping[str, float]
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    channels: xr.Dataset | None = None
    top: xr.Dataset | None = None
    health: xr.Dataset | None = None
    robustness: xr.Dataset | None = None
    classes: xr.Dataset | None = None

    def strongest(self, count: int) -> list[int]:
        """Number the channels whose top samples excite them most: by the mean of their listed values."""
        if self.top is None:
            return []
        with np.errstate(invalid="ignore"):
            values = self.top["value"].values
            known = np.isfinite(values)
            score = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        order = np.argsort(-np.where(known.any(axis=1), score, -np.inf), kind="stable")
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
        Why a part of the report is not there, by its name: ``similarity``, ``classes``, ``robustness``.
    reused : mapping of str to str
        By part, the name of the saved results it comes from.
    seconds : mapping of str to float
        How long each part took.
    """

    store: Store
    layers: list[LayerFindings]
    noise: float = 0.0
    similarity: xr.Dataset | None = None
    missing: dict[str, str] = field(default_factory=dict)
    reused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

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
        Given the name of a part, a context in which it is read: progress, a cluster.

    Raises
    ------
    FmxError
        No such layers; an unfinished store, or one that holds no activations.
    """
    check_complete(store, allow_partial)
    chosen = store.select(layers)
    level = find_level(store, None) if 0 in noise_levels(store) else 0
    found = Findings(store, [], float(noise_levels(store)[level]))
    work = _Work(found, chosen, level, allow_partial, dict(fields or {}))
    parts: dict[str, Callable[[], None]] = {
        "statistics": work.statistics,
        "top samples": work.top,
        "health": work.health,
        "robustness": work.robustness,
        "classes": work.classes,
        "similarity": work.similarity,
    }
    for name, part in parts.items():
        with found.timed(name):
            if reading is None:
                part()
            else:
                with reading(name):
                    part()
    return found


@dataclass
class _Work:
    found: Findings
    chosen: list[LayerInfo]
    level: int
    partial: bool
    fields: dict[str, ReceptiveField]

    @property
    def store(self) -> Store:
        return self.found.store

    @property
    def with_channels(self) -> list[str]:
        return [info.name for info in self.chosen if "channel" in info.dims]

    def statistics(self) -> None:
        """Describe channels and count values in one read; layers are the channels' states merged."""
        reducers: dict[str, Reducer] = {"s": Moments(), "h": Histogram(BINS)}
        part = Part(level=self.level)
        names = {"channel": self.with_channels, "": [i.name for i in self.chosen if "channel" not in i.dims]}
        states: dict[str, xr.Dataset] = {}
        for by, some in names.items():
            if some:
                states |= reduce_store(self.store, reducers, layers=some, by=[by] if by else [], part=part)
        for info in self.chosen:
            own = states[info.name]
            per = {name: np.atleast_1d(own[name].values) for name in reducers}
            merged = {name: merge_along(reducer, per[name]) for name, reducer in reducers.items()}
            whole = {name: float(v) for name, v in reducers["s"].finalize(merged["s"]).items()}
            shape = reducers["h"].finalize(merged["h"])
            one = LayerFindings(info, whole, shape["counts"], shape["edges"])
            if "channel" in info.dims:
                values = {name: ("channel", v) for name, v in reducers["s"].finalize(per["s"]).items()}
                one.channels = xr.Dataset(values, coords={"channel": own["channel"].values})
            self.found.layers.append(one)

    def top(self) -> None:
        """Find the top samples of all channels."""
        some = self.with_channels
        if some:
            level = float(noise_levels(self.store)[self.level])
            self._put(
                "top",
                top_samples(
                    self.store,
                    k=TOP_SAMPLES,
                    layers=some,
                    noise=level,
                    fields={name: one for name, one in self.fields.items() if name in some},
                    allow_partial=self.partial,
                ),
            )

    def health(self) -> None:
        """Look for what may be wrong."""
        if self.with_channels:
            level = float(noise_levels(self.store)[self.level])
            self._put("health", health(self.store, layers=self.with_channels, noise=level, allow_partial=self.partial))

    def robustness(self) -> None:
        """Compare noise levels."""
        levels = noise_levels(self.store)
        if len(levels) < 2:
            self.found.missing["robustness"] = "The store has one noise level: extract with --noise 0,0.1,0.2 to see."
        elif clean_level(self.store) is None:
            self.found.missing["robustness"] = "The store has no noise level 0 that others could be compared with."
        elif self.with_channels:
            count = int(self.store.complete.sum()) * self.store.tree.sizes.get("timestep", 1)
            sizes = {i.name: count * int(np.prod(i.shape)) for i in self.chosen}
            kept = self._saved("robustness", {"per": "layer", "nan": "skip"}, sizes)
            self._put("robustness", kept or self._noise_pairs(levels))

    def _noise_pairs(self, levels: NDArray[np.float64]) -> dict[str, xr.Dataset]:
        """Compare levels as `fmx.analyze.robustness` does, without what it tells sample by sample."""
        reducer = NoisePairs(len(levels), clean_level(self.store) or 0)
        states = reduce_store(self.store, {"r": reducer}, layers=self.with_channels, by=["channel"])
        found = {}
        for name, own in states.items():
            values = reducer.finalize(merge_along(reducer, own["r"].values))
            found[name] = xr.Dataset({k: ("noise", v) for k, v in values.items()}, coords={"noise": levels})
        return found

    def classes(self) -> None:
        """Rank channels for each class, with half of the samples held out where there are enough."""
        labels = [str(v) for v in self.store.tree.to_dataset()["label"].values[self.store.complete]]
        names, sizes = np.unique(labels, return_counts=True)
        if not any(labels):
            self.found.missing["classes"] = "The samples have no labels: extract a folder of subfolders, one a class."
        elif len(names) < 2:
            self.found.missing["classes"] = f"All samples have the label {names[0]}: classes take two labels."
        elif self.with_channels:
            held = HELD_OUT if sizes.min() >= 4 else 0.0
            ranked = rank(
                self.store,
                per="class",
                metric="precision",
                top=TOP_OF_CLASS,
                layers=self.with_channels,
                noise=float(noise_levels(self.store)[self.level]),
                held_out=held,
                allow_partial=self.partial,
            )
            self._put("classes", ranked)

    def similarity(self) -> None:
        """Compare all pairs of layers."""
        count = int(self.store.complete.sum())
        names = [info.name for info in self.chosen]
        if len(names) < 2:
            self.found.missing["similarity"] = "There is one layer, and nothing to compare it with."
            return
        if count < 4:
            self.found.missing["similarity"] = f"Unbiased CKA takes 4 samples, and the store has {count}."
            return
        try:
            self.found.similarity = similarity(
                self.store,
                layers=names,
                noise=float(noise_levels(self.store)[self.level]),
                samples=MOST_COMPARED if count > MOST_COMPARED else None,
                allow_partial=self.partial,
            )
        except FmxError as error:
            self.found.missing["similarity"] = str(error)

    def _saved(
        self, analysis: str, settings: Mapping[str, Any], pairs: Mapping[str, int]
    ) -> dict[str, xr.Dataset] | None:
        """Take saved results, where they are of all that is in the store now."""

        def whole(layer: str, one: xr.Dataset) -> bool:
            return bool(((one["count"] + one["lost"]) == pairs[layer]).all())

        kept = saved_results(self.store, analysis, self.with_channels, settings, whole)
        if kept is None:
            return None
        self.found.reused[analysis] = kept[0]
        return kept[1]

    def _put(self, part: str, results: Mapping[str, xr.Dataset]) -> None:
        for one in self.found.layers:
            if one.info.name in results:
                setattr(one, part, results[one.info.name])
