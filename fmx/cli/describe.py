"""What ``fmx info`` says about a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fmx.cli.output import print_table, say
from fmx.data import Preprocess
from fmx.store import Store

__all__ = ["describe_store", "store_rows"]


def store_rows(store: Store) -> list[dict[str, Any]]:
    """List the layers of a store, a flat row each."""
    lead = [store.tree.sizes[d] for d in ("sample", "noise", "timestep")]
    return [
        {
            "layer": info.name,
            "kind": info.kind,
            "dims": info.dims,
            "shape": info.shape,
            "dtype": info.dtype,
            "chunks": _chunks(store, info.name),
            "bytes": info.nbytes * lead[0] * lead[1] * lead[2],
        }
        for info in store.layers
    ]


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
    headings = {"layer": "layer", "kind": "kind", "dims": "dims", "shape": "shape", "dtype": "dtype"}
    print_table([_shown(row) for row in store_rows(store)], headings | {"chunks": "chunks", "mb": "MB"})


def _facts(store: Store, about: Any) -> dict[str, str]:
    labels = sorted({str(v) for v in store.tree.to_dataset()["label"].values if str(v)})
    done, total = int(store.complete.sum()), len(store.samples)
    prepared = about["preprocessing"]
    size = sum(f.stat().st_size for f in Path(store.path).rglob("*") if f.is_file())
    facts = {
        "store": f"{store.path} (format {about['fmx_format']}, {size / 1e6:.1f} MB on disk)",
        "model": f"{about['model']} (fingerprint {about['fingerprint'][:12]})",
        "run by": f"{about['adapter']}: {about['engine']} on {about['device']}, batches of {about['batch_size']}",
        "input": "×".join(map(str, about["input_shape"])),
        "preprocessing": prepared if isinstance(prepared, str) else _prepared(prepared),
        "samples": f"{total}" + (f" in {len(labels)} classes: {_some(labels)}" if labels else ""),
        "noise": f"{', '.join(f'{v:g}' for v in store.tree.to_dataset()['noise'].values)} "
        f"({about['noise_kind']}, {about['noise_space']}, seed {about['seed']})",
        "timesteps": str(store.tree.sizes["timestep"]),
        "completeness": "complete" if done == total else f"partial: {done} of {total} samples",
    }
    if about.get("engine_notes"):
        facts["engine choice"] = "; ".join(about["engine_notes"])
    if about["skipped"]:
        facts["left out"] = f"{len(about['skipped'])} unreadable: {_some(about['skipped'])}"
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    return facts | {"note": "; ".join(about["notes"])} if about["notes"] else facts


def _prepared(settings: Any) -> str:
    return f"{Preprocess.from_settings(settings).describe()} ({settings['source']})"


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
