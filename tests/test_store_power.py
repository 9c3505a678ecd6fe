"""What a power cut takes: whatever was written and not waited for. Nothing that counts as done is among it."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import test_store
import test_store_append as appended

from fmx.store import UnitWriter, create_store, open_store, pending_units, place_of, schema, verify_store
from fmx.store import places as places_module
from fmx.store.places import FolderPlace


class Disk:
    """Notes which files have reached the disk, and gives a store as a power cut would leave it."""

    def __init__(self, monkeypatch):
        self.safe = {}
        flush, partial = os.fsync, FolderPlace._partial

        def fsync(descriptor):
            flush(descriptor)
            self.safe[os.fstat(descriptor).st_ino] = True

        def begin(place, parts, *, settled=False):
            path = partial(place, parts, settled=settled)
            self.safe[path.stat().st_ino] = settled
            return path

        monkeypatch.setattr(places_module.os, "fsync", fsync)
        monkeypatch.setattr(FolderPlace, "_partial", begin)

    def cut(self, path, to):
        """Copy a store with every file empty that has not reached the disk."""
        lost = [
            file for file in path.glob("[!.]*/**/*") if file.is_file() and not self.safe.get(file.stat().st_ino, True)
        ]
        # Others go on writing meanwhile.
        shutil.copytree(path, to, ignore=shutil.ignore_patterns(f"{schema.PARTIAL}*"))
        for file in lost:
            (to / file.relative_to(path)).write_bytes(b"")
        return lost


def test_a_unit_counts_as_done_once_it_has_reached_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 1)
    disk = Disk(monkeypatch)
    plan = test_store.a_plan()
    place = create_store(tmp_path / "s", plan)
    assert disk.cut(tmp_path / "s", tmp_path / "empty") == []
    with UnitWriter(place) as writer:
        writer.plan = plan
        for number, unit in enumerate(plan.units()):
            fill(writer, unit)
            writer.wait()
            disk.cut(tmp_path / "s", tmp_path / str(number))
            assert pending_units(tmp_path / str(number)) == plan.units()[number + 1 :]
            assert verify_store(tmp_path / str(number)).whole
        writer.start_unit(range(0, 1))  # which is begun again and not ended
        writer.put("conv1", slice(0, 2), np.zeros((2, 2, 3, 4), np.float32), noise=0)
        writer._encoders.shutdown()
        assert len(disk.cut(tmp_path / "s", tmp_path / "begun")) == 2
        writer._unit = None


def fill(writer, unit):
    writer.start_unit(unit)
    for key, values in test_store.a_filling(writer.plan).items():
        part = values[unit.start : unit.stop]
        rows = slice(0, len(unit) * writer.plan.timesteps)
        if key == "inputs":
            writer.put(key, rows, part.reshape(-1, *part.shape[2:]))
            continue
        for level in range(len(writer.plan.noise)):
            writer.put(key, rows, part[:, level].reshape(-1, *part.shape[3:]), noise=level)
    writer.finish_unit(unit)


@pytest.mark.parametrize("samples", [3, 4])
def test_an_append_does_not_risk_what_is_there(tmp_path, monkeypatch, samples):
    monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
    old = appended.a_plan(appended.names(0, samples))
    appended.make(tmp_path / "s", old)
    disk = Disk(monkeypatch)
    settle, cuts = FolderPlace.settle, []

    def cut_first(place, names):
        cuts.append(tmp_path / f"cut{len(cuts)}")
        disk.cut(tmp_path / "s", cuts[-1])
        settle(place, names)

    monkeypatch.setattr(FolderPlace, "settle", cut_first)
    assert appended.append(tmp_path / "s", appended.a_plan(appended.names(0, 9)))
    for path in cuts:
        appended.check(path, appended.names(0, samples), [0.0], appended.LAYERS, old)
    assert len(cuts) == (3 if samples == 3 else 2)
    assert open_store(place_of(tmp_path / "s")).samples == appended.names(0, 9)
