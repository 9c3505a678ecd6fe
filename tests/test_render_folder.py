"""Folders of pictures: what lies where, what the index says, and that nothing is mixed or lost."""

from __future__ import annotations

import csv
import errno
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from fmx.errors import FmxError
from fmx.render import Frame, PictureFolder
from fmx.render.folder import file_name


def a_frame(value=7, **labels):
    return Frame(np.full((3, 4), value, dtype=np.uint8), labels=labels)


def index_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def files_of(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_pictures_and_their_index(tmp_path):
    with PictureFolder(tmp_path / "out", "torchvision:resnet18", "first") as folder:
        one = folder.save(a_frame(1, layer="layer1", channel="3"), "layer1", "cat/1.png", "channel3")
        two = folder.save(a_frame(2, layer="layer2", note='a "b", c\nd'), "layer2")
        film = folder.path("film", suffix=".avi")
        film.write_bytes(b"film")
        folder.add(film, {"layer": "layer1", "fps": 10})
    place = tmp_path / "out" / "torchvision-resnet18" / "first"
    assert folder.place == place
    assert files_of(place) == ["film.avi", "index.csv", "layer1_cat-1.png_channel3.png", "layer2.png"]
    assert index_of(place) == [
        {"file": one.name, "layer": "layer1", "channel": "3", "note": "", "fps": ""},
        {"file": two.name, "layer": "layer2", "channel": "", "note": 'a "b", c\nd', "fps": ""},
        {"file": "film.avi", "layer": "layer1", "channel": "", "note": "", "fps": "10"},
    ]
    with Image.open(one) as picture:
        assert (np.asarray(picture) == 1).all()


def test_a_folder_without_a_name_is_called_after_the_time(tmp_path):
    places = []
    for _ in range(3):
        with PictureFolder(tmp_path, "m") as folder:
            folder.save(a_frame(), "a")
        places.append(folder.place)
    assert len(set(places)) == 3
    assert all(place.parent == tmp_path / "m" and place.name[:2] == "20" for place in places)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision:resnet18", "torchvision-resnet18"),
        ("/data/nets/squeezenet1_1.onnx", "squeezenet1_1"),
        ("nets/", "nets"),
        (r"C:\nets\a.PT", "a"),
        ("package.module:factory", "package.module-factory"),
        ("net.v2", "net.v2"),
        ("..", "model"),
        (".onnx", "model"),
        ("", "model"),
    ],
)
def test_the_models_folder(tmp_path, model, name):
    assert PictureFolder(tmp_path, model, "a").place == tmp_path / name / "a"


def test_no_name_is_given_twice(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        names = [folder.path(part).name for part in ("a/b", "a:b", "A b", "index")]
        names += [folder.path("index", suffix=".csv").name, folder.path().name]
    assert names == ["a-b.png", "a-b-2.png", "A-b-3.png", "index.png", "index-2.csv", "picture.png"]


def test_names_are_safe_and_not_too_long():
    assert file_name("../../etc", "../.hidden") == "-..-etc_..-.hidden"
    long = [file_name("ж" * 300 + end) for end in "ab"]
    assert long[0] != long[1] and all(len(name.encode()) <= 180 for name in long)


def test_a_folder_that_is_there_is_not_mixed_with_new_pictures(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(), "old")
    before = files_of(tmp_path)
    with pytest.raises(FmxError, match="already there: choose another --name, or replace it with --overwrite"):
        PictureFolder(tmp_path, "m", "a").__enter__()
    assert files_of(tmp_path) == before
    with PictureFolder(tmp_path, "m", "a", overwrite=True) as folder:
        folder.save(a_frame(), "new")
    assert files_of(tmp_path) == ["m/a/index.csv", "m/a/new.png"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(), "old")
    with pytest.raises(KeyboardInterrupt), PictureFolder(tmp_path, "m", "a", overwrite=True) as folder:
        folder.save(a_frame(), "new")
        raise KeyboardInterrupt
    assert files_of(tmp_path) == ["m/a/index.csv", "m/a/old.png"]


def test_files_of_others_are_never_removed(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(), "old")
    (folder.place / "notes.txt").write_text("mine")
    with pytest.raises(FmxError, match=r"notes\.txt, which its index doesn't name"):
        PictureFolder(tmp_path, "m", "a", overwrite=True).__enter__()
    assert "m/a/notes.txt" in files_of(tmp_path)
    (tmp_path / "m" / "b").mkdir()
    with PictureFolder(tmp_path, "m", "b", overwrite=True) as folder:
        folder.save(a_frame(), "new")
    (tmp_path / "m" / "c").write_text("a file")
    with pytest.raises(FmxError, match="is a file"):
        PictureFolder(tmp_path, "m", "c", overwrite=True).__enter__()


def test_what_was_drawn_before_a_failure_is_kept_with_its_index(tmp_path):
    with pytest.raises(FmxError, match="no"), PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(), "one")
        raise FmxError("no")
    assert [row["file"] for row in index_of(folder.place)] == ["one.png"]
    for out in (tmp_path, tmp_path / "x" / "y"):
        with pytest.raises(FmxError, match="no"), PictureFolder(out, "m", "b") as folder:
            raise FmxError("no")
    assert not folder.place.exists() and not (tmp_path / "x").exists() and (tmp_path / "m" / "a").exists()


def test_a_disk_that_fills_leaves_whole_pictures_only(tmp_path):
    write = Path.write_bytes

    def full(path, data):
        if len(list(path.parent.iterdir())) < 2:
            return write(path, data)
        write(path, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        mock.patch.object(Path, "write_bytes", full),
        pytest.raises(FmxError, match="No space left on device"),
        PictureFolder(tmp_path, "m", "a") as folder,
    ):
        for i in range(5):
            folder.save(a_frame(), f"{i}")
    assert files_of(folder.place) == ["0.png", "1.png", "index.csv"]
    assert len(index_of(folder.place)) == 2


def test_names_that_are_no_folders(tmp_path):
    for name in ("a/b", "..", "", "a b"):
        with pytest.raises(FmxError, match="can't be called"):
            PictureFolder(tmp_path, "m", name).__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(FmxError, match="can't be made"):
        PictureFolder(tmp_path / "file", "m", "a").__enter__()
