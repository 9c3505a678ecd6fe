"""A temporary file for samples whose number is not known beforehand."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError

__all__ = ["Spool", "scratch_folder"]


def scratch_folder(owner: object) -> Path:
    """Make a folder that goes when its owner does, at the latest when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="fmx-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


class Spool:
    """Writes samples, each one or several arrays by name, and gives them as arrays on disk.

    A context manager; the files last as long as the arrays do.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._first: dict[str, NDArray[Any]] = {}
        self._count = 0
        self._keeper = _Keeper()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, values: Mapping[str, NDArray[Any]], where: str) -> None:
        """Write a sample.

        Raises
        ------
        DataError
            It is not like the first one.
        """
        if not self._first:
            self._first = dict(values)
            folder = scratch_folder(self._keeper)
            for number, name in enumerate(values):
                self._files[name] = self._open.enter_context((folder / f"{number}.raw").open("wb"))
        for name, first in self._first.items():
            value = values.get(name)
            if value is None or value.shape != first.shape or value.dtype != first.dtype:
                found = "nothing" if value is None else f"{value.dtype} of shape {value.shape}"
                raise DataError(
                    f"{where} is {found}, the first was {first.dtype} of shape {first.shape}: make all alike."
                )
            self._files[name].write(np.ascontiguousarray(value).data)
        self._count += 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give what was written, (sample, …) by name."""
        self._open.close()
        found = {}
        for name, first in self._first.items():
            array = np.memmap(self._files[name].name, first.dtype, "r", shape=(self._count, *first.shape))
            # The files go with the last of the arrays.
            array.keeper = self._keeper  # type: ignore[attr-defined]
            found[name] = array
        return dict(found)


class _Keeper:
    """What the files live as long as."""
