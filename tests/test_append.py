"""Adding samples, layers and noise levels to a finished store, and repairing a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_resume import UNIT_BYTES, content, extract, stop_after

import fmx
from fmx.errors import StoreError


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", UNIT_BYTES)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[range], Path]:
    """Give a folder with pictures of these numbers."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)

    def make(numbers: range) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for i in numbers:
            Image.fromarray(pixels[i]).save(folder / f"{i:02}.png")
        return folder

    return make


def same(one: Any, two: Any, layers: str = "stem,layer1.0.add,fc") -> None:
    """Compare two stores by label, whatever the order of samples and levels in them."""
    assert sorted(one.samples) == sorted(two.samples)
    for name in layers.split(","):
        a, b = one.activation(name), two.activation(name)
        b = b.sel(sample=a["sample"], noise=a["noise"])
        np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=1e-5)
        assert a["label"].values.tolist() == b["label"].values.tolist()
    pictures = two.pictures.sel(sample=one.pictures["sample"])
    np.testing.assert_array_equal(one.pictures.values, pictures.values)
    outputs = [store.tree["outputs"].to_dataset()["output"] for store in (one, two)]
    other = outputs[1].sel(sample=outputs[0]["sample"], noise=outputs[0]["noise"])
    np.testing.assert_allclose(outputs[0].values, other.values, rtol=1e-5, atol=1e-5)


HOW: dict[str, Any] = {"pictures": fmx.PictureOptions(size=32)}


@pytest.mark.parametrize("stop", [None, stop_after(2)], ids=["at once", "stopped and continued"])
def test_samples_layers_and_levels(stop: Any, pictures: Callable[[range], Path], tmp_path: Path) -> None:
    data = pictures(range(0, 40, 2))
    extract(tmp_path / "a.zarr", data, layers="stem,fc", **HOW)
    data = pictures(range(1, 30, 3))
    more: dict[str, Any] = {"layers": "stem,layer1.0.add,fc", "noise": [0, 0.1, 0.3]} | HOW
    if stop is not None:
        extract(tmp_path / "a.zarr", data, append=True, stop=stop, **more)
        seen = fmx.open_store(tmp_path / "a.zarr")
        assert len(seen.samples) == 20
        assert [info.name for info in seen.layers] == ["stem", "fc"]
        assert seen.tree["noise"].values.tolist() == [0, 0.3]
    grown = extract(tmp_path / "a.zarr", data, append=True, **more)
    whole = extract(tmp_path / "b.zarr", data, **more)
    assert [info.name for info in grown.layers] == ["stem", "layer1.0.add", "fc"]
    assert grown.tree["noise"].values.tolist() == [0, 0.3, 0.1]
    same(whole, grown)
    again = content(tmp_path / "a.zarr")
    extract(tmp_path / "a.zarr", data, append=True, **more)
    # Without --append there is nothing to do either, though samples and levels have another order.
    extract(tmp_path / "a.zarr", data, **more)
    assert content(tmp_path / "a.zarr") == again
    (data / "02.png").write_bytes((data / "04.png").read_bytes())
    with pytest.raises(StoreError, match="content of the samples has changed"):
        extract(tmp_path / "a.zarr", pictures(range(1)), append=True, **more)


@pytest.mark.parametrize(
    "more", [{"noise": [0, 0.7]}, {"layers": "layer1.0.add"}, {"layers": "fc", "noise": [0, 0.7]}], ids=str
)
def test_one_thing_at_a_time(more: dict[str, Any], pictures: Callable[[range], Path], tmp_path: Path) -> None:
    data = pictures(range(13))
    extract(tmp_path / "a.zarr", data, layers="stem,fc", **HOW)
    grown = extract(tmp_path / "a.zarr", data, append=True, **({"layers": "stem,fc"} | more | HOW))
    layers = ",".join(info.name for info in grown.layers)
    levels = grown.tree["noise"].values.tolist()
    whole = extract(tmp_path / "b.zarr", data, layers=layers, noise=levels, **HOW)
    same(whole, grown, layers)


def test_other_settings_are_refused(pictures: Callable[[range], Path], tmp_path: Path) -> None:
    data = pictures(range(9))
    extract(tmp_path / "a.zarr", data, stop=stop_after(1), **HOW)
    with pytest.raises(StoreError, match="is not finished"):
        extract(tmp_path / "a.zarr", pictures(range(12)), append=True, **HOW)
    (data / "09.png").unlink(), (data / "10.png").unlink(), (data / "11.png").unlink()
    extract(tmp_path / "a.zarr", data, **HOW)
    with pytest.raises(StoreError, match="made differently: seed"):
        extract(tmp_path / "a.zarr", pictures(range(12)), append=True, seed=6, **HOW)


def damage(store: Path) -> set[str]:
    """Alter, cut and delete one chunk each; give their names."""
    chunks = sorted((store / "layers" / "stem" / "activation" / "c").rglob("*"))
    files = [f for f in chunks if f.is_file()]
    altered, cut, gone = files[1], files[3], files[-1]
    altered.write_bytes(bytes(reversed(altered.read_bytes())))
    cut.write_bytes(cut.read_bytes()[:-20])
    gone.unlink()
    return {f.relative_to(store).as_posix() for f in (altered, cut, gone)}


def test_damage_is_named_and_repaired(pictures: Callable[[range], Path], tmp_path: Path, cli: Any) -> None:
    data = pictures(range(37))
    extract(tmp_path / "a.zarr", data, **HOW)
    whole = content(tmp_path / "a.zarr")
    assert cli("verify", tmp_path / "a.zarr").code == 0
    names = damage(tmp_path / "a.zarr")
    ran = cli("verify", tmp_path / "a.zarr", "--json")
    assert ran.code == 1
    rows = json.loads(ran.out)
    assert {row["object"] for row in rows} == names
    assert {row["damage"] for row in rows} == {"altered", "truncated", "missing"}
    assert "--repair" in cli("verify", tmp_path / "a.zarr").out
    with pytest.raises(StoreError, match="seed: 5 in the store, 6 wanted"):
        extract(tmp_path / "a.zarr", data, repair=True, seed=6, **HOW)
    ids = {sample for row in rows for sample in row["samples"]}
    made: list[Any] = []
    extract(tmp_path / "a.zarr", data, repair=True, progress=made.append, **HOW)
    # Whole units are made anew, and no others.
    assert len(ids) <= made[-1].done - made[0].done < 37
    assert content(tmp_path / "a.zarr") == whole
    assert cli("verify", tmp_path / "a.zarr").code == 0


def test_damaged_labels_are_restored(pictures: Callable[[range], Path], tmp_path: Path) -> None:
    data = pictures(range(9))
    extract(tmp_path / "a.zarr", data, **HOW)
    whole = content(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "sample" / "c" / "0").write_bytes(b"nonsense")
    extract(tmp_path / "a.zarr", data, repair=True, **HOW)
    assert content(tmp_path / "a.zarr") == whole
