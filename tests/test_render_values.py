"""Values in pictures: what is read back, and from which files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fmx.errors import FmxError
from fmx.render import Frame, read_values, save_frame, save_values, value_frame

NAMES = ["a.png", "a.tif", "a.TIFF"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "bool"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_values_come_back_within_half_a_step(tmp_path, name, dtype, size):
    values = (np.random.default_rng(2).normal(size=(9, 13)) * size).astype(dtype)
    path = save_values(values, tmp_path / name, labels={"layer": "layer1", "sample": "кот"}, bits=16)
    found = read_values(path)
    exact = values.astype(float)
    step = (exact.max() - exact.min()) / 65532
    assert found.dims == ("y", "x") and found.dtype == np.float64
    assert np.abs(found.values - exact).max() <= step * 0.5001
    assert found.attrs["layer"] == "layer1" and found.attrs["sample"] == "кот"
    assert float(found.attrs["scale"]) == pytest.approx(step)
    with Image.open(path) as picture:
        assert picture.mode.startswith("I;16") and np.asarray(picture).dtype == np.uint16


def test_float_tiffs_hold_the_very_values(tmp_path):
    values = np.random.default_rng(2).normal(size=(9, 13)).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    found = read_values(save_values(values, tmp_path / "a.tif", labels={"layer": "a"}))
    assert found.dtype == np.float32 and found.attrs == {"layer": "a"}
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_finite_number(tmp_path, name):
    values = np.array([[np.nan, np.inf, -np.inf], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(read_values(save_values(values, tmp_path / name, bits=16)), values, rtol=1e-12)
    for one in (np.nan, np.inf, -7.25, 0.0):
        found = read_values(save_values(np.full((2, 2), one), tmp_path / name, bits=16))
        np.testing.assert_array_equal(found, np.full((2, 2), one))


def test_the_widest_range(tmp_path):
    top = np.finfo(np.float64).max
    values = np.array([[-top, 0.0, top]])
    found = read_values(save_values(values, tmp_path / "a.png"))
    assert np.abs(found.values / top - [[-1, 0, 1]]).max() < 1 / 65532
    tiny = np.array([[0.0, 5e-324]])
    assert np.abs(read_values(save_values(tiny, tmp_path / "b.png")).values - tiny).max() <= 5e-324


def test_the_frame_of_values_shows_itself_in_gray():
    frame = value_frame(np.array([[0.0, 1.0]]))
    assert frame.pixels.dtype == np.uint16 and frame.rgb().tolist() == [[[0] * 3, [255] * 3]]
    assert frame.png().startswith(b"\x89PNG")


def test_frames_as_tiff(tmp_path):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    for shape, colours in [((5, 6), palette), ((5, 6), None), ((5, 6, 3), None)]:
        frame = Frame(rng.integers(0, 256, shape, dtype=np.uint8), colours, {"layer": "é"})
        with Image.open(save_frame(frame, tmp_path / "a.tif")) as picture:
            assert (np.asarray(picture.convert("RGB")) == frame.rgb()).all()
            assert picture.tag_v2[270] == '{"layer": "\\u00e9"}'


def test_files_that_hold_no_values(tmp_path):
    gray = np.zeros((4, 4), dtype=np.uint8)
    save_frame(Frame(gray), tmp_path / "gray.png")
    save_frame(Frame(gray, labels={"scale": "x", "offset": "0"}), tmp_path / "text.png")
    save_frame(Frame(np.zeros((4, 4, 3), dtype=np.uint8)), tmp_path / "rgb.tif")
    (tmp_path / "no.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(value_frame(np.random.default_rng(0).random((50, 50))).png()[:400])
    wanted = {
        "gray.png": "no values",
        "text.png": "no number",
        "rgb.tif": "no values",
        "no.png": "no PNG or TIFF",
        "cut.png": "no PNG or TIFF",
        "gone.png": "no picture",
    }
    for name, part in wanted.items():
        with pytest.raises(FmxError, match=part):
            read_values(tmp_path / name)


@pytest.mark.parametrize(
    ("values", "name", "options", "part"),
    [
        (np.zeros((2, 2, 2)), "a.png", {}, "real numbers"),
        (np.zeros((2, 0)), "a.tif", {}, "real numbers"),
        (np.zeros((2, 2), dtype=complex), "a.png", {}, "real numbers"),
        (np.zeros((2, 2)), "a.png", {"bits": 32}, "in 32 as a .tif"),
        (np.zeros((2, 2)), "a.tif", {"bits": 8}, "not in 8"),
        (np.zeros((2, 2)), "a.jpg", {}, r"doesn't end in \.png or \.tif"),
    ],
)
def test_mistakes(tmp_path, values, name, options, part):
    with pytest.raises(FmxError, match=part):
        save_values(values, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())
