"""Results that a store holds already, where they are what a report would compute.

Results are of the values that are there now if they count as many of them, or if the command that saved them recorded
that there were as many samples: samples are only ever added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from fmx.analyze.batches import merge_along
from fmx.analyze.overview import Overview
from fmx.analyze.parts import noise_levels
from fmx.layers import LayerInfo
from fmx.reduce import Moments
from fmx.store import Store, open_analysis, saved_analyses

__all__ = ["METRIC", "TOP_OF_CLASS", "TOP_SAMPLES", "SavedFindings", "states_of"]

TOP_SAMPLES = 6
TOP_OF_CLASS = 5
METRIC = "precision"

# Name and results.
Kept = tuple[str, xr.Dataset]


class SavedFindings:
    """Finds saved results that say what a report asks.

    Parameters
    ----------
    store : Store
    level : int
        Position of the noise level that all but robustness is about.
    held_out : float
        Share of each class's samples that must have been held out.
    """

    def __init__(self, store: Store, level: int, held_out: float) -> None:
        self.store = store
        self.levels = noise_levels(store)
        self.noise = float(self.levels[level])
        self.held_out = held_out
        self.names = saved_analyses(store.place)
        self._opened: dict[str, dict[str, xr.Dataset]] = {}

    def part(self, part: str, info: LayerInfo) -> Kept | None:
        """Give what is saved of a part of `fmx.analyze.overview.Overview`."""
        find: dict[str, Callable[[LayerInfo], Kept | None]] = {
            "top": self._top,
            "health": self._health,
            "robustness": self._robustness,
            "classes": self._classes,
        }
        return find[part](info) if part in find else None

    def statistics(self, info: LayerInfo) -> tuple[str, Overview] | None:
        """Give moments and histogram, if both are saved."""
        by = ("channel",) if "channel" in info.dims else ()
        stats, hist = self._level_of("stats", info, by), self._level_of("hist", info, ())
        if stats is None or hist is None or np.isnan(hist[1]["edges"].values).any():
            return None
        channels, shape = stats[1], hist[1]
        whole = Moments().finalize(merge_along(Moments(), np.atleast_1d(states_of(channels))))
        found = Overview({n: float(v) for n, v in whole.items()}, shape["counts"].values, shape["edges"].values)
        found.channels = channels if by else None
        return ", ".join(dict.fromkeys([stats[0], hist[0]])), found

    def similarity(self, layers: Sequence[str]) -> Kept | None:
        """Give the likeness of all pairs of these layers."""
        for name, about in self._named("similarity", {"method": "cka-linear", "space": "full"}):
            rows = self._results(name)
            first = rows.get(layers[0])
            if (
                first is None
                or about.get("estimator") == "biased"
                or "other_store" in about
                or not self._of_all(about)
                or not set(layers) <= set(rows) & {str(v) for v in first["other_layer"].values}
                or any(self.noise not in first[dim].values for dim in ("noise", "other_noise"))
            ):
                continue
            where = {"other_layer": list(layers), "noise": [self.noise], "other_noise": [self.noise]}
            found = [rows[layer].sel(where).load() for layer in layers]
            whole = xr.concat(found, "layer", coords="minimal", compat="override", join="override")
            return name, whole.assign_attrs({**about, "layer": ""})
        return None

    def _top(self, info: LayerInfo) -> Kept | None:
        for name, found in self._of("top-samples", {"per_class": False, "weakest": False}, info):
            if found.sizes["rank"] >= min(TOP_SAMPLES, int(self.store.complete.sum())) and self._same(name, found):
                return name, found.isel(rank=slice(TOP_SAMPLES)).load()
        return None

    def _health(self, info: LayerInfo) -> Kept | None:
        for name, found in self._of("health", {"per": "layer"}, info):
            values = found.attrs.get("values", -1) + int(found["nan"]) + int(found["inf"])
            if values == self._size(info) and found.attrs.get("noise") == self.noise:
                return name, found.load()
        return None

    def _robustness(self, info: LayerInfo) -> Kept | None:
        for name, found in self._of("robustness", {"per": "layer", "nan": "skip"}, info):
            if bool(((found["count"] + found["lost"]) == self._size(info)).all()):
                return name, found.load()
        return None

    def _classes(self, info: LayerInfo) -> Kept | None:
        how = {"per": "class", "metric": METRIC, "held_out": self.held_out, "seed": 0, "nan": "skip", "unique": False}
        for name, found in self._of("rank", {**how, "n_each_image": 0}, info):
            if self._same(name, found):
                return name, found.isel(rank=slice(TOP_OF_CLASS)).load()
        return None

    def _level_of(self, analysis: str, info: LayerInfo, by: tuple[str, ...]) -> Kept | None:
        """Find results by some labels, of the one noise level or of each apart."""
        for name, found in self._of(analysis, {"nan": "skip"}, info):
            apart = "noise" in found.dims and self.noise in found["noise"].values
            own = found.sel(noise=self.noise) if apart else found
            values = int(sum(own[key].sum() for key in ("count", "nan", "inf")))
            if (apart or len(self.levels) == 1) and set(own["count"].dims) == set(by) and values == self._size(info):
                return name, own.load()
        return None

    def _named(self, analysis: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for name in self.names:
            about = self._about(name)
            if about.get("analysis") == analysis and all(about.get(key) == value for key, value in settings.items()):
                yield name, about

    def _of(self, analysis: str, settings: Mapping[str, Any], info: LayerInfo) -> Iterator[Kept]:
        for name, _ in self._named(analysis, settings):
            if info.name in (results := self._results(name)):
                yield name, results[info.name]

    def _about(self, name: str) -> dict[str, Any]:
        return {str(key): value for key, value in self.store.tree[f"analysis/{name}"].attrs.items()}

    def _results(self, name: str) -> dict[str, xr.Dataset]:
        if name not in self._opened:
            self._opened[name] = open_analysis(self.store.tree, name)
        return self._opened[name]

    def _same(self, name: str, found: xr.Dataset) -> bool:
        """Whether results are of the same samples and noise level."""
        return self._of_all(self._about(name)) and found.attrs.get("noise") == self.noise

    def _of_all(self, about: Mapping[str, Any]) -> bool:
        return bool(about.get("complete_samples") == int(self.store.complete.sum()))

    def _size(self, info: LayerInfo) -> int:
        """Count a layer's values at one noise level."""
        times = self.store.activation(info.name).sizes["timestep"]
        return int(self.store.complete.sum()) * times * math.prod(info.shape)


def states_of(told: xr.Dataset) -> Any:
    """Turn results of `fmx.reduce.Moments` into the states that they come from."""
    one = {str(name): told[name].values for name in told}
    state = Moments().identity(one["count"].shape)
    with np.errstate(invalid="ignore"):
        count, var = one["count"], np.nan_to_num(one["var"])
        state["count"], state["nan"], state["inf"] = count, one["nan"], one["inf"]
        state["m2"] = var * count
        state["m3"] = np.nan_to_num(one["skewness"]) * var**1.5 * count
        state["m4"] = np.where(var > 0, np.nan_to_num(one["kurtosis"]) + 3, 0) * var**2 * count
    for name in ("mean", "l1", "min", "max"):
        state[name] = np.where(count > 0, one[name], state[name])
    for name, share in (("zeros", "sparsity"), ("negative", "negative")):
        state[name] = np.rint(np.nan_to_num(one[share]) * count).astype(np.int64)
    return state
