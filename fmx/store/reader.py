"""Opening a store: lazily, labelled, with a clear word when it is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import dask
import numpy as np
import xarray as xr

from fmx.errors import StoreError, near_files, near_matches
from fmx.layers import LayerInfo, select_layers
from fmx.store.layout import read_root, unusual_values
from fmx.store.places import Place, place_of
from fmx.store.schema import FORMAT, FORMAT_KEY, LEADING_DIMS, layer_key

__all__ = ["Store", "open_store"]

# Layers that a notebook shows of a store.
MOST_LISTED = 60

X = TypeVar("X", xr.Dataset, xr.DataArray)


class Store:
    """An opened store.

    Attributes
    ----------
    place : Place
        Where it is.
    path : Path or str
        The folder, or the address.
    tree : xarray.DataTree
        The whole store, its arrays lazy on Dask.
    """

    def __init__(self, place: Place, tree: xr.DataTree) -> None:
        self.place = place
        self.path: Path | str = place.local or place.text
        self.tree = tree
        # Putting labels to a layer takes milliseconds, which those who ask for many layers many times would notice.
        self._labelled: dict[str, xr.Dataset] = {}

    def __repr__(self) -> str:
        size = self.tree.sizes
        counts = {"layer": len(self.layers)} | {f: size.get(f.split()[0], 0) for f in ("sample", "noise level")}
        told = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items())
        return f"<fmx store {self.path}: {told}, {self.attributes['completeness']}>"

    def _repr_html_(self) -> str:
        levels = ", ".join(f"{v:g}" for v in self.tree.to_dataset()["noise"].values)
        facts = {
            "model": self.attributes.get("model", ""),
            "samples": f"{len(self.samples)} ({self.attributes['completeness']})",
            "noise": levels,
            "timesteps": self.frames,
        }
        said = " · ".join(f"{key} <b>{escape(str(value))}</b>" for key, value in facts.items())
        text = ' style="text-align:left"'  # notebooks put all cells to the right
        rows = "".join(
            f"<tr><td{text}>{escape(i.name)}</td><td{text}>{escape(i.kind)}</td>"
            f"<td{text}>{escape(' '.join(i.dims))}</td>"
            f"<td>{'×'.join(map(str, i.shape))}</td><td>{i.dtype}</td></tr>"
            for i in self.layers[:MOST_LISTED]
        )
        more = len(self.layers) - MOST_LISTED
        rest = f'<tr><td colspan="5">… {more} more layers</td></tr>' if more > 0 else ""
        heads = "".join(f"<th{text}>{name}</th>" for name in ("layer", "kind", "dims"))
        heads += "<th>shape</th><th>dtype</th>"
        return (
            f"<div><b>fmx store</b> {escape(str(self.path))}<br>{said}"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}{rest}</tbody></table></div>"
        )

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Provenance: model, fingerprint, engine, preprocessing, noise, versions, completeness."""
        return {str(k): v for k, v in self.tree.attrs.items()}

    @cached_property
    def layers(self) -> list[LayerInfo]:
        """The layers in the order of computation."""
        nodes = self.tree["layers"].children if "layers" in self.tree.children else {}
        infos = [self._info(node) for node in nodes.values()]
        order = {name: i for i, name in enumerate(self.attributes.get("layers", []))}
        return sorted(infos, key=lambda info: order.get(info.name, len(order)))

    @staticmethod
    def _info(node: xr.DataTree) -> LayerInfo:
        array = node.to_dataset()["activation"]
        native = tuple(str(d) for d in array.dims[len(LEADING_DIMS) :])
        shape = tuple(array.sizes[d] for d in native)
        return LayerInfo(node.attrs["layer"], node.attrs["kind"], native, shape, str(array.dtype))

    def select(self, patterns: str | Iterable[str] = "all") -> list[LayerInfo]:
        """Select layers of the store, as `fmx.layers.select_layers` does."""
        return select_layers(self.layers, patterns)

    def layer(self, name: str) -> xr.Dataset:
        """Give one layer with all its labels, lazily.

        Returns
        -------
        xarray.Dataset
            ``activation`` (sample, noise, timestep, …native) with the coordinates sample, path, label, noise,
            timestep (positions, or frames of the input where layers have timesteps of their own) and channel.

        Raises
        ------
        LayerError
            The store has no such layer.
        """
        found = self._labelled.get(name)
        if found is None:
            dataset = self.tree[f"layers/{layer_key(self._find(name).name)}"].to_dataset()[["activation"]]
            root = self.tree.to_dataset()
            labels = {str(n): root[n] for n in root.coords if root[n].dims == ("sample",)}
            found = dataset.assign_coords({k: v for k, v in labels.items() if k not in {"sample", "complete"}})
            self._labelled[name] = found
        return self._whole(found.copy())

    def _whole(self, data: X) -> X:
        """Leave out the samples that are not wholly there."""
        return data if self.complete.all() else data.isel(sample=np.flatnonzero(self.complete))

    def compute(self, *lazy: Any) -> tuple[Any, ...]:
        """Compute lazy values of this store together, in one read.

        Raises
        ------
        StoreError
            A part of the store can't be read, because it is truncated or altered.
        """
        try:
            return tuple(dask.compute(*lazy))
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(f"{self.path} is damaged ({reason}): extract it again.") from error

    def _find(self, name: str) -> LayerInfo:
        exact = [info for info in self.layers if info.name == name]
        return exact[0] if exact else select_layers(self.layers, [name])[0]

    def activation(self, name: str) -> xr.DataArray:
        """Give one layer's activation (sample, noise, timestep, …native), lazily."""
        return self.layer(name)["activation"]

    @cached_property
    def unusual(self) -> dict[str, dict[str, int]]:
        """How many values of which layers are ``nan``, ``inf``, or became infinite by ``overflow`` when stored."""
        return unusual_values(self.place)

    @property
    def frames(self) -> int:
        """Timesteps of a sample as it came in; layers of models that take whole clips may have fewer."""
        sizes = self.tree.sizes
        return int(self.attributes.get("frames") or sizes.get("timestep", 1))

    @property
    def pictures(self) -> xr.DataArray | None:
        """The pictures as the model saw them (sample, timestep, y, x, band), or None for other data."""
        if "inputs" not in self.tree.children:
            return None
        return self._whole(self.tree["inputs"].to_dataset()["picture"])

    @cached_property
    def complete(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each sample is wholly in the store (sample)."""
        return np.asarray(self.tree.to_dataset()["complete"].values, dtype=bool)

    @property
    def samples(self) -> list[str]:
        """Ids of all samples."""
        return [str(s) for s in self.tree.to_dataset()["sample"].values]

    def find_sample(self, wanted: str) -> str:
        """Find a sample by its id, by its position, by the end of its id, or by the file's name without suffix.

        The number of a clip, ``#0``, may be left out where a video has one clip only.

        Raises
        ------
        StoreError
            There is no such sample, or several end like that.
        """
        ids = self.samples
        if wanted in ids:
            return wanted
        if re.fullmatch("-?[0-9]+", wanted) and -len(ids) <= int(wanted) < len(ids):
            return ids[int(wanted)]
        files = {s: re.sub("#[0-9]+$", "", s) for s in ids}
        ending = [
            s for s, file in files.items() if s.endswith(wanted) or file.endswith(wanted) or Path(file).stem == wanted
        ]
        if len(ending) == 1:
            return ending[0]
        if ending:
            raise StoreError(f"{len(ending)} samples end in {wanted}: {', '.join(ending[:4])}; give the whole id.")
        raise StoreError(f"The store has no sample {wanted}: {near_matches(wanted, ids)}")


def open_store(path: str | Path | Place) -> Store:
    """Open a store, lazily.

    Parameters
    ----------
    path : str, path or Place
        A folder, or an address such as ``s3://bucket/acts.zarr``.

    Raises
    ------
    StoreError
        There is no store, or it has another format.
    """
    place = place_of(path)
    if place.local is not None and not place.local.exists():
        raise StoreError(f"There is no store {place}: {near_files(place.local)}")
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    found = root["attributes"][FORMAT_KEY]
    if found != FORMAT:
        raise StoreError(f"{place} has format {found}, and this fmx reads format {FORMAT}: update fmx.")
    gathered = root.get("consolidated_metadata") is not None
    tree = xr.open_datatree(_for_xarray(place), engine="zarr", chunks={}, consolidated=gathered)
    # Labels are small, and grouping and selecting by them needs their values.
    named = [name for name in str(root["attributes"].get("coordinates", "path label")).split() if name != "complete"]
    # What else lies along the samples, such as which are complete, is not read with them.
    labels = {name: tree.to_dataset()[name].variable.load() for name in named if name in tree}
    labels["complete"] = _complete(tree)
    tree.coords.update(labels)
    return Store(place, tree)


def _for_xarray(place: Place) -> Any:
    return place.local or place.zarr()


def _complete(tree: xr.DataTree) -> xr.Variable:
    """Which samples are there; its many small parts need not be read where all of them are."""
    found = tree.to_dataset()["complete"].variable
    if tree.attrs["completeness"] != "complete":
        return found.load()
    return found.copy(data=np.ones(found.shape, dtype=bool))
