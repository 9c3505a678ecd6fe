"""Noise: a function of (seed, sample, timestep, level), the same draw for ever, and of the spread it says."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.data import gaussian_noise, noise_levels
from fmx.errors import DataError

BASE = {"seed": 1, "sample": "cat/1.png", "timestep": 0, "level": 0.5}
KEYS = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**63), 2**63 - 1),
        "sample": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        "timestep": st.integers(0, 10**6),
        "level": st.floats(1e-3, 10),
    }
)


def draw(shape=(2, 3), **changes):
    return gaussian_noise(shape, **BASE | changes)


class TestWhatItDependsOn:
    def test_the_same_for_ever(self):
        expected = [
            [[0.41927868127822876, 0.726222813129425], [-0.1316632479429245, -0.0961095467209816]],
            [[-0.3432701528072357, 0.33861956000328064], [0.059057798236608505, -0.0020619926508516073]],
        ]
        found = gaussian_noise((2, 2, 2), seed=42, sample="dog/ä.png", timestep=3, level=0.4)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.array(expected, np.float32))

    @settings(deadline=None)
    @given(KEYS)
    def test_bit_for_bit_again(self, key):
        first = gaussian_noise((3, 4), **key)
        gaussian_noise((5,), seed=9, sample="x", timestep=1, level=1.0)
        np.random.default_rng(0).normal()
        assert first.tobytes() == gaussian_noise((3, 4), **key).tobytes()

    @settings(deadline=None)
    @given(KEYS, KEYS)
    def test_another_key_gives_another_draw(self, one, other):
        units = [gaussian_noise((16,), **key) / np.float32(key["level"]) for key in (one, other)]
        assert np.allclose(*units, rtol=1e-4) == (one == other)

    @pytest.mark.parametrize(
        "change", [{"seed": 2}, {"seed": -1}, {"sample": "cat/2.png"}, {"sample": ""}, {"timestep": 1}, {"level": 0.25}]
    )
    def test_each_alone_matters(self, change):
        level = BASE["level"], (BASE | change)["level"]
        correlation = np.corrcoef(draw((2000,)) / level[0], draw((2000,), **change) / level[1])[0, 1]
        assert abs(correlation) < 0.1

    def test_levels_are_no_scaled_copies(self):
        assert not np.allclose(draw((9,), level=0.4), draw((9,), level=0.2) * 2)

    def test_the_state_of_numpy_does_not_matter(self):
        np.random.seed(0)
        first = draw()
        np.random.seed(1)
        np.testing.assert_array_equal(first, draw())

    @pytest.mark.parametrize("form", [list, tuple, lambda s: [np.int64(n) for n in s]])
    def test_plain_and_numpy_numbers_are_the_same(self, form):
        found = gaussian_noise(form((2, 3)), seed=np.int64(1), sample="cat/1.png", timestep=np.int32(0), level=0.5)
        np.testing.assert_array_equal(found, draw())


class TestDistribution:
    @pytest.mark.parametrize("level", [0.01, 0.5, 25.0])
    def test_mean_and_spread(self, level):
        n = 200_000
        values = draw((n,), level=level).astype(np.float64) / level
        assert abs(values.mean()) < 5 / math.sqrt(n)
        assert abs(values.std() - 1) < 5 / math.sqrt(2 * n)

    def test_normal_quantiles(self):
        values = draw((200_000,), level=1.0)
        for z in (-2.0, -1.0, 0.0, 1.0, 2.0):
            wanted = (1 + math.erf(z / math.sqrt(2))) / 2
            assert (values < z).mean() == pytest.approx(wanted, abs=0.006)

    def test_neighbours_are_independent(self):
        values = draw((100_000,), level=1.0)
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.02

    def test_level_0_is_silence(self):
        np.testing.assert_array_equal(draw((3, 4), level=0.0), np.zeros((3, 4), np.float32))

    def test_shapes(self):
        assert draw(()).shape == ()
        assert draw((0, 3)).shape == (0, 3)
        assert draw((2, 3, 4, 5)).shape == (2, 3, 4, 5)


class TestLevels:
    @pytest.mark.parametrize(
        ("given_levels", "levels"),
        [
            ([], [0.0]),
            ([0], [0.0]),
            ([0.4, 0.2], [0.0, 0.2, 0.4]),
            ([0.2, 0.0, 0.2, 1], [0.0, 0.2, 1.0]),
            ([-0.0, 0.5], [0.0, 0.5]),
            (np.array([0.5, 0.25]), [0.0, 0.25, 0.5]),
        ],
    )
    def test_clean_first_then_rising_each_once(self, given_levels, levels):
        found = noise_levels(given_levels)
        assert found == levels
        assert [type(level) for level in found] == [float] * len(levels)
        assert math.copysign(1, found[0]) == 1

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 1e6)))
    def test_against_the_rule(self, levels):
        found = noise_levels(levels)
        assert found[0] == 0
        assert all(a < b for a, b in pairwise(found))
        assert set(found) == {0.0, *levels}

    @pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, -math.inf])
    def test_no_standard_deviation(self, bad):
        with pytest.raises(DataError, match=f"standard deviations from 0 to .*, not {bad}"):
            noise_levels([0.2, bad])
