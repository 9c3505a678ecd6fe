"""What is kept of maximized pictures: folders and stores, going on after an interruption, and the command."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from networks import tiny_resnet
from PIL import Image
from torch import nn

import fmx
from fmx.errors import StoreError
from fmx.maximize import channel, logit, maximize
from fmx.maximize.keep import kept_every
from fmx.store import open_analysis, verify_store

SHAPE = (3, 32, 32)
QUICK: dict[str, Any] = {"steps": 5, "size": 16}


@pytest.fixture(scope="module")
def model() -> Any:
    return fmx.load(tiny_resnet().eval(), input_shape=SHAPE)


def counted(progress: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, total: progress.append((done, total))


def test_what_is_there_is_not_made_again(model: Any, tmp_path: Path) -> None:
    whole = maximize(model, "layer1", **QUICK)["layer1"]
    maximize(model, "layer1", [6, 2], to=tmp_path / "kept", **QUICK)
    told: list[tuple[int, int]] = []
    found = maximize(model, "layer1", "all", to=tmp_path / "kept", progress=counted(told), **QUICK)["layer1"]
    assert told[0] == (2 * 5, 8 * 5)
    assert told[-1] == (8 * 5, 8 * 5)
    assert found["channel"].values.tolist() == list(range(8))
    assert np.abs(found["picture"].values.astype(int) - whole["picture"].values).max() <= 1
    told.clear()
    again = maximize(model, "layer1", [5, 6], to=tmp_path / "kept", progress=counted(told), **QUICK)["layer1"]
    assert told == [(10, 10)]
    assert again.identical(found.sel(channel=[5, 6]))


def test_an_interrupted_run_keeps_its_finished_batches(model: Any, tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maximize(model, "layer1", batch_size=2, to=tmp_path, progress=stop, **QUICK)
    told: list[tuple[int, int]] = []
    found = maximize(model, "layer1", to=tmp_path, progress=counted(told), **QUICK)["layer1"]
    assert told[0] == (2 * 5, 8 * 5)
    assert found.sizes["channel"] == 8


def test_a_killed_run_goes_on(model: Any, tmp_path: Path) -> None:
    script = Path(__file__).with_name("maximize_killed.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, check=False, timeout=120, text=True
    )
    assert done.returncode == -9, done.stderr
    told: list[tuple[int, int]] = []
    found = maximize(model, "layer1", to=tmp_path, progress=counted(told), **QUICK)["layer1"]
    assert told[0][0] == 2 * 5
    whole = maximize(model, "layer1", **QUICK)["layer1"]
    assert np.abs(found["picture"].values.astype(int) - whole["picture"].values).max() <= 1


def test_other_settings_are_never_mixed(model: Any, tmp_path: Path) -> None:
    maximize(model, "layer1", [2], to=tmp_path, **QUICK)
    with pytest.raises(
        StoreError, match=r"made with other settings \(steps 5, not 6; seed 0, not 1\): add --overwrite"
    ):
        maximize(model, "layer1", [2], to=tmp_path, steps=6, size=16, seed=1)
    replaced = maximize(model, "layer1", [1], to=tmp_path, steps=6, size=16, overwrite=True)["layer1"]
    assert replaced.sizes["step"] == 6
    there = maximize(model, "layer1", [1], to=tmp_path, steps=6, size=16)["layer1"]
    assert there.identical(replaced)


def test_pictures_of_the_ascent_are_made_as_those_that_are_there(model: Any, tmp_path: Path) -> None:
    maximize(model, "layer1", [2], to=tmp_path, every=2, **QUICK)
    found = maximize(model, "layer1", [2, 3], to=tmp_path, **QUICK)["layer1"]
    assert found["frame_step"].values.tolist() == [2, 4, 5]
    assert kept_every(tmp_path, model.fingerprint) == 2
    with pytest.raises(StoreError, match=r"\(every 2, not 3\)"):
        maximize(model, "layer1", [2], to=tmp_path, every=3, **QUICK)
    maximize(model, "stem", [2], to=tmp_path, **QUICK)
    with pytest.raises(StoreError, match=r"of stem .*\(every 0, not 2\)"):
        maximize(model, "stem", [2], to=tmp_path, every=2, **QUICK)
    assert kept_every(tmp_path, model.fingerprint) is None
    assert kept_every(tmp_path / "none", model.fingerprint) is None


def test_objectives_are_kept_by_their_words(model: Any, tmp_path: Path) -> None:
    wanted = [logit(1), 2 * channel("layer1", 2)]
    first = maximize(model, wanted[:1], pictures=2, to=tmp_path, **QUICK)["objectives"]
    told: list[tuple[int, int]] = []
    both = maximize(model, wanted, pictures=2, to=tmp_path, progress=counted(told), **QUICK)["objectives"]
    assert told[0] == (10, 20)
    assert both["target"].values.tolist() == ["logit:1", "logit:1", "2*layer1:2", "2*layer1:2"]
    assert both["variant"].values.tolist() == [0, 1, 0, 1]
    assert np.array_equal(both["picture"].values[:2], first["picture"].values)


def test_files_are_read_without_pickles_and_damage_is_told(model: Any, tmp_path: Path) -> None:
    maximize(model, "layer1", [2], to=tmp_path, **QUICK)
    (file,) = tmp_path.iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["picture"].shape == (1, 16, 16, 3)
        assert json.loads(str(arrays["about"]))["dims"]["activation"] == ["channel"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="can't be read"):
        maximize(model, "layer1", [2], to=tmp_path, **QUICK)


@pytest.fixture
def store(kit: Path, tmp_path: Path) -> Path:
    fmx.extract(str(kit / "traced.pt"), str(kit / "pictures"), to=str(tmp_path / "acts.zarr"), layers="layer1,stem")
    return tmp_path / "acts.zarr"


def test_a_store_takes_the_results(store: Path, kit: Path) -> None:
    model = fmx.load(str(kit / "traced.pt"))
    maximize(model, "layer1", [2, 5], to=store, **QUICK)
    made = maximize(model, "stem", [1], to=store, every=2, **QUICK)["stem"]
    maximize(model, [logit(3)], to=store, **QUICK)
    told: list[tuple[int, int]] = []
    whole = maximize(model, "layer1", [2, 5, 0], to=store, progress=counted(told), **QUICK)["layer1"]
    assert told[0] == (10, 15)
    tree = xr.open_datatree(store, engine="zarr")
    saved = tree["analysis/maximization/layer1"]
    assert saved["picture"].dims == ("channel", "y", "x", "band")
    np.testing.assert_array_equal(saved["picture"].sel(channel=[2, 5, 0]), whole["picture"])
    assert saved["status"].values.tolist() == whole["status"].values.tolist()
    found = open_analysis(fmx.open_store(store).tree, "maximization")
    assert list(found) == ["layer1", "stem", "objectives"] or set(found) == {"layer1", "stem", "objectives"}
    np.testing.assert_array_equal(found["stem"]["frame"], made["frame"])
    report = verify_store(store)
    assert not (report.labels or report.units or report.orphans)
    other = fmx.load(nn.Conv2d(3, 4, 3), input_shape=SHAPE)
    with pytest.raises(StoreError, match="made with another model"):
        maximize(other, other.layers[0].name, [0], to=store, **QUICK)


WORDS = ("maximize", "traced.pt", "--steps", 4, "--size", 16, "--name", "run")


def test_the_command_makes_pictures_with_an_index(place: Path, cli: Any) -> None:
    ran = cli(*WORDS, "--layer", "layer1", "--channels", "1-2,5", "--curve", "--film", "film.gif", "--every", 2)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split() == ["target", "activation", "of", "noise", "status"]
    assert [line.split()[0] for line in lines[1:]] == ["layer1:1", "layer1:2", "layer1:5"]
    folder = place / "maximized" / "traced" / "run"
    assert "pictures are in maximized/traced/run" in ran.err
    with (folder / "index.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [
        "layer1_1.png",
        "layer1_2.png",
        "layer1_5.png",
        "sheet_layer1.png",
        "curve_layer1.csv",
    ]
    with Image.open(folder / "layer1_1.png") as picture:
        assert picture.size == (16, 16)
    curve = (folder / "curve_layer1.csv").read_text().splitlines()
    assert curve[0] == "step,layer1:1,layer1:2,layer1:5"
    assert len(curve) == 5
    with Image.open(place / "film.gif") as film:
        assert film.n_frames == 2


def test_the_command_goes_on_and_prints_json(place: Path, cli: Any) -> None:
    cli(*WORDS, "--layer", "layer1", "--channels", "1")
    ran = cli(*WORDS[:-1], "second", "--layer", "layer1", "--channels", "1,5", "--json")
    rows = json.loads(ran.out)
    assert [(row["layer"], row["channel"], row["status"]) for row in rows] == [("layer1", 1, "ok"), ("layer1", 5, "ok")]
    assert set(rows[0]) >= {"target", "activation", "start", "restarts"}


def test_the_command_takes_objectives_spectra_and_a_store(place: Path, cli: Any) -> None:
    fmx.extract("traced.pt", "pictures", to="acts.zarr", layers="layer1")
    wanted = ("--objective", "layer1:1 - 0.5*logit:2", "--logits", "0-1", "--pictures", 2, "--diversity", 0.1)
    ran = cli(*WORDS, *wanted, "--method", "maco", "--spectrum", "pictures", "--store", "acts.zarr")
    assert ran.code == 0, ran.err
    assert len(ran.out.splitlines()) == 1 + 3 * 2
    assert not (place / "maximized" / "traced" / "results").exists()
    saved = open_analysis(fmx.open_store("acts.zarr").tree, "maximization")["objectives"]
    assert saved["alpha"].shape == (6, 16, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say what to maximize: --layer NAME with --channels, --logits, or --objective"),
        (("--channels", "1"), "--channels belong to a layer: add --layer NAME"),
        (
            ("--layer", "layer1", "--channels", "1,x"),
            "--channels takes numbers such as 3,17 or 0-15, not '1,x'",
        ),
        (("--layer", "layer1", "--channels", "3,8"), "Layer layer1 has no channel 8: it has 8, 0 to 7"),
        (("--layer", "layer7"), "No layer is called layer7: did you mean layer1"),
        (("--objective", "layer1"), "'layer1' is no objective: write it like"),
        (("--logits", "9"), "The output has no channel 9: it has 5, 0 to 4"),
        (("--logits", "1", "--method", "gan"), "There is no method 'gan'"),
        (("--logits", "all"), "--logits takes numbers and ranges such as 281,285 or 0-9, not 'all'"),
        (("--logits", "1", "--plot", "a.jpg"), "Plots are written as .png, .svg or .pdf, not .jpg"),
        (("--logits", "1", "--film", "a.mov"), "--film takes a file that ends in"),
        (("--logits", "1", "--diversity", 1), "--diversity is how much several pictures differ: add --pictures 4"),
        (("--logits", "1", "--zoom", "1.1"), "--zoom takes two numbers such as 0.9,1.1"),
        (("--logits", "1", "--no-transforms", "--jitter", 2), "--no-transforms leaves pictures as they are"),
        (("--logits", "1", "--no-transforms", "--views", 32), "--no-transforms leaves pictures as they are"),
        (("--logits", "1", "--views", "12.5"), "--views takes whole numbers of pixels, such as 128,224, not '12.5'"),
        (("--logits", "1", "--views", "2"), "--views takes up to 8 sides of at least 4 pixels"),
        (("--logits", "1", "--batch-size", 0), "--batch-size and --every take numbers of at least 1"),
        (("--logits", "1", "--method", "maco", "--spectrum", "nowhere"), "nowhere"),
        (("--logits", "1", "--store", "nowhere.zarr"), "nowhere.zarr is no store: make one with fmx extract"),
    ],
)
def test_what_the_command_refuses(words: tuple[Any, ...], said: str, place: Path, cli: Any) -> None:
    ran = cli(*WORDS, *words)
    assert ran.code == 2, ran.out
    assert said in ran.err
    assert not (place / "maximized" / "traced" / "run").exists()


def test_a_film_of_channels_and_classes(place: Path, cli: Any) -> None:
    ran = cli(*WORDS, "--layer", "layer1", "--channels", "1,5", "--logits", "2", "--film", "film.avi")
    assert ran.code == 0, ran.err
    assert (place / "film.avi").stat().st_size > 1000
    many = cli(*WORDS[:-1], "many", "--layer", "layer1", "--pictures", 9, "--film", "other.avi")
    assert many.code == 2
    assert "A film shows at most 64 pictures, not 72" in many.err


def test_a_name_that_is_taken_is_told_before_anything_runs(place: Path, cli: Any) -> None:
    cli(*WORDS, "--logits", "1")
    ran = cli(*WORDS, "--logits", "2")
    assert ran.code == 2
    assert "already there: choose another --name" in ran.err
    assert cli(*WORDS, "--logits", "2", "--overwrite").code == 0


@pytest.mark.real
def test_maximized_channels_beat_photographs(real: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        import maximization as bench
    finally:
        sys.path.pop(0)
    net = bench.network(real)
    opened = fmx.load(bench.network(real), input_shape=(3, 224, 224))
    best = np.max([bench.means(net, "features.6", p).max(0) for some in bench.pictures(real).values() for p in some], 0)
    chosen = [c for c in (1, 20, 50, 77, 111) if best[c] > 0]
    found = maximize(opened, "features.6", chosen, steps=48, size=96, preprocess=bench.preprocess())["features.6"]
    assert len(chosen) >= 4
    assert (found["activation"].values > best[chosen]).all()
    assert found["status"].values.tolist() == ["ok"] * len(chosen)
