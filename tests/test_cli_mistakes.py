"""What goes wrong on the command line: one sentence, the right exit code, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from analysis_stores import random_values, write_store

from fmx.cli.maximized import check_film
from fmx.errors import FmxError

MISTAKES = [
    ("stats STORE --bogus", "No such option: --bogus"),
    ("stat STORE", "Did you mean 'stats'? See fmx --help."),
    ("stats", "Missing argument 'STORE'"),
    ("hist STORE --bins many", "--bins takes a whole number, not 'many': see fmx hist --help"),
    ("hist STORE --bins=many", "--bins takes a whole number, not 'many'"),
    ("hist STORE --range 5,1", "correct --bins or --range."),
    ("similarity STORE --variance half", "--variance takes a number, not 'half'"),
    ("similarity STORE --bandwidth -1 --method cka-rbf", "--bandwidth takes a number above 0, not -1"),
    ("aggregate STORE -o FILE", "FILE can't be written (File exists): choose another folder with -o."),
    ("rank STORE --noise 0,0.5", "--noise takes one level here, not 2: give one of 0,0.5."),
    ("rank STORE --noise all", "--noise takes one level here, not all of them."),
    ("top-samples STORE --channels 5-3", "--channels takes numbers such as 3,17 or 0-15, not '5-3'"),
    ("render grid STORE --channels 0-99999999999", "--channels takes numbers such as 3,17 or 0-15"),
    ("render grid STORE --samples ,", "--samples takes ids, ends of ids or positions, or all, not ','"),
    ("render overlay STORE --timesteps 0,1", "--timestep takes one number, and '0,1' are 2: give one of them."),
    ("render overlay STORE --alpha 3", "--alpha lies between 0 and 1, not at 3."),
    ("report STORE --samples 0,1", "--sample takes one sample, and 0,1 matches 2: give one of"),
    ("layers FILE --channels 0-15", "channels of layers are chosen by fmx extract --keep-channels"),
    ("extract FILE FILE -o s --stride 0", "--stride takes a whole number from 1 on, not '0'"),
    ("rank STORE --held-out nan", "--held-out takes a number, not NaN."),
    ("maximize FILE --class 1 --jitter -1", "--jitter takes a whole number from 0 on, not '-1'"),
    ("stats FILE", "is no fmx store"),
    ("stats FOLDER", "is no fmx store"),
    ("stats NOWHERE", "There is no store NOWHERE"),
    ("layers FOLDER", "FOLDER is a folder, not a model"),
    ("compare STORE NOWHERE", "There is no store NOWHERE"),
]


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    values = {"maps": random_values(noise=2), "vectors": random_values(noise=2)[..., 0, 0]}
    return write_store(tmp_path_factory.mktemp("made") / "acts.zarr", values, noise=(0.0, 0.5)).path


def entries(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(words, said, acts, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("hello")
    Path("FOLDER").mkdir()
    ran = cli(*(str(acts) if word == "STORE" else word for word in words.split()))
    assert ran.code == 2
    assert not ran.out
    assert ran.err.startswith("fmx: ")
    assert len(ran.err.splitlines()) == 1
    assert said in ran.err
    assert entries(tmp_path) == ["FILE", "FOLDER"]


def test_films_below_a_file_are_refused_before_their_frames_are_made(tmp_path):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(FmxError, match="file is no folder that takes files"):
        check_film(str(tmp_path / "file" / "a.gif"), 1, overwrite=False)
    check_film(str(tmp_path / "new" / "a.gif"), 1, overwrite=False)


def test_what_the_system_refuses_is_a_sentence(acts, cli, monkeypatch):
    import fmx.store

    def fail(*_args):
        raise PermissionError(13, "Permission denied", "acts.zarr/zarr.json")

    monkeypatch.setattr(fmx.store, "open_store", fail)
    ran = cli("info", acts)
    assert (ran.code, ran.err) == (2, "fmx: acts.zarr/zarr.json can't be used: Permission denied.\n")

    def grow(*_args):
        raise MemoryError

    monkeypatch.setattr(fmx.store, "open_store", grow)
    ran = cli("info", acts)
    assert ran.code == 2
    assert ran.err.startswith("fmx: There is not enough memory")


@pytest.mark.parametrize("where", ["fmx.cli.app.app", "fmx.store.open_store"])
@pytest.mark.parametrize(("command", "more"), [("info", ""), ("maximize", "; run the same command to go on")])
def test_ctrl_c_is_said_in_a_sentence(command, more, where, cli, monkeypatch):
    def stop(*_args, **_how):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    monkeypatch.setattr("fmx.adapter.load", stop)
    ran = cli(command, "acts.zarr", *(["--classes", "1"] if command == "maximize" else []))
    assert ran.code == 130
    assert not ran.out
    assert ran.err.startswith(f"fmx: stopped{more}")
    assert len(ran.err.splitlines()) == 1
