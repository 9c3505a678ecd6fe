"""What ``fmx info`` says about a store."""

from __future__ import annotations

from typing import Any

from fmx.cli.output import print_table, say
from fmx.data import Preprocess
from fmx.report.facts import engine_choice, noise_words
from fmx.store import Store, layer_key, saved_analyses
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
    about = store.attributes
    for name, value in _facts(store, about).items():
        say(f"{name:<14}{value}")
    say()
    rows = store_rows(store)
    if rows:
        headings = {"layer": "layer", "kind": "kind", "dims": "dims", "shape": "shape", "dtype": "dtype"}
        unusual = {what: what for what in COUNTS if any(row[what] for row in rows)}
        print_table([_shown(row) for row in rows], headings | {"chunks": "chunks", "mb": "MB"} | unusual)


def _facts(store: Store, about: Any) -> dict[str, str]:
    labels = sorted({str(v) for v in store.tree.to_dataset()["label"].values if str(v)})
    done, total = int(store.complete.sum()), len(store.samples)
    prepared = about["preprocessing"]
    size = sum(size for _, size in store.place.list())
    facts = {
        "store": f"{store.path} (format {about['fmx_format']}, {size / 1e6:.1f} MB on disk)",
        "model": f"{about['model']} (fingerprint {about['fingerprint'][:12]})",
        "run by": f"{about['adapter']}: {about['engine']} on {about['device']}, batches of {about['batch_size']}",
        "input": "×".join(map(str, about["input_shape"])),
        "preprocessing": prepared if isinstance(prepared, str) else _prepared(prepared),
        "samples": f"{total}" + (f" in {len(labels)} classes: {_some(labels)}" if labels else ""),
        "noise": noise_words(store),
        "timesteps": _timesteps(store, about),
        "completeness": "complete" if done == total else f"partial: {done} of {total} samples",
    }
    if about.get("engine_notes"):
        facts["engine choice"] = engine_choice(about["engine_notes"])
    if about["skipped"]:
        facts["left out"] = f"{len(about['skipped'])} unreadable: {_some(about['skipped'])}"
    if saved := saved_analyses(store.place):
        facts["results"] = _some(saved)
    facts |= about.get("meta", {})
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    return facts | {"note": "; ".join(about["notes"])} if about["notes"] else facts


def _timesteps(store: Store, about: Any) -> str:
    frames = about.get("frames", store.tree.sizes.get("timestep", 1))
    rate = about.get("source", {}).get("fps")
    if not isinstance(rate, int | float):
        return str(frames)
    every = "" if about["stride"] == 1 else f", one in {about['stride']} of a video's"
    return f"{frames} (frames{every} at {rate:g} a second)"


def _prepared(settings: Any) -> str:
    return f"{Preprocess.from_settings(settings).describe()} ({settings['source']})"


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
