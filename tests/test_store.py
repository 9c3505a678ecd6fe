"""The store: what is written comes back labelled, with plain xarray too, and half of it never passes as whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.errors import LayerError, StoreError
from fmx.layers import LayerInfo, native_dims
from fmx.store import StorePlan, StoreWriter, layer_key, open_store, schema
from fmx.store.places import FolderPlace
from fmx.store.schema import MOST_UNIT_BYTES, MOST_UNIT_SAMPLES, chunk_shape, unit_size

GOLDEN = Path(__file__).parent / "golden" / "store_v1"
GOLDEN_CLIPS = GOLDEN.with_name("store_v1_clips")
LAYERS = [
    LayerInfo("conv1", "Conv2d", ("channel", "y", "x"), (2, 3, 4), "float32"),
    LayerInfo("torch/relu:2", "ReLU", ("token", "channel"), (2, 3), "float16"),
]
SHAPES = {"bool": (3,), "int64": (3,), "float64": (2, 2, 1, 2)}
MORE = [LayerInfo(dtype, "ReLU", native_dims(shape), shape, dtype) for dtype, shape in SHAPES.items()]
IDS = ["cat/1.png", "dog/ä 日本.png", "dog/3.png"]
NUMBERS = [str(i) for i in range(5)]


def a_plan(ids=IDS, layers=LAYERS, **changes):
    settings = {"noise": [0.0, 0.5], "timesteps": 2, "picture": (3, 4, 3), "outputs": {"logits": ((5,), "float32")}}
    about = {"model": "torchvision:tiny", "layers": [i.name for i in layers], "seed": 7}
    paths, labels = [f"/data/{i}" for i in ids], [i.rpartition("/")[0] for i in ids]
    return StorePlan(ids, paths, labels, layers=layers, attributes=about, **settings | changes)


def a_filling(plan):
    """Give every array values that tell where they belong."""
    filling = {}
    for number, (key, spec) in enumerate(plan.arrays().items(), 1):
        counted = np.arange(math.prod(spec.shape)).reshape(spec.shape) * number
        filling[key] = (counted % 251 if spec.dtype == "uint8" else counted / 8).astype(spec.dtype)
    return filling


def put(writer, unit):
    writer.start_unit(unit)
    for key, values in a_filling(writer.plan).items():
        part = values[unit.start : unit.stop]
        for step in range(writer.plan.timesteps):
            if key == "inputs":
                writer.put(key, slice(0, len(unit)), part[:, step], timestep=step)
                continue
            for level in range(len(writer.plan.noise)):
                writer.put(key, slice(0, len(unit)), part[:, level, step], noise=level, timestep=step)
    writer.finish_unit(unit)


def write(path, plan, **options):
    with StoreWriter(path, plan, **options) as writer:
        for unit in writer.plan.units():
            put(writer, unit)
    return open_store(path)


def check(store, layers):
    """See that everything in a whole store is where it belongs."""
    filling = a_filling(a_plan(layers=layers))
    assert (store.layers, store.samples, store.attributes["completeness"]) == (layers, IDS, "complete")
    for info in layers:
        data = store.layer(info.name)
        assert data["activation"].dims == ("sample", "noise", "timestep", *info.dims)
        assert data["activation"].dtype == info.dtype
        np.testing.assert_array_equal(data["activation"].values, filling[info.name])
        labels = [data[name].values.tolist() for name in ("noise", "timestep", "label")]
        assert labels == [[0.0, 0.5], [0, 1], ["cat", "dog", "dog"]]
        assert data.attrs["native_shape"] == list(info.shape)
    np.testing.assert_array_equal(store.pictures.values, filling["inputs"])
    np.testing.assert_array_equal(store.tree["outputs/logits"].values, filling["outputs/logits"])


def run_python(code, *arguments):
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False)


def full_disk(*_args, **_options):
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def golden():
    return open_store(GOLDEN)


class TestRoundTrip:
    @pytest.mark.parametrize("most", [1, 2, 512])
    def test_in_units_of_any_size(self, tmp_path, monkeypatch, most):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", most)
        check(write(tmp_path / "s", a_plan(layers=LAYERS + MORE)), LAYERS + MORE)

    def test_selection_by_label(self, golden):
        data, values = golden.layer("conv1"), a_filling(a_plan())["conv1"]
        one = data["activation"].sel(sample=IDS[1], noise=0.5, timestep=1, channel=1)
        np.testing.assert_array_equal(one.values, values[1, 1, 1, 1])
        assert one["path"] == f"/data/{IDS[1]}"
        means = data["activation"].groupby("label").mean("sample")
        np.testing.assert_allclose(means.sel(label="dog").values, values[1:].mean(axis=0))
        dogs = data["activation"].where(data["label"] == "dog", drop=True)
        assert dogs["sample"].values.tolist() == IDS[1:]

    def test_plain_xarray_opens_it(self, tmp_path):
        write(tmp_path / "s", a_plan())
        code = """import json, sys, xarray as xr
tree = xr.open_datatree(sys.argv[1], engine="zarr")
data = tree["layers/" + sys.argv[2]].to_dataset()
one = data["activation"].sel(sample=sys.argv[3], noise=0.5, timestep=1, channel=2).values.tolist()
label = tree["label"].sel(sample=sys.argv[3]).item()
print(json.dumps(["fmx" in sys.modules, sorted(tree.coords), sorted(data.coords), data.attrs["layer"], label, one]))"""
        done = run_python(code, tmp_path / "s", layer_key("torch/relu:2"), IDS[1])
        assert (done.returncode, done.stderr) == (0, b"")
        outer = ["complete", "label", "noise", "path", "sample", "timestep"]
        inner = ["channel", "noise", "sample", "timestep"]
        values = a_filling(a_plan())["torch/relu:2"][1, 1, 1, :, 2].tolist()
        assert json.loads(done.stdout) == [False, outer, inner, "torch/relu:2", "dog", values]

    def test_outputs_of_several_shapes(self, tmp_path):
        outputs = {"logits": ((5,), "float32"), "aux/1": ((7,), "float32"), "mask": ((2, 3, 4), "int64")}
        plan = a_plan(outputs=outputs | {"loss": ((), "float64"), "boxes": ((6, 4), "float32")})
        tree, filling = write(tmp_path / "s", plan).tree, a_filling(plan)
        for name in plan.outputs:
            np.testing.assert_array_equal(tree[f"outputs/{layer_key(name)}"].values, filling[f"outputs/{name}"])

    def test_names_that_read_like_patterns(self, tmp_path):
        names = ["x0", "x[0]", "core", "core:2", "a,b", "auto", "!no", "**"]
        plan = a_plan(layers=[LayerInfo(name, "Linear", ("channel",), (2,), "float32") for name in names])
        store, filling = write(tmp_path / "s", plan), a_filling(plan)
        for name in names:
            np.testing.assert_array_equal(store.activation(name).values, filling[name])
        with pytest.raises(LayerError, match="did you mean core:2"):
            store.layer("core:3")


class TestHalfThere:
    def test_a_writer_that_is_interrupted(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        plan = a_plan(NUMBERS)
        with pytest.raises(RuntimeError, match="stop"), StoreWriter(tmp_path / "s", plan) as writer:
            assert writer.plan.units() == [range(0, 2), range(2, 4), range(4, 5)]
            put(writer, range(0, 2))
            writer.start_unit(range(2, 4))
            writer.put("conv1", slice(0, 1), np.zeros((1, 2, 3, 4), np.float32), noise=0)
            raise RuntimeError("stop")
        store = open_store(tmp_path / "s")
        assert store.attributes["completeness"] == "partial"
        assert store.complete.tolist() == [True, True, False, False, False]
        data = store.layer("conv1")
        assert (data["sample"].values.tolist(), data["path"].values.tolist()) == (["0", "1"], ["/data/0", "/data/1"])
        np.testing.assert_array_equal(data["activation"].values, a_filling(plan)["conv1"][:2])
        assert np.isnan(store.tree["layers/conv1/activation"].values[2:]).all()
        assert np.isnan(store.tree["outputs/logits"].values[2:]).all()

    def test_a_process_that_is_killed(self, tmp_path):
        code = """import os, pathlib, sys
sys.path.insert(0, sys.argv[1])
import fmx.store.schema, test_store
fmx.store.schema.MOST_UNIT_SAMPLES = 1
writer = test_store.StoreWriter(pathlib.Path(sys.argv[2]), test_store.a_plan())
for unit in writer.plan.units()[:2]:
    writer.wait()
    test_store.put(writer, unit)
os._exit(9)"""
        done, store = run_python(code, GOLDEN.parents[1], tmp_path / "s"), open_store(tmp_path / "s")
        assert (done.returncode, done.stderr) == (9, b"")
        assert store.complete.tolist() in ([True, False, False], [True, True, False])
        values = a_filling(a_plan())["conv1"][store.complete]
        np.testing.assert_array_equal(store.activation("conv1").values, values)

    def test_a_full_disk(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        real = FolderPlace._name

        def full(place, name, partial):
            if name.startswith("outputs/logits/c/1"):
                full_disk()
            real(place, name, partial)

        monkeypatch.setattr(FolderPlace, "_name", full)
        with pytest.raises(StoreError, match=r"s can't be written \(No space left on device\)"):
            write(tmp_path / "s", a_plan())
        store = open_store(tmp_path / "s")
        assert store.attributes["completeness"] == "partial"
        assert store.complete.tolist() == [True, True, False]

    @pytest.mark.parametrize("call", ["create_group", "consolidate_metadata", None])
    def test_a_place_that_can_not_be_written(self, tmp_path, monkeypatch, call):
        (tmp_path / "file").write_text("mine")
        if call:
            monkeypatch.setattr(zarr, call, full_disk)
        with pytest.raises(StoreError, match=r"s can't be written \(No space" if call else "s can't be written"):
            write(tmp_path / ("s" if call else "file/s"), a_plan())


class TestPlaces:
    def test_nothing_but_stores_is_overwritten(self, tmp_path):
        (tmp_path / "mine").mkdir()
        for name in ("file", "mine/thesis.txt"):
            (tmp_path / name).write_text("text")
        zarr.create_group(tmp_path / "other", attributes={"made_by": "me"})
        zarr.create_array(tmp_path / "array", shape=(3,), dtype="int8")
        before = sorted(tmp_path.rglob("*"))
        for name in ("mine", "file", "other", "array"):
            for overwrite in (False, True):
                with pytest.raises(StoreError, match=f"{name} is there and is no fmx store: choose another name"):
                    write(tmp_path / name, a_plan(), overwrite=overwrite)
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_store_is_only_overwritten_when_asked_for(self, tmp_path):
        write(tmp_path, a_plan(["old"]))
        with pytest.raises(StoreError, match="is there already: choose another name with -o, or add --overwrite"):
            write(tmp_path, a_plan())
        assert open_store(tmp_path).samples == ["old"]
        assert write(tmp_path, a_plan(), overwrite=True).samples == IDS

    def test_opening_what_is_no_store(self, tmp_path):
        zarr.create_group(tmp_path / "maps.zarr")
        with pytest.raises(StoreError, match=r"There is no store .*: did you mean maps\.zarr\?"):
            open_store(tmp_path / "map.zarr")
        with pytest.raises(StoreError, match="is no fmx store"):
            open_store(tmp_path / "maps.zarr")
        zarr.create_group(tmp_path / "new", attributes={"fmx_format": 2})
        with pytest.raises(StoreError, match="has format 2, and this fmx reads format 1: update fmx"):
            open_store(tmp_path / "new")


def test_opening_a_finished_store_reads_little(tmp_path):
    """Which samples are complete stands in many small parts: in a finished store nobody reads them."""
    write(tmp_path / "s", a_plan())
    for part in (tmp_path / "s/complete/c").iterdir():
        part.write_bytes(b"no part")
    check(open_store(tmp_path / "s"), LAYERS)


class TestFindSample:
    def test_ids_come_before_positions_and_these_before_endings(self, tmp_path, golden):
        for i, name in enumerate(IDS):
            for wanted in (name, str(i), str(i - 3), name[4:]):
                assert golden.find_sample(wanted) == name
        assert golden.find_sample("3") == IDS[2]
        assert write(tmp_path / "s", a_plan(["1", "0"])).find_sample("0") == "0"

    @pytest.mark.parametrize("wanted", ["png", "dog/4.png", "99", "²", "--1"])
    def test_what_is_missing_or_ambiguous(self, golden, wanted):
        sentences = {"png": r"3 samples end in png: cat/1\.png, .*; give the whole id", "dog/4.png": r"mean dog/3\.png"}
        with pytest.raises(StoreError, match=sentences.get(wanted, f"The store has no sample {wanted}: there are")):
            golden.find_sample(wanted)


def test_number_of_a_clip_may_be_left_out_where_there_is_one(tmp_path: Path) -> None:
    store = write(tmp_path / "s", a_plan(["a/cat.mp4#0", "a/dog.mp4#0", "a/dog.mp4#16"]))
    assert {store.find_sample(name) for name in ("cat", "cat.mp4", "a/cat.mp4", "cat.mp4#0")} == {"a/cat.mp4#0"}
    assert store.find_sample("dog.mp4#16") == "a/dog.mp4#16"
    with pytest.raises(StoreError, match="2 samples end in dog"):
        store.find_sample("dog")


@settings(deadline=None)
@given(st.lists(st.integers(1, 600), max_size=3), st.sampled_from([1, 2, 4, 8]), st.integers(0, 9), st.integers(10, 23))
def test_chunks_are_about_as_large_as_wanted(shape, itemsize, unit_bits, bits):
    dims, unit = native_dims(shape), 2**unit_bits
    samples, noise, timestep, *native = chunk_shape(dims, shape, itemsize, unit, chunk_bytes=2**bits)
    lengths, chunk = ({"channel": 1} | dict(zip(dims, lens, strict=True)) for lens in (shape, native))
    size, one_map = (itemsize * math.prod(n) for n in ([samples, *native], [*(lengths | {"channel": 1}).values()]))
    assert (noise, timestep, unit % samples) == (1, 1, 0)
    assert 1 <= chunk["channel"] <= lengths["channel"]
    assert chunk | {"channel": 1} == lengths | {"channel": 1}
    assert size <= 2**bits or size == one_map
    assert size > 2**bits // 8 or (samples == unit and chunk == lengths)


@settings(deadline=None)
@given(st.integers(0, 2**34), st.integers(0, 10**6), st.integers(1, 5000))
def test_units_hold_a_batch_and_fit_into_memory(sample_bytes, samples, batch):
    unit = unit_size(sample_bytes, samples, batch)
    assert unit in {2**k for k in range(MOST_UNIT_SAMPLES.bit_length())}
    assert unit < 2 * max(samples, 1)
    assert unit == 1 or unit * sample_bytes <= MOST_UNIT_BYTES
    if unit < min(MOST_UNIT_SAMPLES, samples):
        assert 2 * unit * sample_bytes > (schema.UNIT_BYTES if unit >= batch else MOST_UNIT_BYTES)


@pytest.mark.parametrize("extra", [{"outputs": {"mask": ((21, 520, 520), "float32")}}, {"picture": (2000, 2000, 3)}])
def test_units_count_everything_that_is_kept(extra):
    plan = a_plan(NUMBERS * 200, LAYERS[:1], **extra)
    arrays = plan.arrays().values()
    assert plan.unit * sum(math.prod(s.shape[1:]) * np.dtype(s.dtype).itemsize for s in arrays) <= MOST_UNIT_BYTES


def test_a_store_of_format_1_reads_as_it_was_written(golden):
    check(golden, LAYERS)
    assert (golden.attributes["fmx_format"], golden.attributes["seed"]) == (1, 7)


def test_a_new_store_is_laid_out_as_the_golden_one(tmp_path, golden):
    new = write(tmp_path / "s", a_plan())
    files = [{p.relative_to(root) for p in root.rglob("*")} for root in (new.path, GOLDEN)]
    assert files[0] >= files[1]
    counts = {"nan", "inf"}
    assert {p.parent.name if p.name == "zarr.json" else p.name for p in files[0] - files[1]} == counts
    tree = new.tree.map_over_datasets(lambda dataset: dataset.drop_vars(counts, errors="ignore")).compute()
    assert tree.attrs.pop("every_chunk_is_written")
    xr.testing.assert_identical(tree, golden.tree.compute())


CLIPS = [
    LayerInfo("stem", "Conv3d", ("channel", "y", "x"), (4, 2, 2), "float32"),
    LayerInfo("head", "Linear", ("channel",), (3,), "float32"),
]


def a_clip_plan():
    """Plan clips: layers with timesteps of their own, some channels, rounded values, a codec for each."""
    about = {"layers": ["stem", "head"], "seed": 7}
    return StorePlan(
        samples=IDS,
        paths=IDS,
        labels=["cat", "dog", "dog"],
        noise=[0.0],
        layers=CLIPS,
        attributes=about,
        timesteps=4,
        dtype="float16",
        codec={"stem": "zstd", "head": "none"},
        channels={"stem": [0, 3]},
        layer_timesteps={"stem": [0, 2], "head": [1.5]},
    )


def a_clip_block(key):
    shape = {"stem": (6, 4, 2, 2), "head": (3, 3)}[key]
    block = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) / 8
    if key == "head":
        block[1] = np.nan, np.inf, 1e9
    return block


def write_clips(path):
    with StoreWriter(path, a_clip_plan()) as writer:
        writer.start_unit(range(3))
        for key, rows in (("stem", 6), ("head", 3)):
            writer.put(key, slice(0, rows), a_clip_block(key), noise=0)
        writer.finish_unit(range(3))
    return open_store(path)


def test_a_store_of_clips_in_format_1_reads_as_it_was_written(tmp_path):
    store = open_store(GOLDEN_CLIPS)
    stem, head = store.activation("stem"), store.activation("head")
    np.testing.assert_array_equal(stem.values[:, 0], a_clip_block("stem")[:, [0, 3]].reshape(3, 2, 2, 2, 2))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(head.values[:, 0, 0], a_clip_block("head").astype(np.float16))
    assert (stem["timestep"].values.tolist(), head["timestep"].values.tolist()) == ([0, 2], [1.5])
    assert (stem["channel"].values.tolist(), str(stem.dtype)) == ([0, 3], "float16")
    assert store.unusual == {"head": {"nan": 1, "inf": 2, "overflow": 1}}
    new = write_clips(tmp_path / "s")
    xr.testing.assert_identical(new.tree.compute(), store.tree.compute())
    found, wanted = ({p.relative_to(r) for p in r.rglob("*")} for r in (new.path, GOLDEN_CLIPS))
    assert found == wanted


if __name__ == "__main__":  # makes the golden stores anew, which only a new format calls for
    write(GOLDEN, a_plan())
    write_clips(GOLDEN_CLIPS)
