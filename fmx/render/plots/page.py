"""Where things are on a plot: title, legend, axes, caption; never over one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.layers import said_layer
from fmx.render.plots.style import GREY, MM, SMALL, TEXT, PlotFigure, blank, spread
from fmx.render.plots.text import line_height, plain, short, short_names, text_width, wrapped

__all__ = ["WIDTH", "Page", "PageLook", "check_width", "decades", "layer_rows", "name_ticks", "say_inside", "two_sided"]

WIDTH = 180.0
_MARGIN = 1.5
_LEGEND_TEXT = 7.0
_LEAST_WIDTH, _MOST_WIDTH = 60.0, 500.0
# Of −10⁻² and the like below an axis, with a gap.
_POWER_WIDTH = 11.0


class PageLook(TypedDict, total=False):
    """What every plot takes besides results.

    Attributes
    ----------
    title : str or None
        In place of the plot's own.
    facts : sequence of str
        Added to the caption, such as the number of samples.
    width : float
        Of the figure in mm: a column has about 85, a page 180.
    """

    title: str | None
    facts: Sequence[str]
    width: float


class Page:
    """A figure whose title, legend and caption have room of their own around the axes.

    Parameters
    ----------
    heading : str
        Where no title is given.
    height : float
        Of what the axes take up, in mm; may be settled later.
    title, facts, width
        See `PageLook`.
    """

    def __init__(
        self,
        heading: str,
        height: float = 0.0,
        *,
        title: str | None = None,
        facts: Sequence[str] = (),
        width: float = WIDTH,
    ) -> None:
        check_width(width)
        self.title, self.width, self.height = heading if title is None else title, width, height
        self.figure: PlotFigure = blank(width, height or width)
        self._legend: list[tuple[Any, str]] = []
        self._notes: list[str] = []
        self.note(*facts)

    def note(self, *texts: str) -> None:
        """Add to the caption; what it says already is not said twice."""
        self._notes += [text for text in texts if text and text not in self._notes]

    def legend(self, handles: Iterable[Any], labels: Iterable[str]) -> None:
        """Name things in a row, or several, below the title."""
        self._legend += [
            (h, short(str(text), self.width / 2, _LEGEND_TEXT)) for h, text in zip(handles, labels, strict=True)
        ]

    def finish(self, *, align: bool = True) -> PlotFigure:
        """Lay everything out, and give the figure."""
        inside = self.width - 2 * _MARGIN
        title = wrapped([self.title], 0.98 * inside, TEXT + 1, weight="bold") if self.title else []
        # Other programs than matplotlib set the text of SVG and PDF files a little wider.
        notes = wrapped(self._notes, 0.98 * inside)
        columns = self._columns(inside)
        rows = -(-len(self._legend) // columns) if self._legend else 0
        top = _MARGIN + len(title) * line_height(TEXT + 1) + bool(title) * 1.0
        head = top + rows * line_height(_LEGEND_TEXT) * 1.02 + bool(rows) * 1.2
        foot = len(notes) * line_height(SMALL) + _MARGIN + bool(notes) * 0.8
        total = head + self.height + foot
        self.figure.set_size_inches(self.width * MM, total * MM)
        left = _MARGIN / self.width
        for i, line in enumerate(title):
            y = 1 - (_MARGIN + i * line_height(TEXT + 1)) / total
            self.figure.text(left, y, plain(line), size=TEXT + 1, weight="bold", va="top", gid="title")
        for i, line in enumerate(reversed(notes)):
            y = (_MARGIN + i * line_height(SMALL)) / total
            self.figure.text(left, y, plain(line), size=SMALL, color=GREY, va="bottom", gid="caption")
        if self._legend:
            # Matplotlib fills a legend column by column; it is read line by line.
            sizes = [len(self._legend[i::columns]) for i in range(columns)]
            handles, labels = zip(
                *(self._legend[row * columns + i] for i, size in enumerate(sizes) for row in range(size)), strict=True
            )
            legend = self.figure.legend(
                handles,
                [plain(label) for label in labels],
                loc="upper left",
                bbox_to_anchor=(left, 1 - top / total),
                ncols=columns,
            )
            legend.set_in_layout(False)
        if align:
            self.figure.align_labels()
        layout: Any = self.figure.get_layout_engine()
        layout.set(rect=(left, foot / total, 1 - 2 * left, self.height / total))
        # How many ticks there are depends on the size of the axes, and that on their labels.
        for _ in range(2):
            self.figure.draw_without_rendering()
        # From here on every format, and every time, has things in the same places.
        self.figure.set_layout_engine("none")
        for axes in self.figure.axes:
            # The last bits of what the solver finds are not the same each time.
            axes.set_position(Bbox(np.round(axes.get_position(original=True).get_points(), 6)))
        return self.figure

    def _columns(self, inside: float) -> int:
        """How many things of the legend go beside each other: their own widths, a key and gaps."""
        if not self._legend:
            return 1
        widths = [text_width(label, _LEGEND_TEXT) + 9.5 for _, label in self._legend]
        for columns in range(len(widths), 1, -1):
            if sum(max(widths[i::columns]) for i in range(columns)) <= inside:
                return -(-len(widths) // -(-len(widths) // columns))
        return 1


def name_ticks(axis: Axis, names: Sequence[str], room: float, *, size: float = 7.0, length: float = 34.0) -> int:
    """Put names at 0, 1, …, as many as there is room for.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
    names : sequence of str
    room : float
        Length of the axis in mm.
    size : float
        Of the text, in points.
    length : float
        Of the longest name in mm; longer ones are shortened in their middle.

    Returns
    -------
    int
        Which names are there: all (1), every second (2), ….
    """
    lines = int(room // (line_height(size) * 0.95))
    chosen = spread(len(names), lines)
    axis.set_major_locator(FixedLocator(list(chosen)))
    shown = short_names(names, length, size)
    axis.set_major_formatter(FixedFormatter([plain(shown[i]) for i in chosen]))
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(labelsize=size)
    return getattr(chosen, "step", 1)


def check_width(width: float) -> None:
    """Make sure that a width in mm is one that plots can have.

    Raises
    ------
    FmxError
        It is not.
    """
    if not _LEAST_WIDTH <= width <= _MOST_WIDTH:
        raise FmxError(
            f"Plots are {_LEAST_WIDTH:g} to {_MOST_WIDTH:g} mm wide, not {width:g}: a column has about 85, a page 180."
        )


def decades(axis: Axis, values: NDArray[np.float64], room: float) -> None:
    """Make an axis of some length in mm logarithmic, from one power of ten to another, with names at powers only."""
    low, high = np.log10(float(values.min())), np.log10(float(values.max()))
    first, last = int(np.floor(low - 0.08)), int(np.ceil(high + 0.08))
    axes: Any = axis.axes
    getattr(axes, f"set_{axis.axis_name}scale")("log")  # type: ignore[attr-defined]
    getattr(axes, f"set_{axis.axis_name}lim")(10.0**first, 10.0**last)  # type: ignore[attr-defined]
    axis.set_major_locator(
        FixedLocator([10.0**i for i in range(first, last + 1, max(-(-(last - first) * 9 // int(room)), 1))])
    )
    axis.set_minor_formatter(NullFormatter())


def two_sided(axis: Axis, linear: float, low: float, high: float, room: float) -> None:
    """Make an axis of some length in mm logarithmic on both sides of 0, and linear up to a value beside it."""
    axes: Any = axis.axes
    getattr(axes, f"set_{axis.axis_name}scale")("symlog", linthresh=linear)  # type: ignore[attr-defined]
    powers = 10.0 ** np.arange(np.ceil(np.log10(linear)), np.floor(np.log10(max(-low, high, linear))) + 1)
    ends = axis.get_transform().transform(np.array([low, high]))
    apart = (ends[1] - ends[0]) * _POWER_WIDTH / room
    ticks = [0.0] if low <= 0 <= high else []
    for sign in (-1, 1):
        last = 0.0
        for value in sign * powers:
            place = float(axis.get_transform().transform(np.array([value]))[0])
            if low <= value <= high and abs(place - last) >= apart:
                ticks.append(float(value))
                last = place
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_minor_locator(NullLocator())
    getattr(axes, f"set_{axis.axis_name}lim")(low, high)  # type: ignore[attr-defined]


def say_inside(axes: Axes, text: str, *, ticks: bool = False) -> None:
    """Say in the middle of axes why there is nothing to draw, with the ticks that others share or without any."""
    axes.text(
        0.5, 0.5, plain(text), transform=axes.transAxes, ha="center", va="center", color=GREY, size=7, gid="empty"
    )
    if not ticks:
        axes.set_xticks([])
        axes.set_yticks([])


def layer_rows(page: Page, names: Iterable[str], ratios: Sequence[float]) -> list[Axes]:
    """Make columns of axes with a row for each layer, the first layer on top; the page gets as high as that takes.

    Names are on the left, shortened in their middle; with more layers than there is room for, some are left out.
    """
    rows = [said_layer(name) for name in names]
    page.height = 13 + min(max(len(rows), 3) * 4.6, _MOST_ROWS_HEIGHT)
    axes: Any = page.figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=list(ratios))[0]
    each = name_ticks(axes[0].yaxis, rows, page.height - 13, length=max(page.width * 0.22, 28.0))
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    layout: Any = page.figure.get_layout_engine()
    layout.set(wspace=0.06)
    for own in axes:
        own.tick_params(axis="y", length=0)
        own.grid(axis="y")
    page.note(f"every {each}{_ENDINGS.get(each, 'th')} of {len(rows)} layers is named" if each > 1 else "")
    return list(axes)


_MOST_ROWS_HEIGHT = 205.0
_ENDINGS = {2: "nd", 3: "rd"}
