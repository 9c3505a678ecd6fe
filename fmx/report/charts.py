"""Small charts as inline SVG, in the colours of the page: nothing in them comes from files but escaped text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from fmx.render.palette import colours

__all__ = [
    "Matrix",
    "bars",
    "curve",
    "figures",
    "histogram",
    "line_chart",
    "matrix",
    "number",
    "shortened",
    "span_of",
    "spark_line",
]

Values = NDArray[Any]
# Cells of a matrix that is larger are too small for their values.
MOST_WITH_VALUES = 14
_WIDEST = 620
# A table of more cells is no help.
MOST_CELLS = 2500
# Points of a curve that has more are told by its line alone.
MOST_WITH_DOTS = 16
_CMAP = "viridis"


@dataclass(frozen=True)
class Matrix:
    """A matrix as a picture and, for those who read or copy it, as a table; without rows where that would be huge."""

    chart: Markup
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def number(value: float) -> str:
    """Write a number in three digits, large ones that fit without an exponent."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value + 0.0:.3g}"


def figures(value: float) -> str:
    """Write a number in three digits, zeros at its end included: below each other, such numbers are easily compared."""
    found = number(value)
    return found if not value or "e" in found or abs(value) >= 100 else f"{value:#.3g}"


def _open(width: float, height: float, label: str, kind: str, role: str = "img") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="{role}" '
        f'aria-label="{escape(label)}"><title>{escape(label)}</title>'
    )


def _heights(counts: Values) -> Values:
    """Give heights from 0 to 1 on a logarithmic scale: the zeros behind a ReLU dwarf everything else."""
    shown = np.log1p(np.asarray(counts, np.float64))
    return shown / shown.max() if len(shown) and shown.max() > 0 else shown


def _bar_path(counts: Values, left: float, width: float, bottom: float, height: float) -> str:
    each = width / max(len(counts), 1)
    parts = []
    for i, share in enumerate(_heights(counts)):
        if share > 0:
            tall = max(float(share) * height, 1.0)
            parts.append(f"M{left + i * each:.1f} {bottom:.1f}v-{tall:.1f}h{max(each - 0.5, 0.5):.1f}v{tall:.1f}z")
    return f'<path class="bar" d="{"".join(parts)}"/>'


def _used(counts: Values, edges: Values) -> tuple[Values, Values]:
    """Leave empty bins at the upper end out."""
    there = np.flatnonzero(counts)
    last = int(there[-1]) + 1 if len(there) else 0
    return counts[:last], edges[: last + 1]


def bars(counts: Values, edges: Values, width: int = 96, height: int = 24) -> Markup:
    """Draw a histogram as small as a word."""
    counts, edges = _used(counts, edges)
    if not len(counts):
        return Markup('<span class="none">no finite value</span>')
    label = f"histogram from {number(float(edges[0]))} to {number(float(edges[-1]))}, counts on a logarithmic scale"
    body = _bar_path(counts, 0, width, height - 1, height - 2)
    return Markup(
        f'{_open(width, height, label, "spark")}{body}<path class="axis" d="M0 {height - 0.5}h{width}"/></svg>'
    )


def histogram(counts: Values, edges: Values, width: int = 280, height: int = 150) -> Markup:
    """Draw a histogram with its ends, and 0 where it lies inside."""
    counts, edges = _used(counts, edges)
    if not len(counts):
        return Markup('<p class="none">There is no finite value to count.</p>')
    low, high = float(edges[0]), float(edges[-1])
    label = f"Histogram of {int(counts.sum())} values from {number(low)} to {number(high)}, logarithmic counts"
    left, right, bottom = 8.0, width - 8.0, height - 22.0
    body = _bar_path(counts, left, right - left, bottom, bottom - 8)
    body += f'<path class="axis" d="M{left} {bottom + 0.5}H{right}"/>'
    marks = [(low, "start"), (high, "end")]
    if low < 0 < high and 0.12 < -low / (high - low) < 0.88:
        marks.insert(1, (0.0, "middle"))
    for value, anchor in marks:
        x = left + (value - low) / (high - low or 1.0) * (right - left)
        body += f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
        body += f'<text x="{x:.1f}" y="{height - 5}" text-anchor="{anchor}">{escape(number(value))}</text>'
    return Markup(f"{_open(width, height, label, 'chart')}{body}</svg>")


def _points(x: Values, y: Values, box: tuple[float, float, float, float], span: tuple[float, float]) -> list[list[str]]:
    """Place points in a box (left, right, top, bottom); those that are not finite break the line."""
    left, right, top, bottom = box
    wide, low, high = float(x[-1] - x[0]) or 1.0, *span
    runs: list[list[str]] = [[]]
    for a, b in zip(x, y, strict=True):
        if not math.isfinite(b):
            runs.append([])
            continue
        share = (min(max(float(b), low), high) - low) / ((high - low) or 1.0)
        runs[-1].append(f"{left + (a - x[0]) / wide * (right - left):.1f},{bottom - share * (bottom - top):.1f}")
    return [run for run in runs if run]


def spark_line(
    x: Values, y: Values, label: str, span: tuple[float, float] = (0, 1), width: int = 72, height: int = 24
) -> Markup:
    """Draw a curve within a span of values as small as a word; the label says what it is of."""
    runs = _points(x, y, (2, width - 2, 2, height - 3), span)
    body = "".join(f'<polyline class="line" points="{" ".join(run)}"/>' for run in runs)
    return Markup(
        f'{_open(width, height, label, "spark")}<path class="axis" d="M0 {height - 0.5}h{width}"/>{body}</svg>'
    )


def line_chart(x: Values, series: dict[str, Values], axis: str, width: int = 280, height: int = 170) -> Markup:
    """Draw curves from 0 to 1 over noise levels, each named in the legend."""
    told = "; ".join(f"{name}: {', '.join(f'{v:.2f}' for v in y)}" for name, y in series.items())
    left, right, top, bottom = 30.0, width - 10.0, 24.0, height - 34.0
    body = ""
    for share in (0.0, 0.5, 1.0):
        level = bottom - share * (bottom - top)
        body += f'<path class="grid" d="M{left} {level:.1f}H{right}"/>'
        body += f'<text x="{left - 5}" y="{level + 4:.1f}" text-anchor="end">{share:g}</text>'
    for i, value in enumerate(x):
        at = left + (value - x[0]) / (float(x[-1] - x[0]) or 1.0) * (right - left)
        anchor = "start" if i == 0 else "end" if i == len(x) - 1 else "middle"
        if len(x) <= 8 or i in {0, len(x) - 1}:
            body += f'<text x="{at:.1f}" y="{bottom + 15:.1f}" text-anchor="{anchor}">{value:g}</text>'
    body += f'<text x="{(left + right) / 2:.1f}" y="{height - 4}" text-anchor="middle">{escape(axis)}</text>'
    for i, (name, y) in enumerate(series.items()):
        for run in _points(x, np.asarray(y, np.float64), (left, right, top, bottom), (0, 1)):
            body += f'<polyline class="line s{i}" points="{" ".join(run)}"/>'
            for point in run:
                a, b = point.split(",")
                body += f'<circle class="dot s{i}" cx="{a}" cy="{b}" r="3"/>'
        start = left + i * 130
        body += (
            f'<path class="line s{i}" d="M{start:.0f} 9h18"/><text x="{start + 23:.0f}" y="13">{escape(name)}</text>'
        )
    return Markup(f"{_open(width, height, told, 'chart')}{body}</svg>")


def span_of(y: Values) -> tuple[float, float]:
    """Give the range of what is finite; a single value lies in its middle."""
    finite = np.asarray(y, np.float64)[np.isfinite(y)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    wide = abs(low) or 1.0
    return (low, high) if high > low else (low - wide, high + wide)


def curve(
    x: Values,
    y: Values,
    name: str,
    axis: str,
    marks: Sequence[float] | Values = (),
    width: int = 200,
    height: int = 110,
) -> Markup:
    """Draw one curve over its own range, with the values at its ends and thin lines at some places along its axis."""
    finite = np.asarray(y, np.float64)[np.isfinite(y)]
    if not len(finite):
        return Markup('<p class="none">There is no finite value.</p>')
    told = [f"{number(float(v))} at {number(float(a))}" for a, v in zip(x, y, strict=True) if math.isfinite(v)]
    label = f"{name} by {axis}: {told[0]}, {told[-1]}; from {number(finite.min())} to {number(finite.max())}"
    span, left, right, top, bottom = span_of(y), 46.0, width - 8.0, 10.0, height - 34.0
    body, wide = "", float(x[-1] - x[0]) or 1.0
    constant = finite.min() == finite.max()
    levels = [((top + bottom) / 2, finite.min())] if constant else [(top, finite.max()), (bottom, finite.min())]
    for level, value in levels:
        body += f'<path class="grid" d="M{left} {level:.1f}H{right}"/>'
        body += f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end">{escape(number(value))}</text>'
    for mark in marks:
        at = left + (mark - x[0]) / wide * (right - left)
        body += f'<path class="grid" d="M{at:.1f} {top}V{bottom}"/>'
    for at, value, anchor in ((left, x[0], "start"), (right, x[-1], "end")):
        body += f'<text x="{at:.1f}" y="{bottom + 15:.1f}" text-anchor="{anchor}">{escape(number(value))}</text>'
    body += f'<text x="{(left + right) / 2:.1f}" y="{height - 6}" text-anchor="middle">{escape(axis)}</text>'
    for run in _points(x, np.asarray(y, np.float64), (left, right, top, bottom), span):
        body += f'<polyline class="line" points="{" ".join(run)}"/>'
        for point in run if len(run) == 1 or len(x) <= MOST_WITH_DOTS else ():
            a, b = point.split(",")
            body += f'<circle class="dot" cx="{a}" cy="{b}" r="2.5"/>'
    return Markup(f"{_open(width, height, label, 'chart')}{body}</svg>")


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Values,
    *,
    links: Sequence[str] = (),
    top: float = 1.0,
    square: bool = True,
    axis: str = "",
) -> Matrix:
    """Draw a matrix of values from 0 to `top` as colours, with names beside rows and below columns; NaN is hatched.

    Names of columns that are narrower than these stand upright, others are slanted.

    Parameters
    ----------
    rows, columns : sequence of str
        Names, which are shortened where they are long.
    values : array (row, column)
    links : sequence of str
        Where the name of each column leads.
    top : float
        The value of the lightest colour.
    square : bool
        Cells are as high as they are wide.
    axis : str
        What the columns are, below their names.
    """
    table = colours(_CMAP)
    small = max(len(columns), len(rows) if square else 0) > MOST_WITH_VALUES
    side = min(max(_WIDEST / len(columns), 7.0), 14.0) if small else 38.0
    high = side if square else max(side * 0.62, 16.0)
    # Names are left out where they would overlap.
    steps = math.ceil(13 / high), math.ceil(13 / side)
    names = [[shortened(n) for n in some] for some in (rows, columns)]
    left = 10 + 6.3 * max(map(len, names[0]), default=1)
    longest = 6.3 * max(map(len, names[1]), default=1)
    upright = longest + 4 <= side * steps[1]
    below = 10 if upright else 12 + longest * 0.72
    width = left + side * len(columns) + (0 if upright else below * 0.3) + 8
    height = high * len(rows) + below + 8 + (16 if axis else 0)
    label = f"Matrix of {len(rows)} by {len(columns)} values"
    # What is in an image can't be reached, and links have to be.
    parts = [_open(round(width, 1), round(height, 1), label, "matrix", "group" if links else "img")]
    for i, name in enumerate(names[0]):
        y = high * (i + 0.5) + 4
        if i % steps[0] == 0:
            parts.append(f'<text x="{left - 6:.1f}" y="{y:.1f}" text-anchor="end">{escape(name)}</text>')
        for j in range(len(columns)):
            value = float(values[i, j])
            x, told = left + side * j, "undefined" if math.isnan(value) else _digits(value, 3)
            share = 0.0 if math.isnan(value) else min(max(value / (top or 1.0), 0.0), 1.0)
            red, green, blue = (int(c) for c in table[round(share * 255)])
            fill = "url(#hatch)" if math.isnan(value) else f"#{red:02x}{green:02x}{blue:02x}"
            parts.append(
                f'<rect x="{x:.1f}" y="{high * i:.1f}" width="{side - 1:g}" height="{high - 1:g}" fill="{fill}">'
                f"<title>{escape(rows[i])} · {escape(columns[j])}: {told}</title></rect>"
            )
            if not small:
                ink = "#111" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#fff"
                shown = "–" if math.isnan(value) else _digits(value, 2)
                parts.append(
                    f'<text class="value" x="{x + side / 2 - 0.5:.1f}" y="{y:.1f}" fill="{ink}">{shown}</text>'
                )
    for j, name in list(enumerate(names[1]))[:: steps[1]]:
        x, y = left + side * (j + 0.5), high * len(rows) + (14 if upright else 12)
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="middle"'
        text = f"<text {place if upright else _slanted(x, y)}>{escape(name)}</text>"
        parts.append(f'<a href="#{escape(links[j])}">{text}</a>' if j < len(links) else text)
    if axis:
        middle = left + side * len(columns) / 2
        parts.append(f'<text x="{middle:.1f}" y="{height - 4:.1f}" text-anchor="middle">{escape(axis)}</text>')
    told_rows = [
        (row, ["–" if math.isnan(v) else _digits(v, 3) for v in map(float, values[i])]) for i, row in enumerate(rows)
    ]
    return Matrix(Markup("".join(parts) + "</svg>"), list(columns), told_rows if values.size <= MOST_CELLS else [])


def _digits(value: float, count: int) -> str:
    """Write a value with so many digits after the point, and 0 without a sign."""
    return f"{round(value, count) + 0.0:.{count}f}"


def _slanted(x: float, y: float) -> str:
    return f'transform="translate({x:.1f} {y:.1f}) rotate(45)"'


def shortened(name: str, most: int = 22) -> str:
    """Leave out the middle of a name that is long."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
