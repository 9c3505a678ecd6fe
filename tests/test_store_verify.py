"""Damage is found, whatever it is and wherever, and only what is damaged is redone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from test_store import GOLDEN, a_plan, put, write
from typer.testing import CliRunner

from fmx.cli.verify import verify
from fmx.errors import StoreError
from fmx.store import (
    StorePlan,
    UnitWriter,
    create_store,
    finish_store,
    mark_for_repair,
    open_store,
    pending_units,
    schema,
    verify_store,
)

NUMBERS = [f"n{i}" for i in range(5)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        write(path, a_plan(NUMBERS))
    return path


@pytest.fixture
def store(tmp_path, original):
    shutil.copytree(original, tmp_path / "s")
    return tmp_path / "s"


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def lose(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


HARMS = {"missing": lose, "truncated": cut, "altered": flip}
CHUNK = "layers/conv1/activation/c/1/0/1/0/0/0"


class Redone(UnitWriter):
    """Writes what the plan of the tests holds, and knows which units that were."""

    def __init__(self, path, plan):
        super().__init__(path)
        self.plan = plan

    def put(self, key, rows, block, *, noise=None, timestep=0):
        for row, one in zip(range(rows.start, rows.stop), block, strict=True):
            at = row * self.plan.timesteps + timestep
            super().put(key, slice(at, at + 1), one[None], noise=noise)


def repair(path, plan):
    mark_for_repair(path, verify_store(path), plan)
    units = pending_units(path)
    with Redone(path, plan) as writer:
        for unit in units:
            put(writer, unit)
    finish_store(open_store(path).place)
    return units


def test_a_whole_store_is_whole(store):
    seen = []
    found = verify_store(store, lambda done, total: seen.append((done, total)))
    assert (found.whole, found.samples, found.units, found.orphans, found.pending) == (True, {}, [], [], 0)
    # 3 units of 1 chunk, 2 levels and 2 timesteps; pictures have no levels.
    assert {key: r.chunks for key, r in found.arrays.items()} == {
        "conv1": 12,
        "torch/relu:2": 12,
        "inputs": 6,
        "outputs/logits": 12,
    }
    assert seen == [(i + 1, 42) for i in range(42)]


@pytest.mark.parametrize("what", HARMS)
@pytest.mark.parametrize("name", [CHUNK, "inputs/picture/c/2/1/0/0/0", "outputs/logits/c/0/0/0/0"])
def test_a_damaged_chunk_is_found_and_redone_alone(store, original, what, name):
    HARMS[what](store / name)
    found = verify_store(store)
    assert [(d.name, d.what) for d in found.damages] == [(name, what)]
    unit = [range(0, 2), range(2, 4), range(4, 5)][int(name.split("/c/")[1][0])]
    assert (found.units, found.samples) == ([unit], {i: NUMBERS[i] for i in unit})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        assert repair(store, a_plan(NUMBERS)) == [unit]
    assert verify_store(store).whole
    assert contents(store) == contents(original)


def test_every_bit_counts(store):
    path = store / CHUNK
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert not verify_store(store).whole
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert [d.what for d in verify_store(store).damages] == ["truncated"]


@pytest.mark.parametrize("harm", [lose, empty, flip])
@pytest.mark.parametrize(
    "name",
    [
        "sample/c/0",
        "noise/c/0",
        "timestep/c/0",
        "layers/conv1/channel/c/0",
        "complete/c/1",
        "layers/conv1/activation/zarr.json",
        "layers/zarr.json",
    ],
)
def test_damaged_labels_and_metadata(store, original, harm, name):
    harm(store / name)
    found = verify_store(store)
    assert [d.name for d in found.labels] == [name]
    assert not found.whole
    assert found.units == ([range(2, 4)] if name.startswith("complete") else [])
    assert list(found.samples) == ([2, 3] if name.startswith("complete") else [])
    if not name.endswith("json") and not name.startswith("complete"):
        with pytest.raises(StoreError, match=r"is (missing|altered): extract again with --repair"):
            mark_for_repair(store, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        repair(store, a_plan(NUMBERS))
    assert contents(store) == contents(original)


def test_labels_are_not_made_from_other_data(store):
    lose(store / "path/c/0")
    with pytest.raises(StoreError, match="can't be made from this data"):
        mark_for_repair(store, verify_store(store), a_plan(NUMBERS[1:]))


@pytest.mark.parametrize("harm", [empty, cut])
def test_a_damaged_root_is_said(store, harm):
    harm(store / "zarr.json")
    with pytest.raises(StoreError, match=r"its zarr\.json can't be read"):
        verify_store(store)


def test_what_was_not_extracted_yet_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
    plan = a_plan(NUMBERS)
    with Redone(create_store(tmp_path / "s", plan), plan) as writer:
        put(writer, range(2, 4))
    found = verify_store(tmp_path / "s")
    assert (found.whole, found.pending) == (True, 3)
    lose(tmp_path / "s" / CHUNK)
    assert verify_store(tmp_path / "s").units == [range(2, 4)]


def test_what_belongs_to_nothing_is_noted(store):
    strange = [
        "layers/conv1/activation/c/0/0/0/0/0/0.af3.partial",
        "layers/conv1/activation/c/9/0/0/0/0/0",
        "thesis.txt",
    ]
    for name in strange:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("x")
    found = verify_store(store)
    assert (found.whole, found.orphans) == (True, sorted(strange))


def test_stores_of_format_1_from_before_are_whole():
    assert verify_store(GOLDEN).whole


def test_older_stores_lack_chunks_of_nothing_but_zeros(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "s")
    lose(tmp_path / "s" / "inputs/picture/c/0/0/0/0/0")
    assert verify_store(tmp_path / "s").whole


def test_values_of_any_kind_are_redone_to_the_same_bytes(tmp_path, monkeypatch):
    """Also counts of what is not finite, and floats that are rounded."""
    from fmx.layers import LayerInfo

    layers = [LayerInfo("fc", "Linear", ("channel",), (3,), "float32")]
    values = np.array([[1, np.nan, np.inf], [1e9, 2, 3], [0, 0, 0]], np.float32)
    plan = StorePlan(["a", "b", "c"], ["", "", ""], ["", "", ""], [0.0], layers, {}, dtype="float16")

    def run(units):
        with UnitWriter(tmp_path / "s") as writer:
            for unit in units:
                writer.start_unit(unit)
                writer.put("fc", slice(0, len(unit)), values[unit.start : unit.stop], noise=0)
                writer.finish_unit(unit)
        finish_store(open_store(tmp_path / "s").place)

    monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
    run(create_store(tmp_path / "s", plan) and pending_units(tmp_path / "s"))
    before = contents(tmp_path / "s")
    assert open_store(tmp_path / "s").unusual == {"fc": {"nan": 1, "inf": 2, "overflow": 1}}
    flip(tmp_path / "s/layers/fc/activation/c/0/0/0/0")
    mark_for_repair(tmp_path / "s", verify_store(tmp_path / "s"))
    assert open_store(tmp_path / "s").samples == ["a", "b", "c"]
    assert open_store(tmp_path / "s").layer("fc")["sample"].values.tolist() == ["c"]
    run(pending_units(tmp_path / "s"))
    assert contents(tmp_path / "s") == before


class TestCommand:
    def run(self, *arguments):
        app = typer.Typer()
        app.command()(verify)
        return CliRunner().invoke(app, [str(a) for a in arguments])

    def test_whole(self, store):
        ran = self.run(store)
        assert (ran.exit_code, f"{store} is whole." in ran.stdout) == (0, True)
        assert json.loads(self.run(store, "--json").stdout) == []

    def test_damaged(self, store):
        HARMS["missing"](store / CHUNK)
        HARMS["altered"](store / "path/c/0")
        ran = self.run(store)
        assert ran.exit_code == 1
        assert "To be redone: 2 samples, n2, n3" in ran.stdout
        assert f"fmx extract … -o {store} --repair" in ran.stdout
        assert "path/c/0 is altered" in ran.stdout
        rows = json.loads(self.run(store, "--json").stdout)
        assert rows == [
            {"array": "path", "object": "path/c/0", "damage": "altered", "samples": []},
            {"array": "conv1", "object": CHUNK, "damage": "missing", "samples": ["n2", "n3"]},
        ]
