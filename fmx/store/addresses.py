"""Places that an address leads to: object stores, and whatever else fsspec reaches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from fmx.errors import StoreError
from fmx.store.places import Part, Place

__all__ = ["FsspecPlace", "ObjectPlace", "reach"]

_OBSTORE = {"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_RETRIES: Any = {
    "max_retries": 12,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
}
_WAITS = (0.2, 1.0, 5.0)
_TIMEOUTS = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=10)}


def reach(address: str) -> Place:
    """Give the place of an address.

    Raises
    ------
    StoreError
        Nothing that is installed reaches it.
    """
    return ObjectPlace(address) if address.partition(":")[0].lower() in _OBSTORE else FsspecPlace(address)


def _joined(parts: tuple[Part, ...]) -> bytes:
    return b"".join(parts)  # type: ignore[arg-type]


class ObjectPlace(Place):
    """A prefix in an object store that obstore reaches (s3, gs, az; http for reading).

    Credentials, region and endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …).
    Requests that fail or time out are tried again for up to three minutes.
    """

    def __init__(self, address: str) -> None:
        self.text = address.rstrip("/")
        _ = self.store

    @cached_property
    def store(self) -> Any:
        """The store of obstore's."""
        try:
            from obstore.store import from_url
        except ImportError:
            raise StoreError(f"{self.text} needs obstore: pip install 'fmx[s3]'.") from None
        options: Any = self._options()
        try:
            return from_url(self.text, client_options=options, retry_config=_RETRIES)
        except (_failures(), ValueError) as error:
            raise StoreError(f"{self.text} is no address of a store ({_reason(error)}): correct it.") from error

    def _options(self) -> dict[str, Any]:
        """Allow plain http on this machine alone, unless the environment allows it everywhere."""
        address = self.text if self.text.startswith("http") else os.environ.get("AWS_ENDPOINT_URL", "")
        parts = urlsplit(address)
        plain = {"allow_http": True} if parts.scheme == "http" and parts.hostname in _LOOPBACK else {}
        return {**_TIMEOUTS, **plain}

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text}

    def zarr(self, *, read_only: bool = True) -> Any:
        from zarr.storage import ObjectStore

        return ObjectStore(self.store, read_only=read_only)

    def read(self, name: str) -> bytes | None:
        import obstore

        with self._told(name):
            try:
                return bytes(obstore.get(self.store, name).bytes())
            except (FileNotFoundError, obstore.exceptions.NotFoundError):
                return None

    def write(self, name: str, *parts: Part) -> None:
        import obstore

        data = _joined(parts)
        with self._told(name):
            _insist(partial(obstore.put, self.store, name, data, use_multipart=False))

    def create(self, name: str, data: bytes) -> bool:
        import obstore

        with self._told(name):
            try:
                obstore.put(self.store, name, data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        import obstore

        with self._told(prefix):
            for objects in obstore.list(self.store, prefix=prefix or None):
                yield from ((str(each["path"]), int(each["size"])) for each in objects)

    def delete(self, names: Iterable[str]) -> None:
        import obstore

        wanted = list(names)
        with self._told(""):
            for start in range(0, len(wanted), 1000):
                with suppress(FileNotFoundError):
                    _insist(partial(obstore.delete, self.store, wanted[start : start + 1000]))

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turn what obstore raises into what a file system raises."""
        try:
            yield
        except _failures() as error:
            raise OSError(f"{name}: {_reason(error)}" if name else _reason(error)) from error


def _insist(act: Callable[[], Any]) -> None:
    """Do again what failed: a write or a deletion that is done twice does no harm, which obstore can't know."""
    from obstore.exceptions import GenericError

    for wait in (*_WAITS, None):
        try:
            act()
            return
        except GenericError:
            if wait is None:
                raise
            time.sleep(wait)


def _failures() -> type[Exception]:
    from obstore.exceptions import BaseError

    return BaseError


def _reason(error: Exception) -> str:
    """Give the end of the first line, which holds what the server said."""
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return line if len(line) <= 200 else f"…{line[-200:]}"


class FsspecPlace(Place):
    """Any other address that fsspec reaches (``memory://``, ``sftp://``, …)."""

    def __init__(self, address: str) -> None:
        self.text = address.rstrip("/")
        _ = self._files

    @cached_property
    def _files(self) -> tuple[Any, str]:
        protocol = self.text.partition(":")[0]
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        except ImportError:
            raise StoreError(f"{self.text} needs fsspec: pip install fsspec.") from None
        try:
            files, root = url_to_fs(self.text)
        except ImportError as error:
            raise StoreError(f"{protocol}:// needs a package more: {error}.") from error
        except ValueError:
            raise StoreError(f"{self.text}: there is no way to reach {protocol}://; give a folder or s3://…") from None
        return files, root.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text}

    def zarr(self, *, read_only: bool = True) -> Any:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.text, read_only=read_only)

    def read(self, name: str) -> bytes | None:
        files, root = self._files
        try:
            return bytes(files.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def write(self, name: str, *parts: Part) -> None:
        files, root = self._files
        files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        files.pipe_file(f"{root}/{name}", _joined(parts))

    def create(self, name: str, data: bytes) -> bool:
        # Few of these can do it in one step.
        if self.read(name) is not None:
            return False
        self.write(name, data)
        return True

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        files, root = self._files
        below = f"{root}/{prefix}".rstrip("/")
        for name, about in files.find(below, detail=True).items():
            yield name.removeprefix(root).lstrip("/"), int(about["size"] or 0)

    def delete(self, names: Iterable[str]) -> None:
        files, root = self._files
        for name in names:
            with suppress(FileNotFoundError):
                files.rm_file(f"{root}/{name}")
