"""Mutual information beside what theory says, and beside loops over counts."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze.information import information
from fmx.errors import FmxError
from fmx.reduce.mutual import binned, cut, entropy, nearest

N = 60
LABELS = [("cat", "dog", "eel")[i % 3] for i in range(N)]


def slow_entropy(values, corrected):
    counts = Counter(values)
    plain = -sum(c / len(values) * math.log2(c / len(values)) for c in counts.values())
    return plain + (corrected * (len(counts) - 1) / (2 * len(values)) / math.log(2))


def slow_information(a, b, corrected=True):
    a, b = list(map(int, a)), list(map(int, b))
    return (
        slow_entropy(a, corrected) + slow_entropy(b, corrected) - slow_entropy(list(zip(a, b, strict=True)), corrected)
    )


class TestEstimators:
    @pytest.mark.parametrize("corrected", [True, False])
    def test_counts(self, corrected):
        rng = np.random.default_rng(0)
        columns, labels = rng.integers(0, 5, (40, 7)), rng.integers(0, 3, 40)
        columns[:, 3] = 2
        columns[:, 4] = labels
        found = binned(columns, labels, corrected=corrected)
        wanted = [slow_information(column, labels, corrected) for column in columns.T]
        np.testing.assert_allclose(found, wanted, atol=1e-12)

    def test_entropy_of_nothing_and_of_one(self):
        assert entropy(np.array([[0, 0], [5, 0]]), corrected=True).tolist() == [0, 0]

    def test_a_noisy_channel_as_shannon_has_it(self):
        """A binary symmetric channel with an error rate of 0.1 passes on 1 - H(0.1) bits."""
        rng = np.random.default_rng(1)
        sent = rng.integers(0, 2, 50_000)
        got = sent ^ (rng.random(50_000) < 0.1)
        wanted = 1 + 0.1 * math.log2(0.1) + 0.9 * math.log2(0.9)
        assert binned(got[:, None], sent)[0] == pytest.approx(wanted, abs=0.005)

    @pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
    def test_gaussians(self, rho):
        rng = np.random.default_rng(2)
        x, noise = rng.normal(size=(2, 4000))
        y = rho * x + math.sqrt(1 - rho**2) * noise
        wanted = -0.5 * math.log2(1 - rho**2)
        assert nearest(x[:, None], y, labels=False, neighbours=3, seed=0)[0] == pytest.approx(wanted, abs=0.06)
        # Bins lose a little, and never find more than there is.
        by_bins = binned(cut(x[:, None], 16), cut(y[:, None], 16)[:, 0])[0]
        assert wanted * 0.85 - 0.02 < by_bins < wanted + 0.02

    def test_labels_that_shift_a_gaussian(self):
        """Two equally likely labels, one standard deviation to either side: 0.4859 bits, by integration."""
        grid = np.linspace(-9, 9, 20001)
        low, high = (np.exp(-((grid - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (-1, 1))
        both = (low + high) / 2
        wanted = 0.5 * sum(np.trapezoid(p * np.log2(p / both), grid) for p in (low, high))
        rng = np.random.default_rng(3)
        labels = rng.integers(0, 2, 6000)
        x = (rng.normal(size=6000) + 2 * labels - 1)[:, None]
        assert nearest(x, labels, labels=True, neighbours=3, seed=0)[0] == pytest.approx(wanted, abs=0.05)
        assert binned(cut(x, 12), labels)[0] == pytest.approx(wanted, abs=0.03)

    def test_the_correction_takes_the_bias_away(self):
        rng = np.random.default_rng(4)
        columns, labels = rng.integers(0, 8, (300, 500)), rng.integers(0, 3, 300)
        plain, corrected = (binned(columns, labels, corrected=c).mean() for c in (False, True))
        assert plain > 0.025
        assert abs(corrected) < plain / 5

    def test_bins_of_equal_frequency(self):
        x = np.random.default_rng(0).exponential(size=(800, 1))
        assert np.bincount(cut(x, 8)[:, 0]).tolist() == [100] * 8
        zeros = np.where(np.arange(800)[:, None] < 500, 0, x)
        counts = np.bincount(cut(zeros, 8)[:, 0])
        assert counts[0] == 500
        assert cut(np.full((9, 1), 2.5), 4).max() == 0
        assert (np.diff(cut(np.sort(x, axis=0), 8)[:, 0]) >= 0).all()


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(0)
    numbers = np.array([("cat", "dog", "eel").index(label) for label in LABELS])
    maps = rng.normal(size=(N, 2, 2, 4, 3, 3))
    maps[:, 0, :, 2] += 4 * numbers[:, None, None, None]
    pictures = rng.integers(0, 60, (N, 2, 5, 5, 3), dtype=np.uint8)
    pictures[..., 1] += (3 * np.arange(N, dtype=np.uint8))[:, None, None, None]
    values = {"maps": maps.astype("f4"), "flat": rng.normal(size=(N, 2, 2, 5)).astype("f2")}
    values["flat"][:, 0, :, 1] = pictures[..., 1].mean(axis=(1, 2, 3))[:, None]
    return write_store(tmp_path / "s", values, labels=LABELS, noise=(0.0, 0.5), pictures=pictures), values, pictures


@pytest.mark.parametrize("summary", ["mean", "max"])
def test_every_channel(made, summary):
    store, values, _ = made
    found = information(store, summary=summary, noise="all", bins=4)
    numbers = [sorted(set(LABELS)).index(label) for label in LABELS]
    for name, data in found.items():
        assert data.information.dims == ("noise", "channel")
        for level in range(2):
            x = values[name][:, level].astype(np.float64)
            x = getattr(x.reshape(*x.shape[:3], -1), summary)(axis=3).mean(axis=1)
            for channel in range(x.shape[1]):
                edges = np.quantile(x[:, channel], [0.25, 0.5, 0.75])
                bins = [sum(v > e for e in edges) for v in x[:, channel]]
                got = data.information.values[level, channel]
                assert got == pytest.approx(slow_information(bins, numbers), abs=1e-9)
        np.testing.assert_allclose(data.entropy.values, math.log2(3))
        np.testing.assert_allclose(data.share.values, data.information.values / math.log2(3))
        assert abs(data.chance.values).max() < 0.2
        assert data.attrs["estimator"] == "binned"
    assert found["maps"].information.values[0].argmax() == 2
    assert found["maps"].information.values[0, 2] > 3 * np.abs(found["maps"].chance.values).max()


@pytest.mark.parametrize("estimator", ["binned", "knn"])
def test_the_picture(made, estimator):
    store, _, pictures = made
    found = information(store, about="green", estimator=estimator, bins=4, layers="flat")["flat"]
    assert found.information.values[0].argmax() == 1
    assert ("share" in found) == (estimator == "binned")
    own = pictures.astype(float)
    for about, values in (("brightness", own.mean(axis=(1, 2, 3, 4))), ("contrast", own.std(axis=(1, 2, 3, 4)))):
        named, given = (information(store, about=a, bins=4, layers="flat")["flat"] for a in (about, values))
        np.testing.assert_allclose(named.information.values, given.information.values)


def test_projections(made):
    store, values, _ = made
    found = information(store, of="component", components=3, layers="maps", bins=4)["maps"]
    assert found.information.dims == ("noise", "component")
    assert found.information.values[0].argmax() == 0
    x = values["maps"][:, 0].astype(np.float64).mean(axis=(1, 3, 4))
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    numbers = [sorted(set(LABELS)).index(label) for label in LABELS]
    edges = np.quantile(u[:, 0] * s[0], [0.25, 0.5, 0.75])
    bins = [sum(v > e for e in edges) for v in u[:, 0] * s[0]]
    # Turned round, a projection's ties lie on the other side of an edge; there are none here.
    assert found.information.values[0, 0] == pytest.approx(slow_information(bins, numbers), abs=0.05)


def test_values_that_are_given(made):
    store, _, _ = made
    by_name = information(store, about=LABELS, layers="maps", bins=4)["maps"]
    np.testing.assert_allclose(by_name.information.values, information(store, bins=4)["maps"].information.values)


def test_not_finite(made, tmp_path):
    _, values, _ = made
    values["maps"][3, 0, 1, 2, 0, 0] = np.nan
    store = write_store(tmp_path / "n", values, labels=LABELS, noise=(0.0, 0.5))
    found = information(store, bins=4)
    assert found["maps"].left_out.values.tolist() == [1]
    assert found["maps"].nan.values.tolist() == [1]
    assert found["maps"].samples.values.tolist() == [N - 1]
    assert found["flat"].samples.values.tolist() == [N]
    assert found["maps"].spoiled.values.tolist() == [[False, False, True, False]]
    kept = information(store, bins=4, nan="keep")["maps"]
    assert np.isnan(kept.information.values[0]).tolist() == [False, False, True, False]
    np.testing.assert_array_equal(kept.information.values[0, :2], found["maps"].information.values[0, :2])
    assert np.isnan(information(store, of="component", bins=4, nan="keep")["maps"].information.values).all()
    values["flat"][5:] = np.inf
    with pytest.raises(FmxError, match="finite values for 5 samples only, and 16 are needed"):
        information(write_store(tmp_path / "m", values, labels=LABELS, noise=(0.0, 0.5)))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"about": "weather"}, "nothing called weather"),
        ({"about": [1.0, 2.0]}, "2 values for 60 samples"),
        ({"about": [1.0] * N}, r"the same value \(1.0\)"),
        ({"about": [math.nan] * N}, "not all finite"),
        ({"estimator": "best"}, "no estimator best"),
        ({"summary": "sum"}, "no summary of positions sum"),
        ({"of": "layer"}, "no information of layer"),
        ({"bins": 1}, "--bins"),
        ({"samples": 15}, "at least 16 samples, and there are 15"),
        ({"samples": 4, "estimator": "knn"}, "at least 5 samples"),
    ],
    ids=str,
)
def test_wrong_words(made, words, match):
    with pytest.raises(FmxError, match=match):
        information(made[0], **words)


def test_stores_that_say_too_little(made, tmp_path):
    _, values, _ = made
    with pytest.raises(FmxError, match="have no labels"):
        information(write_store(tmp_path / "u", values, noise=(0.0, 0.5)))
    one = write_store(tmp_path / "o", values, labels=["cat"] * N, noise=(0.0, 0.5))
    with pytest.raises(FmxError, match=r"same label \(cat\)"):
        information(one)
    with pytest.raises(FmxError, match="holds no pictures"):
        information(one, about="brightness")
    part = write_store(tmp_path / "p", values, labels=LABELS, noise=(0.0, 0.5), units=range(8))
    with pytest.raises(FmxError, match="--allow-partial"):
        information(part)
    assert information(part, allow_partial=True)["maps"].samples.values.tolist() == [32]
