"""Perturbations, each against a slow loop over pixels, and what their random parts depend on."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fmx.data import gaussian_noise, perturbation, perturbation_kinds
from fmx.errors import DataError

KINDS = ["gaussian", "salt-and-pepper", "blur", "jpeg", "brightness", "contrast", "patch"]
LEVELS = {"blur": 1.3, "jpeg": 70, "gaussian": 0.4, "patch": 0.5}
KEY = {"seed": 3, "sample": "dog/ä.png", "timestep": 2}


def pixels(bands=3, y=12, x=17, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (y, x, bands), dtype=np.uint8)


def level(kind):
    return LEVELS.get(kind, 0.3)


def run(kind, picture, at=None, **key):
    return perturbation(kind).picture(picture, level(kind) if at is None else at, **KEY | key)


def test_kinds():
    assert perturbation_kinds() == KINDS


@pytest.mark.parametrize("kind", KINDS)
class TestAll:
    @pytest.mark.parametrize("bands", [1, 3, 4])
    def test_shape_and_type(self, kind, bands):
        picture = pixels(bands)
        before = picture.copy()
        found = run(kind, picture)
        assert (found.shape, found.dtype) == (picture.shape, np.float32)
        np.testing.assert_array_equal(picture, before)
        assert not np.array_equal(found, picture / np.float32(255))

    def test_level_0_is_the_clean_picture(self, kind):
        np.testing.assert_array_equal(run(kind, pixels(), at=0.0), pixels() / np.float32(255))

    def test_stays_between_black_and_white(self, kind):
        found = run(kind, pixels())
        assert kind == "gaussian" or (found.min() >= -1e-6 and found.max() <= 1 + 1e-6)

    def test_larger_levels_are_worse(self, kind):
        smooth = np.asarray(Image.fromarray(pixels(y=8, x=8)).resize((64, 64), Image.Resampling.BICUBIC))
        levels = {"blur": [0.5, 2, 8], "jpeg": [20, 70, 95]}.get(kind, [0.1, 0.4, 0.9])
        errors = [np.abs(run(kind, smooth, at=n) - smooth / 255).mean() for n in levels]
        assert 0 < errors[0] < errors[1] < errors[2]

    def test_the_same_again(self, kind):
        first = run(kind, pixels())
        run(kind, pixels(seed=5), seed=9)
        assert first.tobytes() == run(kind, pixels()).tobytes()

    @pytest.mark.parametrize("change", [{"seed": 4}, {"sample": "dog/b.png"}, {"timestep": 0}])
    def test_what_is_drawn_depends_on_the_sample(self, kind, change):
        drawn = kind in {"gaussian", "salt-and-pepper", "patch"}
        flat = np.full((40, 40, 3), 90, np.uint8)
        same = np.array_equal(run(kind, flat, at=0.2), run(kind, flat, at=0.2, **change))
        assert same == (not drawn) if kind != "jpeg" else True

    @settings(deadline=None, max_examples=30)
    @given(st.data())
    def test_levels_against_the_rule(self, kind, data):
        most = {"gaussian": 1e6, "blur": 100, "jpeg": 99}.get(kind, 1)
        one = st.integers(0, 99).map(float) if kind == "jpeg" else st.floats(0, most)
        given_levels = data.draw(st.lists(one, max_size=6))
        found = perturbation(kind).levels(given_levels)
        assert found[0] == 0
        assert all(a < b for a, b in pairwise(found))
        assert set(found) == {0.0, *given_levels}

    @pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
    def test_levels_out_of_range(self, kind, bad):
        with pytest.raises(DataError, match=rf"from 0 to .*, not {bad}: give --noise 0,"):
            perturbation(kind).levels([0, bad])

    def test_words(self, kind):
        about = perturbation(kind)
        assert about.unit
        clipped = "not clipped" if kind == "gaussian" else "clipped"
        assert about.space_words(pictures=True) == f"pixel, black 0 and white 1, {clipped}"
        assert about.space_words(pictures=False) == "input"


class TestAgainstLoops:
    def test_gaussian(self):
        picture, found = pixels(), run("gaussian", pixels())
        noise = gaussian_noise((3, 12, 17), level=0.4, **KEY)
        for y, x, band in np.ndindex(picture.shape):
            assert found[y, x, band] == np.float32(picture[y, x, band]) / np.float32(255) + noise[band, y, x]

    def test_the_same_noise_for_ever(self):
        found = run("gaussian", np.zeros((2, 2, 2), np.uint8), seed=42, timestep=3, sample="dog/ä.png", at=0.4)
        expected = gaussian_noise((2, 2, 2), seed=42, sample="dog/ä.png", timestep=3, level=0.4)
        np.testing.assert_array_equal(found, expected.transpose(1, 2, 0))
        assert expected[0, 0, 0] == np.float32(0.41927868127822876)

    def test_blur(self):
        """Weigh every pixel of the neighbourhood, the border going on beyond itself."""
        sigma, picture = 1.3, pixels(y=9, x=6)
        found = run("blur", picture, at=sigma)
        reach = math.ceil(4 * sigma)
        weights = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)}
        total = sum(weights.values())
        for y, x, band in np.ndindex(picture.shape):
            value = 0.0
            for down, a in weights.items():
                for right, b in weights.items():
                    there = picture[min(max(y + down, 0), 8), min(max(x + right, 0), 5), band]
                    value += a * b / total**2 * float(there) / 255
            assert found[y, x, band] == pytest.approx(value, abs=1e-6)

    @pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
    def test_blur_keeps_a_flat_picture(self, sigma):
        flat = np.full((5, 7, 3), 51, np.uint8)
        np.testing.assert_allclose(run("blur", flat, at=sigma), 0.2, atol=1e-6)

    @pytest.mark.parametrize("bands", [1, 3, 4])
    def test_jpeg(self, bands):
        picture, file = pixels(bands, 16, 24), io.BytesIO()
        colour = Image.fromarray(picture[..., 0] if bands == 1 else picture[..., :3])
        colour.save(file, "JPEG", quality=30, subsampling=2)
        expected = np.atleast_3d(np.asarray(Image.open(file)))
        found = run("jpeg", picture, at=70)
        np.testing.assert_array_equal(found[..., :3], expected / np.float32(255))
        if bands == 4:
            np.testing.assert_array_equal(found[..., 3], picture[..., 3] / np.float32(255))

    def test_jpeg_levels_are_whole(self):
        with pytest.raises(
            DataError, match=r"jpeg \(100 minus the JPEG quality\) are whole numbers from 0 to 99, not 1.5"
        ):
            perturbation("jpeg").levels([1.5])

    def test_brightness(self):
        picture, found = pixels(), run("brightness", pixels(), at=0.3)
        for at in np.ndindex(picture.shape):
            assert found[at] == pytest.approx(min(picture[at] / 255 + 0.3, 1), abs=1e-6)

    def test_contrast(self):
        picture, found = pixels(), run("contrast", pixels(), at=0.3)
        for band in range(3):
            mean = sum(float(v) / 255 for v in picture[..., band].ravel()) / picture[..., band].size
            for y, x in np.ndindex(picture.shape[:2]):
                value = mean + 0.7 * (picture[y, x, band] / 255 - mean)
                assert found[y, x, band] == pytest.approx(value, abs=1e-6)
        assert run("contrast", picture, at=1.0).std(axis=(0, 1)).max() < 1e-6

    @pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
    def test_salt_and_pepper(self, share):
        grey = np.full((200, 300, 3), 100, np.uint8)
        found = run("salt-and-pepper", grey, at=share)
        black, white = (found == 0).all(axis=2), (found == 1).all(axis=2)
        untouched = (found == np.float32(100) / np.float32(255)).all(axis=2)
        assert (black | white | untouched).all()
        spread = 5 * math.sqrt(share / 2 / black.size)
        assert black.mean() == pytest.approx(share / 2, abs=spread)
        assert white.mean() == pytest.approx(share / 2, abs=spread)

    @pytest.mark.parametrize(("share", "side"), [(0.01, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
    def test_patch(self, share, side):
        white = np.full((12, 17, 3), 255, np.uint8)
        found = run("patch", white, at=share)
        covered = (found == 0.5).all(axis=2)
        assert covered.sum() == side**2
        assert (found[~covered] == 1).all()
        if side:
            rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
            assert len(rows) == len(columns) == side
            assert np.ptp(rows) == np.ptp(columns) == side - 1

    def test_patches_lie_everywhere(self):
        white = np.full((4, 6, 1), 255, np.uint8)
        places = {np.argwhere(run("patch", white, at=0.5, seed=s)[..., 0] == 0.5)[0].tobytes() for s in range(400)}
        assert len(places) == 3 * 5


class TestNumbers:
    VALUES = np.random.default_rng(0).normal(size=(3, 50, 60)).astype(np.float32)

    def test_gaussian_is_in_units_of_the_input(self):
        found = perturbation("gaussian", "input").numbers(self.VALUES, 2.5, **KEY)
        np.testing.assert_array_equal(found, self.VALUES + gaussian_noise(self.VALUES.shape, level=2.5, **KEY))

    def test_salt_and_pepper_sets_the_lowest_and_highest(self):
        found = perturbation("salt-and-pepper", "input").numbers(self.VALUES, 0.2, **KEY)
        low, high = found == self.VALUES.min(), found == self.VALUES.max()
        assert (low | high | (found == self.VALUES)).all()
        assert low.mean() == pytest.approx(0.1, abs=0.02)
        assert high.mean() == pytest.approx(0.1, abs=0.02)

    def test_level_0_and_whole_numbers(self):
        whole = np.arange(6, dtype=np.uint8)
        clean = perturbation().numbers(whole, 0.0, **KEY)
        assert (clean.dtype, clean.tolist()) == (np.float32, [0, 1, 2, 3, 4, 5])
        assert perturbation().numbers(whole, 1.0, **KEY).dtype == np.float32

    @pytest.mark.parametrize("kind", ["blur", "jpeg", "brightness", "contrast", "patch"])
    def test_kinds_for_pictures_only(self, kind):
        sentence = f"{kind} needs pictures in pixel space: for model input use gaussian or salt-and-pepper"
        with pytest.raises(DataError, match=sentence):
            perturbation(kind, "input")
        with pytest.raises(DataError, match=sentence):
            perturbation(kind).numbers(self.VALUES, 0.5, **KEY)
        with pytest.raises(DataError, match=sentence):
            perturbation(kind).check(pictures=False)
        perturbation(kind).check(pictures=True)


class TestNames:
    def test_unknown(self):
        with pytest.raises(DataError, match=r"no perturbation gausian: did you mean gaussian\?"):
            perturbation("gausian")
        with pytest.raises(DataError, match="no noise space fourier: use pixel or input"):
            perturbation("gaussian", "fourier")

    def test_space_unless_told(self):
        assert (perturbation().kind, perturbation("blur", None).space) == ("gaussian", "pixel")
