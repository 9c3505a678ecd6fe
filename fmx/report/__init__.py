"""One page that tells the story of a model: what a store holds, layer by layer, with its pictures.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmx.report.findings import Findings, gather
    from fmx.report.write import write_report

__all__ = ["Findings", "gather", "write_report"]

_HOMES = {"Findings": "findings", "gather": "findings", "write_report": "write"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"fmx.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fmx.report' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
