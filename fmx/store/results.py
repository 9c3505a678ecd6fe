"""Results of analyses inside a store: ``analysis/<name>/<layer key>``, one group a layer.

xarray opens no hierarchy in which a group differs from the root along an axis of the same name. Results of some
samples, noise levels or timesteps, of a part of a store for instance, therefore have an axis ``own_sample`` and so on
there, and get back its name when they are opened as results.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from fmx.errors import StoreError, near_matches
from fmx.store.layout import read_array, read_root
from fmx.store.places import Place, place_of, written_to
from fmx.store.schema import LEADING_DIMS, ROOT, layer_key

__all__ = ["check_analysis_name", "open_analysis", "save_analysis", "saved_analyses"]

_OWN = "own_"


def check_analysis_name(name: str) -> None:
    """See that results can be called so.

    Raises
    ------
    StoreError
        It would not be the name of one group, or it is that of an axis.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise StoreError(f"Results can't be called '{name}': save them under a name of letters, digits, -, _ and dots.")
    if name in LEADING_DIMS:
        raise StoreError(f"Results can't be called '{name}', as an axis of the store is: save them under another name.")


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
        By layer. Their samples, noise levels and timesteps may be others than the store's.
    attributes : mapping, optional
        How the results came about, as plain values.

    Raises
    ------
    StoreError
        There is no store, or it can't be written; or results can't be called so.
    """
    check_analysis_name(name)
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    top = f"analysis/{name}"
    nodes = root["consolidated_metadata"]["metadata"]
    labels = {dim: pd.Index(read_array(place, dim).tolist()) for dim in LEADING_DIMS if dim in nodes}
    memory = MemoryStore()
    group = zarr.create_group(memory, path=top, zarr_format=3, attributes=dict(attributes or {}))
    for layer, dataset in results.items():
        about = _storable(dataset, labels).assign_attrs({"layer": layer, **dataset.attrs})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            about.to_zarr(memory, group=f"{top}/{layer_key(layer)}", mode="w", zarr_format=3, consolidated=False)
    del group
    objects = {key: data.to_bytes() for key, data in memory._store_dict.items() if key.startswith("analysis/")}
    old = [path for path in nodes if path == top or path.startswith(f"{top}/")]
    before = {path: nodes.pop(path) for path in old}
    after = {key.removesuffix("/zarr.json"): json.loads(d) for key, d in objects.items() if key.endswith("/zarr.json")}
    nodes |= after
    nodes.setdefault("analysis", {"attributes": {}, "zarr_format": 3, "node_type": "group"})
    objects.setdefault("analysis/zarr.json", json.dumps(nodes["analysis"]).encode())
    with written_to(place):
        _make_way(place, before, after)
        place.write_many(objects)
        place.write(ROOT, json.dumps(root, indent=2).encode())
        place.delete([key for key, _ in place.list(top) if key not in objects])


def _make_way(place: Place, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Remove the chunks of arrays that have another number of axes now: files may have to be where folders were."""
    for path, node in after.items():
        if "shape" in node and (path not in before or len(before[path].get("shape", ())) != len(node["shape"])):
            place.delete_below(f"{path}/c")
            place.delete([f"{path}/c"])


def _storable(dataset: xr.Dataset, labels: Mapping[str, pd.Index[Any]]) -> xr.Dataset:
    """Give results as a group below the root can hold them, whose axes have these labels."""
    kept = dataset.drop_vars("complete", errors="ignore")
    shared = {dim for dim, values in labels.items() if dim in kept.indexes and kept.indexes[dim].equals(values)}
    kept = kept.rename({str(n): f"{_OWN}{n}" for n in {*kept.dims, *kept.variables} & (set(labels) - shared)})
    for name, variable in list(kept.variables.items()):
        if variable.dtype.kind in "OU":
            text = (variable.dims, variable.values.astype(str).astype(np.dtypes.StringDType()), variable.attrs)
            kept = kept.assign_coords({name: text}) if name in kept.coords else kept.assign({name: text})
    return kept


def _as_computed(dataset: xr.Dataset) -> xr.Dataset:
    """Give saved results the names again that they were computed with, and none of the root's labels beside them."""
    used = {dim for variable in dataset.data_vars.values() for dim in variable.dims}
    unused = [name for name, coord in dataset.coords.items() if not set(coord.dims) <= used]
    own = [str(name) for name in {*dataset.dims, *dataset.variables} if str(name).startswith(_OWN)]
    return dataset.drop_vars(unused).rename({name: name.removeprefix(_OWN) for name in own})


def saved_analyses(to: str | Path | Place) -> list[str]:
    """List the analyses that a store holds."""
    root = read_root(place_of(to))
    nodes = {} if root is None else root["consolidated_metadata"]["metadata"]
    return sorted(path.partition("/")[2] for path in nodes if path.count("/") == 1 and path.startswith("analysis/"))


def open_analysis(tree: xr.DataTree, name: str) -> dict[str, xr.Dataset]:
    """Give the saved results of an analysis, by layer, with the axes that they were computed with.

    Raises
    ------
    StoreError
        The store has no such results.
    """
    saved = tree["analysis"].children if "analysis" in tree.children else {}
    if name not in saved:
        raise StoreError(f"No results called {name} are saved there: {near_matches(name, list(saved))}")
    return {str(node.attrs["layer"]): _as_computed(node.to_dataset()) for node in saved[name].children.values()}
