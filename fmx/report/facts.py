"""The model, and how its data was made, as rows of words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fmx.analyze.parts import noise_levels
from fmx.data import Preprocess
from fmx.store import Store, saved_analyses

__all__ = ["class_names", "engine_choice", "noise_words", "store_facts"]

MOST_NAMES = 12


def class_names(store: Store) -> list[str]:
    """List the labels of the store's samples."""
    return sorted({str(v) for v in store.tree.to_dataset()["label"].values if str(v)})


def store_facts(store: Store) -> dict[str, dict[str, str]]:
    """Say what made the store, in groups: ``Model``, ``Data``, ``Provenance``."""
    about = store.attributes
    done, total = int(store.complete.sum()), len(store.samples)
    labels = class_names(store)
    model = {
        "model": str(about.get("model", "unknown")),
        "fingerprint": str(about.get("fingerprint", "")),
        "opened as": str(about.get("adapter", "")),
        "input": "×".join(map(str, about.get("input_shape", ()))),
        "preprocessing": _prepared(about.get("preprocessing")),
    }
    data = {
        "samples": f"{done} of {total}, the store is not complete" if done < total else str(total),
        "classes": f"{len(labels)}: {_some(labels)}" if labels else "",
        "noise levels": noise_words(store),
        "frames of a clip": str(store.frames) if store.frames > 1 else "",
        "left out": f"{len(about['skipped'])} unreadable: {_some(about['skipped'])}" if about.get("skipped") else "",
        "not finite": _unusual(store),
    }
    made = {
        "store": str(store.path),
        "engine": " ".join(str(about[k]) for k in ("engine", "device") if about.get(k)),
        "engine choice": engine_choice(about.get("engine_notes") or ()),
        "saved results": _some(saved_analyses(store.place)),
        "notes": "; ".join(map(str, about.get("notes") or ())),
        "versions": ", ".join(f"{k} {v}" for k, v in dict(about.get("versions") or {}).items()),
    } | {str(key): str(value) for key, value in dict(about.get("meta") or {}).items()}
    groups = {"Model": model, "Data": data, "Provenance": made}
    return {name: {key: value for key, value in rows.items() if value} for name, rows in groups.items()}


def engine_choice(notes: Iterable[str]) -> str:
    """Say what became of each engine; those of which the same is said are named together."""
    by_reason: dict[str, list[str]] = {}
    for note in map(str, notes):
        name, colon, reason = note.partition(": ")
        by_reason.setdefault(reason if colon else note, []).append(name if colon else "")
    return "; ".join(f"{', '.join(names)}: {reason}" if any(names) else reason for reason, names in by_reason.items())


def noise_words(store: Store) -> str:
    """Say which noise levels there are, and how the noise was made."""
    about, levels = store.attributes, noise_levels(store)
    if len(levels) == 1 and levels[0] == 0:
        return "none"
    how = ", ".join(str(about[key]) for key in ("noise_kind", "noise_space") if about.get(key))
    return f"{', '.join(f'{v:g}' for v in levels)} ({how}, seed {about.get('seed', 'unknown')})"


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
