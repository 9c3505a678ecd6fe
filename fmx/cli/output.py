"""What a person sees: tables, JSON, notes and progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fmx.extraction import Status

__all__ = ["extraction_bar", "note", "print_json", "print_table", "progress", "say"]

_PIPE_WIDTH = 400
_LEAST_NAME = 12


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # Nothing is cut off for a reader that is no terminal.
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPE_WIDTH)


def say(text: str = "") -> None:
    """Print a line to standard output."""
    _console().print(Text(text), soft_wrap=True)


def note(text: str) -> None:
    """Tell the user something that is not the result, on standard error."""
    _console(stderr=True).print(Text(f"note: {text}."), soft_wrap=True)


def print_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a JSON list; what is NaN or infinite becomes null, which JSON has no numbers for."""
    plain = [{k: _plain(v) for k, v in row.items()} for row in rows]
    sys.stdout.write(json.dumps(plain, indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str = "") -> None:
    """Print rows as a table; numbers to the right, with four significant digits.

    Parameters
    ----------
    rows : sequence of mapping
    columns : mapping of str to str
        Keys of the rows and the headings above them.
    title : str
    """
    console = _console()
    table = Table(box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left")
    cells = {key: [_cell(row.get(key)) for row in rows] for key in columns}
    widths = {key: max(map(len, [heading, *cells[key]])) for key, heading in columns.items()}
    # Where a terminal is too narrow, only the first column, the names, loses something.
    first = next(iter(columns))
    room = console.width - sum(width + 2 for key, width in widths.items() if key != first)
    for key, heading in columns.items():
        there = [row[key] for row in rows if row.get(key) is not None]
        numeric = bool(there) and all(isinstance(value, int | float) for value in there)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        width = min(widths[key], max(room, _LEAST_NAME)) if key == first else widths[key]
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on anything over two seconds, and nothing where there is no terminal."""
    with _bar(what) as update:
        yield lambda done, total: update(done, total, "")


@contextmanager
def extraction_bar() -> Iterator[Callable[[Status], None]]:
    """Show a bar as `progress` does, with MB/s and what the extraction waits for."""
    with _bar("extracting") as update:

        def tell(status: Status) -> None:
            rate = status.nbytes / 1e6 / status.seconds if status.seconds else 0.0
            stored = f"{rate:.0f} MB/s  " if status.nbytes else ""
            update(status.done, status.total, f"{stored}bound by {status.bottleneck}" if status.bottleneck else stored)

        yield tell


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stderr.isatty():
        yield lambda _done, _total, _more: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="", more="", visible=False)
        before: list[int] = []

        def update(done: int, total: int, more: str) -> None:
            # What was there already when this run began says nothing about its rate.
            if not before:
                before.append(done)
            elapsed = bar.tasks[0].elapsed or 0.0
            made = done - before[0]
            rate = f"{made / elapsed:.1f}/s" if made and elapsed else ""
            bar.update(task, completed=done, total=total, rate=rate, more=more, visible=elapsed > 2)

        yield update
