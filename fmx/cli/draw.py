"""What ``fmx render`` writes into a folder of pictures, and under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmx.cli import texts
from fmx.cli.picking import place_parts
from fmx.errors import FmxError, near_matches
from fmx.render import Film, Frame, PictureFolder, grid_frames, overlay_frame, save_values, write_video
from fmx.render.overlay_sheets import channel_overlays, sample_overlays
from fmx.render.overlay_top import top_overlays, top_samples_of
from fmx.render.ranges import Ranging
from fmx.render.selection import Maps, chosen_channels, has_maps, read_maps
from fmx.render.single import map_frames
from fmx.store import Store

__all__ = [
    "Places",
    "channel_choice",
    "draw_channel_overlays",
    "draw_films",
    "draw_frames",
    "draw_grids",
    "draw_overlay",
    "draw_sample_overlays",
    "draw_top_overlays",
    "layers_with_maps",
    "page_layout",
    "picture_size",
    "value_format",
    "write_values",
]

_VALUES = {"png16": (".png", 16), "tif16": (".tif", 16), "tif32": (".tif", 32)}
_FORMATS = ("png", "tif")


@dataclass(frozen=True)
class Places:
    """Which parts of a store are drawn: all combinations of layers, samples, noise levels and timesteps."""

    store: Store
    layers: Sequence[str]
    samples: Sequence[str]
    noises: Sequence[float]
    timesteps: Sequence[int]

    def __iter__(self) -> Iterator[tuple[str, str, float, int]]:
        """Go through them, timesteps first and layers last, which reads what lies together together."""
        for layer in self.layers:
            for sample in self.samples:
                for noise in self.noises:
                    for timestep in self.timesteps:
                        yield layer, sample, noise, timestep

    def with_maps(self) -> Places:
        """Leave out the layers without maps, unless there are no others."""
        infos = {info.name: info for info in self.store.layers}
        kept = [name for name in self.layers if has_maps(infos[name])]
        return Places(self.store, kept or self.layers, self.samples, self.noises, self.timesteps)


def draw_grids(places: Places, folder: PictureFolder, ranging: Ranging, **look: Any) -> Iterator[Path]:
    """Write the pages of every layer, and give their paths as they are written."""
    for layer, sample, noise, timestep in places:
        pages = grid_frames(
            places.store, layer=layer, sample=sample, noise=noise, timestep=timestep, ranging=ranging, **look
        )
        for i, frame in enumerate(pages, start=1):
            parts = ["grid", layer, sample, *place_parts(places.store, frame.labels), f"page{i:03d}"]
            yield folder.save(frame, *parts)


def draw_frames(
    places: Places,
    folder: PictureFolder,
    ranging: Ranging,
    form: str,
    *,
    channels: Sequence[int] | None = None,
    order: str = "index",
    top: int | None = None,
    **look: Any,
) -> Iterator[Path]:
    """Write a picture of every map."""
    if form not in _FORMATS:
        raise FmxError(f"--format takes {' or '.join(_FORMATS)}, not '{form}'.")
    for maps, shown in _read(places.with_maps(), channels, order, top):
        for frame in map_frames(maps, shown, ranging, **look):
            parts = [maps.layer, maps.sample, *place_parts(places.store, frame.labels)]
            yield folder.save(frame, *parts, f"channel{int(frame.labels['channel']):04d}", suffix=f".{form}")


def write_values(
    places: Places,
    folder: PictureFolder,
    form: str,
    channels: Sequence[int] | None = None,
    order: str = "index",
    top: int | None = None,
) -> Iterator[Path]:
    """Write the values of every map, so that they can be read again."""
    suffix, bits = _VALUES[form]
    for maps, shown in _read(places.with_maps(), channels, order, top):
        for channel in shown:
            labels = maps.labels | {"channel": str(maps.numbers[channel])}
            parts = [maps.layer, maps.sample, *place_parts(places.store, labels), f"channel{maps.numbers[channel]:04d}"]
            path = folder.path(*parts, suffix=suffix)
            save_values(maps.values[channel], path, labels=labels, bits=bits)
            folder.add(path, labels | {"values": form})
            yield path


def draw_overlay(
    store: Store, layers: str, sample: str, channel: str, folder: PictureFolder, look: Mapping[str, Any]
) -> Path:
    """Write one figure with the selected layers over the sample's picture."""
    frame = overlay_frame(store, layers=layers, sample=sample, channel=channel_choice(channel), **look)
    return folder.save(frame, "overlay", layers, sample, channel, *place_parts(store, frame.labels), *_styled(look))


def draw_channel_overlays(
    store: Store, layers: str, sample: str, folder: PictureFolder, look: Mapping[str, Any]
) -> Iterator[Path]:
    """Write figures with the highest channels of each selected layer over the sample's picture."""
    for layer in layers_with_maps(store, layers):
        frames = channel_overlays(store, layer=layer, sample=sample, **look)
        for i, frame in enumerate(frames, start=1):
            parts = ["overlay", layer, sample, f"top{look['top']}", *place_parts(store, frame.labels), *_styled(look)]
            yield folder.save(frame, *parts, f"page{i:03d}")


def draw_sample_overlays(
    store: Store, layers: str, samples: Sequence[str], channel: str, folder: PictureFolder, look: Mapping[str, Any]
) -> Iterator[Path]:
    """Write figures with chosen channels of each selected layer over many pictures."""
    for layer in layers_with_maps(store, layers):
        frames = sample_overlays(store, layer=layer, samples=samples, channels=channel_choice(channel), **look)
        for i, frame in enumerate(frames, start=1):
            parts = ["overlay", layer, f"{len(samples)}-samples", channel, *place_parts(store, frame.labels)]
            yield folder.save(frame, *parts, *_styled(look), f"page{i:03d}")


def draw_top_overlays(
    store: Store, layers: str, saved: str, channel: str | None, folder: PictureFolder, look: Mapping[str, Any]
) -> Iterator[Path]:
    """Write figures with channels of each selected layer that the results have over the samples that excite them."""
    results = top_samples_of(store, saved)
    chosen = [name for name in layers_with_maps(store, layers) if name in results]
    if not chosen:
        raise FmxError(f"The results called {saved} are of {', '.join(results)}: choose one of these by --layer.")
    channels = None if channel is None else texts.whole_numbers("--channels", channel)
    for layer in chosen:
        for frame in top_overlays(store, results[layer], layer=layer, channels=channels, **look):
            said = {key: frame.labels[key] for key in ("channel", "class", "page") if key in frame.labels}
            parts = [f"{key}{value}" for key, value in said.items()]
            yield folder.save(frame, "overlay", layer, "top-samples", *parts, *_styled(look))


def draw_films(films: Sequence[Film], folder: PictureFolder, form: str, fps: float) -> Iterator[Path]:
    """Write films, one a layer, each frame as it is drawn."""
    from fmx.cli.output import progress

    for film in films:
        several = film.over not in {"channel", "timestep", "noise"}
        of = f"{len(film.samples)}-samples" if several else film.samples[0]
        shown = film.view if film.over == "channel" or film.view == "grid" else f"{film.view}-{_shown(film.channel)}"
        path = folder.path("film", film.layer, of, f"over-{film.over}", shown, suffix=f".{form.lower().lstrip('.')}")
        with progress(f"filming {film.layer}") as update:
            write_video(path, _counted(film, update), fps=fps)
        labels = {"layer": film.layer, "over": film.over, "samples": ", ".join(film.samples), "view": film.view}
        folder.add(path, labels | {"frames": len(film), "fps": f"{fps:g}"})
        yield path


def _counted(film: Film, update: Callable[[int, int], None]) -> Iterator[Frame]:
    for i, frame in enumerate(film, start=1):
        yield frame
        update(i, len(film))


def _shown(channel: str | Sequence[int]) -> str:
    return channel if isinstance(channel, str) else f"channel{'+'.join(map(str, channel))}"


def layers_with_maps(store: Store, layers: str) -> list[str]:
    """Give the names of selected layers that have maps, or of all where none has."""
    chosen = store.select(layers)
    return [info.name for info in chosen if has_maps(info)] or [info.name for info in chosen]


def channel_choice(text: str) -> str | list[int]:
    """Read what is taken of the channels: mean, max, or numbers."""
    return text if text in {"mean", "max"} else texts.whole_numbers("--channels", text)


def _styled(look: Mapping[str, Any]) -> list[str]:
    return [] if look.get("style", "heat") == "heat" else [str(look["style"])]


def page_layout(text: str) -> tuple[int, int]:
    """Read the rows and columns of a page, such as 8x8."""
    match = re.fullmatch(r"\s*([1-9]\d{0,3})\s*[x×,]\s*([1-9]\d{0,3})\s*", text)
    if not match:
        raise FmxError(f"--page takes rows and columns, such as 8x8, not '{text}'.")
    return int(match[1]), int(match[2])


def picture_size(text: str | None) -> int | tuple[int, int] | None:
    """Read the size of a picture: of its longer side, or width and height; gives height and width."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[x×,]\s*(\d{1,6}))?\s*", text)
    if not match:
        raise FmxError(f"--size takes pixels of the longer side, or WIDTHxHEIGHT, not '{text}'.")
    return (int(match[2]), int(match[1])) if match[2] else int(match[1])


def value_format(text: str, size: str | None, scale: int | None) -> str:
    """See in which form values are to be written, at their own resolution."""
    if text not in _VALUES:
        raise FmxError(f"--values takes png16, tif16 or tif32, not '{text}': {near_matches(text, _VALUES)}")
    if size is not None or scale is not None:
        raise FmxError("Values are written at the layer's own resolution: leave out --size and --scale.")
    return text


def _read(
    places: Places, channels: Sequence[int] | None, order: str, top: int | None
) -> Iterator[tuple[Maps, list[int]]]:
    if top is not None and top < 1:
        raise FmxError(f"--top takes a number of channels, at least 1, not {top}.")
    for layer, sample, noise, timestep in places:
        maps = read_maps(places.store, layer, sample, noise, timestep)
        if maps.reduced.startswith("no spatial axes"):
            raise FmxError(f"Layer {layer} has no spatial axes and so no maps: fmx render grid draws it as bars.")
        yield maps, chosen_channels(places.store, maps, channels, order)[:top]
