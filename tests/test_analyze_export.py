"""Results and activations as files: the same numbers in every format, and little in memory."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from analysis_stores import LABELS, random_values, same, write_store
from small_stores import write_store as small_store

from fmx.analyze import (
    aggregate,
    class_profile,
    class_sums,
    export_activations,
    export_results,
    hist,
    rank,
    stats,
    top_samples,
)
from fmx.analyze.export import tables_of
from fmx.errors import FmxError, StoreError
from fmx.store import open_analysis, open_store, save_analysis


@pytest.fixture
def store(tmp_path):
    """A store of maps and of tokens at two noise levels."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(11, 2, 1, 3, 4)).astype(np.float32)
    return write_store(tmp_path / "s", {"a.maps": random_values(noise=2), "b/tokens": tokens}, noise=(0.0, 0.5))


def read(file):
    if file.suffix == ".csv":
        return pd.read_csv(file)
    return pd.read_parquet(file)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_hold_every_number_once(store, tmp_path, form):
    found = stats(store, by=("noise", "channel"))
    files = export_results(found, tmp_path / "out", format=form)
    assert [f.name for f in files] == [f"a.maps.{form}", f"b-tokens.{form}"]
    for file, dataset in zip(files, found.values(), strict=True):
        table = read(file)
        assert list(table.columns[:2]) == ["noise", "channel"]
        assert len(table) == 2 * dataset.sizes["channel"]
        for row in table.to_dict("records"):
            for name in ("mean", "std", "count", "median"):
                same(row[name], dataset[name].sel(noise=row["noise"], channel=row["channel"]))


def test_variables_of_other_axes_have_their_own_table(store, tmp_path):
    found = hist(store, layers="a.maps", by="channel", bins=4)
    tables = tables_of(found["a.maps"])
    assert list(tables) == ["channel-bin", "channel-edge"]
    assert [len(t) for t in tables.values()] == [6 * 4, 6 * 5]
    files = export_results(found, tmp_path)
    assert [f.name for f in files] == ["a.maps.csv", "a.maps.channel-edge.csv"]
    same(read(files[1])["cdf"].to_numpy().reshape(6, 5), found["a.maps"]["cdf"])


@pytest.mark.parametrize("form", ["csv", "parquet", "npy", "h5"])
def test_maps_are_one_file_for_each_layer_and_level(store, tmp_path, monkeypatch, form):
    monkeypatch.setattr("fmx.analyze.export.PART_BYTES", 500)
    found = aggregate(store, over="channel", how="sum", layers="a.maps")
    files = export_results(found, tmp_path, format=form, store=store)
    names = {
        "npy": ["a.maps_noise0.sum.npy", "a.maps_noise0.not_finite.npy"],
    }
    assert [f.name for f in files[: len(files) // 2]] == names.get(form, [f"a.maps_noise0.{form}"])
    values = store.activation("a.maps").values.sum(axis=3, dtype=np.float64)
    for level, file in enumerate(files if form != "npy" else files[::2]):
        if form == "npy":
            loaded = np.load(file)
            assert loaded.shape == (11, 1, 1, 4, 3)
            same(loaded[:, 0], values[:, level])
        elif form == "h5":
            with h5py.File(file) as opened:
                same(opened["sum"][:, 0], values[:, level])
                assert opened["sample"][3].decode() == store.samples[3]
                assert list(opened["sum"].attrs["dims"]) == ["sample", "noise", "timestep", "y", "x"]
                assert "sum of the finite" in opened["sum"].attrs["definition"]
        else:
            table = read(file)
            assert list(table.columns) == ["sample", "noise", "timestep", "y", "x", "sum", "not_finite"]
            same(table["sum"].to_numpy().reshape(11, 1, 4, 3), values[:, level])
            assert table["sample"].tolist()[:: 4 * 3] == store.samples


@pytest.mark.parametrize("form", ["npy", "h5", "parquet"])
def test_activations_come_out_as_they_are(store, tmp_path, monkeypatch, form):
    monkeypatch.setattr("fmx.analyze.export.PART_BYTES", 1000)
    files = export_activations(store, tmp_path, format=form, layers="all", noise=0.5)
    assert [f.name for f in files] == [f"a.maps_noise0.5.{form}", f"b-tokens_noise0.5.{form}"]
    for file, name in zip(files, ("a.maps", "b/tokens"), strict=True):
        wanted = store.activation(name).values[:, 1:]
        if form == "npy":
            found = np.load(file)
        elif form == "h5":
            with h5py.File(file) as opened:
                found = opened["activation"][:]
        else:
            found = read(file)["activation"].to_numpy().reshape(wanted.shape)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


def test_an_export_never_computes_a_layer_whole(tmp_path, monkeypatch):
    """See how large the parts are that are in memory at once."""
    values = random_values(samples=40, channels=8, size=(8, 8))
    store = write_store(tmp_path / "s", {"maps": values}, labels=["a", "b"] * 20, chunk_bytes=4000)
    monkeypatch.setattr("fmx.analyze.export.PART_BYTES", 20_000)
    seen = []
    whole = xr.Dataset.compute
    monkeypatch.setattr(xr.Dataset, "compute", lambda self, **k: seen.append(self.nbytes) or whole(self, **k))
    (file,) = export_activations(store, tmp_path / "out", format="npy")
    np.testing.assert_array_equal(np.load(file), values)
    assert len(seen) >= 5
    assert max(seen) < values.nbytes / 2


def test_saved_results_come_back(store):
    found = {
        "stats": stats(store, by=("label", "channel")),
        "rank": rank(store, per="class", top=2),
        "profile": class_profile(store),
        "top": top_samples(store, k=2, layers="a.maps"),
        "sums": class_sums(store, held_out=0.5),
        "means": {name: d.isel(sample=slice(2, 5)) for name, d in stats(store, by=("sample", "noise")).items()},
    }
    for name, results in found.items():
        save_analysis(store.path, name, results)
    tree = open_store(store.path).tree
    for name, results in found.items():
        back = open_analysis(tree, name)
        assert set(back) == set(results)
        for layer, dataset in results.items():
            for variable in dataset.data_vars:
                left, right = back[layer][variable], dataset[variable]
                assert left.attrs.get("definition") == right.attrs["definition"], (name, variable)
                if right.dtype.kind in "OTU":
                    assert [str(v) for v in left.values.flat] == [str(v) for v in right.values.flat]
                else:
                    assert left.dims == right.dims
                    np.testing.assert_array_equal(left.values, right.values)
    assert sorted(set(LABELS)) == [str(v) for v in open_analysis(tree, "rank")["a.maps"]["label"].values]


def test_results_take_the_place_of_others_with_more_and_with_fewer_axes(store):
    kinds = [stats(store, by=by) for by in ((), ("channel",), ("noise", "channel"), ("noise",), ())]
    for results in kinds:
        save_analysis(store.path, "stats", results)
        back = open_analysis(open_store(store.path).tree, "stats")
        for layer, dataset in results.items():
            np.testing.assert_array_equal(back[layer]["mean"].values, dataset["mean"].values)


@pytest.mark.parametrize("axis", ["sample", "noise", "timestep"])
def test_names_of_axes_leave_the_store_open(store, tmp_path, axis):
    with pytest.raises(StoreError, match="as an axis of the store is"):
        save_analysis(store.path, axis, stats(store))
    open_store(store.path)
    values = np.arange(24, dtype=np.float32).reshape(4, 1, 1, 3, 2)
    called = small_store(tmp_path / "called", {axis: values, "a.b/c": values})
    assert [info.name for info in called.layers] == [axis, "a.b/c"]
    np.testing.assert_array_equal(called.activation(axis).values, values)
    save_analysis(called.path, "stats", stats(called))
    assert set(open_analysis(open_store(called.path).tree, "stats")) == {axis, "a.b/c"}


@pytest.mark.parametrize("dim", ["sample", "noise", "timestep"])
def test_results_with_other_labels_than_the_store_leave_it_open_to_all(store, dim):
    """Save what differs from the root along an axis in every way, and see plain xarray open the store."""
    whole = {"sample": list(store.samples), "noise": [0.0, 0.5], "timestep": [0]}[dim]
    n = len(whole)
    number = np.arange(n, dtype=np.float64)
    axes = {
        "fewer": xr.Dataset({"v": (dim, number[1:])}, coords={dim: whole[1:]}),
        "more": xr.Dataset({"v": (dim, [*number, 7.0])}, coords={dim: [*whole, "new" if dim == "sample" else 9]}),
        "others": xr.Dataset({"v": (dim, number)}, coords={dim: [f"other {i}" for i in range(n)]}),
        "turned": xr.Dataset({"v": (dim, number[::-1])}, coords={dim: whole[::-1]}),
        "bare": xr.Dataset({"v": (dim, np.arange(n + 3.0))}),
        "none": xr.Dataset({"v": (dim, number[:0])}, coords={dim: np.asarray(whole)[:0]}),
        "the same": xr.Dataset({"v": (dim, number)}, coords={dim: whole}),
        "a value": xr.Dataset({dim: ("rank", np.arange(3)), "v": ("rank", np.arange(3.0))}),
        "one": xr.Dataset({"v": ("channel", np.arange(3.0))}, coords={dim: whole[0]}),
    }
    for name, dataset in axes.items():
        save_analysis(store.path, name.replace(" ", "-"), {"a.maps": dataset, "b/tokens": dataset})
    with xr.open_datatree(store.path, engine="zarr") as tree:
        assert set(tree["analysis"].children) == {name.replace(" ", "-") for name in axes}
    tree = open_store(store.path).tree
    for name, dataset in axes.items():
        for back in open_analysis(tree, name.replace(" ", "-")).values():
            assert set(back.variables) == set(dataset.variables), name
            for key, variable in dataset.variables.items():
                assert back[key].dims == variable.dims
                assert [str(v) for v in back[key].values.flat] == [str(v) for v in variable.values.flat], (name, key)
    assert tree["analysis/the-same/a.maps/v"].dims == (dim,)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x\n"])
def test_names_that_are_no_groups_are_refused(store, name):
    with pytest.raises(StoreError, match="under a name of letters"):
        save_analysis(store.path, name, {})


def test_mistakes(store, tmp_path):
    with pytest.raises(FmxError, match="Nothing is written as cvs: did you mean csv"):
        export_results({}, tmp_path, format="cvs")
    (tmp_path / "file").write_text("")
    with pytest.raises(FmxError, match="can't be written"):
        export_activations(store, tmp_path / "file", format="npy")


def test_files_are_called_as_pictures_are_and_never_overwrite_each_other(tmp_path):
    one = xr.Dataset({"v": ("channel", np.arange(3.0))})
    layers = ["relu:2", "relu-2", "RELU:2", "torch/relu", ":"]
    files = export_results({name: one + i for i, name in enumerate(layers)}, tmp_path)
    assert [file.stem for file in files] == ["relu-2", "relu-2-2", "RELU-2-3", "torch-relu", "layer"]
    assert [pd.read_csv(file)["v"][0] for file in files] == [0, 1, 2, 3, 4]
