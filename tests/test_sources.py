"""Sources: which samples there are, under which ids and labels, and what is said about those that can't be read."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fmx.data import ArraySource, PictureSource, open_source
from fmx.errors import DataError


def picture(size=(9, 7), mode="RGB"):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    values = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(values)


def encoded(kind, size=(64, 48)):
    buffer = io.BytesIO()
    picture(size).save(buffer, kind)
    return buffer.getvalue()


def save(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(kind, (9, 7)))
    return path


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        root = tmp_path / "pictures"
        for name in ("dog/b.JPG", "dog/a.png", "cat/deep/x.png", "cat/Ä.png", "top.png", ".hidden/c.png", "dog/.d.png"):
            save(root / name, "JPEG" if name.endswith("JPG") else "PNG")
        (root / "readme.txt").write_text("text")
        (root / "folder.png").mkdir()
        np.save(root / "dog" / "maps.npy", np.zeros((2, 3)))
        return root

    def test_ids_labels_and_order(self, folder):
        source = open_source(str(folder))
        assert isinstance(source, PictureSource)
        assert [(s.id, s.label) for s in source.samples] == [
            ("cat/deep/x.png", "cat"),
            ("cat/Ä.png", "cat"),
            ("dog/a.png", "dog"),
            ("dog/b.JPG", "dog"),
            ("top.png", ""),
        ]
        assert [s.path for s in source.samples] == [str(folder / s.id) for s in source.samples]

    def test_ids_do_not_depend_on_where_the_folder_is(self, folder, tmp_path):
        before = [s.id for s in open_source(folder).samples]
        assert [s.id for s in open_source(folder.rename(tmp_path / ".moved")).samples] == before

    @pytest.mark.parametrize("name", ["features.h5", "paper.pdf"])
    def test_what_pillow_only_knows_by_name_is_no_picture(self, folder, name):
        (folder / name).write_bytes(b"\x89HDF\r\n\x1a\n")
        assert name not in [s.id for s in open_source(folder).samples]

    def test_without_pictures(self, tmp_path):
        (tmp_path / "notes.txt").write_text("text")
        with pytest.raises(DataError, match="holds no pictures"):
            open_source(tmp_path)


class TestFilesAndLists:
    def test_one_picture(self, tmp_path):
        source = open_source(save(tmp_path / "cat.png"))
        assert [(s.id, s.label) for s in source.samples] == [("cat.png", "")]
        np.testing.assert_array_equal(np.asarray(source.read(0)), np.asarray(picture()))

    def test_a_list_keeps_its_order(self, tmp_path):
        paths = [save(tmp_path / name) for name in ("b.png", "a.png", "c.png")]
        source = open_source([str(paths[0]), *paths[1:]])
        assert [s.id for s in source.samples] == ["b.png", "a.png", "c.png"]
        assert source.read(1).size == (9, 7)

    def test_the_same_name_in_two_folders(self, tmp_path):
        paths = [save(tmp_path / "a" / "1.png"), save(tmp_path / "b" / "1.png")]
        assert [s.id for s in open_source(paths).samples] == [str(p) for p in paths]

    def test_the_same_file_twice(self, tmp_path):
        path = save(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"a\.png is listed twice"):
            open_source([path, path])

    def test_what_is_missing(self, tmp_path):
        save(tmp_path / "kitten.png")
        with pytest.raises(DataError, match=r"There is no .*kiten\.png: did you mean kitten\.png\?"):
            open_source(tmp_path / "kiten.png")
        with pytest.raises(DataError, match="nowhere"):
            open_source(tmp_path / "nowhere" / "a.png")
        with pytest.raises(DataError, match=r"There is no picture .*gone\.png"):
            open_source([tmp_path / "kitten.png", tmp_path / "gone.png"])
        with pytest.raises(DataError, match="list of pictures is empty"):
            open_source([])

    @pytest.mark.parametrize("thing", [5, None, {"a": 1}, 1.5, [1, 2], [[0.5], [1.0]], b"ab"], ids=repr)
    def test_what_is_no_data(self, thing):
        with pytest.raises(DataError, match="give a picture, a folder or an"):
            open_source(thing)


class TestArrays:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64", "bool", ">f4"])
    def test_npy_is_read_as_needed(self, tmp_path, dtype):
        values = (np.arange(24).reshape(4, 2, 3) % 5).astype(dtype)
        np.save(tmp_path / "maps.npy", values)
        source = open_source(tmp_path / "maps.npy")
        assert isinstance(source.array, np.memmap)
        assert source.shape == (2, 3)
        assert [s.id for s in source.samples] == ["0", "1", "2", "3"]
        assert {s.path for s in source.samples} == {str(tmp_path / "maps.npy")}
        np.testing.assert_array_equal(source.read(2), values[2])

    def test_npy_is_told_by_content(self, tmp_path):
        with (tmp_path / "maps.dat").open("wb") as file:
            np.save(file, np.zeros((2, 3)))
        assert isinstance(open_source(tmp_path / "maps.dat"), ArraySource)

    @pytest.mark.parametrize("make", [np.asarray, torch.asarray])
    def test_arrays_in_memory(self, make):
        source = open_source(make(np.arange(6.0, dtype=np.float32).reshape(3, 2)))
        assert isinstance(source, ArraySource)
        assert source.read(1).tolist() == [2.0, 3.0]

    @pytest.mark.parametrize(
        ("array", "sentence"),
        [
            (np.float32(1), r"array has shape \(\): give an array whose first axis is the samples"),
            (np.zeros(3), r"shape \(3,\)"),
            (np.zeros((0, 3)), r"shape \(0, 3\)"),
            (np.array([["a"], ["b"]]), "array holds <U1: give an array of numbers"),
            (np.zeros((2, 2), complex), "complex128"),
            (np.array([[None], ["x"]]), "object"),
        ],
    )
    def test_arrays_that_are_no_samples(self, array, sentence):
        with pytest.raises(DataError, match=sentence):
            open_source(array)

    def test_pickles_are_refused(self, tmp_path):
        np.save(tmp_path / "evil.npy", np.array([[None]]), allow_pickle=True)
        with pytest.raises(DataError, match=r"evil\.npy can't be read as an array .*bject"):
            open_source(tmp_path / "evil.npy")

    @pytest.mark.parametrize("share", [6, 20, 100, -1])
    def test_truncated_npy(self, tmp_path, share):
        np.save(tmp_path / "maps.npy", np.zeros((4, 5)))
        whole = (tmp_path / "maps.npy").read_bytes()
        (tmp_path / "maps.npy").write_bytes(whole[:share])
        with pytest.raises(DataError, match=r"maps\.npy can't be read as an array"):
            open_source(tmp_path / "maps.npy")


class TestUnreadable:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
    def test_truncated_pictures_are_named(self, tmp_path, kind, share):
        whole = encoded(kind)
        (tmp_path / "half.png").write_bytes(whole[: int(len(whole) * share)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of some of these before it fails
            with pytest.raises(DataError, match=r"half\.png can't be read: \w+"):
                open_source(tmp_path / "half.png").read(0)

    def test_real_numbers_that_say_nothing_of_white_are_no_pixels(self, tmp_path):
        Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=r"a\.tif can't be read: its pixels are real numbers that don't say"):
            open_source(tmp_path / "a.tif").read(0)

    @pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\xff\xd8\xff"])
    def test_what_is_no_picture(self, tmp_path, content):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png can't be read: it is no picture\.$"):
            open_source(tmp_path / "a.png").read(0)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
    @given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), st.integers(0, 300), st.binary(max_size=8))
    def test_damaged_pictures_are_read_or_named(self, tmp_path, kind, start, junk):
        whole = bytearray(encoded(kind, (9, 7)))
        whole[start : start + len(junk)] = junk
        (tmp_path / "a.png").write_bytes(whole)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert isinstance(open_source([tmp_path / "a.png"]).read(0), Image.Image)
            except DataError as error:
                assert "a.png can't be read" in str(error)

    def test_readable_lists_what_it_leaves_out(self, tmp_path):
        for name in ("a/1.png", "a/2.png", "b/3.png"):
            save(tmp_path / name)
        (tmp_path / "a" / "2.png").write_bytes(encoded("PNG")[:500])
        (tmp_path / "b" / "4.jpg").write_bytes(b"text")
        source, skipped = open_source(tmp_path).readable()
        assert [(s.id, s.label) for s in source.samples] == [("a/1.png", "a"), ("b/3.png", "b")]
        assert skipped == ["a/2.png", "b/4.jpg"]

    def test_nothing_readable(self, tmp_path):
        for name in ("1.png", "2.png"):
            (tmp_path / name).write_bytes(b"text")
        with pytest.raises(DataError, match="None of the 2 pictures can be read"):
            open_source(tmp_path).readable()
