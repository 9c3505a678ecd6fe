"""Statistics on Dask: the numbers of NumPy, whatever the chunks, in one lazy read."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.analyze import layer_stats, stats, to_rows
from fmx.analyze.dask_reduce import reduce_array
from fmx.errors import FmxError, LayerError
from fmx.layers import LayerInfo
from fmx.reduce import Moments
from fmx.store import StorePlan, StoreWriter, open_store

DIMS = ("sample", "noise", "timestep", "channel", "y", "x")
SHAPE = (5, 2, 2, 3, 4, 3)
NAMES = ["count", "mean", "std", "min", "max", "sparsity", "nan", "inf"]


def values_with_holes(shape=SHAPE, seed=3):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    values[values < -0.5] = 0
    values.flat[::17] = np.nan
    values.flat[5::41] = np.inf
    return values


def labelled(values, dims=DIMS):
    """Label an array as a store's layer is."""
    coords = {
        "sample": [f"cat/{i}.png" for i in range(values.shape[0])],
        "path": ("sample", [f"/data/{i}.png" for i in range(values.shape[0])]),
        "noise": np.arange(values.shape[1]) * 0.2,
        "timestep": np.arange(values.shape[2]),
        "channel": np.arange(values.shape[3]),
    }
    return xr.Dataset({"activation": (dims, values, {})}, coords=coords, attrs={"layer": "relu", "kind": "ReLU"})


def slow_stats(values, keep):
    """Reduce with NumPy, one kept label at a time, in float64."""
    kept = [i for i, dim in enumerate(DIMS) if dim in keep]
    shape = [values.shape[i] for i in kept]
    out = {name: np.full(shape, np.nan) for name in NAMES}
    for index in itertools.product(*map(range, shape)):
        where = [slice(None)] * values.ndim
        for i, position in zip(kept, index, strict=True):
            where[i] = position
        part = values[tuple(where)].astype(np.float64).ravel()
        finite = part[np.isfinite(part)]
        out["count"][index], out["nan"][index] = len(finite), np.isnan(part).sum()
        out["inf"][index] = np.isinf(part).sum()
        if len(finite):
            out["mean"][index], out["std"][index] = finite.mean(), finite.std()
            out["min"][index], out["max"][index] = finite.min(), finite.max()
            out["sparsity"][index] = (finite == 0).mean()
    return out


def check(dataset, values, keep):
    wanted = slow_stats(values, keep)
    assert set(dataset.data_vars) >= set(NAMES)
    for name in NAMES:
        assert dataset[name].dims == tuple(dim for dim in DIMS if dim in keep)
        np.testing.assert_allclose(dataset[name].values, wanted[name], rtol=1e-9, atol=1e-12, err_msg=name)


class Reads:
    """A lazy array that counts how often each of its chunks is read."""

    def __init__(self, values, chunks):
        self.seen = Counter()
        lock = threading.Lock()

        def load(block, block_info=None):
            with lock:
                self.seen[tuple(block_info[0]["chunk-location"])] += 1
            return block

        source = da.from_array(values, chunks=chunks)
        self.chunks = set(itertools.product(*map(range, source.numblocks)))
        self.array = source.map_blocks(load, dtype=values.dtype, meta=np.empty((0,) * values.ndim, values.dtype))


class TestNumbers:
    @pytest.mark.parametrize(
        "by",
        [(), ("channel",), ("noise",), ("sample",), ("noise", "channel"), ("timestep",), ("sample", "y", "x"), DIMS],
        ids=str,
    )
    @pytest.mark.parametrize("lazy", [False, True])
    def test_every_combination_of_labels(self, by, lazy):
        values = values_with_holes()
        data = labelled(da.from_array(values, chunks=(2, 1, 1, 2, 4, 2)) if lazy else values)
        check(layer_stats(data, by=by), values, by)

    @settings(deadline=None)
    @given(st.data())
    def test_any_chunks(self, data):
        values = values_with_holes()
        cuts = [sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=n - 1))) for n in SHAPE]
        chunks = tuple(tuple(np.diff([0, *c, n]).tolist()) for c, n in zip(cuts, SHAPE, strict=True))
        by = data.draw(st.lists(st.sampled_from(DIMS), unique=True))
        with dask.config.set(scheduler="sync"):
            result = layer_stats(labelled(da.from_array(values, chunks=chunks)), by=by)
        check(result, values, by)

    def test_labels_and_definitions_stay(self):
        data = labelled(da.from_array(values_with_holes(), chunks=2))
        result = layer_stats(data, by=("sample", "channel"))
        assert result["sample"].values.tolist() == data["sample"].values.tolist()
        assert result["path"].values.tolist() == data["path"].values.tolist()
        assert set(result.coords) == {"sample", "path", "channel"}
        assert result.attrs == data.attrs
        assert all(result[name].attrs["definition"] for name in NAMES)

    def test_by_label(self):
        values = values_with_holes()
        names = ["b", "a", "b", "c", "a"]
        data = labelled(da.from_array(values, chunks=(2, 1, 1, 2, 4, 2))).assign_coords(label=("sample", names))
        result = layer_stats(data, by=("label", "channel"))
        assert result["label"].values.tolist() == ["a", "b", "c"]
        for label, name in enumerate("abc"):
            part = values[[i for i, own in enumerate(names) if own == name]]
            check(result.isel(label=label, drop=True), part, ("channel",))

    def test_no_label(self):
        with pytest.raises(FmxError, match="samples of relu have no labels"):
            layer_stats(labelled(values_with_holes()), by="label")

    def test_quantiles(self):
        values = values_with_holes()
        result = layer_stats(labelled(values), by="channel", quantiles=(0.25, 0.5))
        finite = np.where(np.isfinite(values), values, np.nan)
        np.testing.assert_allclose(result["q0.25"], np.nanquantile(finite, 0.25, axis=(0, 1, 2, 4, 5)), atol=0.03)
        np.testing.assert_allclose(result["median"], np.nanmedian(finite, axis=(0, 1, 2, 4, 5)), atol=0.03)

    def test_no_samples(self):
        empty = labelled(da.from_array(np.empty((0, *SHAPE[1:]), np.float32), chunks=2))
        result = layer_stats(empty, by=("channel",))
        assert result["count"].values.tolist() == [0, 0, 0]
        assert np.isnan(result["mean"].values).all()

    def test_unknown_axis(self):
        data = labelled(values_with_holes())
        with pytest.raises(FmxError, match="relu has no axis token: there are sample, noise, timestep, channel, y, x"):
            layer_stats(data, by=("token",))
        with pytest.raises(FmxError, match="did you mean channel"):
            layer_stats(data, by=("chanel",))


class TestLaziness:
    def test_nothing_is_read_until_asked_for(self):
        reads = Reads(values_with_holes(), (2, 1, 1, 2, 4, 3))
        states = reduce_array(labelled(reads.array)["activation"], Moments(), ["channel"])
        assert states.dims == ("channel",)
        assert states.dtype == Moments.dtype
        assert reads.seen == {}
        states.compute()
        assert reads.seen == dict.fromkeys(reads.chunks, 1)

    @pytest.mark.parametrize("by", [(), ("channel",), ("sample", "noise")], ids=str)
    def test_one_read_for_all_statistics(self, by):
        reads = Reads(values_with_holes(), (2, 1, 2, 3, 2, 3))
        layer_stats(labelled(reads.array), by=by)
        assert reads.seen == dict.fromkeys(reads.chunks, 1)


# -- on a store ------------------------------------------------------------------------------------

LAYERS = [
    LayerInfo("conv", "Conv2d", ("channel", "y", "x"), (3, 4, 4), "float32"),
    LayerInfo("relu:2", "ReLU", ("channel", "y", "x"), (3, 2, 2), "float32"),
    LayerInfo("tokens", "LayerNorm", ("token", "channel"), (5, 3), "float16"),
]


@pytest.fixture
def made(tmp_path):
    """Write three samples of a plan for five in units of one, and give store and values."""
    rng = np.random.default_rng(5)
    ids = [f"dog/{i}.png" for i in range(5)]
    plan = StorePlan(ids, ids, ["dog"] * 5, [0.0, 0.5], LAYERS, {"layers": [i.name for i in LAYERS]})
    values = {i.name: rng.normal(size=(5, 2, 1, *i.shape)).astype(i.dtype) for i in LAYERS}

    def make(units):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fmx.store.schema.MOST_UNIT_SAMPLES", 1)
            with StoreWriter(tmp_path / "s", plan) as writer:
                for unit in [writer.plan.units()[i] for i in units]:
                    writer.start_unit(unit)
                    for name, array in values.items():
                        for level in range(2):
                            writer.put(name, slice(0, 1), array[unit.start : unit.stop, level, 0], noise=level)
                    writer.finish_unit(unit)
        return open_store(tmp_path / "s"), values

    return make


class TestStores:
    def test_all_layers(self, made):
        store, values = made(range(5))
        results = stats(store, by=("noise", "channel"))
        assert list(results) == ["conv", "relu:2", "tokens"]
        for name, dataset in results.items():
            axes = (0, 2, 3) if name == "tokens" else (0, 2, 4, 5)
            np.testing.assert_allclose(dataset["mean"], values[name].mean(axis=axes, dtype=np.float64), atol=1e-12)
            np.testing.assert_allclose(dataset["std"], values[name].astype(float).std(axis=axes), rtol=1e-6)
            assert dataset.attrs["layer"] == name

    def test_chosen_layers(self, made):
        store, _ = made(range(5))
        assert list(stats(store, layers="kind:*Norm,conv")) == ["conv", "tokens"]
        with pytest.raises(LayerError, match="did you mean conv"):
            stats(store, layers="conf")
        with pytest.raises(FmxError, match="tokens has no axis y: there are sample, noise, timestep, token, channel"):
            stats(store, by=("y",))

    def test_a_partial_store_is_described_by_its_complete_samples(self, made):
        store, values = made([0, 3])
        with pytest.raises(FmxError, match=r"not complete \(2 of 5 samples\): .*--allow-partial"):
            stats(store, layers="conv")
        result = stats(store, layers="conv", by=("sample",), allow_partial=True)["conv"]
        assert result["sample"].values.tolist() == ["dog/0.png", "dog/3.png"]
        assert result["nan"].values.tolist() == [0, 0]
        np.testing.assert_allclose(result["mean"], values["conv"][[0, 3]].mean(axis=(1, 2, 3, 4, 5), dtype=float))

    def test_rows(self, made):
        store, values = made(range(5))
        rows = to_rows(stats(store, by=("noise", "channel")))
        assert len(rows) == 3 * 2 * 3
        assert all(set(row) >= {"layer", "noise", "channel", *NAMES} for row in rows)
        assert [(row["layer"], row["noise"], row["channel"]) for row in rows[:4]] == [
            ("conv", 0.0, 0),
            ("conv", 0.0, 1),
            ("conv", 0.0, 2),
            ("conv", 0.5, 0),
        ]
        assert rows[4]["mean"] == pytest.approx(values["conv"][:, 1, 0, 1].mean(dtype=float))
        assert str(json.loads(json.dumps(rows))) == str(rows)

    def test_rows_without_labels_and_of_axes_without_numbers(self, made):
        store, _ = made(range(5))
        rows = to_rows(stats(store))
        assert all(set(row) >= {"layer", *NAMES} for row in rows)
        assert str(json.loads(json.dumps(rows))) == str(rows)
        tokens = to_rows(stats(store, layers="tokens", by=("token",)))
        assert [row["token"] for row in tokens] == [0, 1, 2, 3, 4]
        samples = to_rows(stats(store, layers="conv", by=("sample",)))
        assert [list(row)[:3] for row in samples] == [["layer", "sample", "count"]] * 5
