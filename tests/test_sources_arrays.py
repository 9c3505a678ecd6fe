"""Arrays in files of every format against the array itself, and several arrays in one file."""

from __future__ import annotations

import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.data import ArraySource, NamedArrays, open_source, readable
from fmx.data.sources.arrays import Blocks
from fmx.errors import DataError

VALUES = np.random.default_rng(0).random((10, 3, 4, 5), dtype=np.float32)
LABELS = np.arange(10) % 3


def write(path, kind, **arrays):
    if kind in {"npz", "npz packed"}:
        (np.savez if kind == "npz" else np.savez_compressed)(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")
    if kind == "h5":
        with h5py.File(path.with_suffix(".h5"), "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, chunks=(4, *values.shape[1:]))
        return path.with_suffix(".h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # text in Zarr v3 is no settled standard
        group = zarr.open_group(path.with_suffix(".zarr"), mode="w", zarr_format=int(kind[-1]))
        for name, values in arrays.items():
            array = group.create_array(name, shape=values.shape, chunks=(4, *values.shape[1:]), dtype=values.dtype)
            array[:] = values
    return path.with_suffix(".zarr")


KINDS = ["npz", "npz packed", "h5", "zarr 2", "zarr 3"]


@pytest.mark.parametrize("kind", KINDS)
class TestFormats:
    def test_the_only_array(self, tmp_path, kind):
        source = open_source(write(tmp_path / "a", kind, maps=VALUES))
        assert isinstance(source, ArraySource)
        assert (source.shape, source.timesteps, source.pictures) == ((3, 4, 5), 1, False)
        assert [s.id for s in source.samples] == [str(i) for i in range(10)]
        for i in (9, 0, 3):
            np.testing.assert_array_equal(source.read(i), VALUES[i])
        for run in (range(10), range(3, 9), range(4, 8), range(7, 8)):
            block = source.block(run)
            np.testing.assert_array_equal(block, VALUES[run.start : run.stop])
            assert block.flags.c_contiguous
            assert block.flags.writeable

    def test_one_of_several(self, tmp_path, kind):
        path = write(tmp_path / "a", kind, images=VALUES, other=VALUES + 1, labels=LABELS)
        assert str(path) in open_source(path).samples[0].path
        np.testing.assert_array_equal(open_source(path).read(1), VALUES[1])
        named = open_source(f"{path}:other")
        np.testing.assert_array_equal(named.read(1), VALUES[1] + 1)
        assert [s.label for s in named.samples] == [str(n) for n in LABELS]
        with pytest.raises(DataError, match=r"has no array otter: did you mean other\?"):
            open_source(f"{path}:otter")

    def test_unclear_which(self, tmp_path, kind):
        path = write(tmp_path / "a", kind, one=VALUES, two=VALUES)
        with pytest.raises(DataError, match=r"holds the arrays one, two: name one, .*a\.\w+:one\."):
            open_source(path)

    def test_labels_alone(self, tmp_path, kind):
        with pytest.raises(DataError, match=r"shape|no array"):
            open_source(write(tmp_path / "a", kind, labels=LABELS))

    def test_inputs_of_a_model_by_name(self, tmp_path, kind):
        path = write(tmp_path / "a", kind, x=VALUES, scale=LABELS.astype(np.float32), y=LABELS)
        source = open_source(path, inputs=["x", "scale"])
        assert isinstance(source, NamedArrays)
        assert source.shapes == {"x": (3, 4, 5), "scale": (1,)}
        block = source.block(range(2, 7))
        np.testing.assert_array_equal(block["x"], VALUES[2:7])
        np.testing.assert_array_equal(block["scale"], LABELS[2:7, None].astype(np.float32))
        np.testing.assert_array_equal(source.read(3)["x"], VALUES[3])
        assert source.samples[4].label == "1"
        with pytest.raises(DataError, match="has no array tokens, which the model takes"):
            open_source(path, inputs=["x", "tokens"])

    def test_threads_read_the_same(self, tmp_path, kind):
        source = open_source(write(tmp_path / "a", kind, maps=VALUES))
        with ThreadPoolExecutor(8) as pool:
            for i, values in enumerate(pool.map(source.read, list(range(10)) * 20)):
                np.testing.assert_array_equal(values, VALUES[i % 10])

    def test_stamps(self, tmp_path, kind):
        path = write(tmp_path / "a", kind, maps=VALUES)
        stamps = open_source(path).stamps()
        assert open_source(path).stamps() == stamps
        changed = VALUES.copy()
        changed[4, 0, 0, :] = 0
        after = open_source(write(tmp_path / "a", kind, maps=changed)).stamps()
        assert after[4] != stamps[4]
        if "npz" in kind:
            assert [a == b for a, b in zip(after, stamps, strict=True)] == [i != 4 for i in range(10)]

    def test_clips(self, tmp_path, kind):
        source = open_source(write(tmp_path / "a", kind, maps=VALUES), clips=True)
        assert (source.timesteps, source.shape) == (3, (4, 5))
        np.testing.assert_array_equal(source.frames(6, slice(1, 3)), VALUES[6, 1:3])
        again = open_source(write(tmp_path / "b", kind, maps=VALUES)).as_clips()
        np.testing.assert_array_equal(again.frames(6, slice(0, 1)), VALUES[6, :1])


class TestDamage:
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
    @pytest.mark.parametrize("kind", ["npz", "npz packed", "h5"])
    def test_truncated(self, tmp_path, kind, share):
        path = write(tmp_path / "a", kind, maps=VALUES)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match=r"a\.\w+ can't be read"):
            open_source(path).block(range(10))

    def test_pickles_in_npz_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", maps=np.array([[None], [1]], object))
        with pytest.raises(DataError, match=r"can't be read as an array .*objects"):
            open_source(tmp_path / "a.npz")

    def test_a_damaged_chunk_can_be_left_out(self, tmp_path):
        path = write(tmp_path / "a", "zarr 3", maps=VALUES)
        (path / "maps" / "c" / "1" / "0" / "0" / "0").write_bytes(b"damaged")
        source = open_source(path)
        with pytest.raises(DataError, match=r"Sample 5 of .*a\.zarr can't be read"):
            source.read(5)
        kept, skipped = readable(source)
        assert skipped == ["4", "5", "6", "7"]
        assert [s.id for s in kept.samples] == ["0", "1", "2", "3", "8", "9"]
        np.testing.assert_array_equal(kept.block(range(2, 6)), VALUES[[2, 3, 8, 9]])

    def test_a_zip_of_something_else_is_no_array(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.txt", "text")
        with pytest.raises(DataError, match="it is no picture"):
            open_source(tmp_path / "a.zip").read(0)


class TestBlocks:
    class Chunked:
        def __init__(self, rows, chunk):
            self.values = np.arange(rows * 2).reshape(rows, 2)
            self.shape, self.dtype, self.chunks = self.values.shape, self.values.dtype, (chunk, 2)
            self.reads = []

        def __getitem__(self, key):
            self.reads.append(key)
            return self.values[key]

    @settings(deadline=None)
    @given(st.integers(1, 40), st.integers(1, 50), st.data())
    def test_any_slice(self, rows, chunk, data):
        array = self.Chunked(rows, chunk)
        blocks = Blocks(array)
        for _ in range(5):
            start = data.draw(st.integers(0, rows - 1))
            stop = data.draw(st.integers(start + 1, rows))
            np.testing.assert_array_equal(blocks[start:stop], array.values[start:stop])
            np.testing.assert_array_equal(blocks[start], array.values[start])

    def test_each_chunk_is_unpacked_once(self):
        array = self.Chunked(100, 25)
        blocks = Blocks(array)
        for start in range(0, 100, 8):
            blocks[start : min(start + 8, 100)]
        assert array.reads == [slice(0, 25), slice(25, 50), slice(50, 75), slice(75, 100)]

    def test_a_lock_is_held_while_reading(self):
        lock = threading.Lock()

        class Watched(self.Chunked):
            def __getitem__(self, key):
                assert lock.locked()
                return super().__getitem__(key)

        assert Blocks(Watched(9, 4), lock)[2:7].shape == (5, 2)
        assert not lock.locked()


class TestInMemory:
    def test_mappings_are_inputs_by_name(self):
        source = open_source({"x": VALUES, "scale": np.ones(10), "labels": LABELS})
        assert isinstance(source, NamedArrays)
        assert list(source.shapes) == ["x", "scale"]
        assert [s.label for s in source.samples] == [str(n) for n in LABELS]
        assert source.subset([3, 5]).block(range(1, 2))["x"].tolist() == VALUES[5:6].tolist()
        with pytest.raises(DataError, match=r"different numbers of samples \(a 10, b 9\)"):
            open_source({"a": VALUES, "b": VALUES[:9]})

    def test_xarray_gives_ids_and_labels(self):
        names = [f"s{i}" for i in range(10)]
        data = xr.DataArray(VALUES, dims=("sample", "channel", "y", "x"), coords={"sample": names})
        source = open_source(data.assign_coords(label=("sample", list("abcdefghij"))))
        assert [(s.id, s.label) for s in source.samples[:2]] == [("s0", "a"), ("s1", "b")]
        np.testing.assert_array_equal(source.block(range(2, 5)), VALUES[2:5])

    def test_dask_is_computed_slice_by_slice(self):
        import dask.array as da

        seen = []

        def load(block_info=None):
            seen.append(block_info[None]["chunk-location"][0])
            return np.zeros((5, 2))

        source = open_source(da.map_blocks(load, chunks=((5, 5), (2,)), dtype=float))
        assert source.block(range(5, 8)).shape == (3, 2)
        assert seen == [1]

    def test_stamps_of_arrays_tell_changed_samples(self):
        changed = VALUES.copy()
        changed[7] += 1
        before, after = open_source(VALUES).stamps(), open_source(changed).stamps()
        assert [a == b for a, b in zip(before, after, strict=True)] == [i != 7 for i in range(10)]
