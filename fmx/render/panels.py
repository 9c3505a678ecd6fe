"""A picture beside what several maps find in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.overlay import ends_of, enlarged, said_values
from fmx.render.palette import colours
from fmx.render.regions import region_picture
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import number

__all__ = ["overlay_figure", "said_style"]

Heat = tuple[str, NDArray[Any], tuple[float, float] | None]


def overlay_figure(
    picture: NDArray[np.uint8],
    heats: Sequence[Heat],
    *,
    sample: str,
    noise: float = 0.0,
    timestep: int | None = None,
    alpha: float = 0.6,
    cmap: str = "inferno",
    threshold: float | None = None,
    style: str = "heat",
) -> Frame:
    """Show a picture and beside it what several maps find in it.

    Parameters
    ----------
    picture : ndarray of uint8
        As in `overlay`; a small one is enlarged by whole pixels.
    heats : sequence of (str, ndarray, (float, float) or None)
        Title, map (y', x') and range of values of each overlay; the map's own range where it is None.
    sample, noise, timestep
        Where the picture comes from: written into the caption and the labels. No timestep for None.
    alpha, cmap, threshold, style
        As in `fmx.render.regions.region_picture`.

    Returns
    -------
    Frame
        RGB, (y, x, 3): the panels in one row, in several from seven panels on; titles above, below colours their bars
        with the ends of the range. Labels ``sample``, ``noise``, ``timestep``, ``panels``.

    Raises
    ------
    FmxError
        As in `overlay`, or there are no heat maps.
    """
    if not heats:
        raise FmxError("An overlay figure needs at least one heat map.")
    large = enlarged(picture)
    panels = [Panel("clean input" if noise else "input", large)]
    for title, heat, fixed in heats:
        low, high = ends_of(heat, *(fixed or (None, None)))
        look: dict[str, Any] = {"style": style, "alpha": alpha, "threshold": threshold, "cmap": cmap}
        laid = region_picture(large, heat, low=low, high=high, **look)
        nothing = said_values(heat)
        bar = (number(low), number(high)) if style == "heat" and not nothing else None
        panels.append(Panel(f"{title} · {nothing}" if nothing else title, laid, bar))
    labels = {"sample": sample, "noise": f"{noise:g}"}
    labels |= {} if timestep is None else {"timestep": str(timestep)}
    labels |= said_style(style, threshold)
    caption = [f"{key} {value}" for key, value in labels.items()]
    labels["panels"] = ", ".join(panel.title for panel in panels)
    return Frame(stack_panels(panels, caption, colours(cmap)), labels=labels)


def said_style(style: str, threshold: float | None) -> dict[str, str]:
    """Say what regions are; nothing about colours, which have a bar."""
    limit = 0.5 if threshold is None else threshold
    return {} if style == "heat" else {style: f"at or above {limit:.0%} of the range"}
