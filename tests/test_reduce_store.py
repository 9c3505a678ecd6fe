"""Reducing the layers of a store: the results of one reducer over everything, whatever is read where."""

from __future__ import annotations

import functools
import itertools
import pickle
import sys
import warnings

import numpy as np
import pytest

from fmx.analyze import stats
from fmx.analyze.chunk_plan import plan_pieces, share_out
from fmx.analyze.store_reduce import most_state_bytes, summarise
from fmx.analyze.store_tasks import LayerTask
from fmx.errors import FmxError, StoreError
from fmx.layers import LayerInfo
from fmx.reduce import Histogram, Moments, Quantiles, ReducerSet, TopSamples
from fmx.store import StorePlan, StoreWriter, open_store
from fmx.store.schema import chunk_shape

DIMS = ("sample", "noise", "timestep", "channel", "y", "x")
LAYERS = [
    LayerInfo("maps", "ReLU", ("channel", "y", "x"), (6, 4, 3), "float32"),
    LayerInfo("tokens", "LayerNorm", ("token", "channel"), (5, 3), "float16"),
    LayerInfo("flat", "Linear", ("channel",), (4,), "float32"),
]
LABELS = ["cat", "dog", "cat", "eel", "dog", "cat", "dog"]
REDUCERS = {"stats": Moments(), "hist": Histogram(8), "quantiles": Quantiles((0.25, 0.5))}


@pytest.fixture(params=["many tasks", "one task"])
def sizes(request, monkeypatch):
    """Chunks, reads, tasks and slabs of several sizes."""
    small = request.param == "many tasks"
    monkeypatch.setattr("fmx.store.plan.chunk_shape", functools.partial(chunk_shape, chunk_bytes=200))
    monkeypatch.setattr("fmx.store.schema.MOST_UNIT_SAMPLES", 2)
    monkeypatch.setattr("fmx.analyze.chunk_plan.READ_BYTES", 150 if small else 10**6)
    monkeypatch.setattr("fmx.analyze.chunk_plan.TASK_BYTES", 300 if small else 10**6)
    monkeypatch.setattr("fmx.analyze.store_tasks.STATE_BYTES", 50_000 if small else 10**8)
    monkeypatch.setattr("fmx.analyze.layer_work._FAN_IN", 2 if small else 8)


@pytest.fixture
def made(tmp_path, sizes):
    """Write samples of a plan for seven, two noise levels and two timesteps, and give store and values."""
    rng = np.random.default_rng(5)
    ids = [f"{label}/{i}.png" for i, label in enumerate(LABELS)]
    values = {i.name: rng.normal(size=(7, 2, 2, *i.shape)).astype(i.dtype).clip(-0.5) for i in LAYERS}
    values["maps"][3, 1, 0, 2] = np.nan
    values["maps"][3, :, :, 4] = np.inf
    values["flat"][2] = 0

    def make(units=(0, 1, 2, 3), labels=LABELS):
        attributes = {"layers": [i.name for i in LAYERS]}
        plan = StorePlan(ids, ids, labels, [0.0, 0.5], LAYERS, attributes, timesteps=2)
        with StoreWriter(tmp_path / "s", plan) as writer:
            for unit in [writer.plan.units()[i] for i in units]:
                writer.start_unit(unit)
                for name, array in values.items():
                    for level, step in itertools.product(range(2), range(2)):
                        block = array[unit.start : unit.stop, level, step]
                        writer.put(name, slice(0, len(unit)), block, noise=level, timestep=step)
                writer.finish_unit(unit)
        return open_store(tmp_path / "s"), values

    return make


def at_once(reducer, values, dims, keep, labels):
    """Reduce everything as one block, and each label's samples as one."""
    axes = tuple(i for i, dim in enumerate(dims) if dim not in keep)
    if "label" in keep:
        parts = [values[[i for i, own in enumerate(labels) if own == name]] for name in sorted(set(labels))]
        return np.stack([at_once(reducer, part, dims, [d for d in keep if d != "label"], ()) for part in parts])
    kept = [n for i, n in enumerate(values.shape) if i not in axes]
    return reducer.update(reducer.identity(kept), values, axes)


def check(found, values, by, labels=LABELS, reducers=REDUCERS):
    together = ReducerSet(reducers)
    for name, dataset in found.items():
        native = next(layer.dims for layer in LAYERS if layer.name == name)
        dims = (*DIMS[:3], *native)
        keep = [dim for dim in ("label", *dims) if dim in by]
        wanted = together.finalize(at_once(together, values[name], dims, keep, labels))
        assert set(dataset.data_vars) == set(wanted)
        for key, expected in wanted.items():
            assert dataset[key].dims == (*keep, *together.dims.get(key, ()))
            np.testing.assert_allclose(dataset[key].values, expected, rtol=1e-6, atol=1e-6, err_msg=f"{name} {key}")
            if not key.startswith("stats"):
                np.testing.assert_array_equal(dataset[key].values, expected, err_msg=f"{name} {key}")


class TestResults:
    @pytest.mark.parametrize(
        "by",
        [
            *[(), ("channel",), ("noise",), ("sample",), ("timestep",), ("label",), ("label", "channel")],
            *[("noise", "channel"), ("label", "noise"), ("sample", "channel"), ("sample", "noise", "timestep")],
        ],
        ids=str,
    )
    def test_every_combination_of_labels(self, made, by):
        store, values = made()
        check(summarise(store, REDUCERS, by=by), values, by)

    @pytest.mark.parametrize("by", [("y", "x"), DIMS, ("sample", "y")], ids=str)
    def test_places(self, made, by):
        store, values = made()
        check(summarise(store, REDUCERS, layers="maps", by=by), values, by)

    def test_states_are_merged_further(self, made):
        store, values = made()
        states = summarise(store, REDUCERS, by="channel", states=True)
        assert list(states) == ["maps", "tokens", "flat"]
        assert list(states["maps"].data_vars) == list(REDUCERS)
        twice = REDUCERS["hist"].merge(states["maps"]["hist"].values, states["maps"]["hist"].values)
        once = at_once(REDUCERS["hist"], values["maps"], DIMS, ["channel"], ())
        np.testing.assert_array_equal(twice["counts"], 2 * once["counts"])

    @pytest.mark.parametrize("by", [(), ("sample",), ("label", "channel")], ids=str)
    def test_a_partial_store_is_described_by_its_complete_samples(self, made, by):
        store, values = made((0, 3))
        there = [0, 1, 6]
        assert [i for i, done in enumerate(store.complete) if done] == there
        found = summarise(store, REDUCERS, by=by)
        check(found, {name: array[there] for name, array in values.items()}, by, [LABELS[i] for i in there])
        if "sample" in by:
            assert found["maps"]["sample"].values.tolist() == [store.samples[i] for i in there]

    @pytest.mark.parametrize("by", [(), ("channel",), ("sample", "channel")], ids=str)
    def test_no_sample_is_complete(self, made, by):
        store, _ = made(())
        found = summarise(store, REDUCERS, layers="maps", by=by)["maps"]
        assert (found["stats.count"].values == 0).all()
        assert found.sizes.get("sample", 0) == 0

    def test_coordinates(self, made):
        store, _ = made()
        found = summarise(store, REDUCERS, by=("label", "noise", "channel"))["maps"]
        assert found["label"].values.tolist() == ["cat", "dog", "eel"]
        assert found["noise"].values.tolist() == [0.0, 0.5]
        assert set(found.coords) == {"label", "noise", "channel"}
        assert found.attrs["layer"] == "maps"
        by_sample = summarise(store, REDUCERS, by="sample")["maps"]
        assert by_sample["label"].values.tolist() == LABELS


class TestTopSamples:
    @pytest.mark.parametrize("weakest", [False, True])
    @pytest.mark.parametrize("by", [("channel",), ("noise", "channel"), ("label", "channel"), ("label",)], ids=str)
    def test_against_one_block(self, made, by, weakest):
        store, values = made()
        found = summarise(store, lambda dims: {"top": TopSamples(2, dims[1:], weakest=weakest)}, by=by)
        for layer in LAYERS:
            dims = (*DIMS[:3], *layer.dims)
            summed = [dim for dim in dims if dim not in by]
            reducer = TopSamples(2, summed[1:], weakest=weakest)
            kept = [dim for dim in by if dim != "label"]
            names = sorted(set(LABELS)) if "label" in by else [None]
            parts = []
            for label in names:
                chosen = np.array([i for i, own in enumerate(LABELS) if label in {None, own}])
                block = values[layer.name][chosen]
                axes = [i for i, dim in enumerate(dims) if dim not in kept]
                state = reducer.identity([block.shape[dims.index(dim)] for dim in dims if dim in kept])
                start = [chosen, *[0] * (len(dims) - 1)]
                parts.append(reducer.finalize(reducer.update(state, block, axes, start=start)))
            for key, expected in parts[0].items():
                wanted = np.stack([part[key] for part in parts]) if "label" in by else expected
                np.testing.assert_array_equal(found[layer.name][f"top.{key}"].values, wanted, err_msg=key)

    def test_positions_along_the_complete_samples(self, made):
        store, values = made((0, 3))
        found = summarise(store, lambda dims: {"top": TopSamples(3, dims[1:])}, by="channel", layers="flat")["flat"]
        order = np.argsort(-values["flat"][[0, 1, 6]].max(axis=(1, 2)), axis=0, kind="stable").T
        np.testing.assert_array_equal(found["top.sample"].values, order)
        assert found["top.sample"].values.max() == 2


class TestMistakes:
    def test_no_labels(self, made):
        store, _ = made(labels=[""] * 7)
        with pytest.raises(FmxError, match="have no labels: extract pictures from a folder of subfolders"):
            summarise(store, REDUCERS, by="label")

    def test_labels_beside_samples(self, made):
        store, _ = made()
        with pytest.raises(FmxError, match="sample and label can't both be kept apart"):
            summarise(store, REDUCERS, by=("sample", "label"))

    def test_too_many_labels(self, made, monkeypatch):
        store, _ = made()
        size = most_state_bytes(store, REDUCERS, layers="maps", by="channel")
        if size:
            monkeypatch.setattr("fmx.analyze.layer_work.MOST_STATE_BYTES", size - 1)
            with pytest.raises(FmxError, match=r"maps has so many labels \(channel\) that what is counted"):
                summarise(store, REDUCERS, layers="maps", by="channel")

    def test_a_damaged_chunk(self, made, tmp_path):
        store, _ = made()
        chunk = next(p for p in sorted((tmp_path / "s/layers/maps/activation/c").rglob("*")) if p.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-6])
        with pytest.raises(StoreError, match="is damaged"):
            summarise(store, REDUCERS)


class TestStats:
    def test_columns(self, made):
        store, values = made()
        found = stats(store, by="channel", quantiles=(0.05, 0.5, 1))["maps"]
        assert list(found.data_vars)[6:12] == ["min", "max", "q0.05", "q1", "median", "sparsity"]
        assert all("definition" in found[name].attrs for name in found.data_vars)
        assert "1/64" in found["median"].attrs["error"]
        np.testing.assert_array_equal(found["q1"], found["max"])
        plain = values["maps"][:, :, :, 0].ravel()
        assert found["median"].values[0] == pytest.approx(np.median(plain), abs=0.02)

    def test_the_median_is_left_out_where_it_would_take_too_much(self, made, monkeypatch):
        store, _ = made()
        assert "median" in stats(store, layers="maps")["maps"]
        monkeypatch.setattr(sys.modules["fmx.analyze.stats"], "_MOST_STATES", -1)
        assert "median" not in stats(store, layers="maps")["maps"]
        assert "median" in stats(store, layers="maps", quantiles=[0.5])["maps"]
        assert "median" not in stats(store, layers="maps", quantiles=[])["maps"]

    def test_wrong_quantiles(self, made):
        store, _ = made()
        with pytest.raises(FmxError, match="quantiles are numbers from 0 to 1"):
            stats(store, quantiles=[2])


class TestExactQuantiles:
    @pytest.mark.parametrize(
        "by",
        [(), ("channel",), ("label", "channel"), ("sample", "channel"), ("sample", "noise", "timestep"), ("noise",)],
        ids=str,
    )
    def test_numpy_gives_the_same(self, made, by):
        store, values = made()
        q = (0.0, 0.1, 0.5, 0.77, 1.0)
        for name, dataset in stats(store, by=by, quantiles=q, exact=True).items():
            native = next(layer.dims for layer in LAYERS if layer.name == name)
            dims = (*DIMS[:3], *native)
            found = np.stack([dataset["median" if x == 0.5 else f"q{x:g}"].values for x in q], axis=-1)
            keep = [i for i, dim in enumerate(dims) if dim in by]
            parts = [values[name]]
            if "label" in by:
                parts = [parts[0][[i for i, own in enumerate(LABELS) if own == x]] for x in sorted(set(LABELS))]
            wanted = []
            for part in parts:
                finite = np.where(np.isfinite(part), part, np.nan).astype(np.float64)
                flat = np.moveaxis(finite, keep, range(len(keep)))
                flat = flat.reshape(*flat.shape[: len(keep)], -1)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    wanted.append(np.moveaxis(np.nanquantile(flat, q, axis=-1), 0, -1))
            np.testing.assert_allclose(found, np.stack(wanted) if "label" in by else wanted[0], rtol=1e-12)
            assert dataset["median"].attrs["error"] == "none"

    def test_of_a_partial_store(self, made):
        store, values = made((1,))
        found = stats(store, layers="flat", exact=True, allow_partial=True)["flat"]["median"]
        assert float(found) == pytest.approx(np.median(values["flat"][2:4].astype(float)), rel=1e-12)


# -- the plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(), (1,), (0,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("whole", [False, True])
def test_pieces_cover_everything_once(kept, whole, monkeypatch):
    monkeypatch.setattr("fmx.analyze.chunk_plan.READ_BYTES", 100)
    shape, chunks = (11, 4, 5), (2, 3, 5)
    there = np.array([1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1], bool)
    pieces = plan_pieces(shape, chunks, 4, kept, there=there, whole=(1, 2) if whole else ())
    seen = np.zeros(shape, int)
    for piece in pieces:
        seen[piece.region] += 1
        assert piece.size == 4 * np.prod([part.stop - part.start for part in piece.region])
        for i, (start, stop) in zip(kept, piece.cell, strict=True):
            region = piece.region[i]
            expected = (region.start, region.stop) if i else (there[: region.start].sum(), there[: region.stop].sum())
            assert (start, stop) == expected
    assert set(np.unique(seen[there])) == {1}
    assert seen[2:4].sum() == 0
    cells = [piece.cell for piece in pieces]
    assert len(list(itertools.groupby(cells))) == len(set(cells))
    assert [p for work in share_out(pieces) for p in work] == pieces


def test_tasks_can_be_sent():
    there = np.ones(3, bool)
    task = LayerTask(None, "layers/maps/activation", ReducerSet(REDUCERS), (0, 1), there, None, True)
    back = pickle.loads(pickle.dumps(task))
    assert back.reducer.dtype == task.reducer.dtype
    assert list(back.blank()) == list(task.blank())
