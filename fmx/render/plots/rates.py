"""Images a second, as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from fmx.render.plots.page import Page, PageLook, name_ticks
from fmx.render.plots.style import PlotFigure, in_style, looks

__all__ = ["rate_bars"]


@in_style
def rate_bars(rates: Mapping[str, Mapping[str, float]], **given: Unpack[PageLook]) -> PlotFigure:
    """Draw images a second as bars: a group for each thing that was timed, a colour for each way.

    Parameters
    ----------
    rates : mapping of str to mapping of str to float
        By thing, then by way: images per second.
    **given
        See `fmx.render.plots.page.PageLook`.
    """
    things = list(rates)
    ways = list(dict.fromkeys(way for own in rates.values() for way in own))
    room = len(things) * (3.6 * len(ways) + 2.4)
    page = Page("", room + 11, **given)
    axes = page.figure.add_subplot()
    thick = 0.82 / max(len(ways), 1)
    handles: list[Any] = []
    for i, (way, look) in enumerate(zip(ways, looks(len(ways)), strict=True)):
        places = [j + (i - (len(ways) - 1) / 2) * thick for j, thing in enumerate(things) if way in rates[thing]]
        values = [own[way] for own in rates.values() if way in own]
        bars = axes.barh(places, values, thick * 0.9, color=look.colour, linewidth=0)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=6.5)
        handles.append(bars)
    name_ticks(axes.yaxis, things, room, length=page.width * 0.35)
    axes.set_ylim(len(things) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.set_xlabel("images per second")
    if len(ways) > 1:
        page.legend(handles, ways)
    return page.finish()
