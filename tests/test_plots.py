"""Plots hold the values of the results, and nothing lies on anything else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from analysis_stores import adversarial_values, random_values, write_store
from matplotlib.figure import Figure
from PIL import Image
from plot_checks import artist, axes_of, caption, check_layout, line, points, texts, words

from fmx import analyze
from fmx.errors import FmxError
from fmx.render import plots
from fmx.render.plots.boxes import BOX_QUANTILES, from_bins
from fmx.render.plots.distribution import is_coarse
from fmx.render.plots.style import OKABE_ITO, looks
from fmx.render.plots.text import short, short_names, text_width, wrapped

WIDTHS = (180.0, 85.0)
LEVELS = (0.0, 0.1, 0.2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    values = random_values(noise=3, channels=6, size=(5, 4))
    values[:, 1:] += 0.3 * values[:, :1][:, :, :, ::-1]
    second = np.tanh(values.mean(axis=(-1, -2)))
    return write_store(
        tmp_path_factory.mktemp("plots") / "a", {"features.1.conv": values, "head": second}, noise=LEVELS
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    values = random_values(steps=7, channels=9, seed=3)
    return write_store(tmp_path_factory.mktemp("plots") / "clips", {"one": values, "two": np.cumsum(values, axis=2)})


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    values = adversarial_values(noise=3)
    layers = {"odd": values, "nothing": np.full_like(values, np.nan), "constant": np.full_like(values, 2.5)}
    return write_store(tmp_path_factory.mktemp("plots") / "odd", layers, noise=LEVELS)


def many_layers(count: int) -> dict[str, xr.Dataset]:
    """Statistics of layers whose names differ in their middles only, as deep networks have them."""
    rng = np.random.default_rng(4)
    found = {}
    for i in range(count):
        low, *rest = np.sort(rng.normal(size=5)) * np.exp(rng.normal())
        values = dict(zip(("q0.05", "q0.25", "median", "q0.75", "q0.95"), (low, *rest), strict=True))
        values |= {"mean": rest[1] + 0.1, "std": rng.random() + 0.1, "sparsity": rng.random(), "hoyer": rng.random()}
        found[f"backbone.body.layer{i // 10}.block.{i}.conv2.norm"] = xr.Dataset(
            {k: ((), v) for k, v in values.items()}
        )
    return found


# What is drawn is what the results say.


@pytest.mark.parametrize("width", WIDTHS)
def test_distribution_by_noise(store: Any, width: float) -> None:
    name = "features.1.conv"
    hist = analyze.hist(store, layers=name, by="noise", bins=32)[name]
    stats = analyze.stats(store, layers=name, by="noise", quantiles=BOX_QUANTILES)[name]
    figure = plots.distribution(hist, stats, facts=["11 samples"], width=width)
    check_layout(figure)
    density = axes_of(figure, "density")
    for level, patch in enumerate(density.patches):
        values, edges, _ = patch.get_data()  # type: ignore[attr-defined]
        counts, own = hist["counts"].values[level], hist["edges"].values[level]
        wanted = counts / counts.sum() / np.diff(own)
        np.testing.assert_allclose(np.nan_to_num(values), wanted)
        np.testing.assert_allclose(edges, own)
    share = axes_of(figure, "share of values below")
    for level, drawn in enumerate(share.lines):
        np.testing.assert_allclose(drawn.get_xdata(), hist["edges"].values[level])
        np.testing.assert_allclose(drawn.get_ydata(), hist["cdf"].values[level])
    (box,) = [a for a in figure.axes if any(c.get_gid() == "median" for c in a.get_children())]
    np.testing.assert_allclose(points(box, "median")[:, 0], stats["median"].values)
    np.testing.assert_allclose(points(box, "mean")[:, 0], stats["mean"].values)
    ends = np.array([segment[:, 0] for segment in artist(box, "whiskers").get_segments()])
    np.testing.assert_allclose(ends, np.stack([stats["q0.05"].values, stats["q0.95"].values], axis=1))
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in box.patches]
    np.testing.assert_allclose(bars, np.stack([stats["q0.25"].values, stats["q0.75"].values], axis=1))
    assert "11 samples" in caption(figure)
    assert "noise 0.1" in words(figure)


def test_one_distribution_with_growing_bins(store: Any) -> None:
    hist = analyze.hist(store, layers="features.1.conv", log=True)["features.1.conv"]
    figure = plots.distribution(hist)
    check_layout(figure)
    values, edges, _ = axes_of(figure, "density").patches[0].get_data()  # type: ignore[attr-defined]
    counts, own = hist["counts"].values, hist["edges"].values
    wide = np.diff(own) > 0
    # Exact zeros have a bin of no width, which has no density.
    np.testing.assert_allclose(np.nan_to_num(values), counts[wide] / counts.sum() / np.diff(own)[wide])
    assert len(edges) == wide.sum() + 1
    assert "logarithmic" in caption(figure)


def test_a_few_values_far_out_take_bins_that_grow(tmp_path: Path, cli: Any) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(11, 1, 1, 3, 20, 20)).astype(np.float32)
    store = write_store(tmp_path / "a", {"usual": values, "far": values**9}, noise=(0.0,))
    hist = analyze.hist(store, bins=128)
    assert [is_coarse(hist[name]) for name in ("usual", "far")] == [False, True]
    constant = write_store(tmp_path / "c", {"one": np.ones_like(values)}, noise=(0.0,))
    assert not is_coarse(analyze.hist(constant)["one"])
    words = ["render", "plots", store.path, "--plots", "distribution", "--format", "svg", "-o", tmp_path, "--name", "p"]
    assert cli(*words).code == 0
    texts = [(tmp_path / "model" / "p" / f"distribution_{name}.svg").read_text() for name in ("usual", "far")]
    assert ["logarithmic on both sides" in text for text in texts] == [False, True]


def test_axes_end_with_the_values_and_steps_have_shades_in_order(clips: Any) -> None:
    hist = analyze.hist(clips, layers="one", by="timestep", bins=200)["one"]
    figure = plots.distribution(hist)
    check_layout(figure)
    used = hist["edges"].values[..., 1:][hist["counts"].values > 0]
    low, high = axes_of(figure, "density").get_xlim()
    assert used.max() <= high <= used.max() + 0.03 * (high - low)
    density = axes_of(figure, "density")
    drawn = [patch.get_edgecolor()[:3] for patch in density.patches]
    np.testing.assert_allclose(drawn, [look.colour[:3] for look in looks(7, ordered=True)], atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_long_titles_stay_inside(width: float) -> None:
    values = {name: ("channel", [1.0, 2.0]) for name in ("mean", "std", "max", "sparsity")}
    for count in (15, 17, 19):
        title = f"Channels: {'mw' * count}.{'MW' * count}"
        check_layout(plots.channel_statistics(xr.Dataset(values, {"channel": [0, 1]}), title=title, width=width))


def test_layers_without_distances_do_not_keep_the_others_from_being_drawn(odd: Any, tmp_path: Path, cli: Any) -> None:
    words = ["--plots", "rdm", "--layers", "nothing,constant", "-o", tmp_path, "--name", "a"]
    ran = cli("render", "plots", odd.path, *words)
    assert ran.code == 0 and [p.name for p in tmp_path.glob("*/a/*.png")] == ["rdm_constant.png"]
    assert "no plot of rdm of nothing" in ran.err


def test_few_samples_are_named(store: Any, clips: Any) -> None:
    one = analyze.rdm(store, layers="head", noise=[0.0])["head"]
    figure = plots.dissimilarity_matrix(one.drop_vars("label", errors="ignore"))
    check_layout(figure)
    shown = words(figure)
    assert all(str(sample) in shown for sample in one["sample"].values)


def test_quantiles_of_bins_against_a_search() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (3, 8))
    edges = np.sort(rng.normal(size=(3, 9)), axis=1)
    cdf = np.concatenate([np.zeros((3, 1)), counts.cumsum(1) / counts.sum(1, keepdims=True)], axis=1)
    found = from_bins(xr.Dataset({"edges": (("g", "edge"), edges), "cdf": (("g", "edge"), cdf)}))
    for g in range(3):
        for k, share in enumerate(BOX_QUANTILES):
            i = next(i for i in range(8) if cdf[g, i + 1] >= share)
            part = (share - cdf[g, i]) / (cdf[g, i + 1] - cdf[g, i])
            assert found[g, k] == pytest.approx(edges[g, i] + part * (edges[g, i + 1] - edges[g, i]))
        assert np.isnan(found[g, 5])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ["channel", "max"])
def test_channels(store: Any, width: float, order: str) -> None:
    name = "features.1.conv"
    stats = analyze.stats(store, layers=name, by=["noise", "channel"])[name].isel(noise=0)
    figure = plots.channel_statistics(stats, order=order, width=width)
    check_layout(figure)
    by = np.arange(6) if order == "channel" else np.argsort(-stats["max"].values)
    for label, key, factor in (
        ("mean", "mean", 1),
        ("std", "std", 1),
        ("largest", "max", 1),
        ("zeros (%)", "sparsity", 100),
    ):
        bars = axes_of(figure, label).patches
        np.testing.assert_allclose([bar.get_height() for bar in bars], factor * stats[key].values[by])  # type: ignore[attr-defined]
    assert "6 channels" in caption(figure)
    assert "noise 0" in caption(figure)


def test_thousands_of_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("mean", "std", "max", "sparsity")
    stats = xr.Dataset({name: ("channel", rng.random(4096)) for name in names}, coords={"channel": np.arange(4096)})
    figure = plots.channel_statistics(stats, width=85)
    check_layout(figure)
    segments = artist_segments(axes_of(figure, "std"))
    np.testing.assert_allclose(segments, stats["std"].values)
    assert plots.save_figure(figure, tmp_path / "c.svg").stat().st_size < 300_000


def artist_segments(axes: Any) -> np.ndarray:
    """How high the lines of the channels are."""
    (found,) = [c for c in axes.collections if len(getattr(c, "get_segments", list)()) > 1]
    return np.array([segment[1, 1] for segment in found.get_segments()])


@pytest.mark.parametrize("width", WIDTHS)
def test_spatial_patterns(store: Any, width: float) -> None:
    name = "features.1.conv"
    stats = analyze.stats(store, layers=name, by=["noise", "y", "x"])[name].isel(noise=0)
    peaks = analyze.top_samples(store, layers=name, k=3)[name]
    figure = plots.spatial_patterns(stats, peaks, width=width)
    check_layout(figure)
    maps = {a.get_title(loc="left"): a.images[0].get_array() for a in figure.axes if a.images}
    np.testing.assert_allclose(maps["mean activation"], stats["mean"].transpose("y", "x").values)
    np.testing.assert_allclose(maps["variance"], stats["var"].transpose("y", "x").values)
    counted = np.zeros((5, 4))
    for channel in range(6):
        for rank in range(3):
            one = peaks.isel(channel=channel, rank=rank)
            counted[int(one["y"]), int(one["x"])] += 1
    np.testing.assert_allclose(maps["peaks"], counted)


def test_peaks_of_large_maps_are_counted_in_cells() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.integers(0, 100, (2, 30, 4))
    where = ("channel", "rank")
    peaks = xr.Dataset({"y": (where, y), "x": (where, x), "sample_number": (where, np.where(y == y[0, 0], -1, 0))})
    maps = xr.Dataset({name: (("y", "x"), rng.random((100, 100))) for name in ("mean", "var")})
    figure = plots.spatial_patterns(maps, peaks)
    check_layout(figure)
    shown = axes_of(figure, "peaks").images[0]
    wanted = np.zeros((25, 25))
    for i, j in zip(y.ravel(), x.ravel(), strict=True):
        if i != y[0, 0]:
            wanted[i // 4, j // 4] += 1
    np.testing.assert_allclose(shown.get_array(), wanted)
    assert tuple(shown.get_extent()) == (-0.5, 99.5, 99.5, -0.5)
    assert "cells of 4 × 4" in caption(figure)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 7, 40, 400])
def test_layers_side_by_side(count: int, width: float) -> None:
    stats = many_layers(count)
    figure = plots.layer_comparison(stats, width=width)
    check_layout(figure)
    box = axes_of(figure, "activation")
    np.testing.assert_allclose(points(box, "median")[:, 0], [float(d["median"]) for d in stats.values()])
    np.testing.assert_allclose(points(axes_of(figure, "std"), "std")[:, 0], [float(d["std"]) for d in stats.values()])
    zeros = points(axes_of(figure, "sparsity (%)"), "sparsity")
    np.testing.assert_allclose(zeros[:, 0], [100 * float(d["sparsity"]) for d in stats.values()])
    named = [t.get_text() for t in box.get_yticklabels()]
    assert len(named) == len(set(named)) >= min(count, 40)
    assert ("is named" in caption(figure)) == (count == 400)
    assert figure.get_size_inches()[1] * 25.4 < 260


@pytest.mark.parametrize("width", WIDTHS)
def test_noise_robustness(store: Any, width: float) -> None:
    found = analyze.robustness(store)
    figure = plots.noise_robustness(found, facts=["11 samples"], width=width)
    check_layout(figure)
    for label, key in (("SQNR (dB)", "sqnr"), ("cosine", "cosine"), ("top channels kept", "top_overlap")):
        for i, dataset in enumerate(found.values()):
            x, y = line(axes_of(figure, label), f"{key}-{i}")
            known = np.isfinite(dataset[key].values)
            np.testing.assert_allclose(x, np.array(LEVELS)[known])
            np.testing.assert_allclose(y, dataset[key].values[known])
    half = artist(axes_of(figure, "SQNR (dB)"), "half")
    assert half.get_ydata()[0] == pytest.approx(3.0103, abs=1e-4)
    flips = {n: d.assign(flipped=("noise", [0, 0.25, 0.5])) for n, d in found.items()}
    drawn = plots.noise_robustness(flips, width=width)
    check_layout(drawn)
    np.testing.assert_allclose(line(axes_of(drawn, "flipped predictions (%)"), "flipped-0")[1], [0, 25, 50])


def test_layers_that_are_mere_numbers_are_called_layers(store: Any) -> None:
    one = analyze.robustness(store, layers="head")["head"]
    figure = plots.noise_robustness({"6": one, "features.7": one})
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["layer 6", "features.7"]
    quantiles = analyze.stats(store, layers="head", quantiles=(0.05, 0.25, 0.5, 0.75, 0.95))["head"]
    assert "layer 6" in {t.get_text() for t in texts(plots.layer_comparison({"6": quantiles}))}


@pytest.mark.parametrize("width", WIDTHS)
def test_curves_of_many_layers_are_named_along_a_bar(store: Any, width: float) -> None:
    one = analyze.robustness(store, layers="head")["head"]
    figure = plots.noise_robustness({f"stage{i // 9}.block{i}.relu": one for i in range(60)}, width=width)
    check_layout(figure)
    assert not figure.legends
    named = [t.get_text() for t in texts(figure) if t.get_text().startswith("stage")]
    assert named[0] == "stage0.block0.relu"
    assert len(named) == len(set(named)) > 5


@pytest.mark.parametrize("width", WIDTHS)
def test_temporal_curves(clips: Any, width: float) -> None:
    found = analyze.temporal(clips, lags=4)
    figure = plots.temporal_curves(found, width=width)
    check_layout(figure)
    for i, dataset in enumerate(found.values()):
        x, y = line(axes_of(figure, "mean absolute change"), f"steps-{i}")
        np.testing.assert_allclose(x, dataset["step"].values)
        np.testing.assert_allclose(y, dataset["steps"].values)
        x, y = line(axes_of(figure, "autocorrelation"), f"autocorrelation-{i}")
        np.testing.assert_allclose(x, dataset["lag"].values)
        np.testing.assert_allclose(y, dataset["autocorrelation"].values)
    channels = analyze.temporal(clips, layers="two", per="channel")
    drawn = plots.temporal_curves(channels, width=width)
    check_layout(drawn)
    best = int(channels["two"]["change"].values.argmax())
    _, y = line(axes_of(drawn, "mean absolute change"), "steps-0")
    np.testing.assert_allclose(y, channels["two"]["steps"].values[best])
    assert f"channel {best}" in words(drawn)


@pytest.mark.parametrize("width", WIDTHS)
def test_class_sums(store: Any, width: float) -> None:
    found = analyze.class_sums(store, layers="head", n_each_class=2, unique=False)["head"]
    figure = plots.class_sums(found, width=width)
    check_layout(figure)
    axes = axes_of(figure, "sum of the class's top channels")
    order = np.argsort([str(v) for v in found["own"].values], kind="stable")
    for i, label in enumerate(found["label"].values):
        np.testing.assert_allclose(points(axes, str(label))[:, 1], found["sum"].values[order, i])
    assert len({tuple(artist(axes, str(v)).get_facecolor()[0]) for v in found["label"].values}) == 3
    right = int((found["own"].values == found["largest"].values).sum())
    assert f"for {right} of 11 samples" in caption(figure)


@pytest.mark.parametrize("count", [3, 20])
def test_classes_without_channels_of_their_own_are_not_drawn(count: int) -> None:
    labels = np.array([f"c{i}" for i in range(count)], object)
    sums = np.random.default_rng(2).random((40, count)) - 5
    sums[:, 1] = 0
    own = labels[np.arange(40) % count]
    data = xr.Dataset(
        {
            "sum": (("sample", "label"), sums),
            "own": ("sample", own),
            "largest": ("sample", own),
            "channels": ("label", np.where(np.arange(count) == 1, 0, 2)),
        },
        coords={"label": labels},
    )
    figure = plots.class_sums(data)
    check_layout(figure)
    axes = axes_of(figure, "sum of the class's top channels")
    heights = np.concatenate([np.ma.filled(c.get_offsets()[:, 1], np.nan) for c in axes.collections])
    assert np.nanmax(heights) < -3
    assert "too: c1" in caption(figure)
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert named == (["c0", "c2"] if count == 3 else ["its own class", "largest of the other classes"])
    none = plots.class_sums(data.assign(channels=("label", np.zeros(count, int))))
    assert "no class has channels of its own" in {t.get_text() for t in texts(none)}


@pytest.mark.parametrize("width", WIDTHS)
def test_class_sums_of_more_classes_than_colours(width: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.array([f"class number {i}" for i in range(100)], object)
    own = labels[rng.integers(0, 100, 150)]
    sums = rng.random((150, 100))
    largest = labels[sums.argmax(axis=1)]
    data = xr.Dataset(
        {"sum": (("sample", "label"), sums), "own": ("sample", own), "largest": ("sample", largest)},
        coords={"label": labels},
    )
    figure = plots.class_sums(data, width=width)
    check_layout(figure)
    axes = axes_of(figure, "sum of the class's top channels")
    order = np.argsort([list(labels).index(v) for v in own], kind="stable")
    mine = np.array([sums[i, list(labels).index(own[i])] for i in order])
    rest = np.array([max(s for s, n in zip(sums[i], labels, strict=True) if n != own[i]) for i in order])
    np.testing.assert_allclose(points(axes, "own")[:, 1], mine)
    np.testing.assert_allclose(points(axes, "others")[:, 1], rest)


@pytest.mark.parametrize("width", WIDTHS)
def test_similarity_matrix(store: Any, width: float) -> None:
    found = analyze.similarity(store, noise="all")
    found["undefined"][0, 0, 1, 0] = True
    figure = plots.similarity_matrix(found, width=width)
    check_layout(figure)
    axes = next(a for a in figure.axes if a.images)
    shown = axes.images[0].get_array()
    assert shown is not None
    wanted = np.where(found["undefined"], np.nan, found["similarity"]).reshape(6, 6)
    np.testing.assert_allclose(np.ma.filled(shown, np.nan), wanted)
    named = [t.get_text() for t in axes.get_yticklabels()]
    assert len(set(named)) == 6
    if width > 100:
        assert named[:2] == ["features.1.conv @0", "features.1.conv @0.1"]
    cells = [t for t in axes.texts if t.get_gid() == "cell"]
    if cells:
        assert cells[1].get_text() == f"{wanted[0, 1]:.2f}".replace("-", "−")
        assert cells[3].get_text() == "–"
    assert "11 samples" in caption(figure)
    assert any(a.get_ylabel() == "similarity" for a in figure.axes)


def test_similarity_of_many_layers() -> None:
    names = list(many_layers(120))
    values = np.eye(120)[:, None, :, None]
    coords = {"layer": names, "other_layer": names, "noise": [0.0], "other_noise": [0.0]}
    data = xr.Dataset({"similarity": (("layer", "noise", "other_layer", "other_noise"), values)}, coords=coords)
    figure = plots.similarity_matrix(data)
    check_layout(figure)
    assert "left out" in caption(figure)


@pytest.mark.parametrize("width", WIDTHS)
def test_dissimilarity_matrix(store: Any, width: float) -> None:
    found = analyze.rdm(store, layers="head")["head"]
    figure = plots.dissimilarity_matrix(found, width=width)
    check_layout(figure)
    axes = next(a for a in figure.axes if a.images)
    shown = axes.images[0].get_array()
    order = np.argsort(found["label"].values.astype(object), kind="stable")
    np.testing.assert_allclose(shown, found["rdm"].values[0][np.ix_(order, order)])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog", "eel"]
    with pytest.raises(FmxError, match="one noise level"):
        plots.dissimilarity_matrix(analyze.rdm(store, layers="head", noise="all")["head"])


@pytest.mark.parametrize("width", WIDTHS)
def test_health_summary(store: Any, width: float) -> None:
    found = analyze.health(store)
    figure = plots.health_summary(found, width=width)
    check_layout(figure)
    table = next(a for a in figure.axes if a.images)
    shown = table.images[0].get_array()
    wanted = [
        [float(d[k]) / float(d["channels"]) for k in ("dead", "always_on", "saturated", "duplicate")]
        for d in found.values()
    ]
    np.testing.assert_allclose(shown, 100 * np.array(wanted))
    assert [t.get_text() for t in table.texts] == [
        f"{int(d[k])}" for d in found.values() for k in ("dead", "always_on", "saturated", "duplicate")
    ]
    sizes = points(axes_of(figure, "mean size"), "value")[:, 0]
    np.testing.assert_allclose(sizes, [float(d["magnitude"]) for d in found.values()])
    zeros = points(axes_of(figure, "zeros (%)"), "value")[:, 0]
    np.testing.assert_allclose(zeros, [100 * float(d["sparsity"]) for d in found.values()])
    flagged = [mpl.colors.to_hex(c) for c in artist(axes_of(figure, "zeros (%)"), "value").get_facecolors()]
    assert flagged == [
        OKABE_ITO[5].lower() if "sparsity" in d.attrs["flags"] else OKABE_ITO[0].lower() for d in found.values()
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_model_differences(store: Any, tmp_path: Path, width: float) -> None:
    values = {n: store.activation(n).values * np.float32(1.01) + np.float32(0.01) for n in ("features.1.conv", "head")}
    other = write_store(tmp_path / "b", values, noise=LEVELS)
    found = analyze.compare(store, other)
    figure = plots.model_differences(found, width=width)
    check_layout(figure)
    for label, key in (
        ("relative L2", "layer_relative_l2"),
        ("correlation", "layer_correlation"),
        ("matched", "layer_match_correlation"),
    ):
        for level in range(3):
            drawn = points(axes_of(figure, label), f"{key}-{level}")[:, 0]
            np.testing.assert_allclose(drawn, [float(d[key][level]) for d in found.values()])
    same = plots.model_differences(analyze.compare(store, store), width=width)
    check_layout(same)
    np.testing.assert_allclose(points(axes_of(same, "relative L2"), "layer_relative_l2-0")[:, 0], 0)


def test_rates() -> None:
    figure = plots.rate_bars({"bare": {"eager": 10.0, "auto": 20.0}, "capture of layers": {"auto": 19.0}})
    check_layout(figure)
    axes = axes_of(figure, "images per second")
    assert [bar.get_width() for bar in axes.patches] == [10.0, 20.0, 19.0]  # type: ignore[attr-defined]


# Values that trip up plots.


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_constant_and_huge(odd: Any, width: float) -> None:
    hist = analyze.hist(odd, by="noise", bins=16)
    stats = analyze.stats(odd, by="noise", quantiles=BOX_QUANTILES)
    channels = analyze.stats(odd, by=["noise", "channel"], quantiles=())
    maps = analyze.stats(odd, by=["noise", "y", "x"], quantiles=())
    peaks = analyze.top_samples(odd, k=2)
    for name in hist:
        drawn = [
            plots.distribution(hist[name], stats[name], width=width),
            plots.distribution(hist[name].isel(noise=0), width=width),
            plots.channel_statistics(channels[name].isel(noise=0), width=width),
            plots.spatial_patterns(maps[name].isel(noise=0), peaks[name], width=width),
        ]
        for figure in drawn:
            check_layout(figure)
        if name == "nothing":
            assert all("no finite values" in words(figure) for figure in drawn)
            assert all("NaN or infinite" in caption(figure) for figure in drawn)
        if name == "constant":
            assert "every finite value is 2.5" in words(drawn[0])
            assert "2.5 everywhere" in words(drawn[3])
            assert "constant: 6 of 6 channels" in caption(drawn[2])
        if name == "odd":
            assert "×: no finite values (1 of 6 channels)" in caption(drawn[2])
    whole = [
        plots.layer_comparison({n: d.isel(noise=0) for n, d in stats.items()}, width=width),
        plots.noise_robustness(analyze.robustness(odd), width=width),
        plots.health_summary(analyze.health(odd), width=width),
    ]
    for figure in whole:
        check_layout(figure)
    assert "no finite values: nothing" in caption(whole[0])
    assert "NaN or infinite values in odd, nothing" in caption(whole[2])


def test_one_sample_of_one_channel(tmp_path: Path) -> None:
    one = write_store(tmp_path / "one", {"a": random_values(samples=1, channels=1)}, labels=["only"])
    stats = analyze.stats(one, by="noise", quantiles=BOX_QUANTILES)["a"]
    check_layout(plots.distribution(analyze.hist(one, by="noise")["a"], stats))
    channels = plots.channel_statistics(analyze.stats(one, by="channel")["a"], facts=["1 sample"])
    check_layout(channels)
    assert "1 channel ·" in caption(channels)
    check_layout(plots.health_summary(analyze.health(one)))
    sums = xr.Dataset(
        {"sum": (("sample", "label"), [[2.0]]), "own": ("sample", ["x"]), "largest": ("sample", ["x"])},
        coords={"label": ["x"]},
    )
    check_layout(plots.class_sums(sums))


def test_usual_ranges_are_those_of_the_analysis(store: Any) -> None:
    found = analyze.health(store, layers="features.1.conv")
    figure = plots.health_summary(found)
    spans = [[p.get_x(), p.get_x() + p.get_width()] for a in figure.axes[1:3] for p in a.patches]  # type: ignore[attr-defined]
    np.testing.assert_allclose(spans, [[0.1, 2.0], [30, 70]])
    for dataset in found.values():
        for name in ("magnitude", "sparsity"):
            del dataset[name].attrs["usual"]
    figure = plots.health_summary(found)
    assert not any(a.patches for a in figure.axes[1:3])
    assert "shaded" not in caption(figure).replace("numbers: channels, shaded", "")


def test_names_are_taken_literally(tmp_path: Path) -> None:
    labels = ["$x_1$ and $y$", "_hidden", "\ue123", "two\nlines", "x" * 200]
    sums = xr.Dataset(
        {"sum": (("sample", "label"), np.eye(5)), "own": ("sample", labels), "largest": ("sample", labels)},
        coords={"label": labels},
    )
    figure = plots.class_sums(sums, title="cost in $ of $5")
    check_layout(figure)
    assert len(figure.legends[0].get_texts()) == 5
    text = plots.save_figure(figure, tmp_path / "a.svg").read_text()
    assert "$x_1$ and $y$" in text
    assert "cost in $ of $5" in text
    # A letter that no font has.
    assert ">[E123]</text>" in text


# Text.


def test_names_are_shortened_in_their_middle() -> None:
    name = "features.denseblock4.denselayer16.conv2"
    found = short(name, 30.0)
    assert text_width(found, 7) <= 30
    head, tail = found.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert short("layer1", 30.0) == "layer1"
    names = [f"features.denseblock4.denselayer{i}.conv2" for i in range(16)]
    assert len(set(short_names(names, 30.0))) == 16
    assert all(text_width(n, 7) <= 30 for n in short_names(names, 30.0))
    # Numbers of blocks are not cut in two.
    inner = [f"/net/{part}/conv/conv.0/Clip_output_0_DequantizeLinear_Output" for part in ("a1", "a2", "b17", "b18")]
    assert len(set(short_names(inner, 20.0))) == 4
    assert all(text_width(n, 7) <= 20 for n in short_names(inner, 20.0))
    cut = short_names([f"features.{i}.conv.1.0" for i in range(18)], 20.0)
    assert all(
        name.endswith(f"{'.' if name.startswith('features.') else '…'}{i}.conv.1.0") for i, name in enumerate(cut)
    )


def test_captions_break_between_words() -> None:
    lines = wrapped(["one thing and another", "", "two things"], 30.0)
    assert " ".join(lines) == "one thing and another · two things"
    assert all(text_width(text, 6.5) <= 30 for text in lines)


def test_colours_are_those_that_everybody_tells_apart() -> None:
    assert len({(look.colour, look.marker, str(look.line)) for look in looks(14)}) == 14
    shades = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in (look.colour for look in looks(9, ordered=True))]
    assert shades == sorted(shades)


# Files.


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_files_are_the_same_each_time(store: Any, tmp_path: Path, form: str) -> None:
    found = analyze.robustness(store)
    paths = [plots.save_figure(plots.noise_robustness(found), tmp_path / f"{i}" / f"a.{form}") for i in range(2)]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    figure = plots.noise_robustness(found)
    assert plots.save_figure(figure, tmp_path / f"b.{form}").read_bytes() == first
    assert plots.save_figure(figure, tmp_path / f"b.{form}").read_bytes() == first
    assert sorted(p.name for p in tmp_path.glob("*.*")) == [f"b.{form}"]
    if form == "png":
        with Image.open(paths[0]) as picture:
            picture.load()
            assert picture.width == pytest.approx(180 / 25.4 * 200, abs=1)
            assert picture.info["dpi"][0] == pytest.approx(200, abs=0.1)
    if form == "svg":
        root = ET.fromstring(first)
        written = "".join(root.itertext())
        assert "SQNR (dB)" in written
        assert "features.1.conv" in written
    if form == "pdf":
        assert first.startswith(b"%PDF")
        assert b"/MediaBox" in first
        assert b"CreationDate" not in first


def test_settings_of_matplotlib_change_nothing(store: Any) -> None:
    found = analyze.health(store)
    before = plots.health_summary(found)._repr_png_()  # type: ignore[attr-defined]
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "xtick.labelsize": 20, "axes.grid": True}):
        kept = dict(mpl.rcParams)
        figure = plots.health_summary(found)
        assert dict(mpl.rcParams) == kept
        figure.canvas.draw()
        assert figure._repr_png_() == before  # type: ignore[attr-defined]
    assert isinstance(figure, Figure)


def test_figures_need_no_pyplot() -> None:
    import subprocess
    import sys

    code = "import sys, fmx.render.plots; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


def test_a_file_that_can_not_be_written_is_none(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plots.health_summary(analyze.health(store))
    with pytest.raises(FmxError, match=r"as \.png, \.svg or \.pdf, not \.jpg"):
        plots.save_figure(figure, tmp_path / "a.jpg")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FmxError, match="No space left"):
        plots.save_figure(figure, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# What results lack.


def test_results_that_lack_something(store: Any, clips: Any) -> None:
    sentences = {
        "lack q0.05.*fmx stats --quantiles": lambda: plots.layer_comparison(analyze.stats(store)),
        "by channel, and a plot of layers takes them by the whole layer": lambda: plots.layer_comparison(
            analyze.stats(store, by="channel")
        ),
        "by channel and noise, and a plot of noise": lambda: plots.noise_robustness(
            analyze.robustness(store, per="channel")
        ),
        "lack sqnr.*make them with fmx robustness": lambda: plots.noise_robustness(analyze.health(store)),
        "no layer for a plot": lambda: plots.health_summary({}),
        "by channel, and a plot of health": lambda: plots.health_summary(analyze.health(store, per="channel")),
        "one layer at a time": lambda: plots.temporal_curves(analyze.temporal(clips, per="channel")),
        "lack counts": lambda: plots.distribution(analyze.stats(store)["head"]),
        "one axis apart, not noise and channel": lambda: plots.distribution(
            analyze.hist(store, by=["noise", "channel"])["head"]
        ),
        "not ordered by size": lambda: plots.channel_statistics(
            analyze.stats(store, by="channel")["head"], order="size"
        ),
        "60 to 500 mm wide, not 8": lambda: plots.layer_comparison(many_layers(2), width=8),
    }
    for sentence, draw in sentences.items():
        with pytest.raises(FmxError, match=sentence) as error:
            draw()
        assert re.fullmatch(r"[^\n]+\.", str(error.value))
    counts = xr.Dataset(
        {n: (("channel", "b"), np.ones((15, 2))) for n in ("counts", "edges", "cdf")}
        | {"count": ("channel", np.ones(15))},
        coords={"channel": np.arange(15)},
    )
    with pytest.raises(FmxError, match="15 distributions can't be told apart"):
        plots.distribution(counts)


# The command.


def test_command_draws_what_a_store_allows(store: Any, tmp_path: Path, cli: Any) -> None:
    ran = cli("render", "plots", store.path, "-o", tmp_path, "--name", "a", "--format", "svg,png")
    assert ran.code == 0, ran.err
    folder = tmp_path / "model" / "a"
    index = (folder / "index.csv").read_text().splitlines()
    assert index[0] == "file,plot,layer,by"
    kinds = {row.split(",")[1] for row in index[1:]}
    assert kinds == {
        "distribution",
        "channels",
        "spatial",
        "layers",
        "robustness",
        "class-sums",
        "similarity",
        "rdm",
        "health",
    }
    files = {row.split(",")[0] for row in index[1:]}
    assert files == {p.name for p in folder.iterdir()} - {"index.csv"}
    assert {f"{n}.{form}" for n in ("layers", "distribution_head_noise") for form in ("svg", "png")} <= files
    assert "no plot of temporal: the layers have one timestep" in ran.err
    assert "11 samples" in "".join(ET.parse(folder / "robustness.svg").getroot().itertext())
    again = cli("render", "plots", store.path, "-o", tmp_path, "--name", "a")
    assert again.code == 2
    assert "--overwrite" in again.err


def test_command_refuses_what_can_not_be_drawn(store: Any, tmp_path: Path, cli: Any) -> None:
    for words_, sentence in (
        (["--plots", "foo"], "There is no plot foo"),
        (["--plots", "temporal"], "one timestep"),
        (["--plots", "layers,temporal"], "one timestep"),  # before the first plot is drawn
        (["--plots", "differences"], "name the other store with --other"),
        (["--format", "jpg"], "not .jpg"),
        (["--width", "8"], "60 to 500 mm"),
        (["--noise", "0.3"], "no noise level 0.3"),
        (["--plots", "distribution", "--channels", "99", "--layers", "head"], "has no channel 99"),
        (["--plots", "distribution", "--channels", "x"], "--channels takes numbers"),
    ):
        ran = cli("render", "plots", store.path, "-o", tmp_path / "o", *words_)
        assert ran.code == 2, words_
        assert sentence in ran.err
        assert ran.err.count("\n") == 1
    assert not [p for p in (tmp_path / "o").rglob("*") if p.is_file()]


def test_command_draws_saved_results(tmp_path: Path, cli: Any) -> None:
    values = random_values(noise=2, channels=6, size=(5, 4))
    store = write_store(tmp_path / "s", {"b": values, "a": values[..., ::-1] ** 2}, noise=(0.0, 0.1)).path
    quantiles = ",".join(map(str, BOX_QUANTILES))
    for name, verb in {
        "whole": ["stats", "--quantiles", quantiles],
        "bychannel": ["stats", "--by", "noise,channel"],
        "places": ["stats", "--by", "y,x"],
        "h": ["hist", "--by", "label"],
        "r": ["robustness"],
        "hs": ["health"],
        "sim": ["similarity"],
        "cs": ["class-sums", "--held-out", "0.4", "--shared"],
        "rk": ["rank"],
        "perchannel": ["robustness", "--per", "channel"],
    }.items():
        assert cli(verb[0], store, *verb[1:], "--save", name).code == 0
    assert cli("compare", store, store, "--save", "cmp").code == 0
    ran = cli(
        "render", "plots", store, "--from", "whole,bychannel,places,h,r,hs,sim,cs,cmp", "-o", tmp_path, "--name", "x"
    )
    assert ran.code == 0, ran.err
    rows = (tmp_path / "model" / "x" / "index.csv").read_text().splitlines()[1:]
    kinds = [row.split(",")[1] for row in rows]
    assert set(kinds) == {
        "layers",
        "channels",
        "spatial",
        "distribution",
        "robustness",
        "health",
        "similarity",
        "class-sums",
        "differences",
    }
    for name, sentence in (
        ("rk", "of which there is no plot"),
        ("perchannel", "make them with fmx robustness"),
        ("nope", "No results called nope"),
    ):
        failed = cli("render", "plots", store, "--from", name, "-o", tmp_path)
        assert failed.code == 2
        assert sentence in failed.err


def test_command_draws_clips_channels_and_differences(clips: Any, tmp_path: Path, cli: Any) -> None:
    ran = cli(
        "render",
        "plots",
        clips.path,
        "--plots",
        "temporal,differences",
        "--other",
        clips.path,
        "-o",
        tmp_path,
        "--name",
        "t",
    )
    assert ran.code == 0, ran.err
    assert {p.name for p in (tmp_path / "model" / "t").iterdir()} == {"temporal.png", "differences.png", "index.csv"}
    ran = cli(
        "render",
        "plots",
        clips.path,
        "--plots",
        "distribution",
        "--channels",
        "1,8",
        "--layers",
        "one",
        "-o",
        tmp_path,
        "--name",
        "c",
        "--format",
        "svg",
    )
    assert ran.code == 0, ran.err
    text = (tmp_path / "model" / "c" / "distribution_one_channel.svg").read_text()
    assert "channel 8" in text
    assert "channel 2" not in text


def test_of_long_clips_some_timesteps_are_drawn(tmp_path: Path, cli: Any) -> None:
    store = write_store(tmp_path / "long", {"one": random_values(steps=16, channels=3, seed=3)})
    settings = ("--plots", "distribution", "--by", "timestep", "--format", "svg", "-o", tmp_path, "--name", "t")
    ran = cli("render", "plots", store.path, *settings)
    assert ran.code == 0, ran.err
    text = (tmp_path / "model" / "t" / "distribution_one_timestep.svg").read_text()
    assert "14 of 16 timesteps" in text
    drawn = {i for i in range(16) if re.search(f">timestep {i}<", text)}
    assert len(drawn) == 14
    assert {0, 15} <= drawn


@pytest.mark.real
def test_real_network_in_a_column(real: Path, tmp_path: Path, cli: Any) -> None:
    model, pictures = real / "models" / "cifar10_cnn_traced.pt", tmp_path / "pictures"
    for label in ("automobile", "frog", "truck"):
        (pictures / label).mkdir(parents=True)
        for path in sorted((real / "images" / "cifar10" / label).iterdir())[:6]:
            (pictures / label / path.name).symlink_to(path)
    store = tmp_path / "a.zarr"
    options = ["--range", "0,255", "--input-shape", "3,32,32", "--layers", "13,26", "--noise", "0,0.2", "--outputs"]
    assert cli("extract", model, pictures, "-o", store, *options).code == 0
    plotted = ["--plots", "robustness,class-sums,layers,spatial", "--width", "85", "--format", "svg"]
    ran = cli("render", "plots", store, "-o", tmp_path / "out", "--name", "a", *plotted)
    assert ran.code == 0, ran.err
    text = (tmp_path / "out" / "cifar10_cnn_traced" / "a" / "robustness.svg").read_text()
    assert "flipped predictions (%)" in text
    assert "18 samples" in text
