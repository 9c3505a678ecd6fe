"""What every plot has to keep to: nothing outside of the picture, no text on another, the values of the results."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from fmx.render.plots.style import styled


def texts(figure: Figure) -> list[Text]:
    """All texts that are to be seen, as they are drawn: in a style that settles how many ticks there are."""
    figure.canvas.draw()
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    with styled():
        return [t for t in found if _shown(t, figure)]


def _shown(text: Text, figure: Figure) -> bool:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            ticks = [*axis.majorTicks, *axis.minorTicks]
            if any(text in (tick.label1, tick.label2) for tick in ticks):
                drawn = [t for tick in axis._update_ticks() for t in (tick.label1, tick.label2)]  # type: ignore[attr-defined]
                return text in drawn and axis.get_visible() and axes.get_visible()
    return True


def check_layout(figure: Figure) -> None:
    """No text leaves the picture, and none lies on another."""
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    found = texts(figure)
    boxes = [text.get_window_extent(renderer) for text in found]
    width, height = figure.canvas.get_width_height()
    for text, box in zip(found, boxes, strict=True):
        inside = box.x0 >= -0.5 and box.y0 >= -0.5 and box.x1 <= width + 0.5 and box.y1 <= height + 0.5
        assert inside, f"{text.get_text()!r} leaves the picture: {box}"
    for (a, one), (b, two) in combinations(zip(found, boxes, strict=True), 2):
        across = min(one.x1, two.x1) - max(one.x0, two.x0)
        down = min(one.y1, two.y1) - max(one.y0, two.y0)
        # The boxes of texts hold the room for letters that reach below the line.
        assert across <= 1 or down <= 3, f"{a.get_text()!r} lies on {b.get_text()!r}"


def axes_of(figure: Figure, label: str) -> Axes:
    """The axes with this label on x or y, or this title."""
    named = [
        a for a in figure.axes if label in (a.get_xlabel(), a.get_ylabel(), a.get_title(), a.get_title(loc="left"))
    ]
    assert len(named) == 1, [(a.get_xlabel(), a.get_ylabel(), a.get_title(loc="left")) for a in figure.axes]
    return named[0]


def artist(axes: Axes, gid: str) -> Any:
    """The one artist of axes that is called so."""
    (found,) = [a for a in axes.get_children() if a.get_gid() == gid]
    return found


def points(axes: Axes, gid: str) -> np.ndarray:
    """Where the points of a scatter are, (point, 2)."""
    return np.asarray(artist(axes, gid).get_offsets(), float)


def line(axes: Axes, gid: str) -> tuple[np.ndarray, np.ndarray]:
    """What a line goes through."""
    x, y = artist(axes, gid).get_data()
    return np.asarray(x, float), np.asarray(y, float)


def caption(figure: Figure) -> str:
    """What stands below the axes."""
    lines = [t for t in figure.texts if t.get_gid() == "caption"]
    return " ".join(t.get_text() for t in reversed(lines))


def words(figure: Figure) -> str:
    """All that is written on a plot."""
    return "\n".join(t.get_text() for t in texts(figure))
