"""A folder of pictures with an index that says what each of them shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Self
from uuid import uuid4

from fmx.errors import FmxError
from fmx.file_names import file_name, unused_name
from fmx.render.frame import Frame
from fmx.render.index import INDEX, PictureIndex, indexed_files
from fmx.render.sinks import is_unfinished, save_frame

__all__ = ["INDEX", "PictureFolder"]

# Lies in the folder as long as pictures are still to come.
UNFINISHED = "unfinished.txt"
_MODEL_FILE = re.compile(r"\.(onnx|pt2?|pth|ts|zip|safetensors)$", re.IGNORECASE)


class PictureFolder:
    """A new folder ``<out>/<model>/<name>/`` that pictures are written into, with ``index.csv`` beside them.

    Used as a context manager: the folder is made on entering; the index has a row for each picture as soon as that is
    written. If something fails, or the process is killed, the pictures that are already there are kept with their
    index, and a file ``unfinished.txt`` says so; after a failure those of an older folder that was to be overwritten
    come back instead.

    Parameters
    ----------
    out : path
        Folder of all models; made where there is none.
    model : str
        What the pictures are about: a file, ``torchvision:NAME``, or any text; becomes a folder's name.
    name : str, optional
        Of this run; the time if left out.
    overwrite : bool
        Replace a folder of this name. It must be one that an index describes; anything else in it is refused.

    Attributes
    ----------
    place : Path
        The folder.

    Raises
    ------
    FmxError
        On entering: the folder is already there and not to be overwritten, holds files that its index doesn't name, or
        can't be made.
    """

    def __init__(
        self, out: str | PathLike[str], model: str, name: str | None = None, *, overwrite: bool = False
    ) -> None:
        parent = Path(out) / _short_model(model)
        if name is not None and (not name or file_name(name) != name):
            raise FmxError(f"A folder of pictures can't be called '{name}': use letters, digits, - and _.")
        self.place = parent / name if name else _unused(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        self._overwrite = overwrite
        self._old: Path | None = None
        self._made: list[Path] = []
        self._index = PictureIndex(self.place)
        self._taken: set[str] = {INDEX, UNFINISHED}
        self._lock = Lock()

    def __enter__(self) -> Self:
        try:
            if self.place.exists():
                self._move_old()
            self._made = [folder for folder in (self.place, *self.place.parents) if not folder.exists()]
            self.place.mkdir(parents=True)
            (self.place / UNFINISHED).write_text(self._about_end(), encoding="utf-8")
        except OSError as error:
            raise FmxError(f"{self.place} can't be made: {error.strerror or error}.") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if not len(self._index):
                self._index.write()
            (self.place / UNFINISHED).unlink(missing_ok=True)
            if self._old is not None:
                shutil.rmtree(self._old, ignore_errors=True)
            return
        if self._old is not None:
            shutil.rmtree(self.place, ignore_errors=True)
            with suppress(OSError):
                self._old.rename(self.place)
            return
        # What went wrong first is what is told.
        with suppress(OSError):
            if not len(self._index):
                (self.place / UNFINISHED).unlink(missing_ok=True)
                for folder in self._made:
                    folder.rmdir()

    def path(self, *parts: object, suffix: str = ".png") -> Path:
        """Give the path of a new file, named after what tells it from the others; no name is given twice.

        Parameters
        ----------
        *parts : object
            Such as the layer, the sample and the channel; joined by ``_``.
        suffix : str
        """
        with self._lock:
            stem = file_name(*map(str, parts)) or "picture"
            return self.place / unused_name(self._taken, stem, suffix)

    def add(self, path: str | PathLike[str], labels: Mapping[str, object]) -> None:
        """Enter a file that lies in the folder into the index."""
        name = Path(path).relative_to(self.place).as_posix()
        with self._lock:
            self._index.add(name, labels)

    def save(self, frame: Frame, *parts: object, suffix: str = ".png") -> Path:
        """Write a picture and its row in the index.

        Parameters
        ----------
        frame : Frame
            Its labels are the row.
        *parts : object
            What tells it from the others, for the name of the file.
        suffix : str
            The format: ``.png``, or ``.tif``.

        Returns
        -------
        Path
            The file written.

        Raises
        ------
        FmxError
            The file can't be written, or there is no such format.
        """
        path = save_frame(frame, self.path(*parts, suffix=suffix))
        self.add(path, frame.labels)
        return path

    def _move_old(self) -> None:
        """Put the folder that is there aside, until the new one is complete."""
        if not self._overwrite:
            there = "already there" + (", not complete" if (self.place / UNFINISHED).exists() else "")
            raise FmxError(f"{self.place} is {there}: choose another --name, or replace it with --overwrite.")
        if not self.place.is_dir():
            raise FmxError(f"{self.place} is a file: choose another --name.")
        strange = sorted(_not_in_index(self.place))
        if strange:
            raise FmxError(
                f"{self.place} holds {strange[0]}, which its index doesn't name: choose another --name, so that "
                "nothing is lost."
            )
        old = self.place.with_name(f".{uuid4().hex}.old")
        self.place.rename(old)
        self._old = old

    def _about_end(self) -> str:
        told = "This folder is not complete: index.csv lists the pictures that were drawn before the run ended.\n"
        return told + (f"The folder that it was to replace lies beside it, as {self._old.name}.\n" if self._old else "")


def _short_model(model: str) -> str:
    """Make a folder's name of a model's; the folders and the ending of a file are left out."""
    name = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return file_name(_MODEL_FILE.sub("", name)) or "model"


def _unused(path: Path) -> Path:
    """Give a path that nothing has, in case two runs begin in one second."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def _not_in_index(folder: Path) -> set[str]:
    """List the files of a folder that its index doesn't name."""
    named = indexed_files(folder)
    if named is None:
        return {INDEX}
    # A run that was killed may have left a file that it was just writing.
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not (p.is_dir() or is_unfinished(p))}
    return files - named - {INDEX, UNFINISHED}
