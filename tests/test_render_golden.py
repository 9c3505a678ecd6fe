"""Pictures as they looked before: strict on layout and values, tolerant to how the edges of letters are smoothed.

A picture that is meant to look different is written anew by ``python tests/test_render_golden.py``; look at it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_stores import write_store

from fmx.render import Film, Tone, channel_overlays, frames, grid_frames, multiples, overlay_frame, save_png
from fmx.render.palette import LEVELS

GOLDEN = Path(__file__).parent / "golden" / "render"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "render.py"


def golden_store(folder):
    """Make a store of waves, the same with any version of anything."""
    n, level, t, c, y, x = np.ogrid[:2, :2, :2, :10, :48, :48]
    waves = np.sin((c + 2) * x / 24 + t / 2 + n) * np.cos((c + 1) * y / 30 + level) * (c + 1)
    waves = np.where(c == 8, 0.25, np.where(c == 9, np.nan, waves)).astype(np.float32)
    small = np.maximum(waves[..., :4, ::4, ::4], 0)
    row = np.linspace(-1, 2, 70, dtype=np.float32) ** 3 + np.zeros((2, 2, 2, 1), np.float32)
    y, x = np.mgrid[:64, :64]
    picture = np.stack([x * 4, y * 4, (x ^ y) * 4], axis=-1).astype(np.uint8)
    pictures = np.broadcast_to(picture, (2, 2, 64, 64, 3))
    return write_store(
        folder / "golden.zarr",
        {"block.conv": waves, "block.pool": small, "head": row},
        ids=["Käse.png", "кот.png"],
        labels=["cheese", "cat"],
        noise=(0.0, 0.5),
        pictures=pictures,
        chunk_bytes=10**6,
    )


def made(store):
    """Draw one of each kind."""
    choices = {"layer": ["block.conv", "block.pool"], "sample": ["Käse.png"], "noise": [0.0, 0.5], "timestep": [0, 1]}
    sample = {"sample": "кот.png"}
    contours = channel_overlays(store, layer="block.conv", channels=[1, 2], style="contour", **sample)
    across = multiples(store, rows="noise", columns="layer", choices=choices | {"channel": ["mean"]})
    return {
        "grid": next(grid_frames(store, layer="block.conv", rows=2, columns=5, **sample)),
        "grid-tones": next(
            grid_frames(
                store, layer="block.pool", normalisation="layer", tone=Tone((5, 95), gamma=0.5), scale=4, cmap="gray"
            )
        ),
        "bars": next(grid_frames(store, layer="head", **sample)),
        "frame": next(frames(store, layer="block.conv", channels=[3], size=120, interpolation="bicubic", legend=True)),
        "bare": next(frames(store, layer="block.conv", channels=[3], tone=Tone(symmetric=True), cmap="RdBu_r")),
        "overlay": overlay_frame(store, layers="block.*", channel=2, **sample),
        "contours": next(contours),
        "multiples": next(across),
        "film": list(Film(store, "block.conv", "timestep", ["кот.png"], channel=[1], size=100))[1],
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return made(golden_store(tmp_path_factory.mktemp("golden")))


NAMES = ["grid", "grid-tones", "bars", "frame", "bare", "overlay", "contours", "multiples", "film"]


def blurred(gray):
    """Take the mean of 5×5 pixels, in which smoothed edges of letters look alike."""
    padded = np.pad(gray.astype(float), 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (5, 5)).mean(axis=(2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_look_as_before(drawn, name):
    frame = drawn[name]
    with Image.open(GOLDEN / f"{name}.png") as picture:
        picture.load()
        assert picture.size == frame.size
        assert picture.text == dict(frame.labels)
        before, colours = np.asarray(picture), np.asarray(picture.convert("RGB")).astype(int)
    now = frame.rgb().astype(int)
    if frame.palette is not None:
        # Where there are values, and nowhere else, are colours: there every index counts.
        values = before < LEVELS if name != "bare" else np.ones(before.shape, bool)
        assert ((frame.pixels < LEVELS) == values).all() or name == "bare"
        assert np.abs(frame.pixels.astype(int) - before.astype(int))[values].max() <= 1
    else:
        # RGB figures have no text in colours.
        coloured = np.ptp(colours, axis=2) > 24
        assert np.abs(now - colours)[coloured].max() <= 6
    text = np.abs(blurred(now.mean(axis=2)) - blurred(colours.mean(axis=2)))
    assert text.max() < 60 and text.mean() < 1.5


def test_every_golden_picture_is_compared():
    assert sorted(path.stem for path in GOLDEN.glob("*.png")) == sorted(NAMES)
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 400_000


def test_the_benchmark_runs(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    found = runpy.run_path(str(BENCHMARK))["measure"](1, 0.0)
    assert all(value > 0 for value in found.values())
    assert {"page, fmx × subplots", "frame, fmx × savefig"} <= set(found)


if __name__ == "__main__":
    import tempfile

    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for key, one in made(golden_store(Path(place))).items():
            sys.stdout.write(f"{save_png(one, GOLDEN / f'{key}.png')}\n")
