"""Results of analyses inside a store: ``analysis/<name>/<layer key>``, one group a layer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from fmx.errors import StoreError, near_matches
from fmx.store.layout import read_root
from fmx.store.places import Place, place_of, written_to
from fmx.store.schema import ROOT, layer_key

__all__ = ["open_analysis", "save_analysis", "saved_analyses"]


def save_analysis(
    to: str | Path | Place, name: str, results: Mapping[str, xr.Dataset], attributes: Mapping[str, Any] | None = None
) -> None:
    """Save results into a store, in place of those of the same name.

    Everything is written before the root's metadata says that it is there: a reader sees all of it or nothing.

    Parameters
    ----------
    to : str, path or Place
    name : str
        Of the analysis, such as ``stats``.
    results : mapping of str to xarray.Dataset
        By layer.
    attributes : mapping, optional
        How the results came about, as plain values.

    Raises
    ------
    StoreError
        There is no store, or it can't be written.
    """
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    top = f"analysis/{name}"
    memory = MemoryStore()
    group = zarr.create_group(memory, path=top, zarr_format=3, attributes=dict(attributes or {}))
    for layer, dataset in results.items():
        about = dataset.assign_attrs({"layer": layer, **dataset.attrs})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            about.to_zarr(memory, group=f"{top}/{layer_key(layer)}", mode="w", zarr_format=3, consolidated=False)
    del group
    objects = {key: data.to_bytes() for key, data in memory._store_dict.items() if key.startswith("analysis/")}
    nodes = root["consolidated_metadata"]["metadata"]
    old = [path for path in nodes if path == top or path.startswith(f"{top}/")]
    for path in old:
        del nodes[path]
    for key, data in objects.items():
        if key.endswith("/zarr.json"):
            nodes[key.removesuffix("/zarr.json")] = json.loads(data)
    nodes.setdefault("analysis", {"attributes": {}, "zarr_format": 3, "node_type": "group"})
    objects.setdefault("analysis/zarr.json", json.dumps(nodes["analysis"]).encode())
    with written_to(place):
        place.write_many(objects)
        place.write(ROOT, json.dumps(root, indent=2).encode())
        place.delete([key for key, _ in place.list(top) if key not in objects])


def saved_analyses(to: str | Path | Place) -> list[str]:
    """List the analyses that a store holds."""
    root = read_root(place_of(to))
    nodes = {} if root is None else root["consolidated_metadata"]["metadata"]
    return sorted(path.partition("/")[2] for path in nodes if path.count("/") == 1 and path.startswith("analysis/"))


def open_analysis(tree: xr.DataTree, name: str) -> dict[str, xr.Dataset]:
    """Give the saved results of an analysis, by layer.

    Raises
    ------
    StoreError
        The store has no such results.
    """
    saved = tree["analysis"].children if "analysis" in tree.children else {}
    if name not in saved:
        raise StoreError(f"No results called {name} are saved there: {near_matches(name, list(saved))}")
    return {str(node.attrs["layer"]): node.to_dataset() for node in saved[name].children.values()}
