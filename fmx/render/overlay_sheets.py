"""Overlays of many: channels on one picture, or chosen channels on many pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.overlay import ends_of, enlarged, said_values
from fmx.render.palette import colours
from fmx.render.panels import said_style
from fmx.render.regions import region_picture
from fmx.render.selection import Maps, channel_order, combined, positions, read_maps, read_picture, said_channels
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import number
from fmx.store import Store

__all__ = ["channel_overlays", "over_samples", "said_outputs", "sample_label", "sample_overlays", "with_maps"]

ON_A_PAGE = 24


def channel_overlays(
    store: Store,
    *,
    layer: str,
    sample: str | int = 0,
    channels: Sequence[int] | None = None,
    order: str = "max",
    top: int = 8,
    noise: float = 0.0,
    timestep: int = 0,
    classes: Sequence[str] = (),
    cmap: str = "inferno",
    **look: Any,
) -> Iterator[Frame]:
    """Show where many channels of a layer respond in one picture, with what the model said of it.

    Parameters
    ----------
    store : Store
    layer : str
    sample : str or int
        Id, end of an id, or position.
    channels : sequence of int, optional
        Their numbers; the first `top` of an `order` where left out.
    order, top
        See `fmx.render.selection.channel_order`.
    noise, timestep
        Labels of the activations.
    classes : sequence of str
        Names of the model's outputs, to be written beside their numbers.
    cmap : str
        Name of a matplotlib colormap.
    **look
        ``style``, ``alpha`` and ``threshold`` of `fmx.render.regions.region_picture`.

    Yields
    ------
    Frame
        RGB: the picture and up to 23 overlays, each over its own range of values; one frame where `top` is no more.
        The label ``outputs`` holds the largest outputs, where the store has any.

    Raises
    ------
    FmxError
        The store keeps no pictures, the layer has no maps, or there is no such label, channel, order or style.
    """
    name = store.find_sample(str(sample))
    maps = with_maps(read_maps(store, layer, name, noise, timestep))
    picture = enlarged(read_picture(store, name, timestep))
    if channels is None:
        if top < 1:
            raise FmxError(f"At least one channel is laid over the picture, not {top}.")
        places = channel_order(store, maps, order)[:top]
    else:
        places = positions(maps, channels)
    labels = (
        maps.labels
        | said_style(look.get("style", "heat"), look.get("threshold"))
        | said_outputs(store, name, noise, timestep, classes)
    )
    if label := sample_label(store, name):
        labels["label"] = label
    caption = [f"{key} {value}" for key, value in labels.items()]
    for first in range(0, len(places), ON_A_PAGE - 1):
        shown = places[first : first + ON_A_PAGE - 1]
        panels = [Panel("clean input" if noise else "input", picture)]
        for place in shown:
            heat = maps.values[place]
            laid = region_picture(picture, heat, cmap=cmap, **look)
            panels.append(Panel(f"channel {maps.numbers[place]} · max {_highest(heat)}", laid, _bar(heat, look)))
        said = labels | {"channels": ", ".join(str(maps.numbers[place]) for place in shown)}
        yield Frame(stack_panels(panels, caption, colours(cmap)), labels=said)


def sample_overlays(
    store: Store,
    *,
    layer: str,
    samples: Sequence[str],
    channels: Sequence[int] | str = "mean",
    noise: float = 0.0,
    timestep: int = 0,
    shared: bool = True,
    cmap: str = "inferno",
    **look: Any,
) -> Iterator[Frame]:
    """Show where one channel, or the sum of several, responds in many pictures.

    Parameters
    ----------
    store : Store
    layer : str
    samples : sequence of str
        Ids, ends of ids, or positions.
    channels : sequence of int, or {"mean", "max"}
        Numbers of the channels that are summed up, or what is taken over all of them.
    noise, timestep
        Labels of the activations.
    shared : bool
        The same range of values for all pictures, so that they compare; else each its own.
    cmap, **look
        As for `channel_overlays`.

    Yields
    ------
    Frame
        RGB: up to 24 pictures, with their ids, and classes where the store has labels.

    Raises
    ------
    FmxError
        The store keeps no pictures, the layer has no maps, or there is no such sample, label, channel or style.
    """
    if not samples:
        raise FmxError("No samples to lay maps over: give some, or all.")
    names = [store.find_sample(str(sample)) for sample in samples]
    every = [with_maps(read_maps(store, layer, name, noise, timestep)) for name in names]
    heats = [combined(maps, channels) for maps in every]
    what = said_channels(channels)
    facts = {"noise": f"{noise:g}"} | ({"timestep": str(timestep)} if store.frames > 1 else {})
    pictures = [partial(read_picture, store, name, timestep) for name in names]
    titles = [" · ".join(filter(None, [name, sample_label(store, name)])) for name in names]
    labels = {"layer": layer, "shown": what, **facts}
    sheets = over_samples(pictures, heats, titles, labels, every[0].title, shared=shared, cmap=cmap, **look)
    for first, frame in enumerate(sheets):
        said = ", ".join(names[first * ON_A_PAGE : (first + 1) * ON_A_PAGE])
        yield Frame(frame.pixels, labels={**frame.labels, "samples": said})


def over_samples(
    pictures: Sequence[Callable[[], NDArray[np.uint8]]],
    heats: Sequence[NDArray[Any]],
    titles: Sequence[str],
    labels: Mapping[str, str],
    title: str,
    *,
    shared: bool = True,
    cmap: str = "inferno",
    **look: Any,
) -> Iterator[Frame]:
    """Lay a map over each of many pictures.

    Parameters
    ----------
    pictures : sequence of callable
        Each reads a picture, uint8 (y, x, band), when it is drawn.
    heats : sequence of ndarray
        The map over each of them, (y', x').
    titles : sequence of str
        What stands above each.
    labels : mapping of str to str
        Of all of them: ``layer``, ``shown`` and what stands in the caption besides.
    title : str
        The layer as it is named in the caption.
    shared, cmap, **look
        As for `sample_overlays`.

    Yields
    ------
    Frame
        RGB: up to 24 pictures.
    """
    fixed: tuple[float | None, float | None] = (None, None)
    if shared:
        ends = [ends_of(heat) for heat in heats]
        fixed = min(low for low, _ in ends), max(high for _, high in ends)
    labels = {**labels, "range": "the same for all" if shared else "each its own"}
    labels |= said_style(look.get("style", "heat"), look.get("threshold"))
    caption = [title, labels["shown"], *(f"{k} {v}" for k, v in labels.items() if k not in {"layer", "shown"})]
    for first in range(0, len(heats), ON_A_PAGE):
        panels = []
        for i in range(first, min(first + ON_A_PAGE, len(heats))):
            picture = enlarged(pictures[i]())
            laid = region_picture(picture, heats[i], cmap=cmap, low=fixed[0], high=fixed[1], **look)
            above = " · ".join(filter(None, [titles[i], _missing(heats[i], look, *fixed)]))
            panels.append(Panel(above, laid, _bar(heats[i], look, *fixed)))
        yield Frame(stack_panels(panels, caption, colours(cmap)), labels=labels)


def said_outputs(
    store: Store, sample: str, noise: float, timestep: int, classes: Sequence[str] = (), most: int = 5
) -> dict[str, str]:
    """Say which of the model's outputs are largest, as the label ``outputs``; nothing where the store has none."""
    if "outputs" not in store.tree.children:
        return {}
    arrays = [
        a for a in store.tree["outputs"].to_dataset().data_vars.values() if a.ndim == 4 and a.sizes[a.dims[-1]] > 1
    ]
    if not arrays:
        return {}
    chosen = arrays[0].sel(sample=sample, noise=noise).isel(timestep=min(timestep, arrays[0].sizes["timestep"] - 1))
    (scores,) = store.compute(chosen)
    values = np.where(np.isnan(scores.values), -np.inf, scores.values)
    best = np.argsort(-values, kind="stable")[:most]
    named = [f"{i} {classes[i]}" if i < len(classes) else f"{i}" for i in best.tolist()]
    pairs = [f"{name}: {values[i]:.3g}" for name, i in zip(named, best, strict=True)]
    return {"outputs": ", ".join(pairs)}


def with_maps(maps: Maps) -> Maps:
    """Make sure that a layer has maps that can be laid over a picture."""
    if maps.reduced.startswith("no spatial axes"):
        raise FmxError(f"Layer {maps.layer} has no maps (y, x) that could be laid over a picture: choose another.")
    return maps


def sample_label(store: Store, sample: str) -> str:
    """Give the class of a sample; empty without one."""
    labels = store.tree.to_dataset()["label"].values
    return str(labels[store.samples.index(sample)])


def _highest(heat: NDArray[Any]) -> str:
    finite = heat[np.isfinite(heat)]
    return number(float(finite.max())) if finite.size else "NaN"


def _missing(heat: NDArray[Any], look: dict[str, Any], low: float | None, high: float | None) -> str:
    """Say that a picture has no region, where the map is nowhere as high as the threshold."""
    if look.get("style", "heat") == "heat" or said_values(heat):
        return said_values(heat)
    first, last = ends_of(heat, low, high)
    limit = 0.5 if look.get("threshold") is None else look["threshold"]
    return "" if ends_of(heat)[1] >= first + limit * (last - first) and first < last else "no region"


def _bar(
    heat: NDArray[Any], look: dict[str, Any], low: float | None = None, high: float | None = None
) -> tuple[str, str] | None:
    """Give the ends of the bar below a panel; only colours have one."""
    if look.get("style", "heat") != "heat" or said_values(heat):
        return None
    first, last = ends_of(heat, low, high)
    return number(first), number(last)
