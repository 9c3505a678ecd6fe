"""What a store will be once samples, layers or noise levels were added to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fmx.errors import StoreError
from fmx.store.compare import differences, plan_settings
from fmx.store.create import hierarchy, in_order
from fmx.store.layout import Layout, layout_of, read_array
from fmx.store.places import Place
from fmx.store.plan import StorePlan
from fmx.store.schema import APPENDING, ROOT, SAMPLE_LABELS, layer_key

__all__ = ["GROWTH", "Growth", "added", "below", "new_layers", "read_growth", "settle_growth"]

GROWTH = f"{APPENDING}/plan.json"
_FREE = {"layers", "noise", "samples", "channels"}


@dataclass(frozen=True)
class Growth:
    """What the object says that stands in the store while it grows."""

    root: dict[str, Any]
    samples: int
    noise: int
    new_keys: tuple[str, ...]
    labels: Mapping[str, list[Any]]
    levels: list[float]

    @property
    def layout(self) -> Layout:
        return layout_of(self.root)

    def dump(self) -> bytes:
        return json.dumps(self.__dict__, indent=1).encode()


def read_growth(place: Place) -> Growth | None:
    data = place.read(GROWTH)
    if data is None:
        return None
    found = json.loads(data)
    return Growth(**found | {"new_keys": tuple(found["new_keys"])})


def _refuse_differences(place: Place, root: Mapping[str, Any], stored: Mapping[str, Any], plan: StorePlan) -> None:
    wanted = {k: v for k, v in plan_settings(plan).items() if k not in _FREE}
    # What is kept of a layer is compared for layers that the store has.
    arrays = {key: value for key, value in wanted["arrays"].items() if key in stored["arrays"]}
    arrays |= {key: value for key, value in stored["arrays"].items() if key.partition("/")[0] in {"inputs", "outputs"}}
    found = differences({k: v for k, v in stored.items() if k not in _FREE}, wanted | {"arrays": arrays})
    if ("timestep" in root["consolidated_metadata"]["metadata"]) != plan.shared_timesteps:
        found.append("its layers' timesteps")
    if found:
        raise StoreError(f"Nothing can be appended to {place}, which was made differently: {'; '.join(found)}.")


def added(growth: Growth) -> str:
    samples = len(growth.labels["sample"]) - growth.samples
    levels, layers = len(growth.levels) - growth.noise, len(growth.new_keys)
    parts = {"samples": samples, "noise levels": levels, "layers": layers}
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "nothing"


def settle_growth(place: Place, root: Mapping[str, Any], stored: Mapping[str, Any], plan: StorePlan) -> Growth:
    """Settle what a store will be once what the plan has more than it was added.

    Raises
    ------
    StoreError
        The store was made with other settings, or the plan lacks samples that are needed.
    """
    _refuse_differences(place, root, stored, plan)
    layout = layout_of(root)
    known = set(stored["samples"])
    added = [i for i, sample in enumerate(plan.samples) if sample not in known]
    labels: dict[str, list[Any]] = {name: [str(v) for v in read_array(place, name)] for name in SAMPLE_LABELS}
    labels |= {name: read_array(place, name).tolist() for name in more_labels(root)}
    wanted = {"sample": plan.samples, "path": plan.paths, "label": plan.labels, **plan.more_labels}
    for name in labels:
        labels[name] += [wanted[name][i] for i in added]
    levels = [*stored["noise"], *(float(v) for v in plan.noise if float(v) not in stored["noise"])]
    new_keys = tuple(layer.name for layer in plan.layers if layer.name not in layout.arrays)
    if (new_keys or len(levels) > len(stored["noise"])) and not known <= set(plan.samples):
        missing = [s for s in stored["samples"] if s not in set(plan.samples)]
        raise StoreError(
            f"New layers and noise levels need all samples of {place}, and {len(missing)} are not in the data (first: "
            f"{missing[0]}): give the same data."
        )
    grown: dict[str, Any] = json.loads(json.dumps(root))
    nodes = grown["consolidated_metadata"]["metadata"]
    lengths = {"sample": len(labels["sample"]), "noise": len(levels)}
    if lengths != {"sample": len(known), "noise": len(stored["noise"])}:
        # What was made of the samples and levels that there were holds no more.
        for path in [path for path in nodes if below(path, ["analysis"])]:
            del nodes[path]
    for node in nodes.values():
        for axis, dim in enumerate(node.get("dimension_names") or ()):
            node["shape"][axis] = lengths.get(dim, node["shape"][axis])
    if new_keys:
        made = json.loads(hierarchy(new_layers(plan, new_keys, labels, levels), layout.unit)[ROOT])
        inside = [f"layers/{layer_key(name)}" for name in new_keys]
        extra = made["consolidated_metadata"]["metadata"]
        nodes.update({path: node for path, node in extra.items() if below(path, inside)})
        grown["consolidated_metadata"]["metadata"] = in_order(nodes)
    grown["attributes"] |= _attributes(root["attributes"], plan, new_keys)
    return Growth(grown, len(stored["samples"]), len(stored["noise"]), new_keys, labels, levels)


def more_labels(root: Mapping[str, Any]) -> list[str]:
    """List the labels of samples that a store has besides those that all have."""
    known = {*SAMPLE_LABELS, "complete"}
    return [name for name in str(root["attributes"].get("coordinates", "")).split() if name not in known]


def below(path: str, groups: Sequence[str]) -> bool:
    return any(path == group or path.startswith(f"{group}/") for group in groups)


def _attributes(stored: Mapping[str, Any], plan: StorePlan, new_keys: Sequence[str]) -> dict[str, Any]:
    old = list(stored.get("layers", []))
    wanted = [layer.name for layer in plan.layers]
    found: dict[str, Any] = {"layers": wanted if set(old) <= set(wanted) else [*old, *new_keys]}
    # What is only known of the samples as they will be.
    found |= plan.attributes.get("grown", {})
    skipped = plan.attributes.get("skipped")
    if skipped:
        found["skipped"] = list(dict.fromkeys([*stored.get("skipped", []), *skipped]))
    return found


def new_layers(
    plan: StorePlan, new_keys: Sequence[str], labels: Mapping[str, list[Any]], levels: Sequence[float]
) -> StorePlan:
    """Plan the new layers alone, for all samples and levels."""
    return replace(
        plan,
        samples=labels["sample"],
        paths=labels["path"],
        labels=labels["label"],
        noise=levels,
        layers=[layer for layer in plan.layers if layer.name in set(new_keys)],
        picture=None,
        outputs={},
    )
