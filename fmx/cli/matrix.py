"""Matrices in a terminal: short numbers, columns that are numbered like the rows, and no wider than there is room."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence

from fmx.cli.output import print_table, say

__all__ = ["print_matrix"]

_CELL = 7
_LONGEST_NAME = 28


def print_matrix(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float | None]], heading: str
) -> None:
    """Print a matrix with two digits after the point.

    Parameters
    ----------
    rows, columns : sequence of str
        Names. Columns are headed by their numbers; where their names are not those of the rows they are listed first.
    cells : sequence of sequence of float or None
        None for what can't be said, printed as a dash; what is NaN is printed as that.
    heading : str
        Above the names of the rows.
    """
    if list(rows) != list(columns):
        for i, name in enumerate(columns, start=1):
            say(f"column {i}: {name}")
        say()
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    most = max((room - min(max(map(len, rows)), _LONGEST_NAME) - 5) // _CELL, 1)
    for first in range(0, len(columns), most):
        some = range(first, min(first + most, len(columns)))
        table = [
            {"number": str(i), "name": name} | {str(j): _cell(cells[i - 1][j]) for j in some}
            for i, name in enumerate(rows, start=1)
        ]
        headings = {"name": heading, "number": "#"} | {str(j): f"{j + 1:>5}" for j in some}
        print_table(table, headings)
        if some.stop < len(columns):
            say()


def _cell(value: float | None) -> str:
    if value is not None and math.isnan(value):
        return "  NaN"
    return "    –" if value is None else f"{value + 0.0:5.2f}".replace("-0.00", " 0.00")
