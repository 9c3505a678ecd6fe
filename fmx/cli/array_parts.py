"""Results of samples and layers put together along their leading axes, the large ones on the disk as they come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from fmx.cli.arrays import to_zarr
from fmx.errors import FmxError

__all__ = ["ArrayParts"]

_LARGE = ("projection", "attribution", "picture")
# What is the same for all layers of a sample.
_OF_SAMPLE = ("picture", "path", "label")
_CHUNK = 2 * 2**20
_NONE = {"f": np.nan, "i": -1, "u": 0, "b": False, "U": "", "T": "", "O": ""}


class ArrayParts:
    """An unfinished Zarr store of results.

    Projections, attributions and pictures are written as they come, the rest is small and kept until the end. Where
    layers differ in length along an axis, the shorter ones are filled up: with NaN, -1 for channels and places, 0 in
    pictures.

    Parameters
    ----------
    place : Path
        Folder of the Zarr store, which is made.
    lead : mapping of str to sequence of str
        Leading axes and their labels.
    most : int or None
        Bytes that the large variables may take together.
    """

    def __init__(self, place: Path, lead: Mapping[str, Sequence[str]], most: int | None = None) -> None:
        self._place = place
        self._group = zarr.open_group(place, mode="w", zarr_format=3)
        self._lead = {dim: list(names) for dim, names in lead.items()}
        self._most = most
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._labels: dict[str, list[Any]] = {}
        self._small: dict[tuple[int, ...], xr.Dataset] = {}
        self._of_sample: dict[str, list[str]] = {}

    def put(self, found: xr.Dataset, **at: int) -> None:
        """Put a result at its place along the leading axes.

        Raises
        ------
        FmxError
            There would be more than `most` bytes.
        """
        for dim, index in found.indexes.items():
            known = self._labels.setdefault(str(dim), [])
            known += [label for label in index.tolist() if label not in known]
        for name in _LARGE:
            if name in found:
                self._write(name, found[name], at)
        for name in ("path", "label"):
            if name in found.coords and "sample" in self._lead:
                texts = self._of_sample.setdefault(name, [""] * len(self._lead["sample"]))
                texts[at["sample"]] = str(found[name].item())
        rest = found.drop_vars([*_LARGE, *_OF_SAMPLE, *self._lead], errors="ignore")
        # An axis says more than an attribute.
        rest.attrs = {key: value for key, value in found.attrs.items() if key not in self._lead}
        self._small[tuple(at[dim] for dim in self._lead)] = rest

    def finish(self) -> None:
        """Write what was kept, and the labels."""
        made = self._together(())
        inner = {str(c) for part in self._small.values() for c in part.coords} - set(made.dims)
        made = made.reindex({dim: labels for dim, labels in self._labels.items() if dim in made.dims})
        made = made.assign_coords(dict(self._lead))
        made = made.assign_coords({name: ("sample", texts) for name, texts in self._of_sample.items()})
        to_zarr(made.set_coords(inner), self._place)

    def _write(self, name: str, values: xr.DataArray, at: Mapping[str, int]) -> None:
        lead = [dim for dim in self._lead if dim == "sample" or name not in _OF_SAMPLE or "sample" not in self._lead]
        dims = [str(dim) for dim in values.dims]
        sizes = [max(len(self._labels.get(dim, ())), values.sizes[dim]) for dim in dims]
        if name not in self._arrays:
            self._arrays[name] = self._created(name, values, lead, sizes)
        array = self._arrays[name]
        whole = tuple(map(max, array.shape[len(lead) :], sizes))
        if whole != array.shape[len(lead) :]:
            array.resize((*array.shape[: len(lead)], *whole))
        self._check_size()
        places = [self._positions(dim, values) for dim in dims]
        array.oindex[(*(at[dim] for dim in lead), *places)] = values.values

    def _created(self, name: str, values: xr.DataArray, lead: Sequence[str], sizes: Sequence[int]) -> zarr.Array[Any]:
        dtype = np.dtype(np.float32) if values.dtype.kind == "f" else values.dtype
        chunks, room = [], _CHUNK // dtype.itemsize
        # One picture at least is one chunk.
        for dim, size in reversed([*zip(map(str, values.dims), sizes, strict=True)]):
            chunks.append(size if dim not in self._labels or dim == "colour" else max(min(size, room), 1))
            room //= chunks[-1]
        return self._group.create_array(
            name,
            shape=(*(len(self._lead[dim]) for dim in lead), *sizes),
            chunks=(*[1] * len(lead), *reversed(chunks)),
            dtype=dtype,
            fill_value=_NONE[dtype.kind],
            dimension_names=(*lead, *map(str, values.dims)),
            attributes={str(key): value for key, value in values.attrs.items()},
        )

    def _positions(self, dim: str, values: xr.DataArray) -> Any:
        if dim not in self._labels:
            return slice(0, values.sizes[dim])
        numbers = {label: i for i, label in enumerate(self._labels[dim])}
        return np.array([numbers[label] for label in values[dim].values.tolist()])

    def _check_size(self) -> None:
        size = sum(math.prod(array.shape) * array.dtype.itemsize for array in self._arrays.values())
        if self._most is not None and size > self._most:
            raise FmxError(
                f"The values take {size / 1e9:.1f} GB, more than is put together in memory: let --arrays end in .zarr, "
                "which is written as they come."
            )

    def _together(self, at: tuple[int, ...]) -> xr.Dataset:
        """Join what was kept along the leading axes, from the last to the first."""
        if len(at) == len(self._lead):
            part = self._small[at]
            return part.reset_coords([c for c in part.coords if c not in part.dims])
        dim = list(self._lead)[len(at)]
        names = self._lead[dim]
        parts = [self._together((*at, i)) for i in range(len(names))]
        fills = {name: _NONE[v.dtype.kind] for part in parts for name, v in part.variables.items()}
        how: Any = {"data_vars": "all", "coords": "minimal", "compat": "override", "join": "outer"}
        return xr.concat(parts, pd.Index(names, name=dim), fill_value=fills, combine_attrs="override", **how)
