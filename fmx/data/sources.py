"""Where samples come from: pictures, folders of pictures, and arrays. Every sample has an id that stays the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fmx.errors import DataError, near_files

__all__ = ["ArraySource", "PictureSource", "Sample", "Source", "open_source"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of a sample before it is read.

    Attributes
    ----------
    id : str
        Stable name: the path inside the folder, or the position in an array.
    path : str
        File that it comes from.
    label : str
        Name of the class folder, empty where there is none.
    """

    id: str
    path: str
    label: str = ""


class Source(Protocol):
    """Samples that can be read one by one, in any order and from several threads."""

    samples: Sequence[Sample]

    def read(self, index: int) -> Image.Image | NDArray[Any]:
        """Read one sample: a decoded picture, or an array (…native) that is model input already.

        Raises
        ------
        DataError
            The sample can't be read; names it.
        """
        ...


class PictureSource:
    """Picture files."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def read(self, index: int) -> Image.Image:
        """Decode a picture in full."""
        path = self.samples[index].path
        try:
            with Image.open(path) as image:
                image.load()
                return image
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "it is no picture" if isinstance(error, UnidentifiedImageError) else str(error)
            raise DataError(f"{path} can't be read: {reason or 'it is damaged'}.") from None

    def readable(self) -> tuple[PictureSource, list[str]]:
        """Decode every picture once and leave out those that can't be read.

        Returns
        -------
        source : PictureSource
        skipped : list of str
            Ids of what was left out.
        """
        kept, skipped = [], []
        for i, sample in enumerate(self.samples):
            try:
                self.read(i)
                kept.append(sample)
            except DataError:
                skipped.append(sample.id)
        if not kept:
            raise DataError(f"None of the {len(skipped)} pictures can be read.")
        return PictureSource(kept), skipped


class ArraySource:
    """An array (sample, …native), read from disk as it is needed."""

    def __init__(self, array: NDArray[Any], name: str) -> None:
        if array.ndim < 2 or not len(array):
            raise DataError(f"{name} has shape {array.shape}: give an array whose first axis is the samples.")
        if array.dtype.kind not in "fiub":
            raise DataError(f"{name} holds {array.dtype}: give an array of numbers.")
        self.array = array
        self.samples = [Sample(str(i), name) for i in range(len(array))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.array.shape[1:])

    def read(self, index: int) -> NDArray[Any]:
        """Read one sample."""
        return np.asarray(self.array[index])


def open_source(data: Any) -> PictureSource | ArraySource:
    """Find the samples in what the user gave.

    Parameters
    ----------
    data : str, path, array or sequence of paths
        A picture, a folder of pictures (subfolders are labels), an ``.npy`` file (sample, …), an array of the same
        shape, or a list of pictures.

    Raises
    ------
    DataError
        There is nothing there, or nothing that can be read.
    """
    if isinstance(data, str | Path):
        return _open_path(Path(data))
    if isinstance(data, np.ndarray) or hasattr(data, "__array__"):
        return ArraySource(np.asarray(data), "array")
    if isinstance(data, Sequence) and all(isinstance(p, str | Path) for p in data):
        return PictureSource(_from_list([Path(p) for p in data]))
    raise DataError(f"Data can't be read from a {type(data).__name__}: give a picture, a folder or an .npy file.")


def _open_path(path: Path) -> PictureSource | ArraySource:
    if path.is_dir():
        return PictureSource(_in_folder(path))
    if not path.exists():
        raise DataError(f"There is no {path}: {near_files(path)}")
    if _is_npy(path):
        try:
            return ArraySource(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
        except (ValueError, EOFError, OSError) as error:
            raise DataError(
                f"{path} can't be read as an array ({str(error).splitlines()[0].rstrip('.')}): save it again."
            ) from None
    return PictureSource([Sample(path.name, str(path))])


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _picture_endings() -> set[str]:
    """List the endings of files that Pillow reads as pictures by itself."""
    registered = Image.registered_extensions()
    # These are only recognised, or hold something else than one picture.
    others = {"HDF5", "GRIB", "BUFR", "MPEG", "WMF", "PDF"}
    return {ending for ending, kind in registered.items() if kind in Image.OPEN and kind not in others}


def _in_folder(root: Path) -> list[Sample]:
    """List the pictures below a folder in the order of their paths; hidden files are left out."""
    endings = _picture_endings()
    found = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and path.suffix.lower() in endings and path.is_file():
            label = relative.parts[0] if len(relative.parts) > 1 else ""
            found.append(Sample(_text(relative.as_posix()), str(path), label))
    if not found:
        raise DataError(f"{root} holds no pictures: give a folder with pictures, or an .npy file.")
    return found


def _from_list(paths: list[Path]) -> list[Sample]:
    """Name listed pictures by their file names, or by their whole paths where file names alone are not unique."""
    missing = [p for p in paths if not p.is_file()]
    if missing or not paths:
        raise DataError(f"There is no picture {missing[0]}." if missing else "The list of pictures is empty.")
    twice = [p for p, count in Counter(paths).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is listed twice: list each picture once.")
    distinct = len({p.name for p in paths}) == len(paths)
    return [Sample(_text(p.name if distinct else p.as_posix()), str(p)) for p in paths]


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="replace").decode()
        raise DataError(f"The file name {shown} is not valid UTF-8: rename the file.") from None
    return name
