"""The plot of ``fmx bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["draw_rates"]


def draw_rates(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Draw images a second as bars: a group for each thing that was timed, a colour for each engine, batch and device.

    Raises
    ------
    FmxError
        The file has an ending that is no picture's, or can't be written.
    """
    from fmx.render.plots import rate_bars, save_figure

    rates: dict[str, dict[str, float]] = {}
    for row in rows:
        rates.setdefault(row["what"], {})[_kind(row, rows)] = row["images_per_s"]
    save_figure(rate_bars(rates), file)


def _kind(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Name the engine that was asked for, with what else was varied."""
    more = {"batch_size": f"batch {row['batch_size']}", "device": row["device"]}
    return ", ".join([row["asked"], *(text for key, text in more.items() if len({r[key] for r in rows}) > 1)])
