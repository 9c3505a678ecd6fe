"""See and measure what happens inside a trained network, whatever file it comes in.

The names below are imported when they are first used, so that ``import fmx`` pulls in no framework.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmx import analyze, maximize, project, render, report, testing
    from fmx.adapter import load
    from fmx.extraction import PictureOptions, Recorder, extract
    from fmx.store import open_store

__all__ = [
    "PictureOptions",
    "Recorder",
    "analyze",
    "extract",
    "load",
    "maximize",
    "open_store",
    "project",
    "render",
    "report",
    "testing",
]

__version__ = version("fmx")

_HOMES = {
    "PictureOptions": "fmx.extraction",
    "Recorder": "fmx.extraction",
    "extract": "fmx.extraction",
    "load": "fmx.adapter",
    "open_store": "fmx.store",
}
_PACKAGES = {"analyze", "maximize", "project", "render", "report", "testing"}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"fmx.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fmx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
