"""One writer at a time: the lock of a store that is being written.

In a folder it is the system's lock on a file, which ends with the process however that ends. Elsewhere it is an object
that says who is writing and is renewed all the time: it can be taken over once its process is known to have ended, or
was not heard of for a while.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from fmx.errors import StoreError
from fmx.store.places import FolderPlace, Place, place_of, written_to
from fmx.store.schema import LOCK

__all__ = ["StoreLock"]

_RENEWED_EVERY = 20.0
_STALE_AFTER = 90.0


class StoreLock:
    """Holds a store for one extraction; a context manager.

    Workers that write units for an extraction take no lock of their own.

    Parameters
    ----------
    to : str, path or Place
        The store, there or not yet.

    Raises
    ------
    StoreError
        Another extraction is writing the store.
    """

    def __init__(self, to: str | Path | Place) -> None:
        self.place = place_of(to)
        self._held: _FileLock | _ObjectLock | None = None

    def __enter__(self) -> Self:
        with written_to(self.place):
            folder = isinstance(self.place, FolderPlace) and sys.platform != "win32"
            self._held = _FileLock(self.place) if folder else _ObjectLock(self.place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def check(self) -> None:
        """See that the lock is still held.

        Raises
        ------
        StoreError
            This process was not heard of for so long that another one took the store over.
        """
        if isinstance(self._held, _ObjectLock) and self._held.lost:
            raise StoreError(f"{self.place} was taken over by another extraction: run the same command again later.")


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "time": time.time()}


def _started(pid: int) -> str | None:
    """Tell when a process of this machine began, so that its number's next owner is not taken for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _refusal(place: Place, holder: Mapping[str, Any]) -> StoreError:
    who = f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"
    return StoreError(f"{place} is being written by {who}: wait until it has ended, or choose another name with -o.")


def _parsed(data: bytes | None) -> dict[str, Any]:
    with suppress(ValueError):
        found = json.loads(data or b"{}")
        if isinstance(found, dict):
            return found
    return {}


class _FileLock:
    """The system's lock on a file in the store's folder."""

    def __init__(self, place: Place) -> None:
        import fcntl

        assert isinstance(place, FolderPlace)
        self._path = place.path / LOCK
        self._made = not self._path.parent.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = self._path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    raise _refusal(place, _parsed(file.read())) from None
            if self._is_there(file):
                break
            # The one who held it has just deleted it.
            file.close()
        file.truncate(0)
        file.write(json.dumps(_me()).encode())
        file.flush()
        self._file = file

    def _is_there(self, file: IO[bytes]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with suppress(OSError):
            if self._is_there(self._file):
                self._path.unlink()
                if self._made:
                    # Where nothing came of it, nothing stays.
                    self._path.parent.rmdir()
        self._file.close()


class _ObjectLock:
    """An object that is renewed as long as its process runs."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._about = _me() | {"token": uuid.uuid4().hex}
        self.lost = False
        self._stop = threading.Event()
        if not place.create(LOCK, self._data()):
            self._take_over()
        self._thread = threading.Thread(target=self._renew, name="fmx-lock", daemon=True)
        self._thread.start()

    def _data(self) -> bytes:
        return json.dumps(self._about | {"time": time.time()}).encode()

    def _take_over(self) -> None:
        """Take the lock of a process that has ended."""
        data = self._place.read(LOCK)
        holder = _parsed(data)
        if data is not None and not _has_ended(holder):
            raise _refusal(self._place, holder)
        self._place.delete([LOCK])
        if not self._place.create(LOCK, self._data()):
            raise _refusal(self._place, _parsed(self._place.read(LOCK)))
        # Who deleted the same old lock a moment later has deleted this one: the last that is there counts.
        time.sleep(0.2)
        if not self._is_mine():
            raise _refusal(self._place, _parsed(self._place.read(LOCK)))

    def _is_mine(self) -> bool:
        return bool(_parsed(self._place.read(LOCK)).get("token") == self._about["token"])

    def _renew(self) -> None:
        while not self._stop.wait(_RENEWED_EVERY):
            with suppress(OSError):
                if not self._is_mine():
                    self.lost = True
                    return
                self._place.write(LOCK, self._data())

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            if self._is_mine():
                self._place.delete([LOCK])


def _has_ended(holder: Mapping[str, Any]) -> bool:
    if time.time() - float(holder.get("time", 0)) > _STALE_AFTER:
        return True
    if holder.get("host") != socket.gethostname() or not _started(os.getpid()):
        return False
    return bool(_started(int(holder["pid"])) != holder.get("started"))
