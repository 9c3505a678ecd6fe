"""What ``fmx verify`` prints: whether all of a store is there, and as it was written."""

from __future__ import annotations

from typing import Any

import typer

from fmx.cli import options as opt

__all__ = ["verify"]

_MOST = 20


def verify(store: opt.StorePath, json: opt.Json = False) -> None:
    """Read all of a store and name what is missing, truncated or altered; exit code 1 where anything is."""
    from fmx.cli.output import print_json, progress
    from fmx.store import verify_store

    with progress("verifying") as update:
        found = verify_store(store, update)
    if json:
        print_json(_damaged(found))
    else:
        _describe(store, found)
    if not found.whole:
        raise typer.Exit(1)


def _damaged(found: Any) -> list[dict[str, Any]]:
    """List the damaged objects, a flat row each."""
    return [
        {
            "array": damage.array,
            "object": damage.name,
            "damage": damage.what,
            "samples": [found.samples[position] for position in damage.samples],
        }
        for damage in found.damages
    ]


def _describe(store: str, found: Any) -> None:
    from fmx.cli.output import note, print_table, say

    headings = {"array": "array", "chunks": "chunks", "missing": "missing", "truncated": "truncated"}
    print_table([_row(report) for report in found.arrays.values()], headings | {"altered": "altered", "other": "other"})
    if found.pending:
        note(f"{found.pending} samples were not extracted yet: run the command that made the store again")
    if found.appending:
        note("an append was interrupted: run its command again")
    if found.orphans:
        note(f"{len(found.orphans)} files belong to nothing and do no harm: {_some(found.orphans, 3)}")
    say()
    for damage in found.labels:
        say(f"{damage.name} is {damage.what}")
    if found.samples:
        named = [name or f"position {position}" for position, name in found.samples.items()]
        say(f"To be redone: {len(named)} samples, {_some(named, _MOST)}")
    if found.whole:
        say(f"{store} is whole.")
    else:
        say(f"Repair it with the command that made it: fmx extract … -o {store} --repair")


def _row(report: Any) -> dict[str, Any]:
    known = {what: report.count(what) for what in ("missing", "truncated", "altered")}
    other = len(report.damages) - sum(known.values())
    return {"array": report.array, "chunks": report.chunks, **known, "other": other}


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f", … and {len(names) - most} more" if len(names) > most else "")
