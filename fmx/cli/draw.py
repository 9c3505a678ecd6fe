"""Where ``fmx render`` puts its pictures, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fmx.errors import FmxError
from fmx.render import grid_frames, overlay_frame, save_png
from fmx.store import Store

__all__ = ["draw_grids", "draw_overlay"]


def draw_grids(
    store: Store, layers: str, sample: str, noise: float, timestep: int, folder: str, look: Mapping[str, Any]
) -> Iterator[Path]:
    """Write the pages of every selected layer that has maps, and give their paths as they are written."""
    chosen = store.select(layers)
    drawable = [info for info in chosen if {"channel", "y", "x"} == set(info.dims)] or chosen
    name = store.find_sample(sample)
    for info in drawable:
        pages = grid_frames(store, layer=info.name, sample=name, noise=noise, timestep=timestep, **look)
        for i, frame in enumerate(pages, start=1):
            file = _file_name("grid", info.name, name, *_labels(store, noise, timestep), f"page{i:03d}")
            yield save_png(frame, _folder(folder) / file)


def draw_overlay(
    store: Store,
    layers: str,
    sample: str,
    channel: str,
    noise: float,
    timestep: int,
    folder: str,
    look: Mapping[str, Any],
) -> Path:
    """Write one figure with the selected layers over the sample's picture."""
    name = store.find_sample(sample)
    frame = overlay_frame(store, layers=layers, sample=name, channel=channel, noise=noise, timestep=timestep, **look)
    return save_png(
        frame, _folder(folder) / _file_name("overlay", layers, name, channel, *_labels(store, noise, timestep))
    )


def _labels(store: Store, noise: float, timestep: int) -> list[str]:
    return [f"noise{noise:g}"] + ([f"t{timestep}"] if store.frames > 1 else [])


def _folder(name: str) -> Path:
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise FmxError(f"{path} is a file: give a folder with -o.")
    return path


def _file_name(*parts: str) -> str:
    """Join labels into a file name; anything but letters, digits, dots, dashes and plus becomes a dash."""
    return "_".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts) + ".png"
