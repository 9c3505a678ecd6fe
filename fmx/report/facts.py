"""The model, and how its data was made, as rows of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fmx.analyze.parts import noise_levels
from fmx.data import Preprocess
from fmx.store import Store, saved_analyses
from fmx.store.schema import FORMAT_KEY

__all__ = ["class_names", "engine_choice", "store_facts"]

MOST_NAMES = 12


def class_names(store: Store) -> list[str]:
    """List the labels of the store's samples."""
    return sorted({str(v) for v in store.tree.to_dataset()["label"].values if str(v)})


def store_facts(store: Store) -> dict[str, dict[str, str]]:
    """Say what a store is about and what made it, in groups: ``Model``, ``Data``, ``Provenance``.

    A fact that a store has not is left out.
    """
    about = store.attributes
    model = {
        "model": str(about.get("model", "unknown")),
        "fingerprint": str(about.get("fingerprint", "")),
        "run by": _run(about),
        "input": "×".join(map(str, about.get("input_shape", ()))),
        "preprocessing": _prepared(about.get("preprocessing")),
    }
    labels = class_names(store)
    data = {
        "samples": str(len(store.samples)),
        "completeness": _completeness(store),
        "classes": f"{len(labels)}: {_some(labels)}" if labels else "",
        **_recorded(store),
        "noise": _noise(store),
        "timesteps": _timesteps(store),
        "left out": f"{len(about['skipped'])} unreadable: {_some(about['skipped'])}" if about.get("skipped") else "",
        "not finite": _unusual(store),
    }
    size = sum(size for _, size in store.place.list())
    made = {
        "store": f"{store.path} (format {about.get(FORMAT_KEY, 'unknown')}, {size / 1e6:.1f} MB on disk)",
        "engine choice": engine_choice(about.get("engine_notes") or ()),
        "summaries": _some([str(name) for name in about.get("reduced") or ()]),
        "saved results": _some(saved_analyses(store.place)),
        "notes": "; ".join(map(str, about.get("notes") or ())),
        **{str(key): str(value) for key, value in dict(about.get("meta") or {}).items()},
        "versions": ", ".join(f"{k} {v}" for k, v in dict(about.get("versions") or {}).items()),
    }
    groups = {"Model": model, "Data": data, "Provenance": made}
    return {name: {key: value for key, value in rows.items() if value} for name, rows in groups.items()}


def _run(about: Mapping[str, Any]) -> str:
    """Say what ran the model; what was recorded has no batches and no device of its own."""
    engine, adapter = str(about.get("engine", "")), str(about.get("adapter", ""))
    if not about.get("batch_size"):
        return ": ".join(word for word in (adapter, engine) if word)
    return f"{adapter}: {engine} on {about.get('device')}, batches of {about['batch_size']}"


def _completeness(store: Store) -> str:
    done, total = int(store.complete.sum()), len(store.samples)
    return "complete" if done == total else f"partial: {done} of {total} samples"


def _recorded(store: Store) -> dict[str, str]:
    """Say which epochs and steps of a training there are."""
    root, found = store.tree.to_dataset(), {}
    for name in ("epoch", "step"):
        if name in root.coords and root[name].dims == ("sample",) and root.sizes["sample"]:
            values = root[name].values
            if np.issubdtype(values.dtype, np.number):
                first, last = int(values.min()), int(values.max())
                found[f"{name}s"] = str(first) if first == last else f"{first} to {last}"
    return found


def _timesteps(store: Store) -> str:
    """Say how many frames a sample has; nothing of single pictures."""
    about, frames = store.attributes, store.frames
    rate = dict(about.get("source") or {}).get("fps")
    if not isinstance(rate, int | float):
        return str(frames) if frames > 1 else ""
    every = "" if about.get("stride", 1) == 1 else f", one in {about['stride']} of a video's"
    return f"{frames} (frames{every} at {rate:g} a second)"


def engine_choice(notes: Iterable[str]) -> str:
    """Say what became of each engine; those of which the same is said are named together."""
    by_reason: dict[str, list[str]] = {}
    for note in map(str, notes):
        name, colon, reason = note.partition(": ")
        by_reason.setdefault(reason if colon else note, []).append(name if colon else "")
    return "; ".join(f"{', '.join(names)}: {reason}" if any(names) else reason for reason, names in by_reason.items())


def _noise(store: Store) -> str:
    """Say which noise levels there are, and how the noise was made."""
    about, levels = store.attributes, noise_levels(store)
    if len(levels) == 1 and levels[0] == 0:
        return "none"
    how = [str(about[key]) for key in ("noise_kind", "noise_space") if about.get(key)]
    how += [f"seed {about['seed']}"] if "seed" in about else []
    return ", ".join(f"{v:g}" for v in levels) + (f" ({', '.join(how)})" if how else "")


def _prepared(settings: Any) -> str:
    if not isinstance(settings, Mapping):
        return str(settings or "")
    return f"{Preprocess.from_settings(dict(settings)).describe()} ({settings['source']})"


def _unusual(store: Store) -> str:
    lost = {
        layer: ", ".join(f"{n} {what}" for what, n in counts.items() if n) for layer, counts in store.unusual.items()
    }
    return "; ".join(f"{layer}: {text}" for layer, text in lost.items() if text)


def _some(names: list[Any]) -> str:
    return ", ".join(str(n) for n in names[:MOST_NAMES]) + (", …" if len(names) > MOST_NAMES else "")
