"""What is in a store, read from the one object that holds all its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import zarr

from fmx.errors import StoreError
from fmx.store.encode import Encoder
from fmx.store.places import Place, place_of
from fmx.store.schema import COUNTS, FORMAT, FORMAT_KEY, ROOT, split_units

__all__ = [
    "Layout",
    "StoredArray",
    "is_fmx_store",
    "layout_of",
    "pending_units",
    "read_array",
    "read_layout",
    "read_root",
    "unusual_values",
]


@dataclass(frozen=True)
class StoredArray:
    """An array as the store has it.

    Attributes
    ----------
    path : str
        Of the array below the store.
    dims, shape, chunks : tuple
    dtype : numpy.dtype
    codecs : tuple of mapping
    fill : float
    precision : str
        See `fmx.store.plan.ArraySpec`.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: tuple[Mapping[str, Any], ...]
    fill: float
    precision: str = ""

    @classmethod
    def of(cls, path: str, document: Mapping[str, Any]) -> StoredArray:
        """Read an array's metadata."""
        dtype = np.dtype(document["data_type"])
        return cls(
            path,
            tuple(document["dimension_names"]),
            tuple(document["shape"]),
            tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
            dtype,
            tuple(document["codecs"]),
            float(document["fill_value"]) if dtype.kind == "f" else 0,
            document["attributes"].get("precision", ""),
        )

    @property
    def encoder(self) -> Encoder:
        """What makes the bytes of a chunk."""
        return Encoder.of(self.codecs)

    def chunk_name(self, *indices: int) -> str:
        """Name of the object that holds a chunk."""
        return "/".join([self.path, "c", *map(str, indices)])


@dataclass(frozen=True)
class Layout:
    """What a store holds, without its labels.

    Attributes
    ----------
    attributes : mapping
    unit : int
        Samples in a write unit.
    samples : int
    arrays : dict of str to StoredArray
        By what fills them: a layer's name, ``inputs``, or ``outputs/<name>``.
    counts : dict of (str, str) to StoredArray
        Arrays that count unusual values, by layer and by what they count.
    groups : mapping of str to mapping
        Attributes of the groups.
    """

    attributes: Mapping[str, Any]
    unit: int
    samples: int
    complete: StoredArray
    arrays: Mapping[str, StoredArray]
    counts: Mapping[tuple[str, str], StoredArray]
    groups: Mapping[str, Mapping[str, Any]]

    def steps(self, key: str) -> int:
        """Give the number of timesteps of an array."""
        array = self.arrays[key]
        return array.shape[array.dims.index("timestep")]

    def kept_channels(self, place: Place, key: str) -> Any:
        """Give the numbers of the channels that the store keeps of a layer, or None where it keeps all."""
        array = self.arrays[key]
        group = array.path.rpartition("/")[0]
        native = self.groups[group].get("native_shape")
        if native is None or tuple(native) == array.shape[len(array.shape) - len(native) :]:
            return None
        return read_array(place, f"{group}/channel")

    def units(self) -> list[range]:
        """List the units as ranges of sample positions."""
        return split_units(self.samples, self.unit)


def read_root(place: Place) -> dict[str, Any] | None:
    """Read the root's metadata, or None where there is no store of fmx.

    Raises
    ------
    StoreError
        It is damaged, or can't be reached.
    """
    data = _read(place)
    if data is None:
        return None
    try:
        root: dict[str, Any] = json.loads(data)
        return root if FORMAT_KEY in root.get("attributes", {}) else None
    except (ValueError, AttributeError) as error:
        raise StoreError(
            f"{place} is damaged: its {ROOT} can't be read, without which nothing else can; extract it again."
        ) from error


def _read(place: Place) -> bytes | None:
    try:
        return place.read(ROOT)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StoreError(f"{place} can't be read ({reason}): correct the path or address, or try again.") from error


def is_fmx_store(to: str | Path | Place) -> bool:
    """Say whether there is an fmx store, whole or not.

    Raises
    ------
    StoreError
        The place can't be reached.
    """
    place = place_of(to)
    try:
        return _read(place) is not None and read_root(place) is not None
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False


def read_layout(to: str | Path | Place) -> Layout:
    """Read what a store holds.

    Raises
    ------
    StoreError
        There is none, it is damaged, or it has another format.
    """
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    if root["attributes"][FORMAT_KEY] != FORMAT:
        raise StoreError(
            f"{place} has format {root['attributes'][FORMAT_KEY]}, and this fmx reads format {FORMAT}: update fmx."
        )
    return layout_of(root)


def layout_of(root: Mapping[str, Any]) -> Layout:
    """Read what a store holds from its root's metadata."""
    nodes = root["consolidated_metadata"]["metadata"]
    groups = {path: node["attributes"] for path, node in nodes.items() if node["node_type"] == "group"}
    arrays: dict[str, StoredArray] = {}
    counts: dict[tuple[str, str], StoredArray] = {}
    for path, node in nodes.items():
        group, _, variable = path.rpartition("/")
        if node["node_type"] != "array" or "sample" not in node.get("dimension_names", ()) or not group:
            continue
        if variable in COUNTS and group.startswith("layers/"):
            counts[groups[group]["layer"], variable] = StoredArray.of(path, node)
        elif not group.startswith("analysis"):
            arrays[_role(group, variable, groups)] = StoredArray.of(path, node)
    complete = StoredArray.of("complete", nodes["complete"])
    return Layout(root["attributes"], complete.chunks[0], complete.shape[0], complete, arrays, counts, groups)


def _role(group: str, variable: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    if group.startswith("layers/"):
        return str(groups[group]["layer"])
    return f"outputs/{unquote(variable)}" if group == "outputs" else "inputs"


def read_array(place: Place, path: str) -> Any:
    """Read a whole small array, such as a coordinate, as the root's metadata has it.

    An array that the root does not know yet is read by its own metadata.

    Raises
    ------
    StoreError
        It is damaged.
    """
    try:
        root = zarr.open_group(place.zarr(), mode="r", use_consolidated=True)
        array = root[path] if path in root else zarr.open_array(place.zarr(), path=path, mode="r")
        return array[...]
    except (ValueError, KeyError, RuntimeError) as error:
        raise StoreError(
            f"{place} is damaged: its {path} can't be read; run the command that made it with --repair."
        ) from error


def unusual_values(to: str | Path | Place) -> dict[str, dict[str, int]]:
    """Count values that are not finite, by layer and by what they are; layers without any are left out.

    Returns
    -------
    dict of str to dict of str to int
        Numbers of ``nan``, of ``inf``, and of those that became infinite by ``overflow`` when they were stored.
    """
    place = place_of(to)
    found: dict[str, dict[str, int]] = {}
    for (layer, what), array in read_layout(place).counts.items():
        # Counts of zero are not written down.
        if any(True for _ in place.list(f"{array.path}/c")):
            found.setdefault(layer, {})[what] = int(read_array(place, array.path).sum())
    return found


def pending_units(to: str | Path | Place) -> list[range]:
    """List the write units that are not wholly there yet.

    A unit's part of ``complete`` is written after everything else of it, and only then: it is enough to see which
    parts exist.
    """
    place = place_of(to)
    layout = read_layout(place)
    done = {name.rpartition("/")[2] for name, size in place.list("complete/c") if size}
    return [unit for number, unit in enumerate(layout.units()) if str(number) not in done]
