"""What the report says: the analyses of a store, several of them in one read, and those that can't be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from fmx.report.saved import saved_result
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
        Given what is read next, a context in which that happens: progress, a cluster.

    Raises
    ------
    FmxError
        No such layers; an unfinished store, or one that holds no activations.
    """
    check_complete(store, allow_partial)
    chosen = store.select(layers)
    level = find_level(store, None) if 0 in noise_levels(store) else 0
    found = Findings(store, [], float(noise_levels(store)[level]))
    check_classes(found)
    check_noise(found)
    within = reading or (lambda _: nullcontext())
    # Layer by layer, so that what is read for one part is still in memory for the next.
    for i, info in enumerate(chosen, start=1):
        with within(f"{info.name} ({i} of {len(chosen)})"):
            found.layers.append(_Work(found, info, level, allow_partial, dict(fields or {})).done())
    with within("similarity"), found.timed("similarity"):
        compare_layers(found, allow_partial)
    return found


def check_noise(found: Findings) -> None:
    """Say why noise levels can't be compared, if they can't."""
    levels = noise_levels(found.store)
    if len(levels) < 2:
        found.missing["robustness"] = "The store has one noise level: extract with --noise 0,0.1,0.2 to see."
    elif clean_level(found.store) is None:
        found.missing["robustness"] = "The store has no noise level 0 that others could be compared with."


def check_classes(found: Findings) -> None:
    """Say why classes can't be told apart, if they can't."""
    names = np.unique(_labels(found.store))
    if not any(names):
        found.missing["classes"] = "The samples have no labels: extract a folder of subfolders, one a class."
    elif len(names) < 2:
        found.missing["classes"] = f"All samples have the label {names[0]}: classes take two labels."


def compare_layers(found: Findings, allow_partial: bool) -> None:
    """Compare all pairs of layers, or say why they can't be."""
    count, names = int(found.store.complete.sum()), [one.info.name for one in found.layers]
    if len(names) < 2:
        found.missing["similarity"] = "There is one layer, and nothing to compare it with."
    elif count < 4:
        found.missing["similarity"] = f"Unbiased CKA takes 4 samples, and the store has {count}."
    else:
        some = MOST_COMPARED if count > MOST_COMPARED else None
        try:
            found.similarity = similarity(
                found.store, layers=names, noise=found.noise, samples=some, allow_partial=allow_partial
            )
        except FmxError as error:
            found.missing["similarity"] = str(error)


def _labels(store: Store) -> list[str]:
    return [str(v) for v in store.tree.to_dataset()["label"].values[store.complete]]


@dataclass
class _Work:
    """The analyses of one layer."""

    found: Findings
    info: LayerInfo
    level: int
    partial: bool
    fields: Mapping[str, ReceptiveField]

    def done(self) -> LayerFindings:
        """Make all that can be made."""
        with self.found.timed("statistics"):
            one = self.statistics()
        if "channel" not in self.info.dims:
            return one
        name = self.info.name
        common: dict[str, Any] = {
            "layers": [name],
            "noise": self.found.noise,
            "allow_partial": self.partial,
        }
        with self.found.timed("top samples"):
            field = {name: self.fields[name]} if name in self.fields else {}
            one.top = top_samples(self.found.store, k=TOP_SAMPLES, fields=field, **common)[name]
        with self.found.timed("health"):
            one.health = health(self.found.store, **common)[name]
        if "robustness" not in self.found.missing:
            with self.found.timed("robustness"):
                one.robustness = self.robustness()
        if "classes" not in self.found.missing:
            with self.found.timed("classes"):
                held = HELD_OUT if np.unique(_labels(self.found.store), return_counts=True)[1].min() >= 4 else 0.0
                more: dict[str, Any] = {"metric": "precision", "top": TOP_OF_CLASS, "held_out": held}
                one.classes = rank(self.found.store, per="class", **more, **common)[name]
        return one

    def statistics(self) -> LayerFindings:
        """Describe channels and count values in one read; those of the layer are the channels' states merged."""
        reducers: dict[str, Reducer] = {"s": Moments(), "h": Histogram(BINS)}
        by = ["channel"] if "channel" in self.info.dims else []
        part = Part(level=self.level)
        own = reduce_store(self.found.store, reducers, layers=[self.info.name], by=by, part=part)[self.info.name]
        per = {name: np.atleast_1d(own[name].values) for name in reducers}
        merged = {name: merge_along(reducer, per[name]) for name, reducer in reducers.items()}
        whole = {name: float(v) for name, v in reducers["s"].finalize(merged["s"]).items()}
        shape = reducers["h"].finalize(merged["h"])
        one = LayerFindings(self.info, whole, shape["counts"], shape["edges"])
        if by:
            values = {name: ("channel", v) for name, v in reducers["s"].finalize(per["s"]).items()}
            one.channels = xr.Dataset(values, coords={"channel": own["channel"].values})
        return one

    def robustness(self) -> xr.Dataset:
        """Compare levels as `fmx.analyze.robustness` does, without what it tells sample by sample; or take its own."""
        store, name = self.found.store, self.info.name
        levels = noise_levels(store)
        pairs = int(store.complete.sum()) * store.activation(name).sizes["timestep"] * int(np.prod(self.info.shape))

        def whole(one: xr.Dataset) -> bool:
            """Whether results are of all that is in the store now."""
            return bool(((one["count"] + one["lost"]) == pairs).all())

        kept = saved_result(store, "robustness", name, {"per": "layer", "nan": "skip"}, whole)
        if kept is not None:
            self.found.reused["robustness"] = kept[0]
            return kept[1]
        reducer = NoisePairs(len(levels), clean_level(store) or 0)
        states = reduce_store(store, {"r": reducer}, layers=[name], by=["channel"])[name]["r"].values
        values = reducer.finalize(merge_along(reducer, states))
        return xr.Dataset({k: ("noise", v) for k, v in values.items()}, coords={"noise": levels})
