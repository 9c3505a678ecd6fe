"""Arrays in files: ``.npy``, ``.npz``, Zarr and HDF5, read from disk as they are needed.

An array inside a file is named after a colon: ``data.npz:images``, ``data.h5:train/x``. Where nothing is named, the
only one is taken, or the one that is called x, images, data, inputs or pictures; an array of one dimension called
labels, label, y or targets gives the labels.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from fmx.data.sources.arrays import ArraySource, Blocks, NamedArrays
from fmx.data.sources.base import Source, file_stamp
from fmx.data.sources.spool import scratch_folder
from fmx.errors import DataError, near_matches

__all__ = ["array_kind", "named_arrays", "open_array_file", "pick_arrays", "text_labels"]

_USUAL = ("x", "images", "data", "inputs", "pictures")
_LABELS = ("labels", "label", "y", "targets")
_HDF5_ENDINGS = {".h5", ".hdf5", ".hdf"}


def array_kind(path: Path) -> str:
    """Tell from its content which kind of array file a path is: npy, npz, h5, zarr or none, an empty text."""
    if path.is_dir():
        marks = ("zarr.json", ".zarray", ".zgroup")
        return "zarr" if any((path / mark).is_file() for mark in marks) else ""
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head == b"\x89HDF\r\n\x1a\n" or path.suffix.lower() in _HDF5_ENDINGS:
        return "h5"
    if path.suffix.lower() == ".npz":
        return "npz"
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "npz" if names and all(name.endswith(".npy") for name in names) else ""
    return ""


def open_array_file(
    path: Path, kind: str, wanted: str = "", *, inputs: Sequence[str] = (), clips: bool = False
) -> Source:
    """Open the samples of an array file.

    Parameters
    ----------
    path : Path
    kind : str
        As `array_kind` tells it.
    wanted : str
        Name of the array inside the file, if the user gave one.
    inputs : sequence of str
        Names of the model's inputs, if it has several: the arrays of these names are taken together.
    clips : bool
        Whether the second axis of the array is the timestep.

    Raises
    ------
    DataError
        The file is damaged, or it is not clear which of its arrays is meant.
    """
    try:
        arrays, stamp = _OPEN[kind](path)
    except DataError:
        raise
    except Exception as error:  # whatever the format's library raises for a damaged file
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path} can't be read as an array ({said}): save it again.") from None
    return pick_arrays(arrays, str(path), wanted, inputs=inputs, clips=clips, stamp=stamp)


def pick_arrays(
    arrays: Mapping[str, Any],
    name: str,
    wanted: str = "",
    *,
    inputs: Sequence[str] = (),
    clips: bool = False,
    stamp: Callable[[], str] | None = None,
) -> Source:
    """Choose among named arrays the one, or those, that hold the samples."""
    if wanted:
        if wanted not in arrays:
            raise DataError(f"{name} has no array {wanted}: {near_matches(wanted, arrays)}")
        return ArraySource(arrays[wanted], f"{name}:{wanted}", labels=_labels(arrays, wanted), clips=clips, stamp=stamp)
    if len(inputs) > 1:
        missing = [i for i in inputs if i not in arrays]
        if missing:
            raise DataError(f"{name} has no array {missing[0]}, which the model takes: {near_matches('', arrays)}")
        return named_arrays(arrays, name, inputs=inputs, stamp=stamp)
    candidates = [n for n, a in arrays.items() if n not in _LABELS and len(a.shape) > 1]
    usual = [n for n in _USUAL if n in candidates]
    if len(arrays) == 1:
        candidates = list(arrays)
    if not candidates:
        raise DataError(f"{name} holds no array (sample, …): give a file with one.")
    if len(candidates) == 1 or usual:
        chosen = candidates[0] if len(candidates) == 1 else usual[0]
        text = name if len(arrays) == 1 else f"{name}:{chosen}"
        return ArraySource(arrays[chosen], text, labels=_labels(arrays, chosen), clips=clips, stamp=stamp)
    raise DataError(f"{name} holds the arrays {', '.join(candidates)}: name one, {name}:{candidates[0]}.")


def named_arrays(
    arrays: Mapping[str, Any], name: str, *, inputs: Sequence[str] = (), stamp: Callable[[], str] | None = None
) -> NamedArrays:
    """Take arrays together by the names of the model's inputs; one that is called labels gives the labels."""
    chosen = {n: a for n, a in arrays.items() if (n in inputs if inputs else n not in _LABELS or len(a.shape) > 1)}
    if not chosen:
        raise DataError(f"{name or 'The mapping'} holds labels only: give the model's inputs too.")
    sources = {n: ArraySource(Named(a), f"{name}:{n}" if name else n, stamp=stamp) for n, a in chosen.items()}
    return NamedArrays(sources, labels=_labels(arrays, next(iter(chosen))))


class Named:
    """An array of a model of several inputs, where one number a sample is fine too: (sample,) becomes (sample, 1)."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.dtype = array.dtype
        self.shape = tuple(array.shape) if len(array.shape) != 1 else (array.shape[0], 1)

    def __getitem__(self, key: Any) -> Any:
        values = self._array[key]
        return np.asarray(values)[..., None] if len(self._array.shape) == 1 else values


def _labels(arrays: Mapping[str, Any], chosen: str) -> list[str] | None:
    count = arrays[chosen].shape[0] if arrays[chosen].shape else 0
    for name in _LABELS:
        if name in arrays and name != chosen and tuple(arrays[name].shape) == (count,):
            return text_labels(arrays[name][:])
    return None


def text_labels(values: Any) -> list[str]:
    """Write labels, numbers or text, as text."""
    plain = np.asarray(values).tolist()
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in plain]


# -- formats ---------------------------------------------------------------------------------------

Opened = tuple[dict[str, Any], Callable[[], str] | None]


def _open_npy(path: Path) -> Opened:
    return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}, None


def _open_npz(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        arrays = {m.filename.removesuffix(".npy"): _Member(path, m) for m in members}
    return dict(arrays), None


class _Member:
    """An array of an ``.npz`` file: mapped where it lies uncompressed, else unpacked onto the disk when it is used."""

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self._path, self._member = path, member
        self._lock = threading.Lock()
        self._array: Any = None
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            self.shape, self._fortran, self.dtype = _npy_header(file)
            if self.dtype.hasobject:
                raise ValueError(f"{member.filename} holds Python objects, which are not read")

    def __getitem__(self, key: Any) -> Any:
        with self._lock:
            if self._array is None:
                self._array = self._mapped()
        return self._array[key]

    def _mapped(self) -> Any:
        if self._member.compress_type == zipfile.ZIP_STORED:
            with self._path.open("rb") as file:
                file.seek(self._member.header_offset)
                header = file.read(30)
                lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                file.seek(self._member.header_offset + 30 + lengths)
                _npy_header(file)
                order = "F" if self._fortran else "C"
                return np.memmap(self._path, self.dtype, "r", file.tell(), self.shape, order)  # type: ignore[call-overload]
        unpacked = scratch_folder(self) / "array.npy"
        with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as packed, unpacked.open("wb") as file:
            shutil.copyfileobj(packed, file, 2**20)
        return np.load(unpacked, mmap_mode="r", allow_pickle=False)


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _open_zarr(path: Path) -> Opened:
    import zarr

    opened = zarr.open(path, mode="r")
    found = {"array": opened} if isinstance(opened, zarr.Array) else _zarr_arrays(opened)
    return {name: Blocks(array) for name, array in found.items()}, cache(partial(_folder_stamp, path))


def _zarr_arrays(group: Any, prefix: str = "") -> dict[str, Any]:
    found = {f"{prefix}{name}": array for name, array in group.arrays()}
    for name, inner in group.groups():
        found |= _zarr_arrays(inner, f"{prefix}{name}/")
    return dict(sorted(found.items()))


def _folder_stamp(path: Path) -> str:
    """Digest the names and sizes of all files of a folder, which compressed chunks change with their content."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
    return digest.hexdigest()


# One for all files: the HDF5 library itself must not be entered twice.
_HDF5 = threading.Lock()


def _open_h5(path: Path) -> Opened:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} needs h5py: pip install h5py.") from None
    file = h5py.File(path, "r")
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return {name: Blocks(array, _HDF5) for name, array in found.items()}, cache(partial(file_stamp, path))


_OPEN: dict[str, Callable[[Path], Opened]] = {
    "npy": _open_npy,
    "npz": _open_npz,
    "zarr": _open_zarr,
    "h5": _open_h5,
}
