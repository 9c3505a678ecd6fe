"""Curves of many layers or channels: lines, and how they are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fmx.render.plots.page import Page, say_inside
from fmx.render.plots.style import Look, spread
from fmx.render.plots.text import plain, short_names

__all__ = ["draw_lines", "name_lines"]

# Lines that a legend can name; with more of them a bar of colours does.
_MOST_NAMED = 8


def draw_lines(
    axes: Axes, lines: Sequence[tuple[NDArray[Any], NDArray[Any]]], shown: Sequence[Look], name: str = ""
) -> None:
    """Draw lines with their points; points that are not finite are left out, and break no line."""
    drawn = False
    for i, (line, look) in enumerate(zip(lines, shown, strict=True)):
        x, y = (np.asarray(values, np.float64) for values in line)
        known = np.isfinite(y)
        drawn |= bool(known.any())
        marker = look.marker if known.sum() <= 24 else ""
        axes.plot(
            x[known], y[known], color=look.colour, ls=look.line, marker=marker, markeredgewidth=0, gid=f"{name}-{i}"
        )
    if not drawn:
        say_inside(axes, "nothing to draw: no finite values")


def name_lines(
    page: Page, names: Sequence[str], shown: Sequence[Look], grid: Any, *, room: float | None = None
) -> None:
    """Name lines in the legend, or, where there are many, along a bar of their colours from the first to the last.

    With `room` in mm, of some of the page's axes, along a bar that is as long.
    """
    if len(names) <= _MOST_NAMED and room is None:
        page.legend(
            [Line2D([], [], color=look.colour, ls=look.line, marker=look.marker, mew=0) for look in shown], names
        )
        return
    colours = mpl.colors.ListedColormap([look.colour for look in shown])
    edges = mpl.colors.BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    bar = page.figure.colorbar(
        mpl.cm.ScalarMappable(edges, colours), ax=grid, aspect=40, pad=0.015, fraction=0.04, spacing="proportional"
    )
    chosen = list(spread(len(names), int((room or page.height) // 4)))
    chosen[-1] = len(names) - 1
    shown_names = short_names(names, max(page.width * 0.2, 26.0), 6.5)
    bar.set_ticks(chosen, labels=[plain(shown_names[i]) for i in chosen])
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    bar.ax.tick_params(labelsize=6.5, length=0)
    bar.outline.set_visible(False)
