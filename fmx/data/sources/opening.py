"""Finding the samples in whatever the user gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmx.data.sources import listing
from fmx.data.sources.arrays import ArraySource
from fmx.data.sources.base import Sample, Source, utf8
from fmx.data.sources.clips import ClipSource
from fmx.data.sources.containers import array_kind, named_arrays, open_array_file
from fmx.data.sources.pictures import PictureSource
from fmx.data.sources.streams import is_loader, open_items
from fmx.errors import DataError, near_files

__all__ = ["open_source"]


def open_source(
    data: Any,
    *,
    frames: int | None = None,
    stride: int = 1,
    clips: bool = False,
    inputs: Sequence[str] = (),
    on_error: str = "fail",
) -> Source:
    """Find the samples in what the user gave.

    Parameters
    ----------
    data : str, path, array, iterable, or sequence or mapping of them
        A picture; a folder of pictures or of videos (subfolders are labels); a glob (``photos/**/*.jpg``); a CSV
        manifest (columns path, label, id) or a ``.txt`` list of files; a video; ``.npy``, ``.npz``, ``.zarr`` or
        ``.h5`` (``file.h5:name`` for one of several arrays); an array (sample, …) of NumPy, torch or xarray; a list of
        files; a data set or DataLoader of torch, or any iterable of arrays, (array, label) or dicts; a mapping of
        arrays by the names of the model's inputs.
    frames : int, optional
        Frames of a clip, for videos; 16 unless told.
    stride : int
        Take every so many-th frame of videos.
    clips : bool
        Whether the second axis of arrays is the timestep.
    inputs : sequence of str
        Names of the model's inputs, if it has several: these arrays of an ``.npz`` file are taken together.
    on_error : {"fail", "skip"}
        Whether videos that can't be opened are left out and listed in ``Source.skipped``.

    Raises
    ------
    DataError
        There is nothing there, or nothing that can be read.
    """
    if isinstance(data, Source):
        return data
    cutting = {"frames": frames, "stride": stride, "skip": on_error == "skip"}
    if isinstance(data, str | Path):
        return _open_path(data, cutting, clips=clips, inputs=inputs)
    if isinstance(data, Mapping) and data and all(hasattr(v, "__array__") for v in data.values()):
        return named_arrays({str(k): _array(v) for k, v in data.items()}, "", inputs=inputs)
    if hasattr(data, "__array__") or isinstance(data, np.generic):
        return _from_array(data, clips=clips)
    if isinstance(data, Sequence) and all(isinstance(p, str | Path) for p in data) and not isinstance(data, bytes):
        return _of_files(listing.from_list([Path(p) for p in data]), cutting)
    if is_loader(data) or _is_items(data):
        return open_items(data)
    raise DataError(
        f"Data can't be read from a {type(data).__name__}: give a picture, a folder or an .npy file, an array, or an "
        "iterable of arrays."
    )


def _is_items(data: Any) -> bool:
    if isinstance(data, Mapping | str | bytes | bytearray | set | frozenset):
        return False
    return isinstance(data, Iterable) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _open_path(data: str | Path, cutting: dict[str, Any], *, clips: bool, inputs: Sequence[str]) -> Source:
    if listing.is_glob(str(data)):
        return _of_files(listing.from_glob(str(data)), cutting)
    path, wanted = Path(data), ""
    if not path.exists():
        before, colon, after = str(data).rpartition(":")
        if not colon or not Path(before).exists() or not array_kind(Path(before)):
            raise DataError(f"There is no {path}: {near_files(path)}")
        path, wanted = Path(before), after
    kind = array_kind(path)
    if kind:
        return open_array_file(path, kind, wanted, inputs=inputs, clips=clips)
    if path.is_dir():
        return _of_files(listing.in_folder(path), cutting)
    ending = path.suffix.lower()
    if ending == ".csv":
        return _of_files(listing.from_manifest(path), cutting)
    if ending == ".txt":
        return _of_files(listing.from_text(path), cutting)
    return _of_files([Sample(utf8(path.name), str(path))], cutting)


def _of_files(samples: Sequence[Sample], cutting: dict[str, Any]) -> Source:
    if listing.is_video(samples[0].path):
        return ClipSource.cut(samples, **cutting)
    return PictureSource(samples)


def _from_array(data: Any, *, clips: bool) -> ArraySource:
    """Take an array of any library; those that read slices as they are needed stay as they are."""
    coordinates = getattr(data, "coords", {})
    ids = _along(data, coordinates, "sample")
    labels = _along(data, coordinates, "label")
    return ArraySource(_array(data), "array", ids=ids, labels=labels, clips=clips)


def _along(data: Any, coordinates: Any, name: str) -> list[str] | None:
    """Read a coordinate of xarray along the first axis as text."""
    if name not in coordinates or coordinates[name].dims != data.dims[:1]:
        return None
    values = [str(v) for v in np.asarray(coordinates[name]).tolist()]
    return None if name == "sample" and len(set(values)) < len(values) else values


def _array(data: Any) -> Any:
    if hasattr(data, "detach"):
        data = data.detach().cpu()
    # Such as xarray's and Dask's, which are read slice by slice.
    lazy = isinstance(getattr(data, "dtype", None), np.dtype) and hasattr(data, "__getitem__")
    return data if lazy and not isinstance(data, np.generic) else np.asarray(data)
