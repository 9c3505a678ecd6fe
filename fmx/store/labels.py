"""Labels of the axes as the objects that hold them, whatever their number was when the store was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from fmx.errors import StoreError
from fmx.store.layout import read_root
from fmx.store.places import Place, written_to
from fmx.store.schema import ROOT

__all__ = ["alone", "label_chunks", "relabel"]


def alone(path: str, node: Mapping[str, Any], chunks: Mapping[str, bytes] | None = None) -> MemoryStore:
    """Give a store in memory that holds one array, with this metadata and these chunks."""
    objects = {f"{path}/{ROOT}": json.dumps(node).encode(), **(chunks or {})}
    return MemoryStore({name: default_buffer_prototype().buffer.from_bytes(data) for name, data in objects.items()})


def label_chunks(path: str, node: Mapping[str, Any], values: Sequence[Any]) -> dict[str, bytes]:
    """Encode all values of a label by its metadata: its chunks by their names."""
    memory = alone(path, node)
    array = zarr.open_array(memory, path=path, mode="r+", config={"write_empty_chunks": True})
    array[:] = np.asarray(values, dtype=array.dtype)
    return {name: data.to_bytes() for name, data in memory._store_dict.items() if not name.endswith(ROOT)}


def relabel(place: Place, labels: Sequence[str]) -> None:
    """Write the samples' labels anew, where they were not known when the store was made."""
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    with written_to(place):
        place.write_many(label_chunks("label", root["consolidated_metadata"]["metadata"]["label"], labels))
