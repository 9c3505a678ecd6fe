"""Frames straight from a store: the maps of one sample, and heat maps over its picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Required, TypedDict, Unpack

from fmx.errors import FmxError
from fmx.render.bars import bar_pages
from fmx.render.frame import Frame
from fmx.render.grid import grid_pages
from fmx.render.normalise import value_ranges
from fmx.render.panels import overlay_figure
from fmx.render.ranges import Ranging
from fmx.render.selection import Maps, chosen_channels, combined, has_maps, read_maps, read_picture, said_channels
from fmx.render.single import map_frames
from fmx.render.tone import PLAIN, Tone
from fmx.store import Store

__all__ = ["FrameLook", "GridLook", "Picked", "frames", "grid_frames", "overlay_frame"]


class Picked(TypedDict, total=False):
    """Which maps of a store are drawn, and over which range.

    Attributes
    ----------
    layer : str
        The only one that has to be given.
    sample : str or int
        Id, end of an id, or position; the first where left out.
    noise, timestep
        Labels of the activations; 0 where left out.
    channels : sequence of int
        Numbers of those to show, in this order; all where left out.
    order : str
        Order of the channels where none are given: see `fmx.render.selection.channel_order`.
    normalisation : str
        Whose range of values the colours span: see `fmx.render.ranges.NORMALISATIONS`.
    tone : Tone
        Clipping, symmetry about 0, equalization and gamma.
    ranging : Ranging
        In place of the last two, to share it with further pictures.
    """

    layer: Required[str]
    sample: str | int
    noise: float
    timestep: int
    channels: Sequence[int] | None
    order: str
    normalisation: str
    tone: Tone
    ranging: Ranging | None


class GridLook(Picked, total=False):
    """What `grid_frames` takes besides: see `fmx.render.grid.grid_pages`."""

    rows: int
    columns: int
    scale: int | None
    interpolation: str
    cmap: str
    legend: bool


class FrameLook(Picked, total=False):
    """What `frames` takes besides: see `fmx.render.single.map_frames`."""

    size: int | tuple[int, int] | None
    scale: int | None
    interpolation: str
    cmap: str
    legend: bool


def grid_frames(store: Store, **given: Unpack[GridLook]) -> Iterator[Frame]:
    """Draw a layer's maps for one sample, a page of 8×8 at a time; a layer without maps as bars.

    Parameters
    ----------
    store : Store
    **given
        See `Picked` and `fmx.render.grid.grid_pages`.

    Raises
    ------
    FmxError
        The store has no such layer, sample, level, timestep, channel, order or normalisation.
    """
    maps, shown, ranging, look = _pick(store, given)
    layer, order, channels = given["layer"], given.get("order", "index"), given.get("channels")
    ranges = ranging.of(layer, maps.sample, maps.values)
    if maps.reduced.startswith("no spatial axes") and ranging.name == "filter":
        # A value is no range: colours then go with the heights of the bars.
        ranges = value_ranges(maps.values, "layer", tone=ranging.tone)
    notes = {} if order == "index" or channels is not None else {"ordered by": order}
    if maps.reduced.startswith("no spatial axes"):
        kept = {key: look[key] for key in ("cmap", "legend") if key in look}
        yield from bar_pages(
            maps.values[:, 0, 0],
            title=maps.title,
            labels=maps.labels | notes,
            reduced=maps.reduced,
            channels=shown,
            ranges=ranges,
            numbers=maps.numbers,
            tone=ranging.tone,
            **kept,
        )
        return
    notes |= {"drawn": maps.reduced} if maps.reduced else {}
    yield from grid_pages(
        maps.values,
        layer=layer,
        title=maps.title,
        sample=maps.sample,
        noise=maps.noise,
        timestep=maps.timestep,
        channels=shown,
        normalisation=ranging.name,
        tone=ranging.tone,
        ranges=ranges,
        numbers=maps.numbers,
        notes=notes,
        **look,
    )


def frames(store: Store, **given: Unpack[FrameLook]) -> Iterator[Frame]:
    """Draw a layer's maps for one sample, a picture each: see `Picked` and `fmx.render.single.map_frames`."""
    maps, shown, ranging, look = _pick(store, given)
    yield from map_frames(maps, shown, ranging, **look)


def _pick(store: Store, given: Picked) -> tuple[Maps, list[int], Ranging, dict[str, Any]]:
    """Read the maps, and find the positions of the channels, the ranges, and what is left for those who draw."""
    layer, tone = given["layer"], given.get("tone", PLAIN)
    sample = store.find_sample(str(given.get("sample", 0)))
    maps = read_maps(store, layer, sample, given.get("noise", 0.0), given.get("timestep", 0))
    ranging = given.get("ranging") or Ranging(store, [layer], given.get("normalisation", "filter"), tone)
    shown = chosen_channels(store, maps, given.get("channels"), given.get("order", "index"))
    return maps, shown, ranging, {key: value for key, value in given.items() if key not in Picked.__annotations__}


def overlay_frame(
    store: Store,
    *,
    layers: str | Iterable[str] = "auto",
    sample: str | int = 0,
    channel: str | int | Sequence[int] = "mean",
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
    channel : {"mean", "max"}, int or sequence of int
        What is drawn of each layer: the mean or the maximum over its channels, one channel, or the sum of several.
    noise, timestep
        Labels of the activations.
    **look
        Passed on to `overlay_figure`.

    Raises
    ------
    FmxError
        The store keeps no pictures, the layers have no maps, or there is no such label.
    """
    name = store.find_sample(str(sample))
    picture = read_picture(store, name, timestep)
    chosen = [info for info in store.select(layers) if has_maps(info)]
    if not chosen:
        raise FmxError("None of these layers has maps (y, x) that could be laid over a picture: choose others.")
    wanted = [int(str(channel))] if isinstance(channel, int) or str(channel).isdigit() else channel
    every = (read_maps(store, info.name, name, noise, timestep) for info in chosen)
    heats = [(maps.title, combined(maps, wanted), None) for maps in every]
    step = timestep if store.frames > 1 else None
    what = f"{name} · {said_channels(wanted)}"
    return overlay_figure(picture, heats, sample=what, noise=noise, timestep=step, **look)
