"""``fmx deconv`` and ``fmx attribute``: modes, pictures, tables, what the figure of top samples shows, mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import nn

import fmx
from fmx.errors import DataError, FmxError
from fmx.project import Deconvnet, project_top, stored_pictures

MODEL = "test_project_cli:small"


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        filters = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU()]
        net = nn.Sequential(*filters, nn.Flatten(), nn.Linear(288, 4))
        net[3].bias.data[5] = -1000  # a dead channel
        return net.eval()


def against() -> nn.Module:
    """A network whose second output falls with all that it sees."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].bias.fill_(1.0)
        net[4].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    return net


def without_relus() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.LayerNorm(1536), nn.Linear(1536, 3)).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(4):
        place = folder / ("cat" if i % 2 else "dog")
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (26, 22, 3), np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def store(photos: Path) -> Any:
    return fmx.extract(MODEL, photos, to=photos.parent / "s.zarr", layers="4", input_shape=(3, 18, 18), overwrite=True)


def run(cli: Any, tmp_path: Path, *words: object, ok: bool = True) -> Any:
    done = cli(words[0], MODEL, *words[1:], "--input-shape", "3,18,18", "-o", tmp_path / "out", "--name", "a")
    assert (done.code == 0) == ok, done.err
    return done


def indexed(tmp_path: Path) -> list[dict[str, str]]:
    (file,) = (tmp_path / "out").rglob("index.csv")
    with file.open(newline="") as rows:
        return list(csv.DictReader(rows))


def test_top_maps_are_projected_together(cli: Any, tmp_path: Path, photos: Path) -> None:
    done = run(cli, tmp_path, "deconv", photos, "--layers", "1,4", "--maps", "2", "--json")
    rows = json.loads(done.out)
    assert [(row["sample"], row["layer"], row["maps"]) for row in rows[:2]] == [
        ("cat/1.png", "1", 2),
        ("cat/1.png", "4", 2),
    ]
    assert len(rows) == 8
    assert all(Path(row["file"]).is_file() for row in rows)
    index = indexed(tmp_path)
    assert len(index) == 4
    assert index[0]["method"] == "deconvnet"
    found = fmx.project.deconv(fmx.load(MODEL, input_shape=(3, 18, 18)), photos, "4", maps=2, group="together")
    assert rows[1]["value"] == pytest.approx(float(found["value"][0].max()), rel=1e-5)
    assert rows[1]["channels"] == ",".join(map(str, found["channel"].values[0]))


def test_channels_are_projected_apart_and_dead_ones_are_said(cli: Any, tmp_path: Path, photos: Path) -> None:
    done = run(cli, tmp_path, "deconv", photos / "cat", "--layer", "4", "--channels", "1-2,5", "--json")
    assert [row["channel"] for row in json.loads(done.out)] == [1, 2, 5] * 2
    assert "no activation above 0" in done.err
    assert "channel 5 of 4 for 1.png" in done.err


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("words", ["--maps 2", "--channels 1,2", "--film gif --frames 2", "--top 2 --channels 1"])
def test_in_another_precision(words: str, precision: str, cli: Any, tmp_path: Path, photos: Path, store: Any) -> None:
    """What is written is what Python gives in this precision, and says which it was."""
    given = words.split() + (["--store", str(store.path)] if "--top" in words else [str(photos)])
    file = tmp_path / "a.nc"
    run(cli, tmp_path, "deconv", *given, "--layer", "4", "--precision", precision, "--arrays", file)
    with xr.open_dataset(file) as found:
        assert found.attrs["precision"] == precision
        if "channels 1,2" in words:
            model = fmx.load(MODEL, input_shape=(3, 18, 18))
            expected = fmx.project.deconv(model, photos, "4", channels=[1, 2], precision=precision)
            np.testing.assert_array_equal(found["projection"][:, 0], expected["projection"])
            np.testing.assert_array_equal(found["value"][:, 0], expected["value"])


def test_top_maps_one_by_one(cli: Any, tmp_path: Path, photos: Path) -> None:
    done = run(cli, tmp_path, "deconv", photos / "cat", "--layer", "4", "--maps", "0.25", "--each", "--json")
    assert len(json.loads(done.out)) == 4


@pytest.mark.parametrize(("kind", "frames"), [("gif", 8), ("mp4", 3)])
def test_a_film_goes_from_one_map_to_all(cli: Any, tmp_path: Path, photos: Path, kind: str, frames: int) -> None:
    import av

    words = ["deconv", photos / "cat" / "1.png", "--layer", "4", "--film", kind, "--frames", frames, "--json"]
    (row,) = json.loads(run(cli, tmp_path, *words).out)
    assert (row["maps"], row["frames"]) == (8, frames)
    assert row["file"].endswith(f".{kind}")
    with av.open(row["file"]) as film:
        assert sum(1 for _ in film.decode(video=0)) == frames


@pytest.mark.parametrize("words", ["deconv --layer 4", "attribute", "attribute --method grad-cam --layer 4"])
def test_arrays_from_a_file(words: str, cli: Any, tmp_path: Path) -> None:
    """They can't be written to, and have no colours that anybody knows."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2, 3, 18, 18)).astype(np.float32))
    done = run(cli, tmp_path, *words.split()[:1], tmp_path / "x.npy", *words.split()[1:], "--json")
    assert {row["sample"] for row in json.loads(done.out)} == {"0", "1"}


@pytest.mark.parametrize("words", ["deconv --layer 3 --channels 7", "attribute --method guided"])
def test_without_relus_the_plain_derivative_is_said_to_be_one(
    words: str, cli: Any, tmp_path: Path, photos: Path
) -> None:
    what, _, more = words.partition(" ")
    model = ("test_project_cli:without_relus", photos, *more.split(), "--input-shape", "3,18,18", "-o", tmp_path)
    done = cli(what, *model, "--name", "a", "--arrays", tmp_path / "a.nc")
    assert "no ReLU, which is all that the method has a rule for" in done.err
    assert "(GELU among them)" in done.err
    assert "max-pooling" not in done.err
    target = {"layer": "3", "channels": [7]} if what == "deconv" else {}
    net = fmx.load(model[0], input_shape=(3, 18, 18))
    plain = fmx.project.attribute(net, photos, method="gradient", **target)["attribution"].values
    with xr.open_dataset(tmp_path / "a.nc") as found:
        projected = found["projection" if what == "deconv" else "attribution"].values.reshape(plain.shape)
        if what == "deconv":
            plain = plain * np.maximum(found["value"].values.reshape(-1, 1, 1, 1, 1), 0)
    np.testing.assert_allclose(projected, plain, rtol=1e-4, atol=1e-6 * np.abs(plain).max())


def test_selectivity_comes_from_a_store(cli: Any, tmp_path: Path, photos: Path, store: Any) -> None:
    words = [
        "deconv",
        photos / "cat",
        "--layer",
        "4",
        "--by",
        "selectivity",
        "--maps",
        "3",
        "--store",
        store.path,
        "--json",
    ]
    rows = json.loads(run(cli, tmp_path, *words).out)
    ranked = fmx.analyze.rank(store, metric="selectivity", top=3, layers="4")["4"]["channel"].values
    assert rows[0]["channels"] == ",".join(map(str, ranked))


def test_top_samples_are_those_of_the_store(cli: Any, tmp_path: Path, store: Any) -> None:
    words = ["deconv", "--store", store.path, "--layer", "4", "--channels", "0,3", "--top", "2", "--json"]
    rows = json.loads(run(cli, tmp_path, *words).out)
    top = fmx.analyze.top_samples(store, k=2, layers="4")["4"]
    for row in rows:
        one = top.sel(channel=row["channel"], rank=row["rank"])
        assert row["sample"] == one["sample_id"].item()
        assert (row["y"], row["x"]) == (int(one["y"]), int(one["x"]))


@pytest.fixture(scope="module")
def summary(photos: Path) -> Any:
    to = photos.parent / "summary.zarr"
    return fmx.extract(MODEL, photos, to=to, layers="1,4", input_shape=(3, 18, 18), reduce=["top-samples"])


def test_top_samples_that_were_found_while_the_model_ran(cli: Any, tmp_path: Path, store: Any, summary: Any) -> None:
    """A store without activations has them, too: the same rows, and the same values."""
    words = ["--layer", "4", "--channels", "0,3", "--top", "2", "--json", "--arrays"]
    rows = [
        json.loads(run(cli, tmp_path / of.stem, "deconv", "--store", of, *words, tmp_path / f"{of.stem}.zarr").out)
        for of in (Path(store.path), Path(summary.path))
    ]
    assert [{**row, "file": "", "value": round(row["value"], 5)} for row in rows[0]] == [
        {**row, "file": "", "value": round(row["value"], 5)} for row in rows[1]
    ]
    whole, reduced = (xr.open_dataset(tmp_path / f"{name}.zarr") for name in ("s", "summary"))
    np.testing.assert_allclose(reduced["projection"], whole["projection"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(reduced["picture"], whole["picture"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--layer 4 --top 10", "keeps 9 top samples of each channel, not 10: lower --top"),
        ("--layer 4 --top 0", "At least one top sample is shown, not 0"),
        ("--layer 0 --top 2", "has top samples of 1, 4 only"),
    ],
)
def test_top_samples_that_a_summary_lacks(words: str, said: str, cli: Any, tmp_path: Path, summary: Any) -> None:
    assert said in run(cli, tmp_path, "deconv", "--store", summary.path, *words.split(), ok=False).err


def test_crops_and_projections_of_top_samples_are_cut_from_the_whole(store: Any) -> None:
    model = fmx.load(MODEL, input_shape=(3, 18, 18))
    pictures = stored_pictures(model, store)
    field = fmx.analyze.receptive_field(model.torch_module(), "4", (3, 18, 18))
    top = fmx.analyze.top_samples(store, k=3, layers="4", fields={"4": field})["4"]
    found = project_top(Deconvnet(pictures), "4", top, [2, 0])
    assert found["channel"].values.tolist() == [2, 0]
    assert found.sizes["y"] == found.sizes["x"] == 8  # 3 + 1 + 2 · 2
    for channel in (2, 0):
        for rank in (1, 2, 3):
            one = found.sel(channel=channel, rank=rank)
            sample = store.samples.index(str(one["sample_id"].item()))
            y, x = int(one["window_y"]), int(one["window_x"])
            picture = store.pictures.values[sample, 0]
            np.testing.assert_array_equal(one["picture"], picture[y : y + 8, x : x + 8])
            whole = Deconvnet(pictures).project(sample, "4", channels=[channel], activations=1)
            assert float(whole["value"][0]) == pytest.approx(float(one["value"]), rel=1e-4)
            projection = whole["projection"].values[0]
            np.testing.assert_allclose(one["projection"], projection[:, y : y + 8, x : x + 8], rtol=1e-4, atol=1e-6)
            assert np.abs(projection).sum() == pytest.approx(np.abs(one["projection"].values).sum(), rel=1e-4)


def test_pictures_are_read_again_where_the_store_keeps_none(photos: Path, store: Any, tmp_path: Path) -> None:
    summary = fmx.extract(
        MODEL, photos, to=tmp_path / "r.zarr", layers="4", input_shape=(3, 18, 18), reduce=["top-samples"]
    )
    again, kept = stored_pictures(MODEL, summary), stored_pictures(MODEL, store)
    assert again.kept is None
    for i in range(4):
        np.testing.assert_array_equal(again.picture(i), kept.picture(i))
        np.testing.assert_array_equal(again.values(i), kept.values(i))


def test_another_model_than_the_store_was_made_with_is_noticed(store: Any) -> None:
    other = small()
    other[3].weight.data *= 1.5
    pictures = stored_pictures(fmx.load(other, input_shape=(3, 18, 18)), store)
    assert "not the file" in pictures.notes[0]
    top = fmx.analyze.top_samples(store, k=2, layers="4")["4"]
    with pytest.raises(FmxError, match="in the store: give the model and the weights"):
        project_top(Deconvnet(pictures), "4", top, [0])
    with pytest.raises(FmxError, match="Channel 5 of 4 has no activation above 0 in this store"):
        project_top(Deconvnet(pictures), "4", top, [5])


def test_a_store_of_arrays_has_no_pictures(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((2, 3, 18, 18), dtype=np.float32)
    store = fmx.extract(MODEL, data, to=tmp_path / "a.zarr", layers="4", input_shape=(3, 18, 18))
    with pytest.raises(DataError, match="not of single pictures"):
        stored_pictures(MODEL, store)


def test_what_is_blank_is_said(cli: Any, tmp_path: Path, photos: Path) -> None:
    """Grad-CAM of an output that is the negative of a positive map, and the gradient of a dead channel."""
    words = ["attribute", photos / "cat" / "1.png", "--json"]
    more = ["--method", "grad-cam", "--class", "0,1", "--input-shape", "3,18,18", "-o", tmp_path]
    done = cli(words[0], "test_project_cli:against", *words[1:], *more)
    assert done.code == 0, done.err
    assert "grad-cam is 0 everywhere for class 1 in 1.png: in these maps nothing speaks for it" in done.err
    assert "class 0" not in done.err
    done = run(cli, tmp_path, *words, "--method", "gradient", "--layer", "4", "--channels", "1,5")
    assert "gradient is 0 everywhere for channel 5 in 1.png: no small change" in done.err
    assert "channel 1 " not in done.err


@pytest.mark.parametrize("method", ["guided", "smoothgrad", "grad-cam"])
def test_classes_are_attributed(cli: Any, tmp_path: Path, photos: Path, method: str) -> None:
    words = ["attribute", photos, "--method", method, "--class", "1,2", "--copies", "2", "--json"]
    rows = json.loads(run(cli, tmp_path, *words).out)
    assert [row["class"] for row in rows] == [1, 2] * 4
    found = fmx.project.attribute(fmx.load(MODEL, input_shape=(3, 18, 18)), photos, method="gradient", classes=[1, 2])
    np.testing.assert_allclose([row["value"] for row in rows], found["value"].values.ravel(), rtol=1e-4)
    assert len(indexed(tmp_path)) == 4


def test_channels_and_neurons_are_attributed(cli: Any, tmp_path: Path, photos: Path) -> None:
    words = ["attribute", photos / "cat", "--layer", "4", "--channels", "3", "--neuron", "2,4", "--method", "gradient"]
    rows = json.loads(run(cli, tmp_path, *words, "--json").out)
    assert [(row["layer"], row["channel"], row["y"], row["x"]) for row in rows] == [("4", 3, 2, 4)] * 2


def test_a_thousand_channels_are_not_attributed_unasked(
    cli: Any, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmx.cli.projection_notes._MANY_CHANNELS", 7)
    words = ["attribute", photos / "cat", "--layer", "4", "--method", "gradient", "--json"]
    failed = run(cli, tmp_path, *words, ok=False)
    assert "4 has 8 channels: choose some" in failed.err
    assert (
        len({row["channel"] for row in json.loads(run(cli, tmp_path, *words, "--channels", "all", "--overwrite").out)})
        == 8
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("deconv PHOTOS --layer 4 --channels 8", "4 has no channel 8: there are 0 to 7"),
        ("deconv PHOTOS --layer 4 --channels x", "--channels takes numbers such as 3,17 or 0-15, not 'x'"),
        ("deconv PHOTOS --layer 4 --channels 5", "channel 5 of 4 has no activation above 0"),
        ("deconv PHOTOS --layer 7", "No layer is called 7"),
        ("deconv PHOTOS --layer 4 --maps many", "--maps takes a count such as 9 or a share such as 0.1"),
        ("deconv PHOTOS --layer 4 --maps 1.5", "lies above 0 and up to 1"),
        ("deconv PHOTOS --layer 4 --by selectivity", "give one with --store"),
        ("deconv PHOTOS --layer 4 --by median", "not ranked by median"),
        ("deconv PHOTOS --layer 4 --film mov", "mov"),
        ("deconv PHOTOS --layer 4 --top 3", "give it with --store"),
        ("deconv PHOTOS --layer 4 --top 3 --store STORE", "leave PICTURES out"),
        ("deconv --layer 4", "no pictures to project"),
        ("attribute PHOTOS --class 1 --layer 4", "attributed apart"),
        ("attribute PHOTOS --class cat", "--class takes numbers such as 3,17 or 0-15"),
        ("attribute PHOTOS --class 9", "no class 9: there are 0 to 3"),
        ("attribute PHOTOS --method grad", "No attribution is called grad"),
        ("attribute PHOTOS --layer 4 --neuron 9,9", "no neuron at"),
        ("attribute PHOTOS --layer 4 --size 20", "shape|size|input"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(
    words: str, said: str, cli: Any, tmp_path: Path, photos: Path, store: Any
) -> None:
    import re

    places = {"PHOTOS": photos, "STORE": store.path}
    done = run(cli, tmp_path, *(places.get(word, word) for word in words.split()), ok=False)
    assert done.code == 2
    sentence = [line for line in done.err.splitlines() if line.startswith("fmx: ")]
    assert len(sentence) == 1
    assert re.search(said, sentence[0])
    assert not list(tmp_path.rglob("*.csv"))


def broken() -> nn.Module:
    net = small()
    net[3].weight.data[2] = np.nan
    return net


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("deconv PHOTOS --layer 4 --channels 2", "The value of 4 for cat/1.png is not finite"),
        ("deconv PHOTOS --layer 4 --maps 1.0", "The value of 4 for cat/1.png is not finite"),
        ("attribute PHOTOS", "The value of the output for cat/1.png is not finite"),
        ("attribute PHOTOS --method grad-cam --class 1", "The value of the output for cat/1.png is not finite"),
        ("attribute PHOTOS --layer 4 --channels 2", "The value of 4 for cat/1.png is not finite"),
        ("attribute PHOTOS --layer 4 --channels 1", "of 4 for cat/1.png is not finite"),
        ("occlude PHOTOS --patch 9 --stride 9", "scores that are not finite"),
    ],
)
def test_weights_that_are_not_finite_are_told(words: str, said: str, cli: Any, tmp_path: Path, photos: Path) -> None:
    given = [photos if word == "PHOTOS" else word for word in words.split()]
    model = "test_project_cli:broken"
    done = cli(given[0], model, *given[1:], "--input-shape", "3,18,18", "-o", tmp_path / "out", "--name", "a")
    assert done.code == 2
    assert said in done.err
    assert not list(tmp_path.rglob("*.png"))
