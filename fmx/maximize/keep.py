"""Where results are kept, so that an interrupted run goes on: a store, or a folder of ``.npz`` files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
import xarray as xr

from fmx.errors import StoreError
from fmx.store import layer_key, open_analysis, open_store, place_of, save_analysis, saved_analyses
from fmx.store.layout import is_fmx_store

__all__ = [
    "ANALYSIS",
    "FolderKeep",
    "Keep",
    "StoreKeep",
    "differing_settings",
    "keep_for",
    "kept_every",
    "saved_results",
    "settings_of",
]

ANALYSIS = "maximization"


class Keep(Protocol):
    """Holds results by layer."""

    where: str

    def layers(self) -> list[str]:
        """List the layers of which there is something."""
        ...

    def load(self, layer: str) -> xr.Dataset | None:
        """Give what is there of a layer, in memory."""
        ...

    def save(self, layer: str, results: xr.Dataset) -> None:
        """Put a layer's results in place of what is there of it."""
        ...


class StoreKeep:
    """Keeps results in a store, under ``analysis/maximization``.

    Parameters
    ----------
    path : str
    fingerprint : str or None
        Of the model that the results are of; None for any.

    Raises
    ------
    StoreError
        The store holds another model's activations.
    """

    def __init__(self, path: str, fingerprint: str | None) -> None:
        self.where = path
        self.place = place_of(path)
        store = open_store(path)
        if fingerprint is not None and store.attributes.get("fingerprint") not in {None, fingerprint}:
            raise StoreError(f"{path} was made with another model: give the model that it was made with.")
        self._results: dict[str, xr.Dataset] = {}
        if ANALYSIS in saved_analyses(self.place):
            self._results = {layer: found.load() for layer, found in open_analysis(store.tree, ANALYSIS).items()}

    def layers(self) -> list[str]:
        """List the layers of which there is something."""
        return list(self._results)

    def load(self, layer: str) -> xr.Dataset | None:
        """Give what is there of a layer."""
        return self._results.get(layer)

    def save(self, layer: str, results: xr.Dataset) -> None:
        """Put a layer's results in place of what is there of it; those of other layers stay."""
        self._results[layer] = results
        save_analysis(self.place, ANALYSIS, self._results, {"analysis": ANALYSIS})


class FolderKeep:
    """Keeps results in a folder, one ``.npz`` file a layer, which NumPy reads without pickles."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.where = str(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{folder} is a file: give a folder.")

    def load(self, layer: str) -> xr.Dataset | None:
        """Give what is there of a layer."""
        file = self._file(layer)
        return _read(file) if file.is_file() else None

    def layers(self) -> list[str]:
        """List the layers of which there is something."""
        return sorted(unquote(file.stem) for file in self.folder.glob("[!.]*.npz"))

    def save(self, layer: str, results: xr.Dataset) -> None:
        """Write a layer's results, whole or not at all."""
        about = {
            "dims": {str(name): list(value.dims) for name, value in results.variables.items()},
            "coords": [str(name) for name in results.coords],
            "attributes": results.attrs,
            "descriptions": {str(name): value.attrs for name, value in results.data_vars.items()},
        }
        file = self._file(layer)
        unfinished = file.with_name(f".{uuid4().hex}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as stream:
                    arrays = {str(name): value.values for name, value in results.variables.items()}
                    np.savez_compressed(stream, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{file} can't be written: {error.strerror or error}.") from error

    def _file(self, layer: str) -> Path:
        return self.folder / f"{layer_key(layer)}.npz"


def _read(file: Path) -> xr.Dataset:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            found = {name: (about["dims"][name], arrays[name]) for name in about["dims"]}
    except (ValueError, OSError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise StoreError(f"{file} can't be read: {error}; move it away to begin anew.") from None
    data = {name: value for name, value in found.items() if name not in about["coords"]}
    made = xr.Dataset(data, {name: found[name] for name in about["coords"]}, about["attributes"])
    for name, attributes in about["descriptions"].items():
        made[name].attrs = attributes
    return made


def keep_for(to: str | Path | None, fingerprint: str | None) -> Keep | None:
    """Find out what a path means: a store, or a folder to be; None keeps nothing."""
    if to is None:
        return None
    place = place_of(to)
    if is_fmx_store(place):
        return StoreKeep(str(to), fingerprint)
    if place.local is None:
        raise StoreError(f"{to} is no fmx store: make one with fmx extract, or give a folder.")
    return FolderKeep(to)


def saved_results(place: str | Path) -> dict[str, xr.Dataset]:
    """Give what a store or a folder holds, by layer.

    Raises
    ------
    StoreError
        There is nothing.
    """
    keep = keep_for(place, None)
    found = {} if keep is None else {layer: one for layer in keep.layers() if (one := keep.load(layer)) is not None}
    if not found:
        raise StoreError(
            f"{place} holds no maximized pictures: give a store, or the folder of results, that fmx maximize filled."
        )
    return found


def kept_every(to: str | Path | None, fingerprint: str) -> int | None:
    """Say after every how many steps kept results have a picture; None where they have none, or not all the same."""
    keep = keep_for(to, fingerprint)
    found = [keep.load(layer) for layer in keep.layers()] if keep is not None else []
    counts = {settings_of(results).get("every", 0) for results in found if results is not None}
    return counts.pop() or None if len(counts) == 1 else None


def settings_of(kept: xr.Dataset) -> dict[str, Any]:
    """Give the settings that results were made with."""
    made: dict[str, Any] = json.loads(str(kept.attrs.get("settings", "{}")))
    return made


def differing_settings(kept: xr.Dataset, settings: Mapping[str, Any]) -> list[str]:
    """List the settings in which kept results differ, and how: ``steps 5, not 6``."""
    before = settings_of(kept)
    found = []
    for name, wanted in settings.items():
        had = before.get(name)
        if had != wanted:
            plain = all(isinstance(value, int | float | str) for value in (had, wanted)) and name != "model"
            found.append(f"{name} {had}, not {wanted}" if plain else name)
    return found
