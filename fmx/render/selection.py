"""Picking out of a store what a picture shows: maps of a sample, in one order of axes, and channels in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.layers import LayerInfo, said_layer
from fmx.store import Store, open_analysis, saved_analyses

__all__ = [
    "ORDERS",
    "Maps",
    "channel_order",
    "chosen_channels",
    "combined",
    "has_maps",
    "positions",
    "read_maps",
    "read_picture",
    "said_channels",
    "select_place",
]

ORDERS = ("index", "max", "mean", "variance", "sum", "sparsity")


@dataclass(frozen=True, eq=False)
class Maps:
    """What a layer says about one sample at one noise level and timestep.

    Attributes
    ----------
    layer : str
    sample : str
    noise : float
    timestep : int or None
        None where samples are no clips.
    values : ndarray
        (channel, y, x); of a layer without maps (channel, 1, 1), see `reduced`.
    numbers : list of int
        Of the channels: some may have been left out when the store was made.
    reduced : str
        What was done to axes other than (channel, y, x), as the end of a sentence; empty for maps.
    kind : str
        Of the layer.
    """

    layer: str
    sample: str
    noise: float
    timestep: int | None
    values: NDArray[Any]
    numbers: list[int]
    reduced: str = ""
    kind: str = ""

    @property
    def title(self) -> str:
        """The layer as it is named above a picture."""
        return said_layer(self.layer, self.kind)

    @property
    def labels(self) -> dict[str, str]:
        """Where they come from."""
        labels = {"layer": self.layer, "sample": self.sample, "noise": f"{self.noise:g}"}
        return labels | ({} if self.timestep is None else {"timestep": str(self.timestep)})


def has_maps(info: LayerInfo) -> bool:
    """Tell whether a layer has maps (y, x) of more than one value for each channel and nothing else."""
    return set(info.dims) == {"channel", "y", "x"} and info.spatial != (1, 1)


def read_maps(store: Store, layer: str, sample: str, noise: float = 0.0, timestep: int = 0) -> Maps:
    """Read the maps of a layer for one sample, level and timestep.

    Parameters
    ----------
    store : Store
    layer : str
    sample : str
        Its whole id.
    noise : float
    timestep : int

    Returns
    -------
    Maps
        Of a layer without spatial axes, or with maps of a single value, one value a channel: the mean over its other
        axes.

    Raises
    ------
    FmxError
        The store has no such layer, sample, level or timestep, or the layer has no channels.
    """
    (array,) = store.compute(select_place(store, layer, sample, noise, timestep))
    if "channel" not in array.dims:
        axes = ", ".join(f"{d} {n}" for d, n in array.sizes.items()) or "a single value"
        raise FmxError(f"Layer {layer} has no channels to draw, but ({axes}): pick another layer.")
    numbers = [int(n) for n in array["channel"].values]
    step = timestep if store.frames > 1 else None
    reduced = ""
    if not {"y", "x"} <= set(array.dims):
        others = [str(d) for d in array.dims if d != "channel"]
        reduced = "no spatial axes"
        if others:
            reduced += f", mean over {' and '.join(f'{array.sizes[d]} {d}' for d in others)}"
        values = array.astype(np.float64).mean(others).values[:, None, None]
    else:
        further = [str(d) for d in array.dims if d not in {"channel", "y", "x"}]
        if further:
            reduced = f"mean over {' and '.join(f'{array.sizes[d]} {d}' for d in further)}"
            array = array.astype(np.float64).mean(further)
        values = array.transpose("channel", "y", "x").values
        if values.shape[1:] == (1, 1):  # as behind a global pooling
            reduced = f"no spatial axes but 1 x 1{reduced and ', '}{reduced}"
    if values.size == 0 or values.dtype.kind not in "fiub":
        raise FmxError(f"Pictures show real numbers: layer {layer} has {values.dtype}, shape {values.shape}.")
    kind = str(store.layer(layer).attrs.get("kind", ""))
    return Maps(layer, sample, noise, step, values, numbers, reduced, kind)


def select_place(store: Store, layer: str, sample: str, noise: float, timestep: int | None) -> xr.DataArray:
    """Select a layer's values lazily; where it has fewer timesteps than the input has frames, the one nearest.

    All timesteps where `timestep` is None.
    """
    array = store.activation(layer)
    levels = [float(v) for v in array["noise"].values]
    if noise not in levels:
        raise FmxError(f"The store has no noise level {noise:g}: there are {', '.join(f'{v:g}' for v in levels)}.")
    if timestep is not None and not 0 <= timestep < store.frames:
        raise FmxError(f"The store has no timestep {timestep}: there are 0 to {store.frames - 1}.")
    if sample not in set(array["sample"].values.tolist()):
        raise FmxError(f"The store is not complete, and {sample} is missing: extract it again.")
    chosen = array.sel(sample=sample, noise=noise)
    return chosen if timestep is None else chosen.sel(timestep=timestep, method="nearest")


def positions(maps: Maps, channels: Sequence[int] | None) -> list[int]:
    """Find where channels of given numbers are; all of them for None.

    Raises
    ------
    FmxError
        The layer has no such channel.
    """
    if channels is None:
        return list(range(len(maps.numbers)))
    at = {number: i for i, number in enumerate(maps.numbers)}
    for channel in channels:
        if channel not in at:
            whole = set(at) == set(range(len(at)))
            few = [*map(str, list(at)[:6]), *(["…"] if len(at) > 6 else [])]
            there = f"0 to {len(at) - 1}" if whole else f"{', '.join(few)} ({len(at)} in all)"
            raise FmxError(f"Layer {maps.layer} has no channel {channel}: there are {there}.")
    return [at[channel] for channel in channels]


def channel_order(store: Store, maps: Maps, order: str) -> list[int]:
    """Order the channels of a layer.

    Parameters
    ----------
    store : Store
    maps : Maps
    order : str
        ``index``; or the highest first by ``max``, ``mean``, ``variance``, ``sum`` or ``sparsity`` of their maps; or
        the name of a ranking that is saved in the store (``fmx rank … --save NAME``), of the sample's own class or of
        the sample itself where it is made per class or sample.

    Returns
    -------
    list of int
        Positions; channels that a saved ranking doesn't list are left out.

    Raises
    ------
    FmxError
        There is no such order, or the ranking has no such layer.
    """
    if order == "index":
        return list(range(len(maps.numbers)))
    if order in ORDERS:
        flat = maps.values.reshape(len(maps.values), -1).astype(np.float64)
        flat = np.where(np.isfinite(flat), flat, 0)
        scores = {
            "max": flat.max(axis=1),
            "mean": flat.mean(axis=1),
            "sum": flat.sum(axis=1),
            "variance": flat.var(axis=1),
            "sparsity": (flat == 0).mean(axis=1),
        }
        return [int(i) for i in np.argsort(-scores[order], kind="stable")]
    saved = saved_analyses(store.place)
    if order not in saved:
        raise FmxError(f"Channels can't be ordered by {order}: {near_matches(order, [*ORDERS, *saved], most=9)}")
    return _ranked(store, maps, order)


def chosen_channels(store: Store, maps: Maps, channels: Sequence[int] | None, order: str) -> list[int]:
    """Give the positions of channels of given numbers, or of all in an order where there are none."""
    return channel_order(store, maps, order) if channels is None else positions(maps, channels)


def said_channels(channels: Sequence[int] | str) -> str:
    """Say in words what is taken of the channels."""
    if isinstance(channels, str):
        return f"{channels} over channels"
    if len(channels) == 1:
        return f"channel {channels[0]}"
    few = ", ".join(map(str, channels if len(channels) <= 8 else [*channels[:6], "…", channels[-1]]))
    return f"sum of channels {few}"


def combined(maps: Maps, channels: Sequence[int] | str) -> NDArray[Any]:
    """Put channels together, (y, x): the mean or the max over all, one of them, or the sum of several."""
    if isinstance(channels, str):
        if channels not in {"mean", "max"}:
            raise FmxError(f"Over channels there is the mean or the max, or numbers of channels, not {channels}.")
        values = maps.values.astype(np.float64)
        return np.asarray(values.mean(axis=0) if channels == "mean" else values.max(axis=0))
    chosen = maps.values[positions(maps, channels)]
    return np.asarray(chosen[0] if len(chosen) == 1 else chosen.astype(np.float64).sum(axis=0))


def read_picture(store: Store, sample: str, timestep: int = 0) -> NDArray[np.uint8]:
    """Read the picture that the model saw, (y, x, band).

    Raises
    ------
    FmxError
        The store keeps none, or has no such timestep.
    """
    if store.pictures is None:
        raise FmxError(f"{store.path} keeps no pictures, as its data were arrays: draw a grid instead.")
    if not 0 <= timestep < store.frames:
        raise FmxError(f"The store has no timestep {timestep}: there are 0 to {store.frames - 1}.")
    (picture,) = store.compute(store.pictures.sel(sample=sample, timestep=timestep))
    return np.asarray(picture.values)


def _ranked(store: Store, maps: Maps, name: str) -> list[int]:
    results = open_analysis(store.tree, name).get(maps.layer)
    if results is None or "channel" not in results.data_vars or "rank" not in results["channel"].dims:
        raise FmxError(f"The results called {name} hold no ranking of {maps.layer}: make one with fmx rank --save.")
    listed = results["channel"]
    if "label" in listed.dims:
        labels = store.tree.to_dataset()["label"]
        label = str(labels.values[store.samples.index(maps.sample)])
        there = [str(one) for one in listed["label"].values]
        if label not in there:
            raise FmxError(f"The ranking {name} has no class {label}, which {maps.sample} is of: take another order.")
        listed = listed.isel(label=there.index(label))
    if "sample" in listed.dims:
        there = [str(one) for one in listed["sample"].values]
        if maps.sample not in there:
            raise FmxError(f"The ranking {name} has no sample {maps.sample}: take another order.")
        listed = listed.isel(sample=there.index(maps.sample))
    (ranked,) = store.compute(listed)
    return positions(maps, [int(c) for c in ranked.values if c >= 0])
