"""Frames: what is drawn, pixel for pixel, and what is written."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmx.errors import FmxError
from fmx.render import Frame, grid_pages, overlay, overlay_figure, save_png
from fmx.render.grid import HAIRLINE, check_maps
from fmx.render.layout import NARROWEST, GridLayout
from fmx.render.normalise import normalise
from fmx.render.palette import LEVELS, PAPER, colours, gray_indices, page_palette
from fmx.render.strip import Panel, stack_panels
from fmx.render.text import middle_ellipsis, number, plain, text_picture, text_width, wrap
from fmx.render.tone import Tone


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def slow_indices(maps, mode="filter", low=None, high=None, levels=256, symmetric=False):
    """One value at a time: its share of the range, rounded to the nearest index."""
    finite_all = [float(v) for v in maps.flat if np.isfinite(v)]
    indices = np.zeros(maps.shape, dtype=np.uint8)
    for c, one in enumerate(maps):
        finite = [float(v) for v in one.flat if np.isfinite(v)] if mode == "filter" else finite_all
        start, end = (min(finite), max(finite)) if finite else (0.0, 0.0)
        if symmetric:
            end = max(abs(start), abs(end)) or 1.0
            start = -end
        start = start if low is None else low
        end = end if high is None else high
        for y in range(one.shape[0]):
            for x in range(one.shape[1]):
                v = start if np.isnan(one[y, x]) else min(max(float(one[y, x]), start), end)
                share = (v - start) / (end - start) if end > start else 0.0
                indices[c, y, x] = int(share * (levels - 1) + 0.5)
    return indices


def slow_bilinear(heat, height, width):
    """Interpolate between the four nearest pixel centres, the outermost of which reach to the edge."""
    large = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * heat.shape[0] / height - 0.5, 0), heat.shape[0] - 1)
            sx = min(max((x + 0.5) * heat.shape[1] / width - 0.5, 0), heat.shape[1] - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, heat.shape[0] - 1), min(x0 + 1, heat.shape[1] - 1)
            fy, fx = sy - y0, sx - x0
            upper = heat[y0, x0] * (1 - fx) + heat[y0, x1] * fx
            lower = heat[y1, x0] * (1 - fx) + heat[y1, x1] * fx
            large[y, x] = upper * (1 - fy) + lower * fy
    return large


def assert_near(indices, expected):
    """Equal, except that a share halfway between two indices may round either way in single precision."""
    off = np.abs(indices.astype(int) - expected.astype(int))
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


class TestNormalise:
    @pytest.mark.parametrize("mode", ["filter", "layer"])
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "bool"])
    def test_against_the_slow_reference(self, rng, mode, symmetric, dtype):
        maps = (rng.normal(size=(3, 5, 4)) * [[[1]], [[20]], [[300]]]).astype(dtype)
        indices, ranges = normalise(maps, mode, tone=Tone(symmetric=symmetric))
        assert indices.dtype == np.uint8
        assert ranges.low.shape == ranges.high.shape == (3,)
        assert_near(indices, slow_indices(maps, mode, symmetric=symmetric))

    @pytest.mark.parametrize("mode", ["filter", "layer"])
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_nan_and_infinities(self, rng, mode, symmetric, dtype):
        maps = rng.normal(3, 1, size=(4, 5, 4)).astype(dtype)
        maps[0, 0, 0], maps[0, 1, 1], maps[1, 2, 2] = np.nan, np.inf, -np.inf
        maps[2] = np.nan
        maps[3] = np.inf
        found = normalise(maps, mode, tone=Tone(symmetric=symmetric))[0]
        assert_near(found, slow_indices(maps, mode, symmetric=symmetric))

    def test_nothing_finite_at_all(self):
        maps = np.full((2, 3, 3), np.nan, dtype=np.float32)
        for mode in ("filter", "layer"):
            indices, ranges = normalise(maps, mode)
            assert not indices.any() and not ranges.low.any() and not ranges.high.any()

    @pytest.mark.parametrize("value", [0.0, -3.5, 7.0])
    def test_a_constant_map_is_dark(self, value):
        for mode in ("filter", "layer"):
            assert not normalise(np.full((2, 3, 3), value), mode)[0].any()

    def test_zero_is_the_middle_of_a_symmetric_range(self, rng):
        maps = np.abs(rng.normal(size=(2, 4, 4)))
        maps[:, 0, 0] = 0
        signed = Tone(symmetric=True)
        indices, ranges = normalise(maps, "layer", tone=signed, levels=LEVELS)
        assert (indices[:, 0, 0] == (LEVELS - 1) // 2).all()
        assert (ranges.low == -maps.max()).all() and (ranges.high == maps.max()).all()
        assert (normalise(np.zeros((1, 2, 2)), tone=signed, levels=LEVELS)[0] == (LEVELS - 1) // 2).all()

    def test_fixed_ends_hold_for_all_maps_or_for_each(self, rng):
        maps = rng.normal(size=(2, 6, 6)).astype(np.float32)
        indices, ranges = normalise(maps, low=-0.5, high=1.0)
        assert ranges.low.tolist() == [-0.5, -0.5] and ranges.high.tolist() == [1.0, 1.0]
        assert_near(indices, slow_indices(maps, low=-0.5, high=1.0))
        each = normalise(maps, low=np.array([-0.5, -2.0]))[0]
        assert_near(each[:1], slow_indices(maps[:1], low=-0.5))
        assert_near(each[1:], slow_indices(maps[1:], low=-2.0))

    def test_a_fixed_end_beyond_the_values_draws_nothing(self):
        maps = np.ones((1, 2, 2))
        indices, ranges = normalise(maps, low=5.0)
        assert not indices.any() and (ranges.low <= ranges.high).all()
        indices, ranges = normalise(maps, high=-5.0)
        assert not indices.any() and (ranges.low <= ranges.high).all()

    def test_ranges_wider_than_the_largest_float(self):
        top = np.finfo(np.float64).max
        assert normalise(np.array([[[-top, 0, top]]]))[0].tolist() == [[[0, 128, 255]]]
        narrow = normalise(np.array([[[-3e38, 0, 3e38]]], dtype=np.float32), low=0, high=1e-30)
        assert narrow[0].tolist() == [[[0, 0, 255]]]

    def test_values_are_left_as_they_are(self, rng):
        maps = rng.normal(size=(2, 3, 3))
        before = maps.copy()
        normalise(maps)
        assert (maps == before).all()

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            ({"mode": "filters"}, "did you mean filter"),
            ({"low": 2.0, "high": 1.0}, "low"),
            ({"low": np.nan}, "finite"),
            ({"high": np.zeros(5)}, "each of the 2 maps"),
        ],
    )
    def test_mistakes(self, options, part):
        with pytest.raises(FmxError, match=part):
            normalise(np.zeros((2, 3, 3)), **options)


class TestGrid:
    @pytest.mark.parametrize("scale", [None, 1, 3])
    @pytest.mark.parametrize("normalisation", ["filter", "layer"])
    def test_bare_pages_against_the_slow_reference(self, rng, scale, normalisation):
        maps = rng.normal(size=(11, 5, 7)).astype(np.float32)
        pages = list(
            grid_pages(
                maps,
                layer="conv1",
                sample="cat",
                rows=2,
                columns=4,
                scale=scale,
                normalisation=normalisation,
                legend=False,
            )
        )
        assert len(pages) == 2
        expected = slow_indices(maps, normalisation, levels=LEVELS)
        n = scale or 1
        for page, frame in enumerate(pages):
            assert frame.pixels.shape == (2 * 5 * n + 2, 4 * 7 * n + 3 * 2)
            drawn = np.full(frame.pixels.shape, HAIRLINE, dtype=np.uint8)
            for place in range(8):
                top, left = (place // 4) * (5 * n + 2), (place % 4) * (7 * n + 2)
                channel = page * 8 + place
                if channel >= 11:
                    assert (frame.pixels[top : top + 5 * n, left : left + 7 * n][1:-1, 1:] == PAPER).all()
                    continue
                for y in range(5 * n):
                    for x in range(7 * n):
                        drawn[top + y, left + x] = expected[channel, y // n, x // n]
                box = np.s_[top : top + 5 * n, left : left + 7 * n]
                assert_near(frame.pixels[box], drawn[box])
        gap = pages[0].pixels[5 * n : 5 * n + 2]
        assert (gap == HAIRLINE).all()

    @pytest.mark.parametrize("shape", [(64, 7, 7), (20, 56, 56), (64, 14, 30), (3, 112, 112), (1, 1, 1)])
    def test_maps_keep_their_resolution_below_the_header(self, rng, shape):
        maps = rng.normal(size=shape)
        (frame,) = grid_pages(maps, layer="layer1", sample="cat")
        layout = GridLayout(min(8, -(-shape[0] // 8)), min(8, shape[0]), shape[1:], 1, True)
        expected = slow_indices(maps, levels=LEVELS)
        height, width = frame.pixels.shape
        assert width == max(layout.extent[1], NARROWEST) + 2 * layout.margin
        first = height - layout.margin - layout.extent[0]
        for place in range(shape[0]):
            top, left = layout.origin(place)
            top, left = top + first, left + layout.margin
            assert_near(frame.pixels[top : top + shape[1], left : left + shape[2]], expected[place])
            ring = frame.pixels[top - 1 : top + shape[1] + 1, left - 1]
            assert (ring == HAIRLINE).all()
        assert (frame.pixels[: layout.margin] == PAPER).all()

    def test_channel_numbers_stand_above_large_maps_only(self):
        maps = np.zeros((12, 40, 40))
        (frame,) = grid_pages(maps, layer="layer1", sample="cat", channels=[11, 3])
        layout = GridLayout(1, 2, (40, 40), 1, True)
        # The numbers stand on the hairlines, which begin one pixel further out than the maps.
        top = frame.pixels.shape[0] - layout.margin - layout.extent[0] - 1
        drawn = gray_indices(text_picture("3", layout.number_size, 85))
        left = layout.margin + layout.origin(1)[1]
        box = frame.pixels[top : top + drawn.shape[0], left : left + drawn.shape[1]]
        assert (box == drawn).all()
        assert GridLayout(1, 2, (39, 60), 1, True).strip == 0
        assert GridLayout(1, 2, (60, 60), 1, False).strip == 0

    def test_chosen_channels_keep_the_range_of_the_layer(self, rng):
        maps = rng.normal(size=(6, 4, 4))
        (frame,) = grid_pages(maps, layer="a", sample="b", channels=[5, 2], normalisation="layer", legend=False)
        expected = slow_indices(maps, "layer", levels=LEVELS)
        assert_near(frame.pixels[:, :4], expected[5])
        assert_near(frame.pixels[:, 6:], expected[2])

    def test_labels(self, rng):
        maps = rng.normal(size=(70, 4, 4))
        pages = list(grid_pages(maps, layer="layer1", sample="a/cat.png", noise=0.25, timestep=0))
        assert [dict(page.labels) for page in pages] == [
            {
                "layer": "layer1",
                "sample": "a/cat.png",
                "noise": "0.25",
                "timestep": "0",
                "normalisation": "filter",
                "channels": channels,
                "page": page,
            }
            for channels, page in [("0 to 63 of 70", "1 of 2"), ("64 to 69 of 70", "2 of 2")]
        ]
        assert pages[0].size == pages[1].size
        (frame,) = grid_pages(maps, layer="a", sample="b", channels=[1, 5, 9, 3, 4], low=-1, high=0.12345)
        assert frame.labels["low"] == "-1" and frame.labels["high"] == "0.123"
        assert frame.labels["channels"] == "1, 5, …, 4 of 70"
        assert "timestep" not in frame.labels

    @pytest.mark.parametrize("side", [1, 7, 14, 56])
    @pytest.mark.parametrize("normalisation", ["filter", "layer"])
    def test_no_text_reaches_the_edge(self, side, normalisation):
        maps = np.linspace(-1.23456e-30, 1.23456e-30, 64 * side * side).reshape(64, side, side)
        (frame,) = grid_pages(
            maps,
            layer=".".join(["features", "denseblock3", "denselayer12", "conv2", "a" * 80]),
            sample="folder/" + "a very long name of a sample " * 6 + "0001.png",
            noise=0.125,
            timestep=1234,
            normalisation=normalisation,
        )
        edge = frame.size[0] - 10
        assert (frame.pixels[:, :9] == PAPER).all()
        assert (frame.pixels[:, edge + 1 :] == PAPER).all()

    def test_the_bar_runs_from_the_low_to_the_high_colour(self, rng):
        (frame,) = grid_pages(rng.normal(size=(64, 56, 56)), layer="layer1", sample="a", normalisation="layer")
        header = frame.pixels[:35]
        bar = max(header, key=lambda line: (line < LEVELS).sum())
        bar = bar[bar < LEVELS]
        assert len(bar) == 72 and bar[0] == 0 and bar[-1] == LEVELS - 1
        assert (np.diff(bar.astype(int)) >= 0).all()

    @pytest.mark.parametrize(
        ("options", "part"),
        [
            ({"cmap": "virids"}, "did you mean viridis"),
            ({"normalisation": "layers"}, "did you mean layer"),
            ({"channels": [0, 4]}, "no channel 4: there are 0 to 3"),
            ({"channels": [-1]}, "no channel -1"),
            ({"channels": []}, "No channels of layer fc"),
            ({"rows": 0}, "rows must be at least 1"),
            ({"columns": -1}, "columns must be at least 1"),
            ({"scale": 0}, "scale must be at least 1"),
        ],
    )
    def test_mistakes_show_at_the_call(self, options, part):
        with pytest.raises(FmxError, match=part):
            grid_pages(np.zeros((4, 3, 3)), layer="fc", sample="a", **options)

    @pytest.mark.parametrize(
        ("shape", "dims", "axes"),
        [
            ((10,), None, "channel 10"),
            ((197, 768), None, "token 197, channel 768"),
            ((64, 100), ("channel", "x"), "channel 64, x 100"),
            ((8, 3, 4, 4), None, "channel 8, z 3, y 4, x 4"),
            ((), None, "a single value"),
        ],
    )
    def test_layers_without_maps(self, shape, dims, axes):
        with pytest.raises(FmxError, match=r"needs maps \(y, x\), and layer fc has \(" + axes):
            check_maps(np.zeros(shape), "fc", dims)

    def test_values_that_are_no_real_numbers(self):
        for maps in (np.zeros((2, 3, 3), dtype=complex), np.zeros((2, 0, 3))):
            with pytest.raises(FmxError, match="real numbers"):
                grid_pages(maps, layer="fc", sample="a")


class TestFrame:
    def test_rgb_of_indices_gray_and_colours(self, rng):
        indices = rng.integers(0, 256, (4, 5), dtype=np.uint8)
        palette = page_palette("viridis")
        rgb = Frame(indices, palette).rgb()
        assert rgb.shape == (4, 5, 3) and (rgb[2, 3] == palette[indices[2, 3]]).all()
        assert (Frame(indices).rgb() == indices[:, :, None]).all()
        assert Frame(rgb).rgb() is rgb
        assert Frame(rgb).size == (5, 4)

    @pytest.mark.parametrize(
        ("pixels", "palette"),
        [
            (np.zeros((4, 4)), None),
            (np.zeros((4, 4, 4), dtype=np.uint8), None),
            (np.zeros((0, 4), dtype=np.uint8), None),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((256, 3), dtype=np.uint8)),
            (np.zeros((4, 4), dtype=np.uint8), np.zeros((10, 3), dtype=np.uint8)),
        ],
    )
    def test_wrong_arrays(self, pixels, palette):
        with pytest.raises(FmxError):
            Frame(pixels, palette)

    def test_a_notebook_shows_it(self):
        frame = Frame(np.arange(12, dtype=np.uint8).reshape(3, 4))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(frame._repr_png_()))), frame.pixels)

    def test_the_palette_is_the_colormap_and_then_grays(self):
        import matplotlib as mpl

        palette = page_palette("magma")
        for i in (0, 100, LEVELS - 1):
            expected = np.array(mpl.colormaps["magma"](i / (LEVELS - 1))[:3]) * 255
            assert np.abs(palette[i] - expected).max() <= 1
        assert palette[LEVELS].tolist() == [0, 0, 0] and palette[PAPER].tolist() == [255, 255, 255]
        for gray in range(256):
            assert abs(int(palette[gray_indices(np.uint8(gray))][0]) - gray) <= 8


class TestSavePng:
    def test_indexed_round_trip_with_labels(self, tmp_path, rng):
        (frame,) = grid_pages(rng.normal(size=(9, 8, 8)), layer="layer1", sample="Käse–кот.png", noise=0.5)
        path = save_png(frame, tmp_path / "deep" / "er" / "page.png")
        assert path == tmp_path / "deep" / "er" / "page.png"
        with Image.open(path) as picture:
            picture.load()
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), frame.pixels)
            assert np.array_equal(np.asarray(picture.convert("RGB")), frame.rgb())
            assert picture.text == dict(frame.labels)

    def test_rgb_and_gray_round_trip(self, tmp_path, rng):
        for shape in [(5, 6, 3), (5, 6)]:
            frame = Frame(rng.integers(0, 256, shape, dtype=np.uint8))
            with Image.open(save_png(frame, str(tmp_path / "a.png"))) as picture:
                assert np.array_equal(np.asarray(picture), frame.pixels)

    def test_nothing_is_left_beside_the_file(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        save_png(Frame(np.zeros((2, 2), dtype=np.uint8)), path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [p.name for p in tmp_path.iterdir()] == ["a.png"]

    def test_a_failure_leaves_what_was_there(self, tmp_path):
        (tmp_path / "a.png").mkdir()
        (tmp_path / "file").write_text("")
        frame = Frame(np.zeros((2, 2), dtype=np.uint8))
        for path in (tmp_path / "a.png", tmp_path / "file" / "b.png"):
            with pytest.raises(FmxError, match="can't be written"):
                save_png(frame, path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "file"]

    def test_the_name_says_the_format(self, tmp_path):
        with pytest.raises(FmxError, match=r"\.png"):
            save_png(Frame(np.zeros((2, 2), dtype=np.uint8)), tmp_path / "a.jpg")
        assert not list(tmp_path.iterdir())


class TestOverlay:
    @pytest.mark.parametrize(("heat_shape", "shape"), [((3, 4), (12, 20)), ((7, 7), (32, 32)), ((1, 1), (5, 6))])
    @pytest.mark.parametrize("threshold", [0.0, 0.4])
    def test_against_the_slow_reference(self, rng, heat_shape, shape, threshold):
        picture = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        heat = rng.normal(size=heat_shape).astype(np.float32)
        drawn = overlay(picture, heat, alpha=0.7, threshold=threshold)
        large = slow_bilinear(heat.astype(float), *shape)
        share = (large - heat.min()) / ((heat.max() - heat.min()) or 1)
        table = colours("inferno").astype(float)
        off = 0
        for y in range(shape[0]):
            for x in range(shape[1]):
                t = share[y, x]
                if abs(t - threshold) < 1e-5:
                    continue
                opacity = 0.7 * t if t >= threshold else 0
                for band in range(3):
                    colour = table[int(t * 255 + 0.5), band]
                    value = picture[y, x, band] * (1 - opacity) + colour * opacity
                    off = max(off, abs(value - drawn[y, x, band]))
        # One index of the colormap to either side, where the share lies between two.
        assert off < 3.5
        assert drawn.dtype == np.uint8 and drawn.shape == (*shape, 3)

    def test_cold_shows_the_picture_and_hot_the_colour(self, rng):
        picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        heat = np.zeros((4, 4))
        heat[1, 2] = 9
        drawn = overlay(picture, heat, alpha=1.0, cmap="magma")
        assert (drawn[1, 2] == colours("magma")[255]).all()
        drawn[1, 2] = picture[1, 2]
        assert (drawn == picture).all()
        assert (overlay(picture, np.full((2, 2), 3.0)) == picture).all()

    def test_bands(self, rng):
        gray = rng.integers(0, 256, (6, 5, 1), dtype=np.uint8)
        rgba = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
        heat = rng.random((3, 3))
        as_rgb = overlay(gray.repeat(3, axis=2), heat)
        assert (overlay(gray, heat) == as_rgb).all()
        assert (overlay(gray[:, :, 0], heat) == as_rgb).all()
        assert (overlay(rgba, heat) == overlay(rgba[:, :, :3], heat)).all()

    def test_values_that_are_not_finite(self, rng):
        picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        heat = rng.random((4, 4))
        clean = heat.copy()
        heat[0, 0], heat[1, 1], heat[2, 2] = np.nan, np.inf, -np.inf
        finite = heat[np.isfinite(heat)]
        clean[0, 0], clean[1, 1], clean[2, 2] = finite.min(), finite.max(), finite.min()
        assert (overlay(picture, heat) == overlay(picture, clean)).all()

    def test_a_fixed_range(self, rng):
        picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        heat = np.full((4, 4), 5.0)
        drawn = overlay(picture, heat, low=0, high=10, alpha=1.0)
        expected = picture * 0.5 + colours("inferno")[128].astype(float) * 0.5
        assert np.abs(drawn - expected).max() <= 1

    @pytest.mark.parametrize(
        ("picture", "heat", "options", "part"),
        [
            (np.zeros((4, 4, 3)), np.zeros((2, 2)), {}, "uint8"),
            (np.zeros((4, 4, 2), dtype=np.uint8), np.zeros((2, 2)), {}, "1, 3 or 4 bands"),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2, 2)), {}, r"\(y, x\)"),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((0, 2)), {}, r"\(y, x\)"),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2)), {"alpha": 2}, "alpha"),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2)), {"threshold": -1}, "threshold"),
            (np.zeros((4, 4, 3), dtype=np.uint8), np.zeros((2, 2)), {"cmap": "infern"}, "did you mean inferno"),
        ],
    )
    def test_mistakes(self, picture, heat, options, part):
        with pytest.raises(FmxError, match=part):
            overlay(picture, heat, **options)


class TestOverlayFigure:
    def test_panels_hold_the_picture_and_the_overlays(self, rng):
        picture = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)
        heats = [("one", rng.random((4, 4)), None), ("two", rng.random((8, 8)), (0.0, 2.0))]
        frame = overlay_figure(picture, heats, sample="cat", noise=0.1, timestep=2)
        large = picture.repeat(5, axis=0).repeat(5, axis=1)
        expected = [large, overlay(large, heats[0][1]), overlay(large, heats[1][1], low=0, high=2)]
        top = next(y for y in range(frame.size[1]) if (frame.pixels[y : y + 160, 12:172] == large).all())
        for i, panel in enumerate(expected):
            left = 12 + i * 172
            assert (frame.pixels[top : top + 160, left : left + 160] == panel).all()
        assert frame.size[0] == 3 * 172 + 12
        assert dict(frame.labels) == {
            "sample": "cat",
            "noise": "0.1",
            "timestep": "2",
            "panels": "clean input, one, two",
        }

    @pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 2), (5, 1, 6), (6, 2, 4), (12, 3, 5)])
    def test_rows(self, rng, count, rows, columns):
        picture = np.zeros((160, 160, 3), dtype=np.uint8)
        heats = [("a", np.zeros((2, 2)), None)] * count
        frame = overlay_figure(picture, heats, sample="cat")
        assert frame.size[0] == columns * 172 + 12
        black = (frame.pixels == 0).all(axis=2)
        assert black[:, 12:172].all(axis=1).sum() == 160 * rows

    def test_the_bar_below_an_overlay(self):
        picture = np.full((160, 200, 3), 255, dtype=np.uint8)
        frame = overlay_figure(picture, [("a", np.zeros((2, 2)), (0, 1))], sample="cat")
        table = colours("inferno")
        bars = [y for y in range(frame.size[1]) if (frame.pixels[y, 236] == table[255]).all()]
        assert len(bars) == 0
        left = 12 + 200 + 12
        bars = [y for y in range(frame.size[1]) if (frame.pixels[y, left] == table[0]).all()]
        assert len(bars) == 6
        assert (frame.pixels[bars[0], left + 199] == table[255]).all()

    def test_narrow_pictures_get_room_for_text(self, rng):
        panel = Panel("layer4.1.conv2 channel 511 of the second branch", np.zeros((300, 4, 3), dtype=np.uint8))
        barred = Panel("b", panel.pixels, ("-1.23e-308", "-1.23e-308"))
        drawn = stack_panels([panel, barred], ["sample " + "a" * 200], colours("inferno"))
        assert drawn.shape[1] == 144 * 2 + 12 * 3
        assert (drawn[:, -12:] == 255).all()

    def test_no_heat_at_all(self):
        with pytest.raises(FmxError, match="at least one heat map"):
            overlay_figure(np.zeros((4, 4, 3), dtype=np.uint8), [], sample="cat")


class TestText:
    @pytest.mark.parametrize("width", [30, 60, 100, 1000])
    def test_the_ellipsis_keeps_both_ends(self, width):
        text = "val/n02123045/ILSVRC2012_val_00023551.JPEG"
        short = middle_ellipsis(text, width, 12)
        assert text_width(short, 12) <= width
        if width == 1000:
            assert short == text
            return
        head, tail = short.split("…")
        assert text.startswith(head) and text.endswith(tail)
        longer = text[: len(head) + (len(head) == len(tail))] + "…" + text[-(len(tail) + (len(head) > len(tail))) :]
        assert text_width(longer, 12) > width

    def test_lines_break_between_pieces(self):
        lines = wrap(["sample a", "noise 0", "page 1 of 2"], text_width("sample a · noise 0", 12), 12)
        assert lines == ["sample a · noise 0", "page 1 of 2"]
        assert wrap([], 100, 12) == []

    def test_what_the_font_lacks(self):
        assert plain("a – b−c\nd×2") == "a - b-c dx2"
        assert plain("Ka\u0308se кот γάτα") == "Käse кот γάτα"
        # Letters that no machine has a font for.
        assert plain("\U0001fffe \u0007 cat \u1e9b\u0323 \ue123") == "[1FFFE] [0007] cat \u1e9b\u0323 [E123]"
        missing = text_picture("\uffff", 12)
        assert (text_picture("[FFFF]", 12) == missing).all()

    @pytest.mark.parametrize("size", [10, 12, 17, 36])
    def test_letters_beyond_english_are_drawn(self, size):
        drawn = [text_picture(text, size) for text in ("кот", "пёс", "???")]
        assert len({picture.tobytes() for picture in drawn}) == 3
        assert all(picture.shape[0] == text_picture("cat", size).shape[0] for picture in drawn)
        assert drawn[0].min() < 120 and drawn[0].shape[1] == text_width("кот", size)
        # As in the other font, nothing is cut off at the sides.
        assert (drawn[0][:, -1] > 100).all()

    @pytest.mark.parametrize("size", [9, 10, 11, 12, 14, 20])
    @pytest.mark.parametrize("words", ["160 steps", "the 4 samples", "кот и пёс"])
    def test_words_stand_apart(self, words, size):
        empty = (text_picture(words, size) > 200).all(axis=0)
        gaps = sorted(len(gap) for gap in "".join("x "[int(e)] for e in empty).strip().split("x") if gap)
        between = words.count(" ")
        assert min(gaps[-between:]) >= 0.25 * size
        assert min(gaps[-between:]) >= max(gaps[:-between]) + 1
        assert empty.shape == (text_width(words, size),)
        letters = sum(text_width(word, size) for word in words.split())
        assert text_width(words, size) == letters + between * (text_width("a  b", size) - text_width("a b", size))

    def test_numbers(self):
        assert [number(v) for v in (0.0, -0.0, 55.61234, 1e-9, 123456.0)] == ["0", "0", "55.6", "1e-09", "1.23e+05"]

    def test_ink_is_inside_the_picture(self):
        drawn = text_picture("Agpqj|", 14)
        assert drawn.min() < 60 and (drawn[0] == 255).all()


def test_importing_the_package_stays_light():
    code = "import sys, fmx.render; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_maps_with_their_channels_last_are_drawn_the_same(tmp_path: Path) -> None:
    from fmx.layers import LayerInfo
    from fmx.render import grid_frames, overlay_frame
    from fmx.store import StorePlan, StoreWriter, open_store

    values = np.random.default_rng(0).normal(size=(1, 6, 7, 5)).astype(np.float32)
    frames = []
    for dims in (("channel", "y", "x"), ("y", "x", "channel")):
        shape = tuple({"channel": 6, "y": 7, "x": 5}[dim] for dim in dims)
        layer = LayerInfo("a", "Conv2d", dims, shape, "float32")
        plan = StorePlan(["s"], [""], [""], [0.0], [layer], {"layers": ["a"]}, picture=(14, 10, 3))
        place = tmp_path / f"{dims[0]}.zarr"
        with StoreWriter(place, plan) as writer:
            writer.start_unit(range(1))
            block = values if dims[0] == "channel" else np.ascontiguousarray(values.transpose(0, 2, 3, 1))
            writer.put("a", slice(0, 1), block, noise=0)
            writer.put("inputs", slice(0, 1), np.zeros((1, 14, 10, 3), np.uint8))
            writer.finish_unit(range(1))
        store = open_store(place)
        (page,) = grid_frames(store, layer="a")
        frames.append((page.pixels, overlay_frame(store, layers="a", channel=2).pixels))
    for one, two in zip(*frames, strict=True):
        np.testing.assert_array_equal(one, two)
