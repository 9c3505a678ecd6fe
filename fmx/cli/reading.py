"""What the commands that analyse a store share: their options, opening, progress, saving and printing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr

    from fmx.store import Store

__all__ = [
    "AllowPartial",
    "By",
    "HeldOut",
    "Kept",
    "Nan",
    "Results",
    "Save",
    "help_of",
    "lost_column",
    "not_finite",
    "open_for",
    "reading",
    "save",
    "show",
]

AllowPartial = Annotated[
    bool,
    opt.option(opt.WHAT, "Take what is incomplete: the finished samples of an unfinished store.", "--allow-partial"),
]


def _name(name: str | None) -> str | None:
    """Refuse a name before anything is read for it."""
    if name is not None:
        from fmx.store import check_analysis_name

        check_analysis_name(name)
    return name


Save = Annotated[
    str | None,
    opt.option(
        opt.OUT, "Save the results in the store under this name, for fmx export.", metavar="NAME", callback=_name
    ),
]
By = Annotated[
    str,
    opt.option(
        opt.WHAT,
        "Labels that are kept apart: channel, noise, sample, label (class), timestep, y, x, token; epoch and step of "
        "what was recorded in training; separated by commas.",
        metavar="LABELS",
    ),
]
HeldOut = Annotated[
    float,
    opt.option(opt.HOW, "Share of each class's samples kept aside for a test, such as 0.5.", metavar="SHARE"),
]


def not_finite(kept: str) -> Any:
    """Declare the option that says what becomes of values that are not finite."""
    return opt.option(opt.HOW, f"Values that are not finite: skip them, or keep: {kept}.", "--nan", metavar="HOW")


Nan = Annotated[str, not_finite("results are NaN that have one among theirs")]
# A table that is longer is not read by anyone.
MOST_ROWS = 40


def _rows(text: str) -> str:
    """Refuse a number of rows before anything is read for it."""
    if text != "all" and not (text.isdecimal() and int(text)):
        raise FmxError(f"--rows takes a number from 1 on, or all, not '{text}'.")
    return text


Rows = Annotated[
    str, opt.option(opt.OUT, "Rows of the table that are printed.", "--rows", metavar="N|all", callback=_rows)
]


@dataclass(frozen=True)
class Kept:
    """Whether an unfinished store will do, and what becomes of the results: options of all commands that have any."""

    allow_partial: AllowPartial = False
    save: Save = None
    json: opt.Json = False

    def open(self, path: str) -> Store:
        """Open a store, and say on standard error what is left out of it."""
        return open_for(path, allow_partial=self.allow_partial)

    def keep(self, store: Store, results: Mapping[str, xr.Dataset], settings: Mapping[str, Any]) -> None:
        """Save results if that is wanted, with how they came about."""
        save(store, self.save, results, settings)


@dataclass(frozen=True)
class Results(Kept):
    """The same for results that are tables."""

    rows: Rows = str(MOST_ROWS)

    def show(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, about: Sequence[str] = ()) -> None:
        """Print rows as JSON, all of them, or as many as are wanted as a table; notes go to standard error."""
        more = "--rows all or --json shows them all, --save NAME and fmx export write them to files"
        show(rows, columns, json=self.json, most=None if self.rows == "all" else int(self.rows), about=about, more=more)


def help_of(function: Callable[..., None]) -> str:
    """Give a command's docstring with its paragraphs on one line each, which terminals of any width can break."""
    return "\n\n".join(" ".join(part.split()) for part in (inspect.getdoc(function) or "").split("\n\n"))


MOST_SAVED_BYTES = 512 * 2**20


def open_for(path: str, *, allow_partial: bool, summaries: bool = False) -> Store:
    """Open a store, of activations unless `summaries` will do, and say on standard error what is left out of it."""
    from fmx.analyze.parts import check_complete
    from fmx.cli.output import note
    from fmx.store import open_store

    store = open_store(path)
    check_complete(store, allow_partial, summaries=summaries)
    done, total = int(store.complete.sum()), len(store.samples)
    if done < total:
        note(f"the store is not complete: {done} of {total} samples are analysed")
    return store


@contextmanager
def reading(what: str = "reading") -> Iterator[None]:
    """Compute on the cluster that Dask is configured for, if any, and show progress on anything over two seconds."""
    from fmx.cli.output import progress
    from fmx.cli.watching import cluster, watched

    with cluster() as client, progress(what) as update, watched(client, update):
        yield


def save(store: Store, name: str | None, results: Mapping[str, xr.Dataset], settings: Mapping[str, Any]) -> None:
    """Save results under a name, if one is given, with how they came about."""
    from fmx.cli.output import note
    from fmx.store import save_analysis

    if name is None:
        return
    size = sum(dataset.nbytes for dataset in results.values())
    if size > MOST_SAVED_BYTES:
        raise FmxError(
            f"Results of {size / 1e9:.1f} GB are not saved in the store: write them to files with -o FOLDER."
        )
    plain = {key: value for key, value in settings.items() if isinstance(value, str | int | float | bool)}
    # By this results are later known to be of all that is there.
    plain["complete_samples"] = int(store.complete.sum())
    save_analysis(store.place, name, results, plain)
    note(f"saved as {name}: fmx export {store.path} --analysis {name} -o tables")


def show(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    json: bool,
    most: int | None = MOST_ROWS,
    about: Sequence[str] = (),
    more: str = "--json lists them all",
) -> None:
    """Print rows as JSON, all of them, or the first ones as a table; notes go to standard error.

    Parameters
    ----------
    rows : sequence of mapping
    columns : mapping of str to str
        See `fmx.cli.output.print_table`.
    json : bool
    most : int, optional
        Rows of a table, whether it goes to a terminal or not; None for all.
    about : sequence of str
        Notes.
    more : str
        How to get at the rows that are not shown.
    """
    from fmx.cli.output import note, print_json, print_table

    if json:
        print_json(rows)
        return
    if rows:
        print_table(rows[:most], columns)
    else:
        note("there is nothing to list")
    if most is not None and len(rows) > most:
        note(f"these are {most} of {len(rows)} rows: {more}")
    for text in about:
        note(text)


def lost_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give columns for values that are not finite, where there are any."""
    together = {name: "NaN/inf" for name in ("not_finite", "lost") if any(name in row for row in rows)}
    names = together or {"nan": "NaN", "inf": "inf"}
    return {name: heading for name, heading in names.items() if any(row.get(name) for row in rows)}
