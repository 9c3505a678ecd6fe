"""Curves of the ascent, and results that are drawn again without the model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from plot_checks import axes_of, check_layout

import fmx
from fmx.cli.maximized import Drawing, draw
from fmx.errors import FmxError
from fmx.render import plots

WORDS = ("maximize", "traced.pt", "--steps", 6, "--size", 16)


def results(channels: int, steps: int, settings: dict[str, Any] | None = None) -> xr.Dataset:
    rng = np.random.default_rng(0)
    curve = np.linspace(0, 100, steps) * rng.uniform(0.2, 1, (channels, 1)) + rng.normal(0, 2, (channels, steps))
    curve[-1, steps // 2 :] = np.nan
    status = np.array(["ok"] * (channels - 1) + ["not finite"])
    return xr.Dataset(
        {"curve": (("channel", "step"), curve), "status": ("channel", status)},
        {"channel": np.arange(channels) * 3, "step": np.arange(1, steps + 1)},
        {"settings": json.dumps(settings or {})},
    )


def lines_of(figure: Any, gid: str) -> Any:
    (line,) = [line for axes in figure.axes for line in axes.lines if line.get_gid() == gid]
    return line


@pytest.mark.parametrize("width", [85.0, 180.0])
@pytest.mark.parametrize(("channels", "steps"), [(1, 1), (3, 40), (8, 512), (40, 2560)])
def test_lines_are_means_over_some_steps(channels: int, steps: int, width: float) -> None:
    given = results(channels, steps)
    figure = plots.ascent_curves({"layer": given}, width=width)
    check_layout(figure)
    assert axes_of(figure, "step").get_ylabel() == "mean of the channel"
    window = max(steps // 64, 1)
    for i, curve in enumerate(given["curve"].values):
        line = lines_of(figure, f"layer-{i}")
        known = np.isfinite(curve)
        assert line.get_xdata().tolist() == given["step"].values[known].tolist()
        expected = [
            np.nanmean(curve[max(j - window // 2, 0) : j - window // 2 + window]) for j in np.flatnonzero(known)
        ]
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_means_are_over_whole_turns_of_the_sizes_that_are_seen() -> None:
    steps = np.arange(1, 41)
    given = results(2, 40, {"transforms": {"views": [128, 160, 192, 224]}})
    given["curve"][0] = 10.0 * (steps % 4)
    line = lines_of(plots.ascent_curves({"layer": given}), "layer-0")
    assert set(line.get_ydata()[2:-2].tolist()) == {15.0}


def test_several_layers_have_axes_of_their_own() -> None:
    some = results(3, 64, {"method": "multi-scale", "scales": 4, "steps": 16})
    figure = plots.ascent_curves({"stem": some, "layer1": results(9, 20)}, title="Both", facts=["seed 3"])
    check_layout(figure)
    grown = [line.get_xdata()[0] for line in axes_of(figure, "stem").lines if line.get_gid() is None]
    assert grown == [16.5, 32.5, 48.5]
    said = " ".join(text.get_text() for text in figure.texts)
    for words in ("Both", "seed 3", "stopped: stem channel 6 (not finite)", "layer1 channel 24 (not finite)"):
        assert words in said


def test_there_must_be_a_curve() -> None:
    with pytest.raises(FmxError, match=r"lack curve, which a plot of .* make them with fmx maximize"):
        plots.ascent_curves({"stem": xr.Dataset()})


def test_results_are_drawn_again_from_their_folder(place: Path, cli: Any) -> None:
    asked = ("--layer", "layer1", "--channels", "1-3", "--logits", "2", "--every", 2)
    assert cli(*WORDS, *asked, "--name", "first", "--plot", "first.svg").code == 0
    assert "<svg" in (place / "first.svg").read_text()
    ran = cli("render", "maximized", "maximized/traced", "--name", "again", "--film", "all.gif", "--plot", "all.pdf")
    assert ran.code == 0, ran.err
    assert ran.out.split() == ["out/traced/again"]
    first, again = place / "maximized/traced/first", place / "out/traced/again"
    assert {file.name: file.read_bytes() for file in first.iterdir()} == {
        file.name: file.read_bytes() for file in again.iterdir()
    }
    with Image.open(place / "all.gif") as film:
        assert film.n_frames == 3
    some = cli("render", "maximized", "maximized/traced/results", "--layer", "layer1", "--channels", "3", "--name", "a")
    assert some.code == 0, some.err
    with (place / "out/traced/a/index.csv").open() as stream:
        assert [row["file"] for row in csv.DictReader(stream)] == ["layer1_3.png", "sheet_layer1.png"]


def test_results_are_drawn_again_from_a_store(place: Path, cli: Any) -> None:
    fmx.extract("traced.pt", "pictures", to="acts.zarr", layers="layer1")
    assert cli(*WORDS, "--layer", "layer1", "--channels", "1", "--store", "acts.zarr", "--name", "first").code == 0
    ran = cli("render", "maximized", "acts.zarr", "--name", "again", "--curve")
    assert ran.code == 0, ran.err
    assert (place / "out/traced/again/curve_layer1.csv").is_file()
    ran = cli("render", "maximized", "acts.zarr", "--film", "a.gif")
    assert ran.code == 2
    assert "No pictures of the ascent were kept of layer1: make them with fmx maximize --every" in ran.err


def test_a_film_of_what_is_there_takes_the_steps_that_are_there(place: Path, cli: Any) -> None:
    asked = ("--layer", "layer1", "--channels", "1")
    cli(*WORDS, *asked, "--every", 1, "--name", "first")
    ran = cli(*WORDS, *asked, "--film", "film.gif", "--name", "second")
    assert ran.code == 0, ran.err
    with Image.open(place / "film.gif") as film:
        assert film.n_frames == 6


def test_frames_of_films_have_one_size_whatever_numbers_they_show(tmp_path: Path) -> None:
    some = results(2, 3, {"method": "fourier", "steps": 3, "seed": 0})
    long = "layer1.0.conv1:17 + layer1.0.conv1:18 - layer1.0.conv1:19"
    for name in ("channel", "target"):
        given = some.assign(
            picture=(("channel", "y", "x", "band"), np.zeros((2, 20, 24, 3), np.uint8)),
            frame=(("channel", "frame_step", "y", "x", "band"), np.zeros((2, 3, 20, 24, 3), np.uint8)),
            activation=("channel", np.ones(2, np.float32)),
            curve=(("channel", "step"), [[1, 0.000012345, -123400], [1, 2, 3]]),
        ).assign_coords(frame_step=[1, 2, 3])
        if name == "target":
            given = given.rename(channel="target").assign_coords(target=[long, "b"], variant=("target", [0, 0]))
        drawing = Drawing(str(tmp_path), "model", name, film=str(tmp_path / f"{name}.gif"))
        draw({"objectives" if name == "target" else "layer": given}, drawing)
        with Image.open(tmp_path / f"{name}.gif") as film:
            assert film.n_frames == 3
            assert film.size[0] >= 2 * 5 * 24


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere holds no maximized pictures: give a store, or the folder of results"),
        (("maximized/traced", "--layer", "stem"), "No pictures of stem are there: "),
        (
            ("maximized/traced", "--channels", "1"),
            "--channels belong to a layer: add --layer, one of layer1, objectives",
        ),
        (("maximized/traced", "--layer", "layer1", "--channels", "5"), "Channel 5 of layer1 was not maximized"),
        (("maximized/traced", "--layer", "objectives", "--channels", "1"), "Channel 1 of objectives was not maximized"),
        (("maximized/traced", "--plot", "a.jpg"), "written as .png, .svg or .pdf, not .jpg"),
        (("maximized/traced", "--film", "a.mov"), "--film takes a file that ends in"),
    ],
)
def test_what_is_not_there_is_told(words: tuple[Any, ...], said: str, place: Path, cli: Any) -> None:
    cli(*WORDS, "--layer", "layer1", "--channels", "1", "--logits", "2")
    ran = cli("render", "maximized", *words)
    assert ran.code == 2, ran.out
    assert said in ran.err
    assert not (place / "out").exists()
