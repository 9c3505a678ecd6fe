"""What becomes of values on their way: rounded, counted, encoded as Zarr would, and compared by what made them."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmx.errors import StoreError
from fmx.layers import LayerInfo
from fmx.store import (
    StorePlan,
    UnitWriter,
    choose_codecs,
    create_store,
    differences,
    finish_store,
    open_store,
    pending_units,
    plan_settings,
    schema,
    stored_settings,
    verify_store,
    writer_bytes,
)
from fmx.store.codecs import encoded_ratio
from fmx.store.convert import count_unusual, narrow, round_to_bfloat16
from fmx.store.encode import CODECS, Encoder, codec_metadata

CONV = LayerInfo("conv", "Conv2d", ("channel", "y", "x"), (5, 4, 4), "float32")
FC = LayerInfo("fc", "Linear", ("channel",), (6,), "float32")
COUNT = LayerInfo("count", "sum", ("channel",), (6,), "int32")


def a_plan(count=5, layers=(CONV, FC), attributes=None, **changes):
    ids = [f"s{i}" for i in range(count)]
    return StorePlan(ids, ids, ids, changes.pop("noise", [0.0]), list(layers), attributes or {}, **changes)


def write(path, plan, blocks, batch=3):
    """Write blocks (sample·timestep, …native) by key and level."""
    place = create_store(path, plan)
    with UnitWriter(place) as writer:
        for unit in pending_units(place):
            writer.start_unit(unit)
            for key, levels in blocks.items():
                steps = writer.layout.steps(key)
                for level, block in enumerate(levels):
                    part = block[unit.start * steps : unit.stop * steps]
                    for start in range(0, len(part), batch):
                        some = part[start : start + batch]
                        noise = None if key == "inputs" else level
                        writer.put(key, slice(start, start + len(some)), some, noise=noise)
            writer.finish_unit(unit)
    finish_store(place)
    return open_store(path)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestRounding:
    @given(hnp.arrays(np.uint32, st.integers(1, 50)))
    def test_bfloat16_is_what_the_library_makes_of_any_float(self, bits):
        values = bits.view(np.float32)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = values.astype(ml_dtypes.bfloat16).astype(np.float32)
        found = values.copy()
        round_to_bfloat16(found)
        np.testing.assert_array_equal(found, wanted)
        assert not (found.view(np.uint32) & 0xFFFF).any()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", None])
    def test_stores_of_less_precision(self, tmp_path, dtype):
        blocks = {"conv": [drawn(5, 5, 4, 4)], "count": [np.arange(30, dtype=np.int32).reshape(5, 6)]}
        store = write(tmp_path / "s", a_plan(layers=(CONV, COUNT), dtype=dtype), blocks)
        types = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
        wanted = blocks["conv"][0].astype(types.get(dtype, np.float32))
        array = store.activation("conv")
        assert array.dtype == (np.float16 if dtype == "float16" else np.float32)
        assert array.attrs.get("precision") == ("bfloat16" if dtype == "bfloat16" else None)
        np.testing.assert_array_equal(array.values[:, 0, 0].astype(np.float32), wanted.astype(np.float32))
        np.testing.assert_array_equal(store.activation("count").values[:, 0, 0], blocks["count"][0])

    def test_bfloat16_takes_half_the_room(self):
        values = drawn(64, 64, 16)
        rounded = values.copy()
        round_to_bfloat16(rounded)
        assert encoded_ratio("lz4", rounded) < 0.55 < 0.85 < encoded_ratio("lz4", values)

    def test_another_type_is_refused(self):
        with pytest.raises(StoreError, match="can't be stored as float8: did you mean"):
            a_plan(dtype="float8")


class TestUnusualValues:
    @given(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
            elements=st.sampled_from([0, 1, -2.5, 65519, 65520, -65520, 1e30, np.inf, -np.inf, np.nan]),
        )
    )
    def test_counts_are_those_of_a_loop(self, values):
        stored = np.empty(values.shape, np.float16)
        overflow = narrow(values, stored)
        wanted = {"nan": [], "inf": [], "overflow": []}
        for sample in values:
            flat = [float(v) for v in sample.ravel()]
            wanted["nan"].append(sum(v != v for v in flat))
            wanted["inf"].append(sum(abs(v) >= 65520 for v in flat))
            wanted["overflow"].append(sum(65520 <= abs(v) < np.inf for v in flat))
        found = count_unusual(stored)
        for what in ("nan", "inf"):
            assert (found[what].tolist() if found else [0] * len(values)) == wanted[what]
        assert (overflow.tolist() if overflow is not None else [0] * len(values)) == wanted["overflow"]

    def test_they_are_counted_by_sample_and_level_and_never_silent(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        blocks = {"conv": [drawn(5, 5, 4, 4), drawn(5, 5, 4, 4, seed=1)], "fc": [drawn(5, 6)] * 2}
        blocks["conv"][1][3, 2, 0, :2] = np.nan, -np.inf
        blocks["conv"][0][4] = 1e6
        plan = a_plan(noise=[0.0, 0.5], dtype="float16")
        store = write(tmp_path / "s", plan, blocks)
        assert store.unusual == {"conv": {"nan": 1, "inf": 81, "overflow": 80}}
        tree = xr.open_datatree(tmp_path / "s", engine="zarr")
        assert tree["layers/conv/nan"].values.tolist() == [[0, 0], [0, 0], [0, 0], [0, 1], [0, 0]]
        assert tree["layers/conv/overflow"].sel(sample="s4", noise=0.0) == 80
        assert list(store.layer("conv").data_vars) == ["activation"]

    def test_nothing_is_written_where_all_is_well(self, tmp_path):
        store = write(tmp_path / "s", a_plan(), {"conv": [drawn(5, 5, 4, 4)], "fc": [drawn(5, 6)]})
        assert store.unusual == {}
        assert not (tmp_path / "s/layers/conv/nan/c").exists()


class TestEncoding:
    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("unit", [2, 8])
    def test_chunks_are_those_that_zarr_itself_writes(self, tmp_path, monkeypatch, codec, unit):
        """Byte for byte, also where samples and channels do not fill a chunk."""
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", unit)
        monkeypatch.setattr(schema, "CHUNK_BYTES", 64)
        blocks = {"conv": [drawn(5, 5, 4, 4)], "fc": [drawn(5, 6)]}
        write(tmp_path / "s", a_plan(codec=codec), blocks)
        slow = zarr.open_group(create_store(tmp_path / "slow", a_plan(codec=codec)).path, mode="r+")
        with zarr.config.set({"array.write_empty_chunks": True}):
            for key, (block,) in blocks.items():
                slow[f"layers/{key}/activation"][:, 0, 0] = block
        for key in blocks:
            files = [chunks(tmp_path / name / "layers" / key / "activation") for name in ("s", "slow")]
            assert files[0] == files[1]
            assert len(files[0]) > 1

    @pytest.mark.parametrize("codec", CODECS)
    @given(values=hnp.arrays(np.float32, st.integers(1, 300)))
    def test_what_is_decoded_is_what_was_encoded(self, codec, values):
        encoder = Encoder.of([{"name": "bytes"}, *codec_metadata(codec, 4)])
        data = b"".join(bytes(part) for part in encoder.encode(values))
        assert encoder.decode(data, values.nbytes) == values.tobytes()

    def test_unknown_codecs(self):
        with pytest.raises(StoreError, match="no codec lz5: did you mean lz4"):
            codec_metadata("lz5", 4)
        with pytest.raises(StoreError, match="codecs bytes, gzip, which fmx can't write"):
            Encoder.of([{"name": "bytes"}, {"name": "gzip"}])

    def test_codecs_are_chosen_by_what_they_make_of_the_values(self):
        wide = [
            LayerInfo(n, "ReLU", ("channel", "y", "x"), (16, 32, 32), "float32") for n in ("noise", "zeros", "bf16")
        ]
        plan = a_plan(32, wide, picture=(64, 64, 3))
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 2**32, (32, 16, 32, 32), dtype=np.uint32)
        blocks = {
            "noise": (bits & 0xBFFFFFFF).view(np.float32),
            "zeros": np.zeros((32, 16, 32, 32), np.float32),
            "bf16": (rng.normal(size=(32, 16, 32, 32)).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(
                np.float32
            ),
            "inputs": rng.integers(0, 256, (32, 64, 64, 3), dtype=np.uint8),
        }
        round_to_bfloat16(blocks["bf16"])
        chosen = choose_codecs(plan, blocks)
        assert (chosen["noise"], chosen["inputs"]) == ("none", "none")
        assert chosen["bf16"] in {"lz4", "lz4-bits"}
        assert chosen["zeros"].startswith("lz4")
        assert choose_codecs(plan, blocks, disk_rate=1e6)["bf16"] == "zstd"
        assert choose_codecs(plan, blocks, disk_rate=1e12) == dict.fromkeys(blocks, "none")

    def test_chosen_codecs_stand_in_the_arrays(self, tmp_path):
        blocks = {"conv": [drawn(5, 5, 4, 4)], "fc": [drawn(5, 6)]}
        write(tmp_path / "s", a_plan(codec={"conv": "zstd", "fc": "none"}), blocks)
        group = zarr.open_group(tmp_path / "s", mode="r")
        assert group["layers/conv/activation"].compressors[0].cname.value == "zstd"
        assert [type(c).__name__ for c in group["layers/fc/activation"].compressors] == ["Crc32cCodec"]
        assert differences(stored_settings(tmp_path / "s"), plan_settings(a_plan())) == []


def chunks(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in (path / "c").rglob("*") if p.is_file()}


class TestTimestepsOfLayers:
    @pytest.mark.parametrize("batch", [1, 3, 100])
    def test_each_layer_has_its_own(self, tmp_path, monkeypatch, batch):
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 2)
        steps = {"conv": [0, 2, 4, 6], "fc": [3.5]}
        plan = a_plan(timesteps=8, layer_timesteps=steps, picture=(2, 2, 3), outputs={"out": ((3,), "float32")})
        assert plan.sample_bytes == 4 * 80 * 4 + 6 * 4 + 8 * 12 + 8 * 3 * 4
        blocks = {
            "conv": [drawn(20, 5, 4, 4)],
            "fc": [drawn(5, 6)],
            "inputs": [(drawn(40, 2, 2, 3) * 50).astype(np.uint8)],
            "outputs/out": [drawn(40, 3)],
        }
        store = write(tmp_path / "s", plan, blocks, batch)
        for key, block in (("conv", blocks["conv"][0]), ("fc", blocks["fc"][0])):
            array = store.activation(key)
            assert array["timestep"].values.tolist() == steps[key]
            assert array["timestep"].attrs["units"] == "frames of the input"
            np.testing.assert_array_equal(array.values[:, 0], block.reshape(5, len(steps[key]), *block.shape[1:]))
        np.testing.assert_array_equal(store.pictures.values, blocks["inputs"][0].reshape(5, 8, 2, 2, 3))
        assert store.pictures["timestep"].values.tolist() == list(range(8))
        found = store.tree["outputs/out"].values[:, 0]
        np.testing.assert_array_equal(found, blocks["outputs/out"][0].reshape(5, 8, 3))
        assert "timestep" not in store.tree.to_dataset()
        assert verify_store(tmp_path / "s").whole

    def test_plain_xarray_aligns_the_rest(self, tmp_path):
        plan = a_plan(layer_timesteps={"conv": [0, 1]})
        write(tmp_path / "s", plan, {"conv": [drawn(10, 5, 4, 4)], "fc": [drawn(5, 6)]})
        tree = xr.open_datatree(tmp_path / "s", engine="zarr")
        assert tree["layers/conv/activation"].sel(sample="s3", timestep=1).shape == (1, 5, 4, 4)
        assert tree["layers/fc/activation"].sel(sample="s3", timestep=0).shape == (1, 6)


class TestChannels:
    @pytest.mark.parametrize("whole", [True, False])
    @pytest.mark.parametrize("batch", [1, 2, 8])
    def test_those_that_are_kept(self, tmp_path, monkeypatch, whole, batch):
        monkeypatch.setattr(schema, "CHUNK_BYTES", 300)
        block, kept = drawn(5, 5, 4, 4), [3, 0, 4]
        put = block if whole else block[:, kept]
        store = write(tmp_path / "s", a_plan(layers=(CONV,), channels={"conv": kept}), {"conv": [put]}, batch)
        found = store.activation("conv")
        np.testing.assert_array_equal(found.values[:, 0, 0], block[:, kept])
        np.testing.assert_array_equal(found.sel(channel=4).values[:, 0, 0], block[:, 4])
        assert store.layer("conv").attrs["native_shape"] == [5, 4, 4]


class TestMemory:
    @pytest.mark.parametrize("batch", [1, 3, 4])
    @pytest.mark.parametrize("buffers", [1, 2])
    def test_blocks_wait_for_room(self, tmp_path, monkeypatch, buffers, batch):
        """What is on its way to the disk never exceeds the room that was given."""
        monkeypatch.setattr(schema, "MOST_UNIT_SAMPLES", 4)
        plan = a_plan(64, layers=(CONV,))
        seen = []
        place = create_store(tmp_path / "s", plan)
        with UnitWriter(place, buffers=buffers, threads=1) as writer:
            real = writer._take

            def take(size):
                real(size)
                seen.append(writer._taken)

            monkeypatch.setattr(writer, "_take", take)
            for unit in pending_units(place):
                writer.start_unit(unit)
                for row in range(0, 4, batch):
                    values = drawn(min(batch, 4 - row), 5, 4, 4)
                    writer.put("conv", slice(row, row + len(values)), values, noise=0)
                writer.finish_unit(unit)
        block = 4 * 5 * 16 * 4
        assert len(seen) == 16
        assert max(seen) <= max((buffers - 1) * 4 * plan.sample_bytes, block)
        assert writer_bytes(plan, buffers) >= buffers * 4 * plan.sample_bytes


BASE = {
    "fingerprint": "a" * 64,
    "adapter": "pytorch",
    "layers": ["conv", "fc"],
    "input_shape": [3, 8, 8],
    "preprocessing": {"crop": [8, 8], "mean": [0.5], "source": "assumed"},
    "noise_kind": "gaussian",
    "noise_space": "input",
    "seed": 0,
    "versions": {"torch": "2"},
    "engine": "eager",
    "device": "cpu",
    "batch_size": 4,
    "notes": [],
}


class TestDifferences:
    def plan(self, count=5, about=None, **changes):
        return a_plan(count, attributes=BASE | (about or {}), **changes)

    @pytest.fixture
    def stored(self, tmp_path):
        create_store(tmp_path / "s", self.plan())
        return stored_settings(tmp_path / "s")

    def test_none(self, stored):
        assert differences(stored, plan_settings(self.plan())) == []
        free = {"versions": {}, "engine": "compiled", "device": "cuda", "batch_size": 9, "notes": ["x"]}
        free["preprocessing"] = BASE["preprocessing"] | {"source": "model"}
        assert differences(stored, plan_settings(self.plan(about=free))) == []

    @pytest.mark.parametrize(
        ("about", "words"),
        [
            ({"fingerprint": "b" * 64}, "the model's weights or graph (fingerprint aaaaaaaaaaaa in the store, bbbb"),
            ({"adapter": "onnx"}, "format of the model: pytorch in the store, onnx wanted"),
            ({"input_shape": [3, 9, 9]}, "shape of the input: 3×8×8 in the store, 3×9×9 wanted"),
            ({"preprocessing": {"crop": [9, 9], "mean": [0.5]}}, "preprocessing: crop is 8×8 in the store, 9×9 wanted"),
            ({"preprocessing": "none"}, "preprocessing: given in the store, none wanted"),
            ({"noise_kind": "blur"}, "kind of noise: gaussian in the store, blur wanted"),
            ({"seed": 3}, "seed: 0 in the store, 3 wanted"),
            ({"layers": ["conv"]}, "layers: 1 gone (fc)"),
        ],
    )
    def test_settings(self, stored, about, words):
        (found,) = differences(stored, plan_settings(self.plan(about=about)))
        assert found.startswith(words)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"count": 8}, "samples: 3 new (s5, s6, s7)"),
            ({"count": 4}, "samples: 1 gone (s4)"),
            ({"noise": [0.0, 0.5]}, "noise levels: 1 new (0.5)"),
            ({"dtype": "float16", "layers": (FC,)}, "fc is stored as float32, and float16 is wanted"),
            ({"channels": {"conv": [1, 2]}}, "other channels are kept of conv"),
            ({"outputs": {"out": ((3,), "float32")}}, "the model's outputs are not kept in the store, and wanted"),
            ({"picture": (4, 4, 3)}, "the pictures are not kept in the store, and wanted"),
        ],
    )
    def test_what_is_kept(self, stored, changes, words):
        assert words in differences(stored, plan_settings(self.plan(**changes)))

    def test_the_order_of_samples(self, stored):
        wanted = plan_settings(self.plan())
        assert differences(stored, wanted | {"samples": wanted["samples"][::-1]}) == ["samples: in another order"]


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_any_way_of_cutting_blocks_gives_the_same_store(tmp_path_factory, data):
    """Units of any size filled by batches of any size, compared with one block a unit."""
    draw = data.draw
    count, steps = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    dims = {1: ("channel",), 2: ("token", "channel"), 3: ("channel", "y", "x")}[len(shape)]
    layer = LayerInfo("l", "ReLU", dims, shape, draw(st.sampled_from(["float32", "int16", "float64"])))
    blocks = {"l": [(drawn(count * steps, *shape, seed=n) * 9).astype(layer.dtype) for n in range(2)]}
    folder = tmp_path_factory.mktemp("cut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "CHUNK_BYTES", draw(st.sampled_from([1, 16, 64, 4096])))
        patch.setattr(schema, "MOST_UNIT_SAMPLES", draw(st.sampled_from([1, 2, 4, 8])))
        plan = a_plan(
            count, (layer,), noise=[0.0, 1.0], timesteps=steps, dtype=draw(st.sampled_from([None, "float16"]))
        )
        store = write(folder / "s", plan, blocks, draw(st.integers(1, 12)))
        write(folder / "whole", plan, blocks, 10**6)
    stored = plan.arrays()["l"].dtype
    wanted = np.stack([b.reshape(count, steps, *shape).astype(stored) for b in blocks["l"]], 1)
    np.testing.assert_array_equal(store.activation("l").values, wanted)
    assert chunks(folder / "s/layers/l/activation") == chunks(folder / "whole/layers/l/activation")
