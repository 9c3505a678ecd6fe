"""Pictures out of arrays: pure functions from arrays to frames, and the sink that writes a frame."""

from __future__ import annotations

from fmx.render.film import Film
from fmx.render.folder import PictureFolder
from fmx.render.frame import Frame
from fmx.render.from_store import frames, grid_frames, overlay_frame
from fmx.render.grid import grid_pages
from fmx.render.multiples import multiples
from fmx.render.overlay import overlay
from fmx.render.overlay_sheets import channel_overlays, sample_overlays
from fmx.render.overlay_top import top_overlays
from fmx.render.panels import overlay_figure
from fmx.render.ranges import Ranging
from fmx.render.regions import region_picture
from fmx.render.sinks import save_frame, save_png
from fmx.render.tone import Tone
from fmx.render.values import read_values, save_values, value_frame
from fmx.render.video import VideoWriter, write_video

__all__ = [
    "Film",
    "Frame",
    "PictureFolder",
    "Ranging",
    "Tone",
    "VideoWriter",
    "channel_overlays",
    "frames",
    "grid_frames",
    "grid_pages",
    "multiples",
    "overlay",
    "overlay_figure",
    "overlay_frame",
    "read_values",
    "region_picture",
    "sample_overlays",
    "save_frame",
    "save_png",
    "save_values",
    "top_overlays",
    "value_frame",
    "write_video",
]
