"""Projections of the samples that excite a channel most, cropped to what the neuron sees: the figure of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from fmx.adapter import Model, load
from fmx.data import PictureSource, Preprocess, Sample
from fmx.errors import DataError, FmxError
from fmx.project.deconvnet import Deconvnet
from fmx.project.inputs import Pictures
from fmx.project.results import ZEILER_FERGUS, about, check_size
from fmx.project.rules import RULES, deconvnet
from fmx.project.signals import Maps, check_channels, find_layer
from fmx.store import Store

__all__ = ["StoredPictures", "project_top", "stored_pictures"]

# Stores of half precision and other engines round; another model or picture differs by more.
TOLERANCE = 0.05


@dataclass(frozen=True)
class StoredPictures(Pictures):
    """The samples of a store as pictures: those that it keeps, else read again from the paths that it records.

    Attributes
    ----------
    kept : xarray.DataArray or None
        (sample, timestep, y, x, band), lazy.
    """

    kept: xr.DataArray | None = None

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Give a picture as the model saw it."""
        if self.kept is None:
            return super().picture(index)
        found: NDArray[np.uint8] = self.kept.isel(sample=index, timestep=0).values
        return found


def stored_pictures(model: Any, store: Store) -> StoredPictures:
    """Give the pictures that a store was made of, prepared as they were then.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    store : Store

    Raises
    ------
    DataError
        The store is not of single pictures.
    """
    about_store = store.attributes
    prepared = about_store.get("preprocessing")
    if not isinstance(prepared, Mapping) or store.frames > 1:
        raise DataError(f"{store.path} is not of single pictures: take one that was, or give pictures.")
    shape = tuple(int(n) for n in about_store["input_shape"])
    opened: Model = model if isinstance(model, Model) else load(model, input_shape=shape)
    if tuple(opened.inputs[0].shape) != shape:
        opened = opened.with_input(shape)
    root = store.tree.to_dataset()
    kept = np.flatnonzero(store.complete)
    columns = [_texts(root, name, kept) for name in ("sample", "path", "label")]
    samples = [Sample(*row) for row in zip(*columns, strict=True)]
    notes = []
    if opened.fingerprint != about_store["fingerprint"]:
        notes.append("The model is not the file that the store was made with; its values are compared")
    source = PictureSource(samples)
    return StoredPictures(opened, source, Preprocess.from_settings(prepared), notes, store.pictures)


def _texts(root: xr.Dataset, name: str, kept: NDArray[np.int64]) -> list[str]:
    return [str(text) for text in root[name].values[kept]] if name in root.coords else [""] * len(kept)


def project_top(network: Deconvnet, layer: str, top: xr.Dataset, channels: Sequence[int] | None = None) -> xr.Dataset:
    """Project each channel's strongest neuron in each of its top samples, and crop to what the neuron sees.

    Parameters
    ----------
    network : Deconvnet
        Of `stored_pictures`.
    layer : str
        A layer with maps.
    top : xarray.Dataset
        What `fmx.analyze.top_samples` gives for it: value, sample_id, y, x and the box y0, y1, x0, x1 (channel, rank),
        which holds all of a projection if its receptive field was measured.
    channels : sequence of int, optional
        All where left out.

    Returns
    -------
    xarray.Dataset
        projection (channel, rank, colour, y, x) and picture (channel, rank, y, x, band), both cropped to windows of one
        size, which lie inside the picture; value, sample_id, at_y, at_x and the window's corner window_y and window_x
        (channel, rank). Ranks past the last sample are 0, their value is NaN.

    Raises
    ------
    FmxError
        A channel that the layer doesn't have or that is dead; a model or pictures that aren't those of the store.
    """
    info = find_layer(network.pictures.model, layer)
    if not {"y", "x", "y0", "x0"} <= set(top.variables):
        raise FmxError(f"{layer} has no maps, so that its neurons have no place in the picture: choose another layer.")
    listed = [int(c) for c in top["channel"].values]
    wanted = listed if channels is None else check_channels(channels, info)
    missing = [c for c in wanted if c not in listed]
    if missing:
        raise FmxError(f"The store does not keep channel {missing[0]} of {layer}.")
    chosen = top.sel(channel=wanted)
    for channel, values in zip(wanted, chosen["value"].values, strict=True):
        if not (values > 0).any():
            raise FmxError(f"Channel {channel} of {layer} has no activation above 0 in this store: it is dead there.")
    windows = _windows(chosen, network.pictures.shape[1:])
    each = network.pictures.shape[0] * math.prod(windows[2])
    check_size((4 + 1) * each * chosen["value"].size, f"{chosen['value'].size} projections of top samples")
    done = _projected(network, info.name, chosen, wanted, windows)
    places = {name: (("channel", "rank"), chosen[name].values) for name in ("value", "sample_id")}
    places |= {f"at_{axis}": (("channel", "rank"), chosen[axis].values) for axis in ("y", "x")}
    corners = {f"window_{axis}": (("channel", "rank"), windows[i]) for i, axis in enumerate(("y", "x"))}
    found = {
        "projection": (("channel", "rank", "colour", "y", "x"), done[0]),
        "picture": (("channel", "rank", "y", "x", "band"), done[1]),
    }
    coords = {"channel": wanted, "rank": chosen["rank"].values, "colour": network.pictures.colours}
    more = {"rule": RULES[deconvnet], "precision": network.network.precision, "layer": layer}
    more["receptive_field"] = top.attrs.get("receptive_field", "")
    return xr.Dataset(found | places | corners, coords, about(network.pictures, "deconvnet", ZEILER_FERGUS, **more))


def _projected(
    network: Deconvnet, layer: str, top: xr.Dataset, channels: Sequence[int], windows: Any
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Fill projections and pictures, sample by sample: what several channels have in common goes forward once."""
    pictures = network.pictures
    numbers = {sample: i for i, sample in enumerate(pictures.samples)}
    ids = top["sample_id"].values
    (height, width), colours = windows[2], pictures.shape[0]
    projections = np.zeros((*ids.shape, colours, height, width), np.float32)
    crops = np.zeros((*ids.shape, height, width, colours), np.uint8)
    info = find_layer(pictures.model, layer)
    for sample in sorted({str(s) for s in ids.ravel() if s}, key=lambda s: numbers[s]):
        picture = pictures.picture(numbers[sample])
        assert picture is not None
        values = pictures.values(numbers[sample], picture)
        maps = network.maps(values, info)
        places = [(i, j) for i, j in zip(*np.nonzero(ids == sample), strict=True) if top["value"].values[i, j] > 0]
        at = [
            (channels[i], int(np.ravel_multi_index((top["y"].values[i, j], top["x"].values[i, j]), info.spatial)))
            for i, j in places
        ]
        for (i, j), (channel, position) in zip(places, at, strict=True):
            _check_value(maps, channel, position, float(top["value"].values[i, j]), sample)
        if places:
            pulled = network.back(values, maps, len(at), _single(maps, at))
            for (i, j), projection in zip(places, pulled, strict=True):
                y, x = int(windows[0][i, j]), int(windows[1][i, j])
                projections[i, j] = projection[:, y : y + height, x : x + width]
                crops[i, j] = picture[y : y + height, x : x + width]
    return projections, crops


def _single(maps: Maps, at: Sequence[tuple[int, int]]) -> Any:
    """Give signals of one neuron each."""

    def seeds(start: int, stop: int) -> torch.Tensor:
        found = np.zeros((stop - start, *maps.values.shape), maps.values.dtype)
        for signal, (channel, position) in zip(found, at[start:stop], strict=True):
            signal[channel, position] = maps.values[channel, position]
        return torch.from_numpy(np.ascontiguousarray(maps.native(found)))

    return seeds


def _check_value(maps: Maps, channel: int, position: int, stored: float, sample: str) -> None:
    found = float(maps.values[channel, position])
    if abs(found - stored) > TOLERANCE * abs(stored):
        raise FmxError(
            f"Channel {channel} is {found:.3g} for {sample}, and {stored:.3g} in the store: give the model and the "
            "weights that the store was made with, and leave its pictures as they were."
        )


def _windows(top: xr.Dataset, size: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int]]:
    """Give the corner of each box's window, (channel, rank) along y and x, and the size that they all have."""
    corners, sides = [], []
    for axis, length in zip(("y", "x"), size, strict=True):
        first, behind = top[f"{axis}0"].values, top[f"{axis}1"].values
        side = int(np.clip((behind - first).max(), 1, length))
        # A box that the edge of the picture cuts is moved inside.
        start = np.where(first <= 0, behind - side, first)
        corners.append(np.clip(np.where(behind >= length, length - side, np.maximum(start, 0)), 0, length - side))
        sides.append(side)
    return corners[0].astype(int), corners[1].astype(int), (sides[0], sides[1])
