"""Globs, lists and manifests: which files are meant, under which ids and labels, and mistakes in them."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from fmx.data import PictureSource, open_source
from fmx.errors import DataError


def save(path, colour=0, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat/a.png", "cat/deep/b.jpg", "dog/c.png", "top.png", ".hidden/d.png"):
        save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("text")
    return tmp_path / "photos"


class TestGlobs:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("photos/**/*.png", [("cat/a.png", "cat"), ("dog/c.png", "dog"), ("top.png", "")]),
            ("photos/*/*.png", [("cat/a.png", "cat"), ("dog/c.png", "dog")]),
            ("photos/cat/*", [("a.png", "")]),
            ("photos/cat/**/*.*", [("a.png", ""), ("deep/b.jpg", "deep")]),
            ("photos/[cd]*/?.png", [("cat/a.png", "cat"), ("dog/c.png", "dog")]),
            ("photo*/top.png", [("photos/top.png", "photos")]),
        ],
    )
    @pytest.mark.parametrize("absolute", [True, False])
    def test_ids_and_labels_are_those_of_the_folder(self, folder, monkeypatch, pattern, expected, absolute):
        monkeypatch.chdir(folder.parent)
        source = open_source(os.path.join(folder.parent, pattern) if absolute else pattern)  # noqa: PTH118
        assert isinstance(source, PictureSource)
        assert [(s.id, s.label) for s in source.samples] == expected
        assert source.read(0).size == (9, 7)

    def test_a_glob_of_all_is_the_folder(self, folder):
        assert open_source(f"{folder}/**/*").samples == open_source(folder).samples

    @pytest.mark.parametrize(
        ("pattern", "sentence"),
        [("*.gif", r"\*\.gif matches nothing: correct"), ("*.txt", "matches 1 files, none of them a picture")],
    )
    def test_nothing_matches(self, folder, pattern, sentence):
        with pytest.raises(DataError, match=sentence):
            open_source(f"{folder}/{pattern}")

    def test_a_name_with_brackets_is_a_file(self, tmp_path):
        assert [s.id for s in open_source(save(tmp_path / "a[1].png")).samples] == ["a[1].png"]


class TestManifests:
    def write(self, folder, text, name="list.csv"):
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    def test_paths_labels_and_ids(self, folder):
        text = 'label, path ,score,id\nfeline,cat/a.png,3,first\n"a, b",dog/c.png,4,\n,top.png,5,Ä\n'
        source = open_source(self.write(folder, "\ufeff" + text))
        assert [(s.id, s.label) for s in source.samples] == [("first", "feline"), ("dog/c.png", "a, b"), ("Ä", "")]
        assert [s.path for s in source.samples] == [str(folder / n) for n in ("cat/a.png", "dog/c.png", "top.png")]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_ends_of_lines(self, folder, end):
        odd = "two\x0bthree\u2028four.png"
        (folder / "top.png").rename(folder / odd)
        source = open_source(self.write(folder, f'path,label{end}{odd},"a{end}b"{end}{end}cat/a.png,c{end}'))
        assert [(s.id, s.label) for s in source.samples] == [(odd, f"a{end}b"), ("cat/a.png", "c")]
        (folder / "list.txt").write_bytes(f"# all{end}{odd}{end}{end}cat/a.png".encode())
        assert [s.id for s in open_source(folder / "list.txt").samples] == [odd, "cat/a.png"]

    def test_paths_alone(self, folder):
        source = open_source(self.write(folder, f"path\n{folder / 'top.png'}\ncat/a.png\n"))
        assert [s.id for s in source.samples] == [(folder / "top.png").as_posix(), "cat/a.png"]

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("", r"list\.csv is empty: its first line has to name the columns"),
            ("file,label\na.png,x\n", r"has the columns file, label: its first line has to name the columns, path"),
            ("path,label\n", "lists no files"),
            ("path\ntop.png\ngone.png\n", r"line 3: there is no file .*gone\.png; paths are relative"),
            ("path\ntop.png\ncat/a.png\ntop.png\n", "line 4: the file .*top.png stands in line 2 already"),
            ("path\ntop.png\n./top.png\n", r"line 3: the file .*top\.png stands in line 2 already"),
            ("path,id\ntop.png,one\ncat/a.png,one\n", "line 3: the id one stands in line 2 already"),
            ("path,label\ntop.png,x\n,y\n", "line 3, has no path"),
            ('path\n"top.png\n', "can't be read as CSV"),
            (
                "path,label\ntop.png,x,\ncat/a.png,x, y\n",
                "line 3, has more cells than columns: put text with commas in",
            ),
        ],
    )
    def test_mistakes_name_the_line(self, folder, text, sentence):
        with pytest.raises(DataError, match=sentence):
            open_source(self.write(folder, text))

    def test_other_encodings(self, folder):
        (folder / "list.csv").write_bytes("path\nÄ.png\n".encode("latin-1"))
        with pytest.raises(DataError, match=r"list\.csv is not UTF-8 text"):
            open_source(folder / "list.csv")

    def test_text_lists(self, folder):
        path = self.write(folder, "# mine\n\ntop.png\n  cat/a.png  \n", "list.txt")
        assert [s.id for s in open_source(path).samples] == ["top.png", "cat/a.png"]
        with pytest.raises(DataError, match="line 2: there is no file"):
            open_source(self.write(folder, "top.png\nnone.png\n", "list.txt"))


class TestChanges:
    def test_a_changed_picture_is_told_by_its_stamp(self, folder):
        before = open_source(folder)
        stamps, signature = before.stamps(), before.signature()
        assert len(set(stamps)) == 2  # the PNG files are alike, the JPEG is not
        os.utime(folder / "top.png", (0, 0))
        assert open_source(folder).stamps() == stamps
        save(folder / "top.png", colour=200)
        after = open_source(folder)
        assert [a == b for a, b in zip(stamps, after.stamps(), strict=True)] == [True, True, True, False]
        assert after.signature() != signature
        assert after.stamps([3]) == after.stamps()[3:]

    def test_large_files_are_told_by_begin_middle_and_end(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
        path = tmp_path / "a.bmp"
        Image.fromarray(noise).save(path)
        whole, stamp = path.read_bytes(), open_source(path).stamp(0)
        for place in (20, len(whole) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[place] ^= 255
            path.write_bytes(changed)
            assert open_source(path).stamp(0) != stamp
        path.write_bytes(whole)
        assert open_source(path).stamp(0) == stamp

    def test_labels_and_order_belong_to_the_signature(self, folder):
        manifest = folder / "list.csv"
        seen = set()
        for text in ("path,label\ncat/a.png,x\ndog/c.png,y\n", "path,label\ncat/a.png,x\ndog/c.png,z\n"):
            manifest.write_text(text)
            seen.add(open_source(manifest).signature())
        seen.add(open_source([folder / "dog/c.png", folder / "cat/a.png"]).signature())
        assert len(seen) == 3

    def test_what_has_gone_is_named(self, folder):
        source = open_source(folder)
        (folder / "top.png").unlink()
        with pytest.raises(DataError, match=r"top\.png can't be read: No such file"):
            source.stamps()
