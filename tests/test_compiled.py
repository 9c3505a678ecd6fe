"""Compiled functions work wherever they can be compiled, whether or not the machine code can be kept."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from numba.core import caching

from fmx.reduce.compiled import entry

CODE = "def double(x):\n    return 2 * x\n"


def made(file: Path) -> Any:
    """Compile a function of a file, which is there or isn't."""
    names: dict[str, Any] = {}
    exec(compile(CODE, str(file), "exec"), names)
    return entry(names["double"])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "code.py"
    place.write_text(CODE)
    monkeypatch.setattr(caching.config, "CACHE_DIR", "")
    return place


def test_machine_code_is_kept_and_read_again(file: Path) -> None:
    assert [made(file)(n) for n in (2, 3)] == [4, 6]
    assert list((file.parent / "__pycache__").glob("*.nbc"))
    again = made(file)
    assert again(4) == 8
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("what", ["_open_for_write", "load"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.ENOENT])
def test_a_full_disk_or_a_folder_that_has_gone_keeps_nothing(
    what: str, code: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: Any) -> Any:
        raise OSError(code, "refused")

    monkeypatch.setattr(caching.IndexDataCacheFile, what, refused)
    double = made(file)
    assert [double(n) for n in (2, 3)] == [4, 6]
    assert double(1.5) == 3.0


def test_where_there_is_no_folder_at_all_it_is_compiled_each_time(tmp_path: Path) -> None:
    assert made(tmp_path / "nowhere" / "code.py")(5) == 10
