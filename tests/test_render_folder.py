"""Folders of pictures: what lies where, what the index says, and that nothing is mixed or lost."""

from __future__ import annotations

import csv
import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from fmx.errors import FmxError
from fmx.file_names import file_name
from fmx.render import Frame, PictureFolder


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
        if path.suffix != ".tmp" or len(list(path.parent.glob("*.png"))) < 2:
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
    assert files_of(folder.place) == ["0.png", "1.png", "index.csv", "unfinished.txt"]
    assert len(index_of(folder.place)) == 2


def test_names_that_are_no_folders(tmp_path):
    for name in ("a/b", "..", "", "a b"):
        with pytest.raises(FmxError, match="can't be called"):
            PictureFolder(tmp_path, "m", name).__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(FmxError, match="can't be made"):
        PictureFolder(tmp_path / "file", "m", "a").__enter__()


def test_the_index_is_there_from_the_first_picture_on(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(layer="ж, 1"), "one")
        assert index_of(folder.place) == [{"file": "one.png", "layer": "ж, 1"}]
        folder.save(a_frame(layer="2", file="hides"), "two")
        assert index_of(folder.place)[1] == {"file": "two.png", "layer": "2"}
        folder.save(a_frame(noise="0.1"), "three")
        assert [row["noise"] for row in index_of(folder.place)] == ["", "", "0.1"]
        folder.save(a_frame(), "four")
        assert len(index_of(folder.place)) == 4
    assert files_of(folder.place) == ["four.png", "index.csv", "one.png", "three.png", "two.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_is_killed_leaves_its_index_and_says_so(tmp_path, overwrite):
    if overwrite:
        with PictureFolder(tmp_path, "m", "a") as folder:
            folder.save(a_frame(), "old")
    program = (
        "import numpy, os, sys\n"
        "from fmx.render import Frame, PictureFolder\n"
        f"with PictureFolder({str(tmp_path)!r}, 'm', 'a', overwrite={overwrite}) as folder:\n"
        "    for name in ('one', 'two'):\n"
        "        folder.save(Frame(numpy.ones((3, 4), 'uint8'), labels={'layer': name}), name)\n"
        "    (folder.place / ('.' + 32 * 'a' + '.tmp')).write_text('half a picture')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=300).returncode == 9
    place = tmp_path / "m" / "a"
    assert [row["file"] for row in index_of(place)] == ["one.png", "two.png"]
    told = (place / "unfinished.txt").read_text()
    assert "not complete" in told
    (aside,) = [p for p in (tmp_path / "m").iterdir() if p.suffix == ".old"] or [None]
    assert (aside is not None) == overwrite
    assert aside is None or (aside.name in told and files_of(aside) == ["index.csv", "old.png"])
    with pytest.raises(FmxError, match="already there, not complete"):
        PictureFolder(tmp_path, "m", "a").__enter__()
    with PictureFolder(tmp_path, "m", "a", overwrite=True) as folder:
        folder.save(a_frame(), "new")
    assert files_of(place) == ["index.csv", "new.png"]


def test_a_row_that_does_not_fit_the_disk_is_not_there_in_part(tmp_path):
    with PictureFolder(tmp_path, "m", "a") as folder:
        folder.save(a_frame(layer="1"), "one")
        before = (folder.place / "index.csv").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        try:
            with pytest.raises(FmxError, match=r"index\.csv can't be written"):
                folder.add(folder.place / "two.png", {"layer": "22222222"})
            assert (folder.place / "index.csv").read_bytes() == before
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
        folder.save(a_frame(layer="3"), "three")
    assert [row["file"] for row in index_of(folder.place)] == ["one.png", "three.png"]
