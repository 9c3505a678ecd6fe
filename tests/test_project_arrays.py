"""``--arrays``: the values behind the pictures, in every kind of file, against what Python gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_project_cli
import xarray as xr
from test_project_cli import MODEL, run

import fmx
from fmx.project import Deconvnet, project_top, stored_pictures

photos, store = test_project_cli.photos, test_project_cli.store
KINDS = ["nc", "zarr", "npz"]


def read(path: Path) -> xr.Dataset:
    """Open a file as its reader would, without fmx."""
    if path.suffix != ".npz":
        return xr.open_dataset(path)
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        found = {name: (dims, arrays[name]) for name, dims in about["dims"].items()}
    coords = {name: found.pop(name) for name in about["coords"]}
    return xr.Dataset(found, coords, about["attributes"])


def model() -> Any:
    return fmx.load(MODEL, input_shape=(3, 18, 18))


def same(got: xr.DataArray, expected: xr.DataArray) -> None:
    assert got.dims == expected.dims
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(got.values, expected.values, rtol=1e-5, atol=1e-7)
    else:
        np.testing.assert_array_equal(got.values, expected.values)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_of_several_layers(kind: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / f"a.{kind}"
    done = run(cli, tmp_path, "deconv", photos, "--layers", "1,4", "--channels", "3,0", "--arrays", file)
    assert str(file) in done.out
    found = read(file)
    assert found["projection"].dims == ("sample", "layer", "channel", "colour", "y", "x")
    assert found["projection"].dtype == np.float32
    assert found["picture"].dtype == np.uint8
    assert found["colour"].values.tolist() == ["red", "green", "blue"]
    for layer in ("1", "4"):
        expected = fmx.project.deconv(model(), photos, layer, channels=[3, 0])
        one = found.sel(layer=layer)
        for name in ("projection", "value", "at_y", "at_x"):
            same(one[name], expected[name])
        for name in ("sample", "path", "label"):
            assert one[name].values.tolist() == expected[name].values.tolist()
        same(found["picture"], expected["picture"])
        keys = ("method", "model", "fingerprint", "preprocessing", "rule", "made_by")
        about = {key: found.attrs[key] for key in keys}
        assert about.items() <= expected.attrs.items()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_different_length_are_filled_up(kind: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / f"a.{kind}"
    run(cli, tmp_path, "deconv", photos / "cat", "--layers", "1,4", "--maps", "1.0", "--each", "--arrays", file)
    found = read(file)
    assert found.sizes["rank"] == 8
    for layer, count in (("1", 6), ("4", 8)):
        expected = fmx.project.deconv(model(), photos / "cat", layer, maps=1.0)
        one = found.sel(layer=layer)
        same(one["projection"][:, :count], expected["projection"])
        same(one["channel"][:, :count], expected["channel"])
        assert np.isnan(one["projection"][:, count:]).all()
        assert (one["channel"][:, count:] == -1).all()
        assert np.isnan(one["value"][:, count:]).all()


@pytest.mark.parametrize(
    ("words", "how"),
    [
        ("--maps 3", {"maps": 3, "group": "together"}),
        ("--film gif --frames 3", {"group": "growing", "steps": 3}),
    ],
)
def test_maps_together_and_growing(words: str, how: dict[str, Any], cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "a.zarr"
    run(cli, tmp_path, "deconv", photos / "cat", "--layer", "4", *words.split(), "--arrays", file)
    found = read(file).sel(layer="4")
    expected = fmx.project.deconv(model(), photos / "cat", "4", **how)
    for name in ("projection", "channel", "value"):
        same(found[name], expected[name])
    assert found.attrs["group"] == how["group"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["guided", "grad-cam", "integrated-gradients"])
def test_attributions(kind: str, method: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / f"a.{kind}"
    run(cli, tmp_path, "attribute", photos, "--method", method, "--class", "1,2", "--arrays", file)
    found = read(file)
    expected = fmx.project.attribute(model(), photos, method=method, classes=[1, 2])
    assert set(found.variables) == set(expected.variables) | {"sample"}
    for name in expected.data_vars:
        same(found[name], expected[name])
    assert found["attribution"].dtype == np.float32
    assert found.attrs.items() >= {key: expected.attrs[key] for key in ("method", "rule", "target")}.items()


def test_channels_are_attributed(cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "a.nc"
    words = ["attribute", photos / "cat", "--layer", "4", "--channels", "0-2", "--over", "max", "--arrays", file]
    run(cli, tmp_path, *words)
    expected = fmx.project.attribute(model(), photos / "cat", layer="4", channels=[0, 1, 2], over="max")
    for name in ("attribution", "at_y"):
        same(read(file)[name], expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_top_samples(kind: str, cli: Any, tmp_path: Path, store: Any) -> None:
    file = tmp_path / f"a.{kind}"
    words = ["--store", store.path, "--layer", "4", "--channels", "2,0", "--top", "2", "--arrays", file]
    run(cli, tmp_path, "deconv", *words)
    found = read(file).sel(layer="4")
    field = fmx.analyze.receptive_field(model().torch_module(), "4", (3, 18, 18))
    top = fmx.analyze.top_samples(store, k=2, layers="4", fields={"4": field})["4"]
    expected = project_top(Deconvnet(stored_pictures(model(), store)), "4", top, [2, 0])
    assert set(found.variables) == set(expected.variables) | {"layer"}
    for name in expected.data_vars:
        same(found[name], expected[name])


@pytest.mark.parametrize("kind", KINDS)
def test_occlusion(kind: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / f"a.{kind}"
    run(cli, tmp_path, "occlude", photos, "--patch", "6", "--stride", "6", "--engine", "eager", "--arrays", file)
    found = read(file)
    expected = fmx.project.occlude(model(), photos, patch=6, stride=6, engine="eager")
    for name in expected.data_vars:
        same(found[name], expected[name])
    assert found["target"].values.tolist() == ["class auto"]
    assert found.attrs["method"] == "occlusion"
    assert not list(tmp_path.rglob("maps.nc"))


def test_what_is_there_stays_unless_it_is_to_be_replaced(cli: Any, tmp_path: Path, photos: Path) -> None:
    file = tmp_path / "a.zarr"
    words = ["deconv", photos / "cat", "--layer", "4", "--arrays", file]
    run(cli, tmp_path, *words, "--channels", "3")
    failed = cli("deconv", MODEL, *words[1:], "--input-shape", "3,18,18", "-o", tmp_path / "b", "--channels", "2")
    assert failed.code == 2
    assert "a.zarr is already there: choose another name, or replace it with --overwrite" in failed.err
    assert not (tmp_path / "b").exists()
    run(cli, tmp_path, *words, "--channels", "2", "--overwrite")
    assert read(file)["channel"].values.tolist() == [2]
    # Nothing is above 0, which is known at the end only.
    run(cli, tmp_path, *words, "--channels", "5", "--overwrite", ok=False)
    assert read(file)["channel"].values.tolist() == [2]
    assert not list(tmp_path.glob(".*"))


def test_a_store_is_never_replaced(cli: Any, tmp_path: Path, photos: Path) -> None:
    kept = fmx.extract(MODEL, photos, to=tmp_path / "s.zarr", layers="4", input_shape=(3, 18, 18))
    words = ["deconv", photos / "cat", "--layer", "4", "--arrays", kept.path, "--overwrite"]
    assert "was not written by --arrays" in run(cli, tmp_path, *words, ok=False).err
    assert len(fmx.open_store(kept.path).samples) == 4


@pytest.mark.parametrize("file", ["a.csv", "a", "s3://bucket/a.zarr"])
def test_other_files_are_refused_before_anything_runs(file: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    failed = run(cli, tmp_path, "deconv", photos, "--layer", "4", "--arrays", file, ok=False)
    assert f"--arrays takes a file whose name ends in .nc, .zarr, .npz, not '{file}'" in failed.err


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_large_for_memory_is_for_zarr(
    kind: str, cli: Any, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both pictures and half of their projections.
    monkeypatch.setattr("fmx.cli.arrays.MOST_BYTES", 2 * 18 * 18 * 3 * (1 + 4))
    file = tmp_path / f"a.{kind}"
    words = ["deconv", photos / "cat", "--layer", "4", "--channels", "2,3", "--arrays", file]
    done = run(cli, tmp_path, *words, ok=kind == "zarr")
    assert file.exists() == (kind == "zarr")
    assert ("let --arrays end in .zarr" in done.err) == (kind != "zarr")
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_can_not_be_written(cli: Any, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "file").write_text("")
    words = ["deconv", photos / "cat", "--layer", "4", "--arrays", tmp_path / "file" / "a.zarr"]
    assert "can't be written" in run(cli, tmp_path, *words, ok=False).err
