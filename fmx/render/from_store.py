"""Frames straight from a store: the maps of one sample, and heat maps over its picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.render.frame import Frame
from fmx.render.grid import check_maps, grid_pages
from fmx.render.overlay import overlay_figure
from fmx.store import Store

__all__ = ["grid_frames", "overlay_frame"]


def grid_frames(
    store: Store,
    *,
    layer: str,
    sample: str | int = 0,
    noise: float = 0.0,
    timestep: int = 0,
    **look: Any,
) -> Iterator[Frame]:
    """Draw a layer's maps for one sample, a page of 8×8 at a time; `look` is passed on to `grid_pages`.

    Raises
    ------
    FmxError
        The store has no such layer, sample, level or timestep, or the layer has no maps.
    """
    name = store.find_sample(str(sample))
    (array,) = store.compute(_at(store, layer, name, noise, timestep))
    array = _channel_first(array)
    maps = check_maps(array.values, layer, [str(d) for d in array.dims])
    step = timestep if store.frames > 1 else None
    yield from grid_pages(maps, layer=layer, sample=name, noise=noise, timestep=step, **look)


def overlay_frame(
    store: Store,
    *,
    layers: str | Iterable[str] = "auto",
    sample: str | int = 0,
    channel: str | int = "mean",
    noise: float = 0.0,
    timestep: int = 0,
    **look: Any,
) -> Frame:
    """Lay layers over the picture that the model saw, side by side.

    Parameters
    ----------
    store : Store
    layers : str or iterable of str
        A selection; layers without maps are left out.
    sample : str or int
        Id, end of an id, or position.
    channel : {"mean", "max"} or int
        What is drawn of each layer: the mean or the maximum over its channels, or one channel.
    noise, timestep
        Labels of the activations.
    **look
        Passed on to `overlay_figure`.

    Raises
    ------
    FmxError
        The store keeps no pictures, the layers have no maps, or there is no such label.
    """
    if store.pictures is None:
        raise FmxError(f"{store.path} keeps no pictures, as its data were arrays: draw a grid instead.")
    name = store.find_sample(str(sample))
    _check_timestep(store, timestep)
    (picture,) = store.compute(store.pictures.sel(sample=name, timestep=timestep))
    chosen = [info for info in store.select(layers) if {"y", "x"} <= set(info.dims) and "z" not in info.dims]
    if not chosen:
        raise FmxError("None of these layers has maps (y, x) that could be laid over a picture: choose others.")
    arrays = store.compute(*(_at(store, info.name, name, noise, timestep) for info in chosen))
    heats = [(_title(info), _heat(array, info, channel), None) for info, array in zip(chosen, arrays, strict=True)]
    step = timestep if store.frames > 1 else None
    what = f"{channel} over channels" if channel in {"mean", "max"} else f"channel {channel}"
    return overlay_figure(picture.values, heats, sample=f"{name} · {what}", noise=noise, timestep=step, **look)


def _title(info: LayerInfo) -> str:
    """Name a layer; a name that is a bare number says little without the kind."""
    return f"{info.name} · {info.kind}" if info.name.replace(".", "").isdigit() else info.name


def _channel_first(array: xr.DataArray) -> xr.DataArray:
    """Bring maps into the order (channel, y, x): some networks have their channels last."""
    return array.transpose("channel", "y", "x") if {"channel", "y", "x"} == set(array.dims) else array


def _heat(array: xr.DataArray, info: LayerInfo, channel: str | int) -> NDArray[Any]:
    array = _channel_first(array)
    if channel in {"mean", "max"}:
        values = array.values
        return np.asarray(values.mean(axis=0) if channel == "mean" else values.max(axis=0))
    count = array.sizes["channel"]
    if not str(channel).isdigit() or int(channel) >= count:
        raise FmxError(f"{info.name} has no channel {channel}: use mean, max or 0 to {count - 1}.")
    return np.asarray(array.isel(channel=int(channel)).values)


def _check_timestep(store: Store, timestep: int) -> None:
    if not 0 <= timestep < store.frames:
        raise FmxError(f"The store has no timestep {timestep}: there are 0 to {store.frames - 1}.")


def _at(store: Store, layer: str, sample: str, noise: float, timestep: int) -> xr.DataArray:
    """Select a layer's value; where it has fewer timesteps than the input has frames, the one nearest to the frame."""
    array = store.activation(layer)
    levels = [float(v) for v in array["noise"].values]
    if noise not in levels:
        raise FmxError(f"The store has no noise level {noise:g}: there are {', '.join(f'{v:g}' for v in levels)}.")
    _check_timestep(store, timestep)
    if sample not in set(array["sample"].values.tolist()):
        raise FmxError(f"The store is not complete, and {sample} is missing: extract it again.")
    return array.sel(sample=sample, noise=noise).sel(timestep=timestep, method="nearest")
