"""Top samples as pictures: the right ones, at the right places, with the right boxes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from plot_checks import caption, check_layout
from small_stores import write_store

from fmx import analyze
from fmx.errors import FmxError
from fmx.render import plots
from fmx.render.selection import read_picture

WIDTHS = (180.0, 85.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(7, 1, 2, 11, 4, 5)).astype(np.float32)
    vectors = rng.normal(size=(7, 1, 2, 3)).astype(np.float32)
    return write_store(
        tmp_path_factory.mktemp("top") / "a.zarr",
        {"conv": values, "head": vectors},
        labels=list("xxxyyyy"),
        pictures=rng.integers(0, 256, (7, 2, 32, 40, 3), dtype=np.uint8),
        about={"input_shape": [3, 32, 40]},
    )


def drawn(store: Any, layer: str, width: float, **settings: Any) -> Any:
    found = analyze.top_samples(store, layers=layer, k=4, per_class=settings.pop("per_class", False))[layer]
    return found, plots.top_samples(found, lambda s, t: read_picture(store, s, t), width=width, **settings)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("layer", "channels"), [("conv", [3, 0]), ("conv", None), ("head", None)])
def test_pictures_values_and_boxes(store: Any, width: float, layer: str, channels: list[int] | None) -> None:
    found, figure = drawn(store, layer, width, channels=channels)
    check_layout(figure)
    (axes,) = figure.axes
    highest = found["value"].max("rank")
    order = channels or highest["channel"].values[np.argsort(-highest.values)][:8].tolist()
    assert [t.get_text() for t in axes.texts if t.get_gid() == "row"] == [f"channel {n}" for n in order]
    one = [found.sel(channel=n).isel(rank=r) for n in order for r in range(4)]
    shown = [image for image in axes.images if image.get_gid() == "picture"]
    assert len(shown) == len(one)
    boxes = [p for p in axes.patches if isinstance(p, Rectangle)][::2]
    assert len(boxes) == (len(one) if layer == "conv" else 0)
    values = [t.get_text() for t in axes.texts if t.get_gid() == "value"]
    for i, (sample, image) in enumerate(zip(one, shown, strict=True)):
        step = int(sample["at_timestep"])
        wanted = store.pictures.sel(sample=str(sample["sample_id"].item())).isel(timestep=step).values
        assert (image.get_array() == wanted).all()
        assert values[i].startswith(f"{float(sample['value']):.3g}".replace("-", "−"))
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(32 / 40)
        if layer == "conv":
            x, y = boxes[i].get_xy()
            across, down = (right - left) / 40, (bottom - top) / 32
            place = [(x - left) / across, (y - top) / down, boxes[i].get_width() / across, boxes[i].get_height() / down]
            sizes = [float(sample[name]) for name in ("x0", "y0", "x1", "y1")]
            np.testing.assert_allclose(place, [*sizes[:2], sizes[2] - sizes[0], sizes[3] - sizes[1]], atol=1e-9)
    assert ("approximate" in caption(figure)) == (layer == "conv")
    assert ("8 of 11 channels" in caption(figure)) == (layer == "conv" and channels is None)


def test_classes_have_rows_of_their_own_and_may_be_small(store: Any) -> None:
    _, figure = drawn(store, "conv", 180.0, channels=[2], per_class=True)
    check_layout(figure)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts if t.get_gid() == "row"] == ["channel 2 · x", "channel 2 · y"]
    assert len(axes.images) == 3 + 4


def test_gray_pictures_and_nothing_at_all(tmp_path: Any) -> None:
    values = np.full((2, 1, 1, 2, 4, 4), np.nan, np.float32)
    values[:, 0, 0, 0] = np.arange(32).reshape(2, 4, 4)
    gray = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8, 1)
    store = write_store(tmp_path / "a.zarr", {"conv": values}, pictures=gray, ids=["a" * 90 + ".png", "$x$.png"])
    _, figure = drawn(store, "conv", 85.0)
    check_layout(figure)
    (axes,) = figure.axes
    assert len(axes.images) == 2 and axes.images[0].get_array().shape == (8, 8)
    assert [t.get_text() for t in axes.texts if t.get_gid() == "row"] == ["channel 0", "channel 1"]
    assert [t.get_text() for t in axes.texts if t.get_gid() == "empty"] == ["no finite values"]


def test_mistakes(store: Any) -> None:
    with pytest.raises(FmxError, match="no channel 99"):
        drawn(store, "conv", 180.0, channels=[99])
    with pytest.raises(FmxError, match="make them with fmx top-samples"):
        plots.top_samples(analyze.stats(store, layers="conv")["conv"], lambda *_: np.zeros((1, 1), np.uint8))


def test_the_command_draws_them_and_what_was_saved(store: Any, tmp_path: Any, cli: Any) -> None:
    words = ["render", "plots", str(store.path), "-o", str(tmp_path), "--layers", "conv", "--channels", "1,2"]
    assert cli(*words, "--plots", "top-samples", "--name", "now").code == 0
    assert cli("top-samples", str(store.path), "--layers", "conv", "--save", "best").code == 0
    assert cli(*words, "--from", "best", "--name", "saved").code == 0
    (now,), (saved,) = ([*tmp_path.glob(f"*/{name}/*.png")] for name in ("now", "saved"))
    assert now.read_bytes() == saved.read_bytes()


def test_stores_without_pictures_say_so(tmp_path: Any, cli: Any) -> None:
    bare = write_store(tmp_path / "b.zarr", {"conv": np.ones((3, 1, 1, 2, 4, 4), np.float32)})
    words = ["render", "plots", str(bare.path), "-o", str(tmp_path / "out")]
    failed = cli(*words, "--plots", "top-samples")
    assert failed.code == 2 and "keeps no pictures" in failed.err
    assert cli("top-samples", str(bare.path), "--save", "best").code == 0
    failed = cli(*words, "--from", "best")
    assert failed.code == 2 and "keeps no pictures" in failed.err
    assert json.loads(cli("info", str(bare.path), "--json").out)
