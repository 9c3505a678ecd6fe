"""Where a store is: a folder, a bucket's prefix, or whatever else an address reaches."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fmx.errors import StoreError
from fmx.store.direct import LARGE, Part, write_past_cache
from fmx.store.schema import PARTIAL

__all__ = ["FolderPlace", "Part", "Place", "place_of", "written_to"]

_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")
_AT_ONCE = 16


class Place(ABC):
    """Where a store is, with its objects by their names below it (``layers/relu/zarr.json``).

    Every write is whole or not there at all: a reader or a crash never meets half an object. Places can be pickled.

    Attributes
    ----------
    text : str
        As a person writes it.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def local(self) -> Path | None:
        """The folder, where it is one."""
        return None

    @abstractmethod
    def zarr(self, *, read_only: bool = True) -> Any:
        """Give it as a store of zarr's."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Read an object, or None where there is none."""

    @abstractmethod
    def write(self, name: str, *parts: Part) -> None:
        """Write an object that consists of these parts, whole or not at all."""

    def write_soon(self, name: str, *parts: Part) -> None:
        """Write an object as `write` does, but where a power cut may still take it until it is settled.

        For what nobody relies on yet: it takes the place of nothing that is needed.
        """
        self.write(name, *parts)

    def settle(self, names: Iterable[str]) -> None:  # noqa: ARG002
        """Wait until what was written soon is safe."""
        return

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write an object only if there is none, and say whether there was none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """List names that lie below a prefix (a whole part of a path), and the objects' sizes in bytes."""

    @abstractmethod
    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, there or not."""

    def delete_below(self, prefix: str) -> None:
        """Delete all objects below a prefix."""
        self.delete([name for name, _ in self.list(prefix)])

    def clear(self, keep: Iterable[str] = ()) -> None:
        """Delete everything but what is to be kept."""
        kept = set(keep)
        self.delete([name for name, _ in self.list() if name not in kept])

    def sweep(self) -> None:
        """Delete what writes have left that were interrupted, where they leave anything; only while nobody writes."""
        return

    def write_many(self, objects: Mapping[str, bytes]) -> None:
        """Write objects in any order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(self.write, objects, objects.values()):
                pass


class FolderPlace(Place):
    """A folder on this machine, there or not.

    A write has reached the disk when it returns, so that nothing passes as done after a power cut that is not: the
    data of a unit are there before its part of ``complete``. As each wait for the disk takes milliseconds, objects that
    are of use only together are waited for together. Large objects go past the system's cache, see `fmx.store.direct`.

    Attributes
    ----------
    path : Path
    replaces : Path or None
        The folder whose place this one takes when the store is finished.
    """

    def __init__(self, path: Path, replaces: Path | None = None) -> None:
        self.path = path
        self.replaces = replaces
        self.text = str(replaces or path)

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderPlace, (self.path.absolute(), self.replaces and self.replaces.absolute())

    @property
    def local(self) -> Path:
        return self.path

    def zarr(self, *, read_only: bool = True) -> Any:
        from zarr.storage import LocalStore

        # Whoever reads it may do so in another process, which may be in another folder.
        return LocalStore(self.path.absolute(), read_only=read_only)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, *parts: Part) -> None:
        self._name(name, self._partial(parts, settled=True))

    def write_soon(self, name: str, *parts: Part) -> None:
        self._name(name, self._partial(parts))

    def settle(self, names: Iterable[str]) -> None:
        _settle([self.path / name for name in names])

    def write_many(self, objects: Mapping[str, bytes]) -> None:
        partials: dict[str, Path] = {}
        try:
            for name, data in objects.items():
                partials[name] = self._partial([data])
            _settle(partials.values())
            for name in objects:
                self._name(name, partials.pop(name))
        finally:
            _forget(partials.values())

    def _partial(self, parts: Sequence[Part], *, settled: bool = False) -> Path:
        """Write a file that is to be given its name."""
        partial = self.path / f"{PARTIAL}{uuid.uuid4().hex}"
        try:
            with self._opened(partial) as file:
                if sum(map(len, parts)) < LARGE or not write_past_cache(file.fileno(), parts):
                    for part in parts:
                        _write_all(file, part)
                if settled:
                    os.fsync(file.fileno())
        except BaseException:
            _forget([partial])
            raise
        return partial

    def _name(self, name: str, partial: Path) -> None:
        target = self.path / name
        try:
            try:
                partial.replace(target)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(target)
        except BaseException:
            _forget([partial])
            raise

    def _opened(self, path: Path) -> Any:
        try:
            return path.open("xb", buffering=0)
        except FileNotFoundError:
            self.path.mkdir(parents=True, exist_ok=True)
            return path.open("xb", buffering=0)

    def sweep(self) -> None:
        for path in self.path.glob(f"{PARTIAL}*"):
            path.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        try:
            with (self.path / name).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        for folder, _, files in os.walk(self.path / prefix):
            for file in files:
                path = Path(folder, file)
                with suppress(FileNotFoundError):
                    yield path.relative_to(self.path).as_posix(), path.stat().st_size

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                (self.path / name).unlink()

    def delete_below(self, prefix: str) -> None:
        if (self.path / prefix).is_dir():
            shutil.rmtree(self.path / prefix)

    def clear(self, keep: Iterable[str] = ()) -> None:
        kept = set(keep)
        for entry in self.path.iterdir() if self.path.exists() else ():
            if entry.name in kept:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _write_all(file: Any, part: Part) -> None:
    """Write all of a part: the system may take less than it is given, such as when the disk fills up."""
    rest = memoryview(part)  # type: ignore[arg-type]
    while rest:
        rest = rest[file.write(rest) :]


def _forget(partials: Iterable[Path]) -> None:
    for partial in partials:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _settle(files: Iterable[Path]) -> None:
    """Wait until files have reached the disk, which waits once for many that wait together."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(_settle_one, files):
            pass


def _settle_one(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place_of(to: str | Path | Place) -> Place:
    """Find out what a path or an address means.

    Raises
    ------
    StoreError
        Nothing that is installed reaches the address.
    """
    if isinstance(to, Place):
        return to
    # An address that became a path on its way has lost a slash.
    text = re.sub(r"^(s3|gs|az|memory):/(?=[^/])", r"\1://", str(to))
    if not _ADDRESS.match(text):
        return FolderPlace(Path(text))
    if text.lower().startswith("file:"):
        return FolderPlace(Path(urlsplit(text).path))
    from fmx.store.addresses import reach

    return reach(text)


@contextmanager
def written_to(place: Place) -> Iterator[None]:
    """Turn what the system says about writing into a sentence for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise StoreError(f"{place} can't be written ({reason}): choose another place.") from error
