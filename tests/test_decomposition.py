"""Decompositions by value, beside scikit-learn on everything at once, and what they say of the data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze.decomposition import decompose
from fmx.errors import FmxError

N = 24
LABELS = ["cat", "dog"] * 12


@pytest.fixture(params=["one run", "many runs"])
def runs(request, monkeypatch):
    if request.param == "many runs":
        monkeypatch.setattr("fmx.analyze.channel_moments.RUN_BYTES", 1)
        monkeypatch.setattr("fmx.analyze.channel_moments._LEAST_PART_BYTES", 3000)
        monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 600)


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(6, 6)) * np.geomspace(3, 0.1, 6)[:, None]
    values = {
        "maps": np.moveaxis(rng.normal(size=(N, 2, 2, 4, 3, 6)) @ mix + 5, -1, 3).astype("float32"),
        "tokens": (rng.normal(size=(N, 2, 2, 5, 6)) @ mix).astype("float16"),
        "flat": (rng.normal(size=(N, 2, 2, 6)) @ mix).astype("float64"),
    }
    return write_store(tmp_path / "s", values, labels=LABELS, noise=(0.0, 0.5)), values


def points(values, name, level=0):
    """Point × channel, and the mean of each sample, as float64."""
    part = values[name][:, level].astype(np.float64)
    part = np.moveaxis(part, {"maps": 2, "tokens": 3, "flat": 2}[name], -1)
    return part.reshape(-1, part.shape[-1]), part.reshape(len(part), -1, part.shape[-1]).mean(axis=1)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("level", [0, 1])
def test_principal_components_as_of_all_points_at_once(made, level):
    from sklearn.decomposition import PCA

    store, values = made
    for name, data in decompose(store, components=4, noise=(0.0, 0.5)[level]).items():
        x, means = points(values, name, level)
        theirs = PCA(4).fit(x)
        signs = np.sign((theirs.components_ * data["components"].values).sum(axis=1))
        np.testing.assert_allclose(data["components"].values, theirs.components_ * signs[:, None], atol=1e-8)
        wanted = theirs.explained_variance_ * (len(x) - 1) / len(x)
        np.testing.assert_allclose(data.explained_variance.values, wanted, rtol=1e-9)
        np.testing.assert_allclose(data.explained_ratio.values, theirs.explained_variance_ratio_, rtol=1e-9)
        np.testing.assert_allclose(data["mean"].values, theirs.mean_, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(data.coordinates.values, theirs.transform(means) * signs, atol=1e-8)
        assert data["label"].values.tolist() == LABELS
        assert data["sample"].values.tolist() == store.samples
        assert (data["components"].values.max(axis=1) == np.abs(data["components"].values).max(axis=1)).all()


def test_not_more_components_than_channels(made):
    assert decompose(made[0], layers="flat", components=50)["flat"].sizes["component"] == 6


def test_a_constant_layer_has_no_variance(tmp_path):
    data = decompose(write_store(tmp_path / "s", {"x": np.full((9, 1, 1, 5), 0.3, "f4")}))["x"]
    assert (data.explained_ratio.values == 0).all()
    np.testing.assert_allclose(data.coordinates.values, 0, atol=1e-12)


@pytest.mark.usefixtures("runs")
def test_not_finite(made, tmp_path):
    _, values = made
    values["maps"][3, 0, 1, 2, 0, 0] = np.nan
    values["maps"][7, 0, 0, 2, 0, 0] = np.inf
    store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
    data = decompose(store, layers="maps", components=6)["maps"]
    left = [i for i in range(N) if i not in (3, 7)]
    x, means = points({"maps": values["maps"][left]}, "maps")
    np.testing.assert_allclose(data.explained_variance.values.sum(), x.var(axis=0).sum(), rtol=1e-9)
    np.testing.assert_allclose(data.coordinates.values @ data["components"].values, means - x.mean(axis=0), atol=1e-8)
    assert (data.nan.item(), data.inf.item(), data.left_out.item()) == (1, 1, 2)
    assert store.samples[3] not in data["sample"].values


class TestFactors:
    @pytest.fixture
    def parts(self, tmp_path):
        """Maps that are made of three non-negative parts."""
        rng = np.random.default_rng(0)
        parts = rng.random((3, 8)) * (rng.random((3, 8)) > 0.5)
        weights = rng.exponential(size=(N, 5, 5, 3)) * (rng.random((N, 5, 5, 3)) > 0.4)
        maps = np.moveaxis(weights @ parts, -1, 1)[:, None, None].astype("f4")
        return write_store(tmp_path / "s", {"x": maps}, labels=LABELS), parts, weights

    @pytest.mark.usefixtures("runs")
    def test_what_the_layer_is_made_of_is_found(self, parts):
        store, true, weights = parts
        data = decompose(store, method="nmf", components=3)["x"]
        found = data["components"].values
        assert (found >= 0).all()
        assert data.relative_error.item() < 0.03
        cosines = true @ found.T / np.linalg.norm(true, axis=1)[:, None] / np.linalg.norm(found, axis=1)
        assert (cosines.max(axis=1) > 0.97).all()
        means = weights.mean(axis=(1, 2)) @ true
        gap = means - data.coordinates.values @ found
        assert np.linalg.norm(gap) / np.linalg.norm(means) == pytest.approx(data.relative_error.item(), rel=1e-4)

    def test_fewer_points(self, parts):
        data = decompose(parts[0], method="nmf", components=3, points=100)["x"]
        assert 50 < data.points.item() < 150
        assert data.relative_error.item() < 0.3

    def test_the_same_every_time(self, parts):
        one, two = (decompose(parts[0], method="nmf", components=3, seed=4)["x"] for _ in range(2))
        np.testing.assert_array_equal(one.coordinates.values, two.coordinates.values)

    def test_negative_values(self, made):
        store, values = made
        with pytest.raises(FmxError, match=r"flat has negative values.* --clip"):
            decompose(store, method="nmf", layers="flat")
        data = decompose(store, method="nmf", layers="flat", components=2, clip=True)["flat"]
        assert data.clipped.item() == (values["flat"][:, 0] < 0).sum()

    def test_nothing_but_zero(self, tmp_path):
        store = write_store(tmp_path / "s", {"x": np.zeros((9, 1, 1, 5), "f4")})
        with pytest.raises(FmxError, match="too few points that are not 0"):
            decompose(store, method="nmf")


class TestMapsOfChannels:
    @pytest.fixture
    def families(self, tmp_path):
        """Thirty channels, ten of each of three kinds, and one that does not vary."""
        rng = np.random.default_rng(0)
        kinds = rng.normal(size=(40, 3))
        values = np.repeat(kinds, 10, axis=1) + 0.1 * rng.normal(size=(40, 30))
        whole = np.concatenate([values, np.full((40, 1), 2.0)], axis=1)
        return write_store(tmp_path / "s", {"x": whole[:, None, None].astype("f4")})

    @pytest.mark.parametrize("method", ["tsne", "umap"])
    def test_channels_of_a_kind_lie_together(self, families, method):
        if method == "umap":
            pytest.importorskip("umap")
        data = decompose(families, method=method)["x"]
        assert data.embedding.dims == ("channel", "axis")
        assert np.flatnonzero(data.constant.values).tolist() == [30]
        placed = data.embedding.values[:30]
        kinds = np.repeat(range(3), 10)
        distances = np.linalg.norm(placed[:, None] - placed[None], axis=2) + np.diag(np.full(30, np.inf))
        assert (kinds[distances.argmin(axis=1)] == kinds).all()
        again = decompose(families, method=method)["x"]
        np.testing.assert_array_equal(again.embedding.values, data.embedding.values)

    def test_too_few(self, tmp_path):
        store = write_store(tmp_path / "s", {"x": np.random.default_rng(0).normal(size=(9, 1, 1, 3))})
        with pytest.raises(FmxError, match="x has 3 channels"):
            decompose(store, method="tsne")

    def test_umap_is_not_there(self, families, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "umap", None)
        with pytest.raises(FmxError, match="pip install umap-learn"):
            decompose(families, method="umap")


def test_errors(made, tmp_path):
    store, values = made
    for words, match in (
        ({"method": "ica"}, "no decomposition ica"),
        ({"components": 0}, "--components"),
        ({"samples": 1}, "at least 2 samples"),
        ({"noise": 0.3}, "no noise level"),
    ):
        with pytest.raises(FmxError, match=match):
            decompose(store, **words)
    with pytest.raises(FmxError, match="--allow-partial"):
        decompose(write_store(tmp_path / "p", values, noise=(0.0, 0.5), units=(0, 1)))
    values["flat"][1:] = np.nan
    with pytest.raises(FmxError, match="fewer than 2 samples"):
        decompose(write_store(tmp_path / "n", values, noise=(0.0, 0.5)))


@pytest.mark.parametrize("method", ["pca", "nmf"])
def test_no_layer_is_in_memory_as_a_whole(tmp_path, monkeypatch, method):
    values = {"x": np.random.default_rng(0).random(size=(128, 1, 1, 32, 24, 24)).astype("f4")}
    store = write_store(tmp_path / "s", values, chunk_bytes=2**14, unit=16)
    monkeypatch.setattr("fmx.analyze.channel_moments.RUN_BYTES", 2**16)
    monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 2**16)
    decompose(store, method=method, points=200, components=3)
    tracemalloc.start()
    decompose(store, method=method, points=200, components=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values["x"].nbytes / 3
