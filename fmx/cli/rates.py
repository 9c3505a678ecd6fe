"""The plot of ``fmx bench``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmx.errors import FmxError

__all__ = ["draw_rates"]

_FORMATS = {".png", ".svg", ".pdf"}
# Okabe and Ito's colours, told apart by everybody.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def draw_rates(rows: Sequence[Mapping[str, Any]], file: str) -> None:
    """Draw images a second as bars: a group for each thing that was timed, a colour for each engine, batch and device.

    Raises
    ------
    FmxError
        The file has an ending that is no picture's.
    """
    path = Path(file)
    if path.suffix.lower() not in _FORMATS:
        raise FmxError(f"--plot draws .png, .svg or .pdf, not {path.suffix or 'a file without an ending'}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    things = list(dict.fromkeys(row["what"] for row in rows))
    kinds = list(dict.fromkeys(_kind(row, rows) for row in rows))
    rates = {(row["what"], _kind(row, rows)): row["images_per_s"] for row in rows}
    figure = Figure(figsize=(7, 0.5 + 0.28 * len(things) * (len(kinds) + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        places = [i + (number - (len(kinds) - 1) / 2) * height for i in range(len(things))]
        bars = axes.barh(
            places,
            [rates.get((thing, kind), 0.0) for thing in things],
            height * 0.92,
            label=kind,
            color=_COLOURS[number % len(_COLOURS)],
        )
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.set_yticks(range(len(things)), things)
    axes.invert_yaxis()
    axes.set_xlabel("images per second")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    if len(kinds) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _kind(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Name the engine that was asked for, with what else was varied."""
    more = {"batch_size": f"batch {row['batch_size']}", "device": row["device"]}
    return ", ".join([row["asked"], *(text for key, text in more.items() if len({r[key] for r in rows}) > 1)])
