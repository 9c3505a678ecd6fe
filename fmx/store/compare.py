"""What differs between a store and what is asked for, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fmx.store.layout import read_array, read_layout
from fmx.store.places import Place, place_of
from fmx.store.plan import StorePlan

__all__ = ["differences", "plan_settings", "stored_settings"]

_MOST = 3


def plan_settings(plan: StorePlan) -> dict[str, Any]:
    """Give everything about a plan that settles the values in its store, as `differences` takes it."""
    arrays = plan.arrays()
    return {
        **plan.attributes,
        "samples": list(plan.samples),
        "noise": [float(level) for level in plan.noise],
        "arrays": {key: (spec.precision or spec.dtype, list(spec.shape[1:])) for key, spec in arrays.items()},
        "channels": {name: [int(c) for c in kept] for name, kept in plan.channels.items()},
    }


def stored_settings(to: str | Path | Place) -> dict[str, Any]:
    """Give everything about a store that settled its values, as `differences` takes it.

    Raises
    ------
    StoreError
        There is no store.
    """
    place = place_of(to)
    layout = read_layout(place)
    return {
        **layout.attributes,
        "samples": [str(s) for s in read_array(place, "sample")],
        "noise": [float(level) for level in read_array(place, "noise")],
        "arrays": {key: (a.precision or str(a.dtype), list(a.shape[1:])) for key, a in layout.arrays.items()},
        "channels": {
            key: kept.tolist() for key in layout.arrays if (kept := layout.kept_channels(place, key)) is not None
        },
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say what differs between settings that decide what a store's values are.

    Versions, notes, devices, engines and batch sizes are not looked at, and neither is how the values are compressed.

    Parameters
    ----------
    stored, wanted : mapping
        What `stored_settings` and `plan_settings` give. What only one of them holds is not compared.

    Returns
    -------
    list of str
        A phrase for each difference, empty where there are none.
    """
    both = stored.keys() & wanted.keys()
    found: list[str] = []
    same_samples = _plain(stored.get("samples")) == _plain(wanted.get("samples"))
    for key, tell in _TOLD.items():
        if key == "data" and not (same_samples and stored.get("data")):
            continue  # which samples there are says more
        if key in both and _plain(stored[key]) != _plain(wanted[key]):
            found += tell(stored[key], wanted[key])
    return found


def _plain(value: Any) -> Any:
    """Make lists of tuples, as JSON does."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _values(name: str) -> Callable[[Any, Any], list[str]]:
    return lambda stored, wanted: [f"{name}: {_short(stored)} in the store, {_short(wanted)} wanted"]


def _short(value: Any) -> str:
    text = "×".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _fingerprint(stored: str, wanted: str) -> list[str]:
    return [f"the model's weights or graph (fingerprint {stored[:12]} in the store, {wanted[:12]} wanted)"]


def _names(name: str) -> Callable[[Any, Any], list[str]]:
    def tell(stored: Sequence[Any], wanted: Sequence[Any]) -> list[str]:
        return [_members(name, list(map(_number, stored)), list(map(_number, wanted)))]

    return tell


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _members(name: str, stored: Sequence[str], wanted: Sequence[str]) -> str:
    old, new = set(stored), set(wanted)
    added, gone = [v for v in wanted if v not in old], [v for v in stored if v not in new]
    parts = [f"{len(part)} {what} ({_some(part)})" for part, what in ((added, "new"), (gone, "gone")) if part]
    return f"{name}: {', '.join(parts) or 'in another order'}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_MOST]) + (", …" if len(names) > _MOST else "")


def _settings(name: str) -> Callable[[Any, Any], list[str]]:
    """Compare mappings entry by entry, and anything else as a whole."""

    def tell(stored: Any, wanted: Any) -> list[str]:
        if not (isinstance(stored, Mapping) and isinstance(wanted, Mapping)):
            return _values(name)(_kind(stored), _kind(wanted))
        old, new = _plain(stored), _plain(wanted)
        changed = [k for k in (old | new) if old.get(k) != new.get(k) and k != "source"]
        return [f"{name}: {k} is {_short(old.get(k))} in the store, {_short(new.get(k))} wanted" for k in changed]

    return tell


def _kind(value: Any) -> Any:
    return "given" if isinstance(value, Mapping) else value


def _arrays(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    found = []
    for key, what in (("inputs", "the pictures"), ("outputs", "the model's outputs")):
        old, new = (any(k.partition("/")[0] == key for k in arrays) for arrays in (stored, wanted))
        if old != new:
            found.append(f"{what} are {'kept' if old else 'not kept'} in the store, and {'' if new else 'not '}wanted")
    for key in stored.keys() & wanted.keys():
        (old_type, old_shape), (new_type, new_shape) = stored[key], wanted[key]
        # The axis of noise levels is compared by its levels.
        if old_type != new_type:
            found.append(f"{key} is stored as {old_type}, and {new_type} is wanted")
        elif list(old_shape)[1:] != list(new_shape)[1:]:
            found.append(
                f"{key} has the shape {_short(list(old_shape))} in the store, {_short(list(new_shape))} wanted"
            )
    return sorted(found)


def _channels(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    changed = sorted(k for k in (*stored, *wanted) if stored.get(k) != wanted.get(k))
    return [f"other channels are kept of {_some(dict.fromkeys(changed))}"]


# What decides the values, in the order in which a person wants to hear of it.
_TOLD: Mapping[str, Callable[[Any, Any], list[str]]] = {
    "fingerprint": _fingerprint,
    "adapter": _values("format of the model"),
    "layers": _names("layers"),
    "input_shape": _values("shape of the input"),
    "precision": _values("precision of the model"),
    "preprocessing": _settings("preprocessing"),
    "noise": _names("noise levels"),
    "noise_kind": _values("kind of noise"),
    "noise_space": _values("where noise is added"),
    "seed": _values("seed"),
    "samples": _names("samples"),
    "data": lambda _stored, _wanted: ["the content of the samples has changed"],
    "frames": _values("frames of a clip"),
    "stride": _values("stride of the frames"),
    "space": _values("what is kept of maps"),
    "kept_channels": _settings("kept channels"),
    "reduced": _names("summaries"),
    "channels": _channels,
    "arrays": _arrays,
}
