"""Tones and ranges: against slow references, and from saved statistics with no read at all."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from small_stores import write_store

import fmx
from fmx.errors import FmxError
from fmx.render.normalise import Ranges, normalise, quantise, toned, value_ranges
from fmx.render.ranges import lasting_ranges, sample_ranges
from fmx.render.resize import nearest, resized
from fmx.render.tone import Tone, curve_of_quantiles
from fmx.store import open_store, save_analysis


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def maps(rng):
    """Maps as behind a ReLU, of which one is constant, one empty and one holds what is no number."""
    found = np.maximum(rng.normal(size=(5, 9, 8)), 0).astype(np.float32)
    found[2] = 3
    found[3] = np.nan
    found[4, 0, 0], found[4, 1, 1], found[4, 2, 2] = np.nan, np.inf, -np.inf
    return found


def finite_of(values):
    return [float(v) for v in np.asarray(values).flat if np.isfinite(v)]


def slow_percentile(values, p):
    """Order them and go p percent of the way from the first to the last."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * p / 100
    i = int(at)
    return ordered[i] + (ordered[min(i + 1, len(ordered) - 1)] - ordered[i]) * (at - i)


def slow_equalised(values, one):
    """Share of the values that are no larger, less those at the low end."""
    lowest = sum(v == min(values) for v in values)
    if lowest == len(values):
        return np.zeros(one.shape)
    out = np.zeros(one.shape)
    for i, given in np.ndenumerate(one):
        v = min(values) if np.isnan(given) else min(max(float(given), min(values)), max(values))
        out[i] = (sum(w <= v for w in values) - lowest) / (len(values) - lowest)
    return out


@pytest.mark.parametrize("mode", ["filter", "layer"])
@pytest.mark.parametrize("percentiles", [(1, 99), (0, 90), (25, 75)])
def test_percentiles(maps, mode, percentiles):
    ranges = value_ranges(maps, mode, tone=Tone(percentiles=percentiles))
    for i, one in enumerate(maps):
        values = finite_of(one if mode == "filter" else maps) or [0.0]
        assert ranges.low[i] == pytest.approx(slow_percentile(values, percentiles[0]))
        assert ranges.high[i] == pytest.approx(slow_percentile(values, percentiles[1]))


@pytest.mark.parametrize("mode", ["filter", "layer"])
def test_equalization(maps, mode):
    tone = Tone(equalise="histogram")
    ranges = value_ranges(maps, mode, tone=tone)
    found = toned(maps, ranges, tone)
    for i, one in enumerate(maps):
        values = finite_of(one if mode == "filter" else maps) or [0.0]
        np.testing.assert_allclose(found[i], slow_equalised(values, one), atol=1e-6)
    assert ranges[[4, 1]].curves == [ranges.curves[4], ranges.curves[1]]


def test_equalization_within_percentiles(rng):
    maps = rng.normal(size=(1, 20, 20))
    tone = Tone(equalise="histogram", percentiles=(5, 95))
    found = toned(maps, value_ranges(maps, tone=tone), tone)
    low, high = (slow_percentile(finite_of(maps), p) for p in (5, 95))
    clipped = np.clip(maps[0], low, high)
    np.testing.assert_allclose(found[0], slow_equalised(finite_of(clipped), clipped), atol=1e-6)


def test_gamma(rng):
    maps = rng.normal(size=(2, 5, 5))
    share = toned(maps, value_ranges(maps))
    np.testing.assert_allclose(toned(maps, value_ranges(maps), Tone(gamma=0.5)), share**0.5)
    tone = Tone(gamma=2.0, symmetric=True)
    ranges = value_ranges(maps, tone=tone)
    expected = (np.sign(maps) * (maps / ranges.high[:, None, None]) ** 2 + 1) / 2
    np.testing.assert_allclose(toned(maps, ranges, tone), expected, atol=1e-12)


def test_clahe_brings_out_what_is_faint(rng):
    maps = np.zeros((3, 32, 32))
    maps[0, :16] = rng.random((16, 32)) * 0.05
    maps[0, 16:] = rng.random((16, 32))
    maps[1] = 4
    maps[2] = np.nan
    plain = normalise(maps)[0]
    found = normalise(maps, tone=Tone(equalise="clahe"))[0]
    assert found[0, :16].std() > 3 * plain[0, :16].std()
    assert not found[1:].any()
    small = rng.random((1, 7, 7))
    flat = normalise(small, tone=Tone(equalise="clahe"))[0]
    # Tiles as small as a pixel would know no contrast.
    assert np.corrcoef(flat.ravel(), small.ravel())[0, 1] > 0.8
    for shape in ((1, 1), (1, 9), (2, 2)):
        assert normalise(rng.random((1, *shape)), tone=Tone(equalise="clahe"))[0].shape == (1, *shape)


def test_the_curve_of_quantiles_is_that_of_the_values(rng):
    values = np.maximum(rng.normal(size=4000), 0)
    places, below = curve_of_quantiles(np.quantile(values, np.linspace(0, 1, 257)), 0.0, values.max())
    found = np.interp(values, places, below)
    np.testing.assert_allclose(found, slow_equalised(list(values), values), atol=0.01)
    assert found[values == 0].max() == 0
    for constant in (np.full(257, 3.0), np.full(257, np.nan)):
        places, below = curve_of_quantiles(constant, 3.0, 3.0)
        assert np.interp(3.0, places, below) == 0


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"percentiles": (99, 1)}, "the lower one first, such as 1,99; not 99, 1"),
        ({"percentiles": (-1, 99)}, "from 0 to 100"),
        ({"percentiles": (1,)}, "two numbers"),
        ({"equalise": "histogramm"}, "did you mean histogram"),
        ({"gamma": 0}, "above 0, not 0"),
        ({"gamma": float("nan")}, "above 0"),
        ({"clip_limit": 2}, "up to 1"),
        ({"symmetric": True, "equalise": "clahe"}, "leave out one"),
    ],
)
def test_mistakes(settings, part):
    with pytest.raises(FmxError, match=part):
        Tone(**settings)


@pytest.mark.parametrize("size", [(4, 6), (12, 18), (7, 5), (1, 1)])
def test_nearest_takes_the_pixel_that_a_centre_lies_in(rng, size):
    maps = rng.random((2, 4, 6))
    found = nearest(maps, size)
    for y in range(size[0]):
        for x in range(size[1]):
            source = int((y + 0.5) * 4 / size[0]), int((x + 0.5) * 6 / size[1])
            assert (found[:, y, x] == maps[:, source[0], source[1]]).all()


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "lanczos"])
def test_smooth_sizes_keep_flat_maps_flat_and_ends_within(rng, how):
    assert np.allclose(resized(np.full((2, 4, 6), 0.25), (9, 13), how), 0.25)
    maps = (rng.random((2, 6, 6)) > 0.5).astype(np.float32)
    assert quantise(maps, value_ranges(maps), size=(24, 24), interpolation=how).shape == (2, 24, 24)
    with pytest.raises(FmxError, match="did you mean bicubic"):
        resized(maps, (9, 9), "bicubicc")


@pytest.fixture
def store(tmp_path, rng):
    scale = np.array([1, 10, 0.1, 3])[:, None, None]
    values = {
        "a": np.maximum(rng.normal(size=(7, 2, 3, 4, 5, 6)) * scale, 0).astype(np.float32),
        "b": rng.normal(size=(7, 2, 3, 2, 3, 3)).astype(np.float32) * 2,
    }
    values["a"][1, 0, 0, 0, 0, 0] = np.nan
    values["a"][1, 0, 0, 1, 0, 0] = np.inf
    return write_store(tmp_path / "a.zarr", values, noise=(0.0, 0.5))


def every_value(store, name):
    return store.activation(name).values


def expected_values(store, mode, layer, channel):
    if mode == "channel":
        return finite_of(every_value(store, layer)[:, :, :, channel])
    if mode == "layer":
        return finite_of(every_value(store, layer))
    return finite_of(every_value(store, "a")) + finite_of(every_value(store, "b"))


@pytest.mark.parametrize("mode", ["channel", "layer", "global"])
@pytest.mark.parametrize("block", [1, 2000, 10**9])
def test_ranges_over_the_store(store, mode, block):
    with mock.patch("fmx.render.ranges._BLOCK_BYTES", block):
        plain = lasting_ranges(store, ["a", "b"], mode)
        clipped = lasting_ranges(store, ["a", "b"], mode, Tone(percentiles=(2, 90)))
    for layer, channels in (("a", 4), ("b", 2)):
        assert plain[layer].low.shape == (channels,)
        for channel in range(channels):
            values = expected_values(store, mode, layer, channel)
            assert (plain[layer].low[channel], plain[layer].high[channel]) == (min(values), max(values))
            for found, p in ((clipped[layer].low, 2), (clipped[layer].high, 90)):
                assert found[channel] == pytest.approx(slow_percentile(values, p), rel=1 / 64, abs=1e-6)


@pytest.mark.parametrize("mode", ["channel", "layer", "global"])
def test_equalization_over_the_store(store, mode):
    tone = Tone(equalise="histogram")
    ranges = lasting_ranges(store, ["a", "b"], mode, tone)["b"]
    maps = every_value(store, "b")[3, 0, 0]
    found = toned(maps, ranges, tone)
    for channel in range(2):
        values = expected_values(store, mode, "b", channel)
        np.testing.assert_allclose(found[channel], slow_equalised(values, maps[channel]), atol=0.02)


def test_symmetric_ranges_over_the_store(store):
    ranges = lasting_ranges(store, ["b"], "layer", Tone(symmetric=True))["b"]
    reach = np.abs(every_value(store, "b")).max()
    assert (ranges.low == -reach).all() and (ranges.high == reach).all()


def test_ranges_over_the_timesteps_of_a_sample(store):
    array = store.activation("a").isel(sample=2, noise=1)
    ranges = sample_ranges(store, array)
    np.testing.assert_array_equal(ranges.high, array.values.max(axis=(0, 2, 3)))


@pytest.mark.parametrize("mode", ["channel", "layer", "global"])
def test_saved_statistics_take_no_read(store, mode):
    wanted = lasting_ranges(store, ["a", "b"], mode)
    save_analysis(store.place, "mine", fmx.analyze.stats(store, by=["channel"]))
    again = open_store(store.path)
    with mock.patch("fmx.render.ranges._read_ranges", side_effect=AssertionError):
        found = lasting_ranges(again, ["a", "b"], mode)
    for layer, ranges in wanted.items():
        np.testing.assert_array_equal(found[layer].low, ranges.low)
        np.testing.assert_array_equal(found[layer].high, ranges.high)


def test_statistics_of_other_values_are_not_taken(store):
    results = fmx.analyze.stats(store, by=["channel"])
    few = {
        name: dataset.assign(count=dataset["count"] - 1, max=dataset["max"] * 9) for name, dataset in results.items()
    }
    save_analysis(store.place, "before-growing", few)
    save_analysis(store.place, "one-layer", {"a": results["a"]})
    again = open_store(store.path)
    wanted = max(expected_values(store, "global", "a", 0))
    assert lasting_ranges(again, ["a", "b"], "global")["a"].high[0] == wanted


def test_one_read_serves_all(store):
    reads = []
    compute = type(store).compute
    with mock.patch.object(type(store), "compute", lambda self, *lazy: reads.append(lazy) or compute(self, *lazy)):
        lasting_ranges(store, ["a", "b"], "global", Tone(percentiles=(1, 99), equalise="histogram"))
    values = sum(array.size for (array,) in reads)
    assert values == every_value(store, "a").size + every_value(store, "b").size


def test_ranges_are_taken_by_number():
    ranges = Ranges(np.arange(3.0), np.arange(3.0) + 1)
    assert ranges[[2, 0]].low.tolist() == [2, 0] and not ranges.shared and ranges[1:2].shared
