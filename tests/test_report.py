"""The report: what it says is what the analyses say, names are escaped, and it is written whole or not at all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import xarray as xr
from small_stores import write_store
from typer.testing import CliRunner

from fmx.analyze import health, robustness, stats, top_samples
from fmx.cli.app import app
from fmx.errors import FmxError
from fmx.report import charts, gather, write_report
from fmx.report.album import Album
from fmx.report.facts import store_facts
from fmx.report.page import PageSettings, page_of, render_page
from fmx.store import Store, open_store, save_analysis

RNG = np.random.default_rng(0)


def maps(samples: int = 8, noise: int = 1, channels: int = 5, side: int = 6) -> np.ndarray:
    """Give values as behind a ReLU, (sample, noise, timestep, channel, y, x)."""
    return np.maximum(RNG.normal(size=(samples, noise, 1, channels, side, side)), 0).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two layers, two classes, two noise levels, pictures."""
    return made(tmp_path)


def made(folder: Path) -> Store:
    return write_store(
        folder / "acts.zarr",
        {"conv": maps(noise=2), "fc": RNG.normal(size=(8, 2, 1, 12)).astype(np.float32)},
        labels=["cat", "dog"] * 4,
        noise=(0.0, 0.3),
        pictures=RNG.integers(0, 256, (8, 1, 12, 12, 3), dtype=np.uint8),
        about={"model": "tests:net", "input_shape": [3, 12, 12]},
    )


def page_text(store: Store, **more: Any) -> str:
    """Render a report without writing it."""
    found = gather(store, allow_partial=True)
    return render_page(page_of(found, Album(), PageSettings(**more), None), embedded=True)


def shown(store: Store, **more: Any) -> str:
    """Give the words of a report."""
    return re.sub(r"\s+", " ", Words.of(page_text(store, **more)))


class Words(HTMLParser):
    """Collects the text of a page, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in {"script", "style"}:
            self.words.append(data)

    @classmethod
    def of(cls, page: str) -> str:
        parser = cls()
        parser.feed(page)
        return " ".join(parser.words)


def test_numbers_are_those_of_the_analyses(store: Store) -> None:
    found = gather(store)
    for layer in found.layers:
        name = layer.info.name
        values = store.activation(name).sel(noise=0.0).values.astype(np.float64)
        assert layer.whole["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert layer.whole["std"] == pytest.approx(values.std(), rel=1e-9)
        assert layer.whole["sparsity"] == pytest.approx((values == 0).mean())
        assert layer.counts.sum() == values.size
        there = [int(((values >= a) & (values < b)).sum()) for a, b in zip(layer.edges, layer.edges[1:], strict=False)]
        assert layer.counts.tolist() == there
        assert layer.channels is not None and layer.top is not None and layer.health is not None
        by_channel = stats(store, layers=[name], by=["noise", "channel"])[name].sel(noise=0.0)
        np.testing.assert_allclose(layer.channels["mean"], by_channel["mean"])
        np.testing.assert_array_equal(layer.top["value"], top_samples(store, k=6, layers=[name])[name]["value"])
        assert str(layer.health["verdict"].item()) == str(health(store, layers=[name])[name]["verdict"].item())


def test_noise_is_told_as_by_robustness(store: Store) -> None:
    found, wanted = gather(store), robustness(store)
    for layer in found.layers:
        assert layer.robustness is not None
        for name in ("sqnr", "cosine", "correlation", "relative_l2"):
            np.testing.assert_allclose(layer.robustness[name], wanted[layer.info.name][name], rtol=1e-9)


def test_predictions_that_noise_changes_are_told(store: Store) -> None:
    scores = np.zeros((8, 2, 1, 3))
    scores[:, 0, 0, 1] = scores[:6, 1, 0, 1] = scores[6:, 1, 0, 2] = 1.0
    labels = {"sample": store.samples, "noise": [0.0, 0.3], "timestep": [0]}
    array = xr.DataArray(scores, dims=("sample", "noise", "timestep", "channel"), coords=labels)
    store.tree["outputs"] = xr.DataTree(xr.Dataset({"output": array.chunk()}))
    assert "Of the predictions, 25 % at 0.3 differ from those without noise." in shown(store)


def test_figures_are_as_many_in_each_row() -> None:
    written = [charts.figures(v) for v in (0.13, 0.0519999, 6.0, 12.0, 123.4, 1234.5, 0.0, -0.5, 1e-9, 2.5e7)]
    assert written == ["0.130", "0.0520", "6.00", "12.0", "123", "1234", "0", "-0.500", "1e-09", "2.5e+07"]


def test_names_of_columns_stand_upright_where_there_is_room() -> None:
    values = np.ones((2, 3))
    short = charts.matrix(["a", "b"], ["0", "0.2", "0.4"], values, square=False, axis="noise level").chart
    assert "rotate" not in short and short.count('text-anchor="middle">0.') == 2 and ">noise level<" in short
    assert charts.matrix(["a", "b"], ["first", "second.conv", "third"], values).chart.count("rotate(45)") == 3


def test_matrices_can_be_read_without_seeing_them() -> None:
    values = np.array([[1.0, 0.25], [np.nan, 1.0]])
    linked = charts.matrix(["a", "b"], ["a", "b"], values, links=["layer-1", "layer-2"])
    assert linked.rows == [("a", ["1.000", "0.250"]), ("b", ["–", "1.000"])] and linked.columns == ["a", "b"]
    assert ">0.00</text>" in charts.matrix(["a"], ["b"], np.array([[-0.001]])).chart
    # Nothing inside an image can be reached: one that holds links is none.
    assert 'role="group"' in linked.chart and 'role="img"' in charts.matrix(["a"], ["b"], values[:1, :1]).chart
    names = [str(i) for i in range(60)]
    assert charts.matrix(names, names, np.ones((60, 60))).rows == []


def test_saved_results_are_taken_where_they_are_of_the_same_samples(store: Store) -> None:
    saved = robustness(store)
    save_analysis(store.place, "held", saved, {"analysis": "robustness", "per": "layer", "top": 10, "nan": "skip"})
    assert gather(open_store(store.path)).reused == {"robustness": "held"}
    stale = {name: one.assign(count=one["count"] - 1) for name, one in saved.items()}
    save_analysis(store.place, "held", stale, {"analysis": "robustness", "per": "layer", "top": 10, "nan": "skip"})
    assert gather(open_store(store.path)).reused == {}


SAVED = {
    "s": ["stats", "--by", "noise,channel"],
    "h": ["hist", "--by", "noise"],
    "t": ["top-samples", "--top", "7"],
    "g": ["health"],
    "r": ["robustness"],
    "c": ["rank", "--per", "class", "--by", "precision", "--top", "8", "--held-out", "0.5"],
    "a": ["similarity"],
}


def save(store: Store, name: str, words: list[str]) -> None:
    done = CliRunner().invoke(app, [words[0], str(store.path), *words[1:], "--save", name])
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def all_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a store with all results."""
    store = made(tmp_path_factory.mktemp("saved"))
    for name, words in SAVED.items():
        save(store, name, words)
    return Path(store.path)


@pytest.fixture
def saved(all_saved: Path, tmp_path: Path) -> Store:
    """A copy of it."""
    return open_store(shutil.copytree(all_saved, tmp_path / "saved.zarr"))


def test_a_store_that_holds_all_results_is_not_read(saved: Store) -> None:
    with mock.patch("fmx.report.saved.saved_analyses", return_value=[]):
        wanted = gather(saved)
        assert wanted.reused == {}
    with (
        mock.patch("fmx.report.findings.overview", side_effect=AssertionError("it was read")),
        mock.patch("fmx.report.findings.similarity", side_effect=AssertionError("it was read")),
    ):
        found = gather(saved)
    names = {"statistics": "s, h", "top": "t", "health": "g", "robustness": "r", "classes": "c", "similarity": "a"}
    assert found.reused == names
    assert found.similarity is not None and wanted.similarity is not None
    np.testing.assert_allclose(found.similarity["similarity"], wanted.similarity["similarity"])
    for one, other in zip(found.layers, wanted.layers, strict=True):
        assert one.whole == pytest.approx(other.whole, rel=1e-9, nan_ok=True)
        assert one.counts.sum() == other.counts.sum()
        assert one.strongest(9) == other.strongest(9)
        assert one.channels is not None and other.channels is not None
        np.testing.assert_allclose(one.channels["std"], other.channels["std"])
        for part, least in (("top", "value"), ("robustness", "cosine"), ("classes", "channel"), ("health", "dead")):
            np.testing.assert_allclose(getattr(one, part)[least], getattr(other, part)[least], err_msg=part)
    text = shown(saved)
    assert "taken from saved results" in text and "top samples: t" in text


@pytest.mark.parametrize(
    ("words", "stands"),
    [
        (["top-samples", "--top", "3"], "top"),
        (["top-samples", "--weakest"], "top"),
        (["top-samples", "--noise", "0.3"], "top"),
        (["health", "--noise", "0.3"], "health"),
        (["health", "--per", "channel"], "health"),
        (["rank", "--per", "class", "--by", "precision"], "classes"),
        (["robustness", "--nan", "keep"], "robustness"),
        (["similarity", "--method", "rsa"], "similarity"),
        (["similarity", "--noise", "0.3"], "similarity"),
        (["stats", "--by", "channel"], "statistics"),
    ],
)
def test_results_of_something_else_are_left_alone(saved: Store, words: list[str], stands: str) -> None:
    save(saved, next(name for name, own in SAVED.items() if own[0] == words[0]), words)
    found = gather(open_store(saved.path))
    assert stands not in found.reused and len(found.reused) >= 4


def test_results_of_fewer_samples_are_made_again(saved: Store) -> None:
    first = saved.complete.copy()
    first[4:] = False
    with mock.patch.dict(vars(saved), complete=first):
        assert gather(saved, allow_partial=True).reused == {}


def test_strongest_channels_come_first(store: Store) -> None:
    layer = gather(store).layers[0]
    assert layer.top is not None
    values = store.activation("conv").sel(noise=0.0).values[:, 0].max(axis=(2, 3))
    scores = np.sort(values, axis=0)[::-1][:6].mean(axis=0)
    assert layer.strongest(5) == np.argsort(-scores).tolist()


def test_of_channels_that_are_clipped_those_with_larger_means_come_first(tmp_path: Path) -> None:
    values = np.minimum(maps(), 1)
    values[:, :, :, :, 0, 0] = 6
    values[:, :, :, 3] += np.where(values[:, :, :, 3] < 6, 1, 0)
    assert gather(write_store(tmp_path / "a.zarr", {"conv": values})).layers[0].strongest(1) == [3]


def test_classes_are_judged_on_samples_held_out(store: Store) -> None:
    classes = gather(store).layers[0].classes
    assert classes is not None and "precision_held_out" in classes
    assert "samples that had no part in choosing the channel" in shown(store)


def test_the_page_says_what_made_the_store(store: Store) -> None:
    text = shown(store)
    for word in ("tests:net", "3×12×12", "2: cat, dog", "0, 0.3", "conv", "fc", "no spatial axes"):
        assert word in text


def test_fmx_info_says_the_same(store: Store) -> None:
    said = CliRunner().invoke(app, ["info", str(store.path)]).output
    for facts in store_facts(store).values():
        for name, value in facts.items():
            assert re.search(rf"^{re.escape(name)} +{re.escape(value)}$", said, re.MULTILINE)


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    quotes = "\"' onmouseover='alert(2)"
    store = write_store(
        tmp_path / "acts.zarr",
        {evil: maps(4), quotes: maps(4)},
        ids=[f"<img src=x onerror=alert({i})>" for i in range(4)],
        labels=["<i>a</i>", "<i>b</i>"] * 2,
        about={"model": "<svg onload=alert(3)>", "notes": ["<u>"], "meta": {"<k>": "<v>"}},
    )
    page = page_text(store)
    for bad in (evil, "<img src=x", "<i>a</i>", "<svg onload", "<u>", "<k>", "<v>", "' onmouseover"):
        assert bad not in page
    assert page.count("<script>") == 1


def test_the_policy_lets_nothing_in(store: Store) -> None:
    page = page_text(store)
    assert "default-src &#39;none&#39;; img-src data:;" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "one sample": (lambda: {"values": {"conv": maps(1)}}, "There is one layer"),
    "two layers, one sample": (lambda: {"values": {"a": maps(1), "b": maps(1)}}, "takes 4 samples"),
    "one class": (lambda: {"values": {"conv": maps()}, "labels": ["cat"] * 8}, "All samples have the label cat"),
    "no labels": (lambda: {"values": {"conv": maps()}}, "The samples have no labels"),
    "no noise": (lambda: {"values": {"conv": maps()}}, "one noise level"),
    "noise without 0": (lambda: {"values": {"conv": maps(noise=2)}, "noise": (0.1, 0.2)}, "no noise level 0"),
    "all NaN": (lambda: {"values": {"conv": np.full_like(maps(), np.nan)}}, "NaN"),
    "some NaN": (lambda: {"values": {"conv": np.where(maps() > 1, np.nan, maps())}}, "NaN or infinite"),
    "constant": (lambda: {"values": {"conv": np.zeros_like(maps())}}, "dead"),
    "tokens": (lambda: {"values": {"blocks": RNG.normal(size=(8, 1, 1, 5, 7))}}, "mean over 5 token"),
    "one layer of NaN": (
        lambda: {"values": {"a": maps(), "b": np.full_like(maps(), np.nan), "c": maps()}},
        "hatched: a layer that does not vary",
    ),
    "no channels": (
        lambda: {"values": {"a": RNG.normal(size=(8, 1, 1, 6))}, "dims": {"a": ("feature",)}},
        "no axis channel",
    ),
    "clips": (
        lambda: {"values": {"conv": maps() * np.array([1, 2, 9], np.float32).reshape(1, 1, 3, 1, 1, 1)}},
        "frame 2",
    ),
    "many channels": (lambda: {"values": {"fc": RNG.normal(size=(8, 1, 1, 1500))}}, "512 of 1500 channels"),
}


@pytest.mark.parametrize("case", CASES)
def test_odd_stores_say_what_is_missing(tmp_path: Path, case: str) -> None:
    made, said = CASES[case]
    assert said in shown(write_store(tmp_path / "acts.zarr", **made()))


def test_unfinished_stores_have_to_be_allowed_and_say_so(tmp_path: Path) -> None:
    store = write_store(tmp_path / "acts.zarr", {"conv": maps()}, units=[1])
    with pytest.raises(FmxError, match="not complete"):
        write_report(store, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
    write_report(store, tmp_path / "r.html", allow_partial=True)
    assert "this report is about 4 of 8 samples" in (tmp_path / "r.html").read_text()


def test_what_is_there_stays_unless_it_is_to_be_replaced(store: Store, tmp_path: Path) -> None:
    page, folder = tmp_path / "r.html", tmp_path / "r"
    page.write_text("mine")
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    for target, assets, overwrite in ((page, False, False), (folder, True, False), (folder, True, True)):
        with pytest.raises(FmxError):
            write_report(store, target, assets=assets, overwrite=overwrite)
    assert page.read_text() == (folder / "thesis.tex").read_text() == "mine"
    write_report(store, page, overwrite=True)
    assert page.read_text().startswith("<!doctype html>")


def test_a_folder_is_replaced_as_a_whole(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    page = write_report(store, folder, assets=True)
    (folder / "pictures" / "old.png").touch()
    write_report(store, folder, assets=True, overwrite=True)
    named = set(re.findall(r"src=\"pictures/([^\"]+)\"", page.read_text()))
    assert {p.name for p in (folder / "pictures").iterdir()} == named and named
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("assets", [False, True])
def test_nothing_is_left_of_a_report_that_fails(store: Store, tmp_path: Path, assets: bool) -> None:
    target = tmp_path / "out" / ("r" if assets else "r.html")
    target.parent.mkdir()
    with (
        mock.patch.object(Path, "write_text", side_effect=OSError(28, "No space left on device")),
        pytest.raises(FmxError, match="can't be written: No space left on device"),
    ):
        write_report(store, target, assets=assets)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "page.txt"], "doesn't end in .html"),
        (["-o", "page.html", "--assets"], "give it without .html"),
        (["--layers", "nope"], "nope"),
        (["--sample", "nobody"], "nobody"),
        (["--top", "0"], "correct --top"),
        (["--weights", "w.pth"], "name it with --model"),
    ],
)
def test_mistakes_get_a_sentence(store: Store, words: list[str], said: str, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", str(store.path), *words])
    assert isinstance(done.exception, FmxError)
    assert said in str(done.exception) and len(str(done.exception).splitlines()) == 1


def test_the_command_writes_the_page(store: Store, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", str(store.path)])
    assert done.exit_code == 0, done.output
    assert "2 layers" in done.output and (tmp_path / "report.html").is_file()


@pytest.mark.real
def test_a_model_adds_what_channels_look_for(real: Path, tmp_path: Path) -> None:
    import fmx

    weights = real / "models" / "squeezenet1_1.pth"
    model = fmx.load("torchvision:squeezenet1_1", weights=weights)
    pictures = sorted((real / "images" / "photos").iterdir())[:4]
    store = fmx.extract(model, pictures, to=tmp_path / "acts.zarr", layers=["features.7", "features.12"])
    found = gather(store)
    with mock.patch("fmx.report.features.STEPS", 4):
        page = page_of(found, Album(), PageSettings(features=1), model)
        for part, layer in zip(page.layers, found.layers, strict=True):
            (feature,) = part.features
            assert feature.channel == layer.strongest(1)[0]
            assert len(feature.projections) == 3 and feature.maximized is not None
        assert "maximized to" in Words.of(render_page(page, embedded=True))
        late = page_of(found, Album(), PageSettings(features=1, seconds=-1), model)
    assert not any(part.features for part in late.layers)
    assert "left out: features.7, features.12" in late.notes[-1]


@pytest.mark.real
def test_another_model_is_refused(real: Path, store: Store) -> None:
    import fmx

    model = fmx.load("torchvision:squeezenet1_1", weights=real / "models" / "squeezenet1_1.pth")
    with pytest.raises(FmxError, match="not of single pictures"):
        write_report(store, Path(store.path).parent / "r.html", model=model)
    settings = {"kind": "pictures"}
    with (
        mock.patch.object(Store, "attributes", {**store.attributes, "preprocessing": settings}),
        pytest.raises(FmxError, match="give the model it was made with"),
    ):
        write_report(store, Path(store.path).parent / "r.html", model=model)


def test_pictures_of_fmx_maximize_are_shown(store: Store) -> None:
    import xarray as xr

    made = xr.Dataset(
        {
            "picture": (("channel", "y", "x", "band"), RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)),
            "activation": ("channel", [3.25, 1.0]),
            "status": ("channel", np.array(["ok", "flat"])),
        },
        coords={"channel": [4, 1]},
    )
    save_analysis(store.place, "maximization", {"conv": made}, {"analysis": "maximization"})
    text = shown(open_store(store.path))
    assert "maximized to 3.25 (saved)" in text and "flat" in text


def test_the_benchmark_runs(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "report.py"
    command = [sys.executable, str(script), "--samples", "20", "--side", "64", "--noise", "0,0.2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(part in done.stdout for part in ("whole report", "layers one by one", "similarity", "pictures"))
