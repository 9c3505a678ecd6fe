"""Large objects are written past the system's cache, and are the same objects."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmx.store import direct
from fmx.store.direct import LARGE, write_past_cache
from fmx.store.places import FolderPlace

SIZES = [LARGE, LARGE + 1, LARGE + 4095, LARGE + 4096, 3 * LARGE + 4]


def data_of(size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("size", [0, 1, LARGE - 5, *SIZES])
def test_objects_of_any_size_are_written_whole(tmp_path: Path, size: int) -> None:
    place, data = FolderPlace(tmp_path / "store"), data_of(size)
    place.write("a/b/c", data, b"sum!")
    place.write("a/b/d", data.tobytes())
    assert (tmp_path / "store/a/b/c").read_bytes() == data.tobytes() + b"sum!"
    assert place.read("a/b/d") == data.tobytes()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a"]


def test_smaller_objects_after_a_larger_one_hold_nothing_of_it(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path)
    place.write("large", data_of(3 * LARGE))
    place.write("small", data_of(LARGE + 17))
    assert place.read("small") == data_of(LARGE + 17).tobytes()


@pytest.mark.parametrize("after", [0, 4096, 5000])
def test_what_the_disk_takes_in_other_blocks_goes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write = os.write

    def other_blocks(descriptor: int, data: Any) -> int:
        if not after or len(data) <= 3 * LARGE - after:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data[: after // 4096 * 4096]) + after % 4096

    monkeypatch.setattr(direct.os, "write", other_blocks)
    FolderPlace(tmp_path).write("large", data_of(3 * LARGE), b"more")
    assert (tmp_path / "large").read_bytes() == data_of(3 * LARGE).tobytes() + b"more"


def test_systems_that_have_no_such_way_use_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(direct, "_switch", refused)
    with (tmp_path / "file").open("xb", buffering=0) as file:
        assert not write_past_cache(file.fileno(), [data_of(LARGE)])
    assert (tmp_path / "file").stat().st_size == 0


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(direct.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        FolderPlace(tmp_path).write("large", data_of(LARGE))
    assert not list(tmp_path.iterdir())
