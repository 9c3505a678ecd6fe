"""What may be wrong with layers: dead, always-on, saturated and duplicate channels, means and sparsity out of range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.batches import channel_batches
from fmx.analyze.parts import Part, check_complete, check_per, find_level, noise_levels
from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.reduce import Moments, Reducer, State
from fmx.reduce.apart import BySample
from fmx.reduce.columns import ColumnReducer
from fmx.reduce.places import Extremes, Places
from fmx.store import Store

__all__ = ["MEANINGS", "Gathered", "by_moments", "dead_channels", "health", "of_layer"]

MEAN_RANGE = (0.1, 2.0)
SPARSITY_RANGE = (0.3, 0.7)
LEAST_SPREAD = 0.1
SATURATED = 0.5
TWIN = 0.98
# Places of each sample at which channels are compared, and the most channels of which all pairs are.
PLACES = 16
MOST_CHANNELS = 8192
# Of fewer values, some of thousands of pairs are alike by chance.
LEAST_COMPARED = 16

MEANINGS = {
    "dead": "dead channels say nothing: learning rate too high, bad initialisation, or inputs unlike the training data",
    "always on": "channels that are never 0 behind a ReLU act as linear ones: a bias that is too large",
    "saturated": "at least half of a channel's values are its largest one: clipped or squashed, where gradients vanish",
    "duplicates": "channels that do the same (|r| ≥ 0.98): the layer is wider than it has to be, and can be pruned",
    "mean": "mean absolute activations outside 0.1 to 2.0: inputs preprocessed in another way than in training, or "
    "missing normalisation",
    "sparsity": "30 to 70 % zeros are usual behind a ReLU: more lets little through, less selects little",
    "spread": "the standard deviation of the channels' means is below a tenth of their mean: little is told apart, as "
    "in layers that are not trained",
    "not finite": "NaN or infinite values: an overflow in the model or in the stored type",
}
# What each channel is that is counted; a whole statement behind "whether the channel" and "channels, each of which".
_STATES = {
    "dead": "is dead: it has no value above 0 (max ≤ 0) if the layer has none below 0, else the same value everywhere "
    "(min = max)",
    "always_on": "is always on: it is never 0 (sparsity = 0), while the layer has no values below 0, as behind a ReLU, "
    "and at least 1 % of all its values are 0",
    "saturated": "is saturated: at least 50 % of its finite values are equal to its largest one (at_max ≥ 0.5), and it "
    "is not constant",
    "duplicate": "does the same as another one of the layer: Pearson's |r| ≥ 0.98 over 16 evenly spaced values "
    "(positions, timesteps) of each sample, 16 values in all at least",
}
_CHANNEL = {
    "mean": "mean of the channel's finite values, Σx / n",
    "magnitude": "mean absolute activation of the channel, Σ|x| / n over its finite values",
    "sparsity": "share of the channel's finite values that are exactly 0",
    "min": "smallest finite value of the channel",
    "max": "largest finite value of the channel",
    "at_max": "share of the channel's finite values that are equal to its largest one; 0 where that is 0",
    "twin": "number of the channel that has the largest absolute correlation with this one; -1 where there is none",
    "correlation": "Pearson's correlation of the channel with its twin over 16 evenly spaced values (positions, "
    "timesteps) of each sample; NaN where the channel is constant there",
    **{name: f"whether the channel {text}" for name, text in _STATES.items()},
    "nan": "values of the channel that are not a number",
    "inf": "values of the channel that are infinite",
}
_LAYER = {
    "channels": "number of channels of the layer",
    **{name: f"number of channels, each of which {text}" for name, text in _STATES.items()},
    "mean": "mean activation of the layer: mean over its channels of Σx / n",
    "magnitude": "mean absolute activation of the layer: mean over its channels of Σ|x| / n; 0.1 to 2.0 are usual",
    "sparsity": "share of the layer's finite values that are exactly 0; 0.3 to 0.7 are usual behind a ReLU",
    "channel_variance": "population variance of the means of the layer's channels",
    "nan": "values of the layer that are not a number",
    "inf": "values of the layer that are infinite",
    "verdict": "what is outside of the usual ranges, in words; 'nothing unusual' where nothing is",
}


def health(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    per: str = "layer",
    noise: float | None = None,
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Look for what may be wrong with each layer, in one read of the store.

    The usual good ranges are a mean absolute activation of 0.1 to 2.0, and 30 to 70 % zeros behind a ReLU. They are
    rules of thumb: a healthy network may well have layers outside of them.

    Parameters
    ----------
    store : Store
    layers, allow_partial
        See `fmx.analyze.stats`.
    per : str
        ``layer``, or ``channel`` for every channel apart.
    noise : float, optional
        Level; 0 where left out.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer. Per channel: mean, magnitude, sparsity, min, max, dead, always_on, at_max, saturated, twin,
        correlation, duplicate, nan and inf (channel). Per layer: channels, the numbers of those that are dead,
        always_on, saturated and duplicate, mean, magnitude, sparsity, channel_variance (of the channels' means), nan,
        inf, and verdict, a sentence. Definitions in the attributes; see also `MEANINGS`.

    Raises
    ------
    FmxError
        A layer without channels; an unfinished store.
    """
    check_per(per, "Health")
    check_complete(store, allow_partial)
    part = Part(level=find_level(store, noise))
    found = {}
    for info in store.select(layers):
        if "channel" not in info.dims:
            raise FmxError(f"{info.name} has no axis channel to be looked at: leave it out with --layers.")
        gathered = Gathered(store, info, part)

        def reducers(samples: int, gathered: Gathered = gathered) -> dict[str, Reducer]:
            return {"moments": Moments(), **gathered.reducers(samples)}

        for _, batch in channel_batches(store, info.name, reducers, part=part):
            gathered.take({str(name): batch[name].values for name in batch}, batch["moments"].values)
        channels = gathered.channels()
        found[info.name] = channels if per == "channel" else of_layer(channels)
    return found


class Gathered:
    """What is gathered of a layer's channels to judge them, batch by batch of samples.

    Parameters
    ----------
    store : Store
    info : LayerInfo
    part : Part
    """

    def __init__(self, store: Store, info: LayerInfo, part: Part) -> None:
        array = store.activation(info.name)
        shape = [array.sizes[dim] for dim in array.dims if dim not in {"sample", "noise", "channel"}]
        flat = np.unique(np.linspace(0, max(np.prod(shape, dtype=int) - 1, 0), PLACES).round().astype(np.int64))
        inside = np.stack(np.unravel_index(flat, shape), axis=1)
        # Noise is the first of the axes that are summed up, and one level of it is read.
        positions = np.concatenate([np.full((len(flat), 1), part.level or 0), inside], axis=1)
        self.data = store.layer(info.name).assign_attrs(noise=float(noise_levels(store)[part.level or 0]))
        self.places = Places(positions)
        self.pairs = _Pairs(array.sizes["channel"])
        self.states: dict[str, Any] = {}

    def reducers(self, samples: int) -> dict[str, ColumnReducer]:
        """Give what a batch of so many samples is reduced by, beside `fmx.reduce.Moments`."""
        return {"extremes": Extremes(), "places": BySample(self.places, samples)}

    def take(self, batch: Mapping[str, Any], moments: State) -> None:
        """Take in the states of a batch (channel,), and the moments of its channels."""
        for name, reducer, states in (
            ("moments", Moments(), moments),
            ("extremes", Extremes(), batch["extremes"]),
        ):
            self.states[name] = states if name not in self.states else reducer.merge(self.states[name], states)
        values = batch["places"]["sample"]["value"]
        self.pairs.take(np.moveaxis(values, 0, -1).reshape(-1, len(values)))

    def channels(self) -> xr.Dataset:
        """Judge every channel; see `health`."""
        enough = self.pairs.count >= LEAST_COMPARED
        twins = *self.pairs.twins(), enough
        return _channels(self.states["moments"], self.states["extremes"], twins, self.data)


class _Pairs:
    """Correlations between all pairs of channels, from any number of rows (row, channel)."""

    def __init__(self, channels: int) -> None:
        self.wanted = 2 <= channels <= MOST_CHANNELS
        self.count = 0
        self.mean = np.zeros(channels)
        self.products = np.zeros((channels, channels)) if self.wanted else np.zeros((0, channels))

    def take(self, rows: NDArray[np.float64]) -> None:
        """Take in rows; values that are not finite count as their channel's mean."""
        if not self.wanted or not len(rows):
            return
        from threadpoolctl import threadpool_limits

        finite = np.isfinite(rows)
        known = np.maximum(finite.sum(axis=0), 1)
        total = self.count + len(rows)
        # Correlations with channels whose squares overflow are told as none.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(finite, rows, 0).sum(axis=0) / known
            apart = np.where(finite, rows - mean, 0)
            shift = mean - self.mean
            # Threads that wait for each other, busily, make this slower where there are other tasks.
            with threadpool_limits(1, "blas"):
                self.products += apart.T @ apart + np.outer(shift, shift) * (self.count * len(rows) / total)
        self.mean += shift * len(rows) / total
        self.count = total

    def twins(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Give for each channel the one it is most like, and how much."""
        channels = len(self.mean)
        if not self.wanted:
            return np.full(channels, -1), np.full(channels, np.nan)
        size = np.sqrt(np.diag(self.products))
        with np.errstate(invalid="ignore", divide="ignore"):
            like = self.products / size[:, None] / size
        like = np.where(np.isfinite(like), np.clip(like, -1, 1), 0)
        np.fill_diagonal(like, 0)
        twin = np.abs(like).argmax(axis=1)
        value = like[np.arange(channels), twin]
        return np.where(value == 0, -1, twin), np.where(value == 0, np.nan, value)


def _channels(
    state: State, extreme: State, twins: tuple[NDArray[np.int64], NDArray[np.float64], bool], data: xr.Dataset
) -> xr.Dataset:
    twin, correlation, enough = twins
    told = by_moments(state, data)
    low, high = told["min"].values, told["max"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        at_max = np.where(high == 0, 0.0, Extremes().finalize(extreme)["at_max"] / state["count"])
    varies = (state["count"] > 0) & (low != high)
    values = {
        "at_max": at_max,
        "saturated": varies & (at_max >= SATURATED),
        "twin": np.append(data["channel"].values, -1)[twin],
        "correlation": correlation,
        "duplicate": (np.abs(np.nan_to_num(correlation)) >= TWIN) & enough,
    }
    more = {name: ("channel", value, {"definition": _CHANNEL[name]}) for name, value in values.items()}
    return told.assign(more)[[*(n for n in told if n not in {"nan", "inf"}), *more, "nan", "inf"]]


def by_moments(state: State, data: xr.Dataset) -> xr.Dataset:
    """Judge every channel by its moments alone, which say nothing of saturated and duplicate ones; see `health`.

    Parameters
    ----------
    state : array (channel,)
        Of `fmx.reduce.Moments`.
    data : xarray.Dataset
        Of which the labels of channels and the attributes are taken.
    """
    moments = Moments().finalize(state)
    low, high, zeros = moments["min"], moments["max"], moments["sparsity"]
    known = moments["count"] > 0
    rectified = bool((low[known] >= 0).all())
    zero_share = float(state["zeros"].sum() / max(moments["count"].sum(), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude = moments["l1"] / moments["count"]
    values = {
        "mean": moments["mean"],
        "magnitude": magnitude,
        "sparsity": zeros,
        "min": low,
        "max": high,
        "dead": dead_channels(moments, rectified=rectified),
        "always_on": known & (zeros == 0) & rectified & (zero_share >= 0.01),
        "nan": moments["nan"],
        "inf": moments["inf"],
    }
    variables = {name: ("channel", value, {"definition": _CHANNEL[name]}) for name, value in values.items()}
    result = xr.Dataset(variables, coords={"channel": data["channel"]}, attrs=dict(data.attrs))
    totals = {"values": int(moments["count"].sum()), "zeros": int(state["zeros"].sum())}
    return result.assign_attrs(rectified=int(rectified), **totals)


def dead_channels(moments: Mapping[str, NDArray[Any]], *, rectified: bool) -> NDArray[np.bool_]:
    """Say which channels are dead: without a value above 0 behind a ReLU, else with one value only."""
    known = moments["count"] > 0
    with np.errstate(invalid="ignore"):
        dead = moments["max"] <= 0 if rectified else moments["min"] == moments["max"]
    return np.asarray(known & dead, bool)


def of_layer(channels: xr.Dataset) -> xr.Dataset:
    """Judge a layer by what is known of its channels; see `health`."""
    count = channels.sizes["channel"]
    values: dict[str, Any] = {"channels": count}
    counted = [name for name in ("dead", "always_on", "saturated", "duplicate") if name in channels]
    values |= {name: int(channels[name].sum()) for name in counted}
    values |= {name: float(channels[name].mean()) for name in ("mean", "magnitude")}
    values["sparsity"] = channels.attrs["zeros"] / channels.attrs["values"] if channels.attrs["values"] else np.nan
    with np.errstate(over="ignore"):
        values["channel_variance"] = float(channels["mean"].var())
    values |= {name: int(channels[name].sum()) for name in ("nan", "inf")}
    flags = _flags(values, rectified=bool(channels.attrs["rectified"]))
    values["verdict"] = "; ".join(flags.values()) or "nothing unusual"
    variables = {name: ((), value, {"definition": _LAYER[name]}) for name, value in values.items()}
    found = xr.Dataset(variables, attrs={**channels.attrs, "flags": ", ".join(flags)})
    # For those who draw them.
    found["magnitude"].attrs["usual"], found["sparsity"].attrs["usual"] = list(MEAN_RANGE), list(SPARSITY_RANGE)
    return found


def _flags(found: dict[str, Any], *, rectified: bool) -> dict[str, str]:
    """Say what is unusual, by the key of its meaning."""
    flags: dict[str, str] = {}
    count = found["channels"]
    if lost := found["nan"] + found["inf"]:
        flags["not finite"] = f"{lost} values are NaN or infinite"
    for name, key, text in (
        ("dead", "dead", "dead"),
        ("always_on", "always on", "always on"),
        ("saturated", "saturated", "saturated"),
        ("duplicate", "duplicates", "nearly the same as another"),
    ):
        if found.get(name):
            flags[key] = f"{found[name]} of {count} channels {text}"
    if np.isnan(found["magnitude"]):
        return flags
    if not MEAN_RANGE[0] <= found["magnitude"] <= MEAN_RANGE[1]:
        flags["mean"] = (
            f"mean size {found['magnitude']:.3g} ({'low' if found['magnitude'] < MEAN_RANGE[0] else 'high'})"
        )
    if rectified and not SPARSITY_RANGE[0] <= found["sparsity"] <= SPARSITY_RANGE[1]:
        side = "low" if found["sparsity"] < SPARSITY_RANGE[0] else "high"
        flags["sparsity"] = f"{100 * found['sparsity']:.0f} % zeros ({side})"
    if count > 1 and rectified and found["channel_variance"] ** 0.5 < LEAST_SPREAD * abs(found["mean"]):
        flags["spread"] = "channels have much the same mean"
    return flags
