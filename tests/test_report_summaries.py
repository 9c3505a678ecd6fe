"""Reports of stores that keep summaries only, and of recorded trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from small_stores import write_store
from test_report import maps, shown
from test_resume import LAYERS, extract
from typer.testing import CliRunner

from fmx.analyze.course import training_points
from fmx.cli.app import app
from fmx.errors import FmxError
from fmx.report import gather, write_report
from fmx.report.summaries import joined_histogram, layers_of
from fmx.store import Store, open_store

NAMES = ("stats", "hist", "quantiles", "top-samples")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same pictures, with all activations and with summaries only."""
    folder = tmp_path_factory.mktemp("summaries")
    data = np.random.default_rng(1).random((9, 3, 32, 32), dtype=np.float32)
    extract(folder / "kept.zarr", data)
    extract(folder / "summed.zarr", data, reduce=NAMES)
    return folder / "kept.zarr", folder / "summed.zarr"


def test_summaries_say_what_the_values_say(stores: tuple[Path, Path]) -> None:
    kept, summed = (gather(open_store(path)) for path in stores)
    assert [one.info.name for one in summed.layers] == LAYERS.split(",")
    for told, wanted in zip(summed.layers, kept.layers, strict=True):
        assert told.whole == pytest.approx(wanted.whole, rel=1e-9, nan_ok=True)
        assert told.channels is not None and wanted.channels is not None
        for name in ("mean", "std", "min", "max", "sparsity"):
            np.testing.assert_allclose(told.channels[name], wanted.channels[name], rtol=1e-9, atol=1e-12)
        assert told.top is not None and wanted.top is not None
        np.testing.assert_array_equal(told.top["value"], wanted.top["value"])
        np.testing.assert_array_equal(told.top["sample_id"], wanted.top["sample_id"])
        assert told.strongest(5) == wanted.strongest(5)
        assert told.health is not None and wanted.health is not None
        for name in ("dead", "always_on", "magnitude", "sparsity"):
            np.testing.assert_allclose(told.health[name], wanted.health[name], rtol=1e-9)
        assert not {"saturated", "duplicate"} & set(told.health)


def test_histograms_are_joined_to_within_a_bin(stores: tuple[Path, Path]) -> None:
    kept, summed = (open_store(path) for path in stores)
    for layer in gather(summed).layers:
        values = np.sort(kept.activation(layer.info.name).sel(noise=0.0).values.ravel().astype(np.float64))
        assert layer.counts.sum() == values.size
        wide = layer.edges[1] - layer.edges[0]
        below = np.concatenate([[0], np.cumsum(layer.counts)])
        assert np.all(below <= np.searchsorted(values, layer.edges + wide, "right"))
        assert np.all(below >= np.searchsorted(values, layer.edges - wide, "left"))


def test_one_histogram_stays_as_it_is_and_none_is_none() -> None:
    counts, edges = np.array([3, 0, 5, 1] + [0] * 44), np.linspace(0, 48, 49)
    joined, at = joined_histogram(np.stack([counts, 0 * counts]), np.stack([edges, np.full(49, np.nan)]))
    assert joined.sum() == 9 and at[0] == 0 and at[-1] == 4
    assert joined[:12].sum() == 3 and joined[12:24].sum() == 0 and joined[24:36].sum() == 5
    assert joined_histogram(0 * counts, np.full(49, np.nan))[0].size == 0


def test_statistics_stand_by_noise_level(stores: tuple[Path, Path]) -> None:
    kept, summed = (open_store(path) for path in stores)
    for layer in gather(summed).layers:
        assert layer.course is not None
        for level in (0.0, 0.3):
            values = kept.activation(layer.info.name).sel(noise=level).values.astype(np.float64)
            one = layer.course.sel(noise=level)
            assert float(one["mean"]) == pytest.approx(values.mean(), rel=1e-9)
            assert float(one["std"]) == pytest.approx(values.std(), rel=1e-9)
            assert float(one["sparsity"]) == pytest.approx((values == 0).mean())


def test_the_page_says_what_summaries_leave_out(stores: tuple[Path, Path], tmp_path: Path) -> None:
    text = shown(open_store(stores[1]))
    for said in ("keeps summaries and no activations", "to see how alike layers are", "By noise level", "Q0.95"):
        assert said in text
    assert "Maps" not in text and "not judged" not in text and "saturated</dt>" not in text
    done = CliRunner().invoke(app, ["report", str(stores[1]), "-o", str(tmp_path / "r.html"), "--layers", "!fc"])
    assert done.exit_code == 0, done.output
    assert "2 layers" in done.output


@pytest.mark.parametrize("name", NAMES)
def test_each_summary_alone_has_a_report(name: str, tmp_path: Path) -> None:
    data = np.random.default_rng(1).random((3, 3, 32, 32), dtype=np.float32)
    store = extract(tmp_path / "a.zarr", data, reduce=[name], noise=[0])
    text = shown(store)
    for other in ("stats", "hist", "top-samples"):
        assert (f"extract with --reduce {other} too" in text) == (other != name)
    assert ("Q0.05 Q0.25 Median Q0.75 Q0.95" in text) == (name == "quantiles")
    assert ("not judged: no statistics" in text) == (name != "stats")


def test_summaries_that_are_not_made_yet_are_told_so(stores: tuple[Path, Path], tmp_path: Path) -> None:
    store = open_store(stores[1])
    with (
        mock.patch("fmx.report.summaries.saved_analyses", return_value=[]),
        pytest.raises(FmxError, match="no summaries yet"),
    ):
        write_report(store, tmp_path / "r.html")
    with pytest.raises(FmxError, match="nope"):
        layers_of(store, "nope")


def test_a_model_maximizes_beside_summaries(tmp_path: Path) -> None:
    from networks import tiny_resnet
    from PIL import Image

    import fmx

    model = fmx.load(tiny_resnet(), input_shape=(3, 32, 32))
    pictures = [Image.fromarray(p) for p in np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.glob("*.png"))
    store = fmx.extract(model, paths, to=tmp_path / "a.zarr", layers="stem", reduce=["stats", "top-samples"])
    with mock.patch("fmx.report.features.STEPS", 2):
        page = write_report(store, tmp_path / "r.html", model=model, features=1).read_text()
    assert "maximized to" in page and "deconvnet:" not in page


def recorded(to: Path, steps: int, epochs: int) -> Store:
    """Give a training of two samples a step, in which one more channel dies at each epoch."""
    count = 2 * steps
    step = np.repeat(np.arange(1, steps + 1), 2)
    epoch = (step - 1) * epochs // steps
    values = maps(count, channels=6) * (1 + step.reshape(-1, 1, 1, 1, 1, 1))
    for channel in range(6):
        values[epoch > channel, :, :, channel] = 0
    labels = {"epoch": epoch.tolist(), "step": step.tolist()}
    return write_store(to, {"conv": values.astype(np.float32)}, more_labels=labels)


@pytest.mark.parametrize("some", [1, 2**26])
def test_the_course_of_a_training_is_that_of_its_values(some: int, tmp_path: Path) -> None:
    store = recorded(tmp_path / "a.zarr", 7, 3)
    with mock.patch("fmx.analyze.batches.BATCH_BYTES", some):
        (layer,) = gather(store).layers
    assert layer.course is not None
    data = store.activation("conv")
    assert layer.course["step"].values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    for step in range(1, 8):
        values = data.values[data["step"].values == step].astype(np.float64)
        one = layer.course.sel(step=step)
        assert float(one["mean"]) == pytest.approx(values.mean(), rel=1e-9)
        assert float(one["std"]) == pytest.approx(values.std(), rel=1e-9)
        assert float(one["sparsity"]) == pytest.approx((values == 0).mean())
        assert int(one["dead"]) == sum((values[:, 0, 0, c] == 0).all() for c in range(6))


def test_many_steps_are_taken_together_in_runs(tmp_path: Path) -> None:
    store = recorded(tmp_path / "a.zarr", 150, 3)
    points = training_points(store)
    assert points is not None and points.axis == "step"
    assert len(points.at) == 60 and points.epochs.tolist() == [51, 101]
    step = store.tree.to_dataset()["step"].values
    for number, at in enumerate(points.at):
        own = np.unique(step[points.groups == number])
        assert at == own.mean() and own.tolist() == list(range(own[0], own[-1] + 1)) and len(own) in {2, 3}


@pytest.mark.parametrize(
    ("labels", "axis"),
    [
        ({"epoch": [0, 1] * 4}, "epoch"),
        ({"epoch": [0, 1] * 4, "step": [1] * 8}, "epoch"),
        ({"epoch": [0] * 8, "step": [1] * 8}, None),
        ({"step": ["a", "b"] * 4}, None),
        ({}, None),
    ],
)
def test_what_a_course_is_along(labels: dict[str, Any], axis: str | None, tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", {"conv": maps()}, more_labels=labels)
    points = training_points(store)
    assert (points.axis if points else None) == axis
    text = shown(store)
    assert ("Through the training" in text) == bool(axis) and (f"Mean by {axis}" in text) == bool(axis)


def test_odd_courses_are_drawn(tmp_path: Path) -> None:
    values = np.full_like(maps(), np.nan)
    values[4:] = 2
    store = write_store(tmp_path / "a.zarr", {"conv": values, "fc": values[..., 0, 0]}, more_labels={"step": range(8)})
    found = gather(store)
    assert found.layers[0].course is not None
    assert np.isnan(found.layers[0].course["mean"].values[:4]).all()
    assert "Through the training" in shown(store)
    write_store(tmp_path / "b.zarr", {"conv": np.full_like(values, np.nan)}, more_labels={"step": range(8)})
    assert "There is no finite value" in shown(open_store(tmp_path / "b.zarr"))
