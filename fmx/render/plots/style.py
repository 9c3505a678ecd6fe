"""One style for all plots: sizes for a column of a journal, colours that everybody tells apart, the same bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fmx.render.fonts import DEJAVU

__all__ = [
    "GREY",
    "INK",
    "MM",
    "OKABE_ITO",
    "SMALL",
    "TEXT",
    "Look",
    "PlotFigure",
    "blank",
    "encoded",
    "families",
    "in_style",
    "looks",
    "spread",
    "styled",
    "use_font",
]

MM = 1 / 25.4
TEXT, SMALL = 8.0, 6.5
INK, GREY = "#222222", "#666666"
# Okabe and Ito's colours, without the yellow that is too light for lines on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = "os^Dv<>"
_LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_DPI, _CLOUD_DPI = 200, 300

_STYLE: dict[str, Any] = {
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": TEXT,
    "axes.labelpad": 2.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.useoffset": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
    "lines.markersize": 3,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0.1,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.35,
    "image.cmap": "viridis",
    "figure.constrained_layout.h_pad": 0.035,
    "figure.constrained_layout.w_pad": 0.03,
    "svg.fonttype": "none",
    "svg.hashsalt": "fmx",
    "pdf.fonttype": 42,
}
# Matplotlib keeps its settings in one place for the whole process.
_LOCK = threading.RLock()
_FONT_LOG = logging.getLogger("matplotlib.font_manager")
_inside: list[bool] = []
# Families by the files of fonts that letters were taken from.
_further: dict[str, str] = {}

P = ParamSpec("P")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the plots, whatever matplotlib is set to otherwise; afterwards it is as before."""
    settings: Any = mpl.rcParams
    with _LOCK, mpl.rc_context():
        mpl.rcdefaults()
        settings.update(_STYLE | {"font.family": families()})
        before = _FONT_LOG.level
        # It warns of every weight that a font of few letters lacks.
        _FONT_LOG.setLevel(logging.ERROR)
        _inside.append(True)
        try:
            yield
        finally:
            _inside.pop()
            _FONT_LOG.setLevel(before)


def families() -> list[str]:
    """Name the fonts of texts: of the first that has a letter it is taken."""
    return [DEJAVU, *_further.values()]


def use_font(file: str) -> None:
    """Take letters that the fonts so far lack from another one, from now on."""
    from matplotlib import font_manager

    if file in _further:
        return
    font_manager.fontManager.addfont(file)
    _further[file] = font_manager.get_font(file).family_name
    if _inside:
        mpl.rcParams["font.family"] = families()


class PlotFigure(Figure):
    """A figure that is drawn in the style it was made in, and shows itself in a notebook."""

    def draw(self, renderer: Any) -> None:
        """Draw it; some of its ticks come into being only then."""
        with styled():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return encoded(self, "png")


def encoded(figure: Figure, form: str) -> bytes:
    """Encode a figure as ``png``, ``svg`` or ``pdf``: the same bytes each time."""
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    stream = BytesIO()
    with styled():
        # In SVG and PDF only clouds of points are pixels.
        figure.savefig(stream, format=form, metadata=undated[form], dpi=_DPI if form == "png" else _CLOUD_DPI)
    return stream.getvalue()


def blank(width: float, height: float = 60.0) -> PlotFigure:
    """Give an empty figure, sizes in mm."""
    figure = PlotFigure(figsize=(width * MM, height * MM), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def in_style(function: Callable[P, PlotFigure]) -> Callable[P, PlotFigure]:
    """Let a function draw in the style of the plots."""

    @wraps(function)
    def draw(*words: P.args, **settings: P.kwargs) -> PlotFigure:
        with styled():
            return function(*words, **settings)

    return draw


@dataclass(frozen=True)
class Look:
    """How one of several things that are drawn together looks."""

    colour: Any
    marker: str
    line: Any


def looks(count: int, *, ordered: bool = False) -> list[Look]:
    """Give each of several things a look of its own.

    Parameters
    ----------
    count : int
    ordered : bool
        They are steps on a scale, such as depth or noise: shades from dark to light. Else distinct colours; beyond
        seven things lines and markers differ too.
    """
    if ordered:
        shades = mpl.colormaps["viridis"](np.linspace(0, 0.88, max(count, 2)))
        return [Look(tuple(map(float, shades[i])), "o", "-") for i in range(count)]
    each = len(OKABE_ITO)
    return [
        Look(OKABE_ITO[i % each], _MARKERS[i // each % len(_MARKERS)], _LINES[i // each % len(_LINES)])
        for i in range(count)
    ]


def spread(count: int, most: int) -> Sequence[int]:
    """Choose every so many of `count` places, so that there are at most `most`, from the first on."""
    return range(0, count, max(-(-count // max(most, 1)), 1))
