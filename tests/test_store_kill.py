"""Kills at random moments: going on brings the same store, bit by bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import store_killed
from store_killed import a_plan, write

from fmx.store import open_store, schema, verify_store


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def killed_often(tmp_path, monkeypatch, mode, kills, seed):
    monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 8)
    monkeypatch.setattr(schema, "CHUNK_BYTES", 4096)
    (tmp_path / "whole").mkdir()
    if mode != "create":
        write(tmp_path / "s", a_plan(37, seed=1 if mode == "append" else 5))
        shutil.copytree(tmp_path / "s", tmp_path / "whole" / "s")
    command = [sys.executable, "-W", "error", store_killed.__file__, mode, str(tmp_path), str(kills), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    whole = contents(tmp_path / "whole" / "s")
    assert contents(tmp_path / "s") == whole
    assert len(whole) >= 40
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "whole"]
    assert verify_store(tmp_path / "s").whole
    assert open_store(tmp_path / "s").complete.all()
    return int(ran.stdout)


@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_a_few_kills(tmp_path, monkeypatch, mode):
    killed_often(tmp_path, monkeypatch, mode, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["create", "overwrite", "append"])
def test_a_hundred_kills(tmp_path, monkeypatch, mode):
    """More than a store needs: it is made again and again until there were enough."""
    killed, seed = 0, 0
    while killed < 100:
        folder = tmp_path / str(seed)
        folder.mkdir()
        killed += killed_often(folder, monkeypatch, mode, 100 - killed, seed)
        shutil.rmtree(folder)
        seed += 1
