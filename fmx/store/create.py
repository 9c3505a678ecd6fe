"""Making a store's hierarchy, and calling it finished.

The hierarchy is made in memory and then put in its place object by object, the root's metadata last. A store whose
making was interrupted has no root, but a mark that says so, and is made anew; nothing that lacks the mark is ever
cleared away. The root holds the metadata of everything below it, so that one whole write changes what a reader sees.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from fmx.errors import StoreError
from fmx.store.encode import codec_metadata
from fmx.store.layout import is_fmx_store, pending_units, read_root
from fmx.store.places import FolderPlace, Place, place_of, written_to
from fmx.store.plan import ArraySpec, StorePlan
from fmx.store.schema import COUNTS, EVERY_CHUNK, FORMAT, FORMAT_KEY, LOCK, MAKING, PARTIAL, ROOT

__all__ = ["building_place", "create_store", "finish_store", "prepare_place"]

# Room in a chunk of labels, so that appending a few at a time does not make a chunk of each.
_LEAST_LABELS = 1024


def prepare_place(to: str | Path | Place, *, overwrite: bool) -> Place:
    """See that a store can be made at `to`.

    Raises
    ------
    StoreError
        Something is there already, and is not a store or may not be overwritten.
    """
    place = place_of(to)
    if place.text.startswith(("http://", "https://")):
        raise StoreError(f"{place} can only be read: give a folder or s3://… to write to.")
    if is_fmx_store(place):
        if not overwrite:
            raise StoreError(
                f"{place} is there already: choose another name with -o, or add --overwrite to replace it."
            )
        return place
    with written_to(place):
        free = _is_free(place)
    if not free:
        raise StoreError(f"{place} is there and is no fmx store: choose another name with -o.")
    return place


def _is_free(place: Place) -> bool:
    """Whether nothing is there, or only what is left of a store whose making was interrupted."""
    if isinstance(place, FolderPlace):
        if not place.path.exists():
            return True
        if not place.path.is_dir():
            return False
        names = {entry.name for entry in place.path.iterdir()}
    else:
        names = {name for name, _ in place.list()}
    known = {name for name in names if name != LOCK and not name.startswith(PARTIAL)}
    return not known or (MAKING in known and ROOT not in known)


def building_place(to: str | Path | Place, *, overwrite: bool = False) -> Place:
    """Say where a store is to be written that will be at `to` when it is finished.

    A folder that is overwritten stays until all of the new store is there, which is made in a hidden folder beside it
    and then takes its place; what an interrupted run has left in the hidden folder can be continued. Object stores
    can't rename, and copying a whole store takes as long as making it: there, and wherever else an address leads, the
    old store is deleted before the new one is made.
    """
    place = place_of(to)
    if not overwrite or not isinstance(place, FolderPlace):
        return place
    beside = FolderPlace(_beside(place.path, "new"), replaces=place.path)
    return beside if is_fmx_store(place) or is_fmx_store(beside) else place


def _beside(path: Path, what: str) -> Path:
    path = path.resolve()
    return path.with_name(f".{path.name}.{what}")


def create_store(to: str | Path | Place, plan: StorePlan, *, overwrite: bool = False) -> Place:
    """Make a store's hierarchy, with nothing in it but the labels.

    Parameters
    ----------
    to : str, path or Place
        Where the store will be once it is finished.
    plan : StorePlan
    overwrite : bool
        Replace a store that is there; see `building_place`.

    Returns
    -------
    Place
        Where to write its units.

    Raises
    ------
    StoreError
        Something is there that may not be overwritten, or the place can't be written.
    """
    final = prepare_place(to, overwrite=overwrite)
    place = building_place(final, overwrite=overwrite)
    with written_to(final):
        objects = hierarchy(plan)
        root = objects.pop(ROOT)
        place.write(MAKING, b"A store is being made here: what else is here may be deleted.\n")
        # Without its root nothing is a store, whatever else is still there.
        place.delete([ROOT])
        place.clear(keep=[MAKING, LOCK])
        place.write_many(objects)
        place.write(ROOT, root)
        place.delete([MAKING])
    return place


def finish_store(place: Place) -> None:
    """Call a store complete, and let it take the place of the one that it replaces.

    Parameters
    ----------
    place : Place
        What `create_store` or `building_place` gave.

    Raises
    ------
    StoreError
        Units are missing, or the place can't be written.
    """
    missing = pending_units(place)
    if missing:
        raise StoreError(f"{place} is not finished: {sum(map(len, missing))} samples are missing; extract them first.")
    with written_to(place):
        place.sweep()
        change_root(place, {"completeness": "complete"})
        if isinstance(place, FolderPlace) and place.replaces is not None:
            _take_place(place.path, place.replaces.resolve())


def _take_place(new: Path, path: Path) -> None:
    old = _beside(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def change_root(place: Place, attributes: Mapping[str, Any]) -> None:
    """Change attributes of the root, in one write."""
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    if any(root["attributes"].get(key) != value for key, value in attributes.items()):
        root["attributes"] |= attributes
        place.write(ROOT, json.dumps(root, indent=2).encode())


# -- the hierarchy -------------------------------------------------------------------------------------


def hierarchy(plan: StorePlan, unit: int | None = None) -> dict[str, bytes]:
    """Make all objects of an empty store: metadata and labels.

    Parameters
    ----------
    plan : StorePlan
    unit : int, optional
        Samples in a write unit, where it is not for the plan to say.
    """
    unit = unit or plan.unit
    about = {
        FORMAT_KEY: FORMAT,
        EVERY_CHUNK: True,
        **plan.attributes,
        "completeness": "partial",
        # xarray's mark for what labels the axes without being an axis itself.
        "coordinates": " ".join(["path", "label", *plan.more_labels, "complete"]),
    }
    memory = MemoryStore()
    root = zarr.create_group(memory, zarr_format=3, attributes=about)
    _write_labels(root, plan, unit)
    for spec in plan.arrays(unit).values():
        _create(root, spec, unit)
    with warnings.catch_warnings():
        # Consolidated metadata is no part of Zarr's specification yet.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(memory)
    objects = {name: data.to_bytes() for name, data in memory._store_dict.items()}
    whole = json.loads(objects[ROOT])
    whole["consolidated_metadata"]["metadata"] = in_order(whole["consolidated_metadata"]["metadata"])
    return objects | {ROOT: json.dumps(whole, indent=2).encode()}


def in_order(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the metadata of all nodes into an order in which zarr finds them again.

    Groups come before what is in them, and what is in a group side by side: zarr's own order mixes what is in groups
    whose names differ by case alone.
    """
    return dict(sorted(nodes.items(), key=lambda item: (item[0].count("/"), item[0].rpartition("/"))))


def _write_labels(root: Any, plan: StorePlan, unit: int) -> None:
    for name, values in (("sample", plan.samples), ("path", plan.paths), ("label", plan.labels)):
        _label(root, name, np.asarray(values, dtype=object), "sample", str)
    for name, more in plan.more_labels.items():
        kind = np.asarray(more).dtype
        textual = kind.kind not in "iuf"
        _label(root, name, np.asarray(more, object if textual else kind), "sample", str if textual else str(kind))
    noise = np.asarray(plan.noise, dtype=np.float64)
    _label(root, "noise", noise, "noise", "float64", {"long_name": plan.noise_words})
    if plan.shared_timesteps:
        _label(root, "timestep", np.arange(plan.timesteps), "timestep", "int64")
    root.create_array(
        "complete",
        shape=(len(plan.samples),),
        dtype="bool",
        chunks=(unit,),
        compressors=codec_metadata("none", 1),
        dimension_names=("sample",),
        attributes={"long_name": "everything of this sample is in the store"},
    )


def _label(group: Any, name: str, values: Any, dim: str, dtype: Any, about: Mapping[str, Any] | None = None) -> None:
    made = group.create_array(
        name,
        shape=(len(values),),
        dtype=dtype,
        chunks=(max(len(values), _LEAST_LABELS if dim == "sample" else 1),),
        compressors=[ZstdCodec(level=0), Crc32cCodec()],
        dimension_names=(dim,),
        attributes=dict(about or {}),
        config={"write_empty_chunks": True},
    )
    made[:] = values


def _create(root: Any, spec: ArraySpec, unit: int) -> None:
    group = root.require_group(spec.group)
    group.attrs.update(spec.group_attributes)
    for dim, values in spec.coordinates.items():
        if dim not in group:
            about = {"units": "frames of the input"} if dim == "timestep" else {}
            _label(group, dim, values, dim, str(values.dtype), about)
    group.create_array(
        spec.variable,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        compressors=codec_metadata(spec.codec, np.dtype(spec.dtype).itemsize),
        fill_value=spec.fill,
        dimension_names=spec.dims,
        attributes=dict(spec.attributes),
    )
    for what in spec.counts:
        group.create_array(
            what,
            shape=spec.shape[:2],
            dtype="uint32",
            chunks=(unit, 1),
            compressors=codec_metadata("none", 4),
            fill_value=0,
            dimension_names=spec.dims[:2],
            attributes={"long_name": f"number of {COUNTS[what]}"},
        )
