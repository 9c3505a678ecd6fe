"""Films of a store: one frame a channel, timestep, noise level or sample, made as they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.render.frame import Frame
from fmx.render.grid import grid_pages
from fmx.render.normalise import Ranges, quantise, toned, value_ranges
from fmx.render.overlay import overlay, rgb_of
from fmx.render.palette import LEVELS, colours, page_palette
from fmx.render.ranges import NORMALISATIONS, Ranging, RunningRange
from fmx.render.regions import fitted
from fmx.render.resize import check_interpolation, resized
from fmx.render.selection import Maps, chosen_channels, combined, positions, read_maps, read_picture, said_channels
from fmx.render.single import map_size
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import number
from fmx.render.tone import PLAIN, Tone
from fmx.render.unusual import WORDS, find_unusual, hatched
from fmx.store import Store

__all__ = ["OVER", "VIEWS", "Film"]

OVER = ("channel", "timestep", "noise", "sample")
VIEWS = ("map", "overlay", "grid")
FILM = "film"


@dataclass(frozen=True)
class Film:
    """A film of one layer: settled when it is made, read and drawn frame by frame when it is gone through.

    Going through it takes the memory of a few frames, however many there are. Colours that are to mean the same in all
    frames take a second read of what is drawn, before the first frame.

    Parameters
    ----------
    store : Store
    layer : str
    over : str
        What a frame is: a ``channel`` (in an order), a ``timestep``, a ``noise`` level, a ``sample``, or a label of
        the samples by which these are ordered, such as the ``step`` or ``epoch`` of a recorded training.
    samples : sequence of str
        Ids; the first alone, unless the film goes over samples.
    noise, timestep
        Labels of the activations, of which the film goes over one instead, if so asked.
    channel : {"mean", "max"} or sequence of int
        What is taken of the channels: see `fmx.render.selection.combined`.
    channels, order
        Which channels a film over channels goes through, or a grid shows: see `fmx.render.selection.chosen_channels`.
    view : {"map", "overlay", "grid"}
        The map by itself, laid over the input, or a page of up to 64 channels.
    beside : bool
        Show the input beside it, where the store has pictures.
    normalisation : str
        ``film``: each channel over all frames of the film, so that colours don't flicker, percentiles and equalization
        included; or one of `fmx.render.ranges.NORMALISATIONS`, of which ``filter`` looks at each frame by itself.
        ``filter`` over channels and ``film`` else where left empty.
    tone : Tone
    size : int
        Pixels of the longer side of the map or the overlay.
    interpolation, cmap
        As for `fmx.render.single.map_frames`.
    legend : bool
        Write on every frame what it shows, with a bar of the colormap.

    Raises
    ------
    FmxError
        There is nothing of that name to go over, or to show.
    """

    store: Store
    layer: str
    over: str = "timestep"
    samples: Sequence[str] = ()
    noise: float = 0.0
    timestep: int = 0
    channel: str | Sequence[int] = "mean"
    channels: Sequence[int] | None = None
    order: str = "index"
    view: str = "map"
    beside: bool = True
    normalisation: str = ""
    tone: Tone = PLAIN
    size: int = 320
    interpolation: str = "nearest"
    cmap: str = "viridis"
    legend: bool = True

    def __post_init__(self) -> None:
        labels = sample_labels(self.store)
        if self.over not in (*OVER, *labels):
            raise FmxError(f"A film can't go over {self.over}: {near_matches(self.over, [*OVER, *labels], most=9)}")
        if self.view not in VIEWS:
            raise FmxError(f"A film has no view {self.view}: {near_matches(self.view, VIEWS)}")
        if self.view == "grid" and self.over == "channel":
            raise FmxError("A grid shows many channels at once: let it go over time, noise or samples.")
        if self.normalisation not in ("", FILM, *NORMALISATIONS):
            near = near_matches(self.normalisation, [FILM, *NORMALISATIONS], most=9)
            raise FmxError(f"No normalisation is called {self.normalisation}: {near}")
        if self.view == "overlay" and self.store.pictures is None:
            raise FmxError(f"{self.store.path} keeps no pictures, as its data were arrays: take another view.")
        check_interpolation(self.interpolation)
        colours(self.cmap)

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._steps)

    def __iter__(self) -> Iterator[Frame]:
        """Go through the frames."""
        ranges = self._shared() if self._normalisation == FILM else None
        asked = [self.layer] if self._normalisation != FILM else []
        ranging = Ranging(self.store, asked, self._normalisation, self.tone) if asked else None
        for i, (maps, chosen) in enumerate(self._moments()):
            yield self._frame(i, maps, chosen, ranges, ranging)

    @property
    def _normalisation(self) -> str:
        return self.normalisation or ("filter" if self.over == "channel" else FILM)

    @cached_property
    def _steps(self) -> list[Any]:
        if self.over == "channel":
            return self._channels(self._read(self.samples[0], self.noise, self.timestep))
        if self.over == "timestep":
            return list(range(self.store.frames))
        if self.over == "noise":
            return [float(v) for v in self.store.tree.to_dataset()["noise"].values]
        if self.over == "sample":
            return list(self.samples)
        values = self.store.tree.to_dataset()[self.over].values
        place = {sample: values[i] for i, sample in enumerate(self.store.samples)}
        return sorted(self.samples, key=lambda sample: place[sample])

    def _read(self, sample: str, noise: float, timestep: int) -> Maps:
        maps = read_maps(self.store, self.layer, sample, noise, timestep)
        if maps.reduced.startswith("no spatial axes"):
            raise FmxError(f"Layer {self.layer} has no maps (y, x) that could be filmed: choose another.")
        return maps

    def _channels(self, maps: Maps) -> list[int]:
        return chosen_channels(self.store, maps, self.channels, self.order)

    def _moments(self) -> Iterator[tuple[Maps, list[int] | None]]:
        """Read what each frame shows: the maps, and the positions of channels where it is not all put together."""
        steps = self._steps
        if self.over == "channel":
            maps = self._read(self.samples[0], self.noise, self.timestep)
            yield from ((maps, [place]) for place in steps)
            return
        shown: list[int] | None = None
        for step in steps:
            if self.over == "timestep":
                maps = self._read(self.samples[0], self.noise, step)
            elif self.over == "noise":
                maps = self._read(self.samples[0], step, self.timestep)
            else:
                maps = self._read(step, self.noise, self.timestep)
            if self.view == "grid":
                # The order of the first frame holds for all, so that channels keep their places.
                shown = shown or self._channels(maps)[:64]
            elif not isinstance(self.channel, str) and len(self.channel) == 1:
                shown = positions(maps, self.channel)
            yield maps, shown

    def _values(self, maps: Maps, chosen: list[int] | None) -> NDArray[Any]:
        """Give the maps that a frame shows, (map, y, x)."""
        return combined(maps, self.channel)[None] if chosen is None else maps.values[chosen]

    def _shared(self) -> Ranges:
        """Find the range of each map over all frames, in a read of its own."""
        running: RunningRange | None = None
        for maps, chosen in self._moments():
            values = self._values(maps, chosen)
            running = running or RunningRange(len(values), self.tone)
            running.add(values, [1, 2])
        if running is None:
            raise FmxError("There is nothing to film: no sample, level or timestep was chosen.")
        return running.ranges(len(values))

    def _ranges_of(
        self, maps: Maps, chosen: list[int] | None, shared: Ranges | None, ranging: Ranging | None
    ) -> Ranges:
        values = self._values(maps, chosen)
        if shared is not None:
            return shared
        if chosen is None or ranging is None:
            return value_ranges(values, tone=self.tone)
        return ranging.of(self.layer, maps.sample, maps.values)[chosen]

    def _frame(
        self, i: int, maps: Maps, chosen: list[int] | None, shared: Ranges | None, ranging: Ranging | None
    ) -> Frame:
        values, ranges = self._values(maps, chosen), self._ranges_of(maps, chosen, shared, ranging)
        labels = self._labels(i, maps, chosen)
        drawn, ends = self._drawn(maps, values, ranges)
        unusual = find_unusual(values).words() if len(values) == 1 else [""]
        if self.legend and unusual == [WORDS["nan"].rstrip(":")]:
            ends = None
            if self.view == "map":
                drawn = hatched(drawn.shape[:2])
                drawn = drawn if self._indexed else self._palette[drawn]
        panels = [Panel(self._title(maps, chosen), drawn, ends)]
        if self.beside and self.store.pictures is not None:
            picture = rgb_of(read_picture(self.store, maps.sample, maps.timestep or 0))
            panels.insert(0, Panel("clean input" if maps.noise else "input", fitted(picture, drawn.shape[:2])))
        if self.legend:
            lines = self._caption(labels, unusual[0])
            whole = stack_panels(panels, lines, colours(self.cmap), fixed_lines=True)
            return Frame(whole, self._palette if self._indexed else None, labels)
        if self._indexed:
            return Frame(drawn, self._palette, labels)
        gap = np.full((drawn.shape[0], max(drawn.shape[1] // 32, 2), 3), 255, dtype=np.uint8)
        beside = [part for panel in panels for part in (gap, panel.pixels)][1:]
        return Frame(np.concatenate(beside, axis=1), labels=labels)

    def _caption(self, labels: dict[str, str], unusual: str) -> list[str]:
        """Say what a frame shows, in as many lines on all frames; maps alone are too narrow for all in one."""
        hidden = {"layer", "sample", "frame"} | (set() if self.over == "channel" else {"channel"})
        where = " · ".join(f"{key} {value}" for key, value in labels.items() if key not in hidden)
        now = " · ".join(filter(None, [f"frame {labels['frame']}", unusual]))
        lines = [f"{where} · {now}"] if self.beside and self.store.pictures is not None else [where, now]
        return [f"sample {labels['sample']}", *lines]

    @cached_property
    def _indexed(self) -> bool:
        """Whether frames are made of the colormap and grays alone, which few bytes and no time to encode them take."""
        return self.view != "overlay" and not (self.beside and self.store.pictures is not None)

    @property
    def _palette(self) -> NDArray[np.uint8]:
        whole = self.view == "map" and not self.legend
        return colours(self.cmap) if whole else page_palette(self.cmap)

    def _drawn(
        self, maps: Maps, values: NDArray[Any], ranges: Ranges
    ) -> tuple[NDArray[np.uint8], tuple[str, str] | None]:
        ends = (number(ranges.low[0]), number(ranges.high[0]))
        shape = map_size(values.shape[1:], self.size, None)
        if self.view == "grid":
            (page,) = grid_pages(
                values,
                layer=maps.layer,
                sample=maps.sample,
                cmap=self.cmap,
                ranges=ranges,
                tone=self.tone,
                legend=False,
                scale=max(round(self.size / 8 / max(values.shape[1:])), 1),
                interpolation=self.interpolation,
            )
            pixels = page.pixels.astype(np.uint8, copy=False) if self._indexed else page.rgb()
            return pixels, ends if ranges.shared else ("min", "max")
        if self.view == "overlay":
            picture = rgb_of(read_picture(self.store, maps.sample, maps.timestep or 0))
            large = resized(np.moveaxis(picture, 2, 0), map_size(picture.shape[:2], self.size, None), "bilinear")
            shown = np.round(np.moveaxis(large, 0, 2)).astype(np.uint8)
            heat = toned(values, ranges, self.tone)[0]
            return overlay(shown, heat, cmap=self.cmap, low=0.0, high=1.0), ends
        levels = LEVELS if self.legend else 256
        indices = quantise(values, ranges, tone=self.tone, levels=levels, size=shape, interpolation=self.interpolation)[
            0
        ]
        return indices if self._indexed else self._palette[indices], ends

    def _title(self, maps: Maps, chosen: list[int] | None) -> str:
        if self.view == "grid":
            return f"{maps.title} · {len(chosen or [])} channels"
        if self.over == "channel":
            # All titles are of one length, so that all frames are of one size.
            return maps.title
        shown = said_channels(self.channel) if chosen is None else f"channel {maps.numbers[chosen[0]]}"
        return f"{maps.title} · {shown}"

    def _labels(self, i: int, maps: Maps, chosen: list[int] | None) -> dict[str, str]:
        labels = maps.labels
        if chosen is not None and len(chosen) == 1:
            labels["channel"] = str(maps.numbers[chosen[0]])
        place = self.store.samples.index(maps.sample)
        for name in sample_labels(self.store):
            if value := str(self.store.tree.to_dataset()[name].values[place]):
                labels[name] = value
        return labels | {"frame": f"{i + 1} of {len(self)}"}


def sample_labels(store: Store) -> list[str]:
    """List the labels of a store's samples that pictures can be ordered by, such as step, epoch and label."""
    root = store.tree.to_dataset()
    return [str(n) for n in root.coords if root[n].dims == ("sample",) and n not in {"sample", "path", "complete"}]
