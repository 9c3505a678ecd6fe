"""The index of a folder of pictures: a row for each, written as it arises."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from fmx.errors import FmxError
from fmx.render.sinks import whole_file

__all__ = ["INDEX", "PictureIndex", "indexed_files"]

INDEX = "index.csv"
FILE = "file"


class PictureIndex:
    """The file ``index.csv``, which holds every row as soon as it is added, and no part of one.

    Parameters
    ----------
    folder : Path
        Where the pictures are; a row's first column, ``file``, is relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX
        self._columns = [FILE]
        self._rows: list[dict[str, str]] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, file: str, labels: Mapping[str, object]) -> None:
        """Write a row; a label that no row had before becomes a column of all.

        Raises
        ------
        FmxError
            The file can't be written; it is as it was before then.
        """
        # A label of this name would hide where the picture is.
        row = {str(key): str(value) for key, value in labels.items()} | {FILE: file}
        new = [key for key in row if key not in self._columns]
        if new or not self._rows:
            self._columns += new
            self._rows.append(row)
            self.write()
            return
        text = self._text([row])
        try:
            with self.path.open("r+b", buffering=0) as stream:
                stream.seek(self._end)
                if stream.write(text) != len(text):
                    stream.truncate(self._end)
                    raise OSError("No space left on device")
        except OSError as error:
            raise FmxError(f"{self.path} can't be written: {error.strerror or error}.") from error
        self._rows.append(row)
        self._end += len(text)

    def write(self) -> None:
        """Write the whole file anew."""
        text = self._text([dict(zip(self._columns, self._columns, strict=True)), *self._rows])
        with whole_file(self.path) as unfinished:
            unfinished.write_bytes(text)
        self._end = len(text)

    def _text(self, rows: Iterable[Mapping[str, str]]) -> bytes:
        stream = io.StringIO()
        csv.DictWriter(stream, self._columns, restval="", lineterminator="\n").writerows(rows)
        return stream.getvalue().encode()


def indexed_files(folder: Path) -> set[str] | None:
    """Give the names of the files that the index of a folder holds; None where the index can't be read."""
    try:
        with (folder / INDEX).open(encoding="utf-8", newline="") as stream:
            return {row.get(FILE) or "" for row in csv.DictReader(stream)}
    except FileNotFoundError:
        return set()
    except (UnicodeDecodeError, csv.Error):
        return None
