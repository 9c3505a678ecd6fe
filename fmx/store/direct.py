"""Writing large objects past the system's cache.

Copying into the cache, finding pages for it and moving them out later takes the processor 0.3 to 1.3 ms a megabyte,
which a model that runs beside it misses. Handed to the disk as they lie, the same bytes take 0.1 ms. A store that is
larger than memory would not be in the cache when it is read anyway.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGE", "Part", "write_past_cache"]

# Bytes, or an array of uint8.
Part = bytes | NDArray[np.uint8]
# Objects of fewer bytes are left to the cache.
LARGE = 2**19
# Disks take whole blocks, from memory that begins at a multiple of them.
_BLOCK = 4096
_staged = threading.local()


def write_past_cache(descriptor: int, parts: Sequence[Part]) -> bool:
    """Write all of an empty file past the cache; False where the system or the disk can't, and nothing was written.

    Parameters
    ----------
    descriptor : int
        Of the file, open for writing.
    parts : sequence of bytes or array of uint8
        What the file shall consist of.

    Raises
    ------
    OSError
        It can't be written, such as when the disk is full.
    """
    if sys.platform != "linux":
        return False
    size = sum(map(len, parts))
    try:
        _switch(descriptor, on=True)
    except OSError:
        return False
    try:
        _write_all(descriptor, _stage(parts, size))
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The disk has blocks of another size, or took half a block before it was full.
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    finally:
        _switch(descriptor, on=False)
    return True


def _switch(descriptor: int, *, on: bool) -> None:
    import fcntl

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _stage(parts: Sequence[Part], size: int) -> memoryview:
    """Give the parts in one piece, where a disk can fetch them; good until this thread stages the next ones."""
    room = -(-size // _BLOCK) * _BLOCK
    buffer: mmap.mmap | None = getattr(_staged, "buffer", None)
    if buffer is None or len(buffer) < room:
        buffer = _staged.buffer = mmap.mmap(-1, room)
    view = np.frombuffer(buffer, np.uint8)
    start = 0
    for part in parts:
        view[start : start + len(part)] = np.frombuffer(part, np.uint8)
        start += len(part)
    return memoryview(buffer)[:room]
