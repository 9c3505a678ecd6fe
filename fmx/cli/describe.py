"""What ``fmx info`` says about a store."""

from __future__ import annotations

from typing import Any

from fmx.cli.output import print_table, say
from fmx.report.facts import store_facts
from fmx.store import Store, layer_key
from fmx.store.schema import COUNTS

__all__ = ["describe_store", "store_rows"]


def store_rows(store: Store) -> list[dict[str, Any]]:
    """List the layers of a store, a flat row each."""
    counts = {info.name: _unusual(store, info.name) for info in store.layers}
    return [
        {
            "layer": info.name,
            "kind": info.kind,
            "dims": info.dims,
            "shape": info.shape,
            "dtype": info.dtype,
            "chunks": _chunks(store, info.name),
            "bytes": int(store.tree[f"layers/{layer_key(info.name)}"]["activation"].nbytes),
            **counts[info.name],
        }
        for info in store.layers
    ]


def _unusual(store: Store, layer: str) -> dict[str, int]:
    """Count values that are no numbers, infinite, or too large for the type they are stored as."""
    group = store.tree[f"layers/{layer_key(layer)}"].to_dataset()
    return {what: int(group[what].sum()) if what in group else 0 for what in COUNTS}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    lists = {key: "×".join(map(str, row[key])) for key in ("shape", "chunks")}
    return row | lists | {"dims": " ".join(row["dims"]), "mb": row["bytes"] / 1e6}


def _chunks(store: Store, layer: str) -> tuple[int, ...]:
    encoded = store.layer(layer)["activation"].encoding.get("chunks", ())
    return tuple(int(n) for n in encoded)


def describe_store(store: Store) -> None:
    """Print what a store holds and how it was made."""
    facts = {name: value for group in store_facts(store).values() for name, value in group.items()}
    width = max(map(len, facts)) + 1
    for name, value in ({"store": facts["store"]} | facts).items():
        say(f"{name:<{width}}{value}")
    say()
    rows = store_rows(store)
    if rows:
        headings = {"layer": "layer", "kind": "kind", "dims": "dims", "shape": "shape", "dtype": "dtype"}
        unusual = {what: what for what in COUNTS if any(row[what] for row in rows)}
        print_table([_shown(row) for row in rows], headings | {"chunks": "chunks", "mb": "MB"} | unusual)
