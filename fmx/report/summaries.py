"""What the report says of a store that keeps summaries and no activations (``fmx extract --reduce``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import merge_along
from fmx.analyze.course import course_of
from fmx.analyze.health import by_moments, of_layer
from fmx.analyze.parts import find_level, noise_levels
from fmx.errors import FmxError
from fmx.layers import LayerInfo, select_layers
from fmx.reduce import Moments
from fmx.report.findings import BINS, Findings, LayerFindings
from fmx.report.saved import TOP_SAMPLES, states_of
from fmx.store import Store, open_analysis, saved_analyses

__all__ = ["gather_summaries", "joined_histogram", "layers_of"]

_REDUCED = ("stats", "hist", "quantiles", "top-samples")
_WITHOUT = "The store keeps summaries and no activations: extract without --reduce to see {}."
_MISSING = {"statistics": "stats", "hist": "hist", "top": "top-samples"}

Results = Mapping[str, Mapping[str, xr.Dataset]]


def layers_of(store: Store, patterns: str | Iterable[str] = "all") -> list[LayerInfo]:
    """Select layers of a store, whether it holds their activations or summaries of them."""
    return store.select(patterns) if store.layers else select_layers(_infos(store, _results(store)), patterns)


def gather_summaries(store: Store, layers: str | Iterable[str]) -> Findings:
    """Gather what summaries say, for the report.

    Parameters
    ----------
    store : Store
    layers : str or iterable of str

    Raises
    ------
    FmxError
        No such layers, or no summaries.
    """
    results = _results(store)
    level = find_level(store, None) if 0 in noise_levels(store) else 0
    found = Findings(store, [], float(noise_levels(store)[level]))
    for part, what in {
        "similarity": "how alike layers are",
        "classes": "what channels know of classes",
        "robustness": "how layers hold under noise",
        "maps": "maps",
    }.items():
        found.missing[part] = _WITHOUT.format(what)
    for part, name in _MISSING.items():
        if name not in results:
            found.missing[part] = f"Not among the summaries of the store: extract with --reduce {name} too."
    if len(noise_levels(store)) < 2 or "stats" not in results:
        found.missing["course"] = "The store has no statistics of several noise levels."
    with found.timed("layers"):
        for info in select_layers(_infos(store, results), layers):
            own = {name: by_layer[info.name].load() for name, by_layer in results.items() if info.name in by_layer}
            found.layers.append(_layer(store, info, own, level))
    return found


def _results(store: Store) -> Results:
    """Open the summaries; an unfinished run has not yet made any."""
    there = [name for name in _REDUCED if name in saved_analyses(store.place)]
    if not there:
        raise FmxError(f"{store.path} has no summaries yet: run the fmx extract that made it again.")
    return {name: open_analysis(store.tree, name) for name in there}


def _infos(store: Store, results: Results) -> list[LayerInfo]:
    """Name the layers in the order of computation; of their shape the number of channels is known."""
    first = next(iter(results.values()))
    order = {str(name): i for i, name in enumerate(store.attributes.get("layers", []))}
    return [
        LayerInfo(
            name,
            str(one.attrs.get("kind", "")),
            ("channel",) if "channel" in one.dims else (),
            (one.sizes["channel"],) if "channel" in one.dims else (),
            "",
        )
        for name, one in sorted(first.items(), key=lambda item: order.get(item[0], len(order)))
    ]


def _layer(store: Store, info: LayerInfo, own: Mapping[str, xr.Dataset], level: int) -> LayerFindings:
    at = {name: one.isel(noise=level) for name, one in own.items()}
    counts, edges = np.zeros(0, np.int64), np.zeros(0)
    if "hist" in at:
        counts, edges = joined_histogram(at["hist"]["counts"].values, at["hist"]["edges"].values)
    # Where there are no statistics there is nothing known but how many values are lost.
    told = at.get("stats", _unknown(at))
    states = states_of(told)
    whole = Moments().finalize(merge_along(Moments(), np.atleast_1d(states)))
    found = LayerFindings({n: float(v) for n, v in whole.items()}, counts, edges, info=info)
    if "quantiles" in at:
        found.quantiles = at["quantiles"]["quantiles"]
    if "channel" not in info.dims:
        return found
    found.channels = told
    if "top-samples" in at:
        found.top = _top(store, at["top-samples"])
    if "stats" in own:
        found.health = of_layer(by_moments(states, told))
        if len(noise_levels(store)) > 1:
            stacked = own["stats"].transpose("noise", "channel").sortby("noise")
            found.course = course_of(states_of(stacked), "noise", stacked["noise"].values)
    return found


def _unknown(at: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Give statistics of which nothing is known, but for the values that a histogram has counted as lost."""
    like = next(iter(at.values()))
    dims = ("channel",) if "channel" in like.dims else ()
    shape = tuple(like.sizes[dim] for dim in dims)
    blank = Moments().finalize(Moments().identity(shape))
    found = xr.Dataset({n: (dims, v) for n, v in blank.items()}, coords={dim: like[dim] for dim in dims})
    return found.assign({n: at["hist"][n] for n in ("nan", "inf")} if "hist" in at else {})


def _top(store: Store, kept: xr.Dataset) -> xr.Dataset:
    """Label kept top samples as `fmx.analyze.top_samples` does, as far as the report asks."""
    first = kept.isel(rank=slice(TOP_SAMPLES))
    number = first["sample_index"].values
    ids = np.asarray([*store.samples, ""], dtype=object)
    dims = ("channel", "rank")
    found = {"value": first["value"].values, "sample_number": number, "sample_id": ids[number]}
    if store.frames > 1:
        found["at_timestep"] = first["timestep_index"].values
    return xr.Dataset({n: (dims, v) for n, v in found.items()}, coords={"channel": kept["channel"].values})


def joined_histogram(counts: NDArray[Any], edges: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Join histograms of several channels, each with edges of its own, to one.

    Values are taken as evenly spread inside the bins that they come from, which are about as wide as those of the
    result or narrower: they may end up in the next bin, and none is lost.

    Parameters
    ----------
    counts : array ((channel,) bin)
    edges : array ((channel,) edge)
        NaN where nothing finite was seen.

    Returns
    -------
    array (bin,), array (edge,)
    """
    rows, ends = np.atleast_2d(counts), np.atleast_2d(edges)
    known = rows.sum(axis=1) > 0
    if not known.any():
        return np.zeros(0, np.int64), np.zeros(1)
    rows, ends = rows[known], ends[known]
    last = rows.shape[1] - np.argmax(rows[:, ::-1] > 0, axis=1)
    low, high = float(ends[:, 0].min()), float(ends[np.arange(len(ends)), last].max())
    joined = np.linspace(low, high, BINS + 1)
    below = np.zeros(BINS + 1)
    for own, at in zip(rows, ends, strict=True):
        below += np.interp(joined, at, np.concatenate([[0], np.cumsum(own)]))
    return np.asarray(np.diff(np.rint(below)), np.int64), joined
