"""Overlays of channels on the samples that excite them most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from fmx.errors import FmxError, near_matches
from fmx.render.frame import Frame
from fmx.render.overlay_sheets import over_samples, sample_label, with_maps
from fmx.render.selection import positions, read_maps, read_picture
from fmx.render.text import number
from fmx.store import Store, open_analysis, saved_analyses

__all__ = ["MOST_CHANNELS", "top_overlays", "top_samples_of"]

MOST_CHANNELS = 8


def top_overlays(
    store: Store,
    top: xr.Dataset | str,
    *,
    layer: str,
    channels: Sequence[int] | None = None,
    most: int | None = None,
    shared: bool = True,
    cmap: str = "inferno",
    **look: Any,
) -> Iterator[Frame]:
    """Show where channels respond in the samples that excite each of them most, the strongest sample first.

    Parameters
    ----------
    store : Store
    top : xarray.Dataset or str
        Of the layer, from `fmx.analyze.top_samples`: value, sample_id and, of clips, at_timestep ((label,) channel,
        rank); or the name under which the store keeps such results (``fmx top-samples … --save NAME``).
    layer : str
    channels : sequence of int, optional
        Their numbers; the eight with the largest values where left out.
    most : int, optional
        Samples of each channel; all that are listed where left out.
    shared : bool
        The same range of values for all samples of a channel, so that they compare; else each its own.
    cmap, **look
        As for `fmx.render.overlay_sheets.channel_overlays`.

    Yields
    ------
    Frame
        RGB: one for each channel, and for each class where top samples are listed by class. Above each picture stand
        the sample, its class and its largest value. Labels ``layer``, ``shown``, ``channel``, ``class`` where it is of
        one, ``noise``, ``samples``, and ``page`` from the second on.

    Raises
    ------
    FmxError
        The store keeps no such results or no pictures, or the results have no such layer or channel; the layer has no
        maps.
    """
    results = _of_layer(top_samples_of(store, top), top, layer) if isinstance(top, str) else top
    if most is not None and most < 1:
        raise FmxError(f"At least one sample of each channel is shown, not {most}.")
    for channel in _channels(results, channels, layer):
        row = results.sel(channel=channel).load()
        for one in [row.isel(label=i) for i in range(row.sizes["label"])] if "label" in row.dims else [row]:
            yield from _sheet(store, layer, one.isel(rank=slice(most)), shared=shared, cmap=cmap, **look)


def top_samples_of(store: Store, name: str) -> dict[str, xr.Dataset]:
    """Read top samples that a store keeps, by layer.

    Raises
    ------
    FmxError
        It keeps no results of this name, or they are of something else.
    """
    saved = saved_analyses(store.place)
    if name not in saved:
        raise FmxError(f"The store keeps no results called {name}: {near_matches(name, saved)}")
    results = open_analysis(store.tree, name)
    found = {layer: one for layer, one in results.items() if {"sample_id", "value"} <= set(one.data_vars)}
    if not found:
        raise FmxError(f"The results called {name} hold no top samples: make them with fmx top-samples --save.")
    return found


def _of_layer(results: Mapping[str, xr.Dataset], name: str, layer: str) -> xr.Dataset:
    if layer not in results:
        raise FmxError(
            f"The results called {name} hold no top samples of {layer}: make them with fmx top-samples --save."
        )
    return results[layer]


def _channels(top: xr.Dataset, channels: Sequence[int] | None, layer: str) -> list[int]:
    there = [int(n) for n in top["channel"].values]
    if channels is not None:
        if missing := [c for c in channels if c not in there]:
            raise FmxError(f"The top samples of {layer} have no channel {missing[0]}: {len(there)} channels are there.")
        return list(channels)
    values = np.nan_to_num(top["value"].transpose("channel", ...).values.astype(np.float64), nan=-np.inf)
    highest = values.reshape(len(there), -1).max(axis=1)
    return [there[i] for i in np.argsort(-highest, kind="stable")[:MOST_CHANNELS]]


def _sheet(store: Store, layer: str, row: xr.Dataset, **look: Any) -> Iterator[Frame]:
    """Draw the samples of one channel, as far as there are any."""
    noise, channel = float(row.attrs.get("noise", 0.0)), int(row["channel"])
    names = [str(name) for name in row["sample_id"].values if name]
    if not names:
        return
    steps = [0] * len(names)
    if "at_timestep" in row:
        # A layer may have fewer timesteps than its input has frames.
        frames = store.activation(layer)["timestep"].values
        steps = [round(float(frames[int(t)])) for t in row["at_timestep"].values]
    pictures, heats, titles, title = [], [], [], layer
    for name, step, value in zip(names, steps, row["value"].values, strict=False):
        maps = with_maps(read_maps(store, layer, name, noise, step))
        (place,) = positions(maps, [channel])
        heats.append(maps.values[place])
        pictures.append(partial(read_picture, store, name, step))
        when = f"frame {step}" if "at_timestep" in row else ""
        titles.append(" · ".join(filter(None, [name, sample_label(store, name), when, number(float(value))])))
        title = maps.title
    of = f" of {row['label'].item()}" if "label" in row.coords else ""
    labels = {"layer": layer, "shown": f"channel {channel} over its strongest samples{of}", "noise": f"{noise:g}"}
    said = {"channel": str(channel)} | ({"class": str(row["label"].item())} if of else {})
    for page, frame in enumerate(over_samples(pictures, heats, titles, labels, title, **look), start=1):
        said |= {"samples": ", ".join(names)} | ({"page": str(page)} if page > 1 else {})
        yield Frame(frame.pixels, labels={**frame.labels, **said})
