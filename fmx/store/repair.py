"""Making a damaged store unfinished again, so that going on with it redoes what was damaged and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmx.errors import StoreError
from fmx.store.create import change_root
from fmx.store.labels import label_chunks
from fmx.store.layout import layout_of, read_root
from fmx.store.places import Place, place_of, written_to
from fmx.store.plan import StorePlan
from fmx.store.schema import ROOT
from fmx.store.verify import Verification

__all__ = ["mark_for_repair"]


def mark_for_repair(to: str | Path | Place, found: Verification, plan: StorePlan | None = None) -> None:
    """Forget that damaged units were done, so that going on with the extraction redoes just them.

    Metadata is restored from the root's copy, and labels from the plan.

    Parameters
    ----------
    to : str, path or Place
    found : Verification
        What `verify_store` found.
    plan : StorePlan, optional
        What the store was made with, for labels.

    Raises
    ------
    StoreError
        Labels are damaged and there is no plan, or the place can't be written.
    """
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    layout = layout_of(root)
    labels = [d for d in found.labels if d.array != "complete" and not d.name.endswith(ROOT)]
    if labels and plan is None:
        raise StoreError(f"{labels[0].name} of {place} is {labels[0].what}: extract again with --repair.")
    with written_to(place):
        for damage in found.labels:
            if damage.name.endswith(ROOT):
                node = root["consolidated_metadata"]["metadata"][damage.array]
                document = {k: v for k, v in node.items() if k != "consolidated_metadata"}
                place.write(damage.name, json.dumps(document, indent=2).encode())
        if labels and plan is not None:
            place.write_many(_labels_again(place, root, {d.name: d.array for d in labels}, plan))
        if found.units:
            # First the store says that it is not whole, and then which of its units are not.
            change_root(place, {"completeness": "partial"})
            place.delete([layout.complete.chunk_name(unit.start // layout.unit) for unit in found.units])


def _labels_again(
    place: Place, root: Mapping[str, Any], damaged: Mapping[str, str], plan: StorePlan
) -> dict[str, bytes]:
    nodes = root["consolidated_metadata"]["metadata"]
    values: dict[str, Any] = {"timestep": range(plan.timesteps)}
    for spec in plan.arrays().values():
        values |= {f"{spec.group}/{dim}": numbers for dim, numbers in spec.coordinates.items()}
    values |= {"sample": plan.samples, "path": plan.paths, "label": plan.labels, "noise": plan.noise}
    again = {}
    for name, path in damaged.items():
        if path not in values or [len(values[path])] != nodes[path]["shape"]:
            raise StoreError(f"{name} of {place} is damaged, and can't be made from this data: extract again.")
        again[name] = label_chunks(path, nodes[path], list(values[path]))[name]
    return again
