"""Dissimilarity matrices beside scipy's, one pair at a time, and their comparisons beside scipy's and rsatoolbox's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import kendalltau, pearsonr, spearmanr
from small_stores import write_store
from test_similarity import LABELS, N, make_values, table, tiles

from fmx.analyze.likeness import DISTANCES, rdm, similarity

assert tiles


@pytest.fixture
def made(tmp_path):
    values = make_values(np.random.default_rng(5))
    return write_store(tmp_path / "s", values, labels=LABELS, noise=(0.0, 0.5)), values


def slow_rdm(x, metric):
    found = np.zeros((len(x), len(x)))
    for i, j in itertools.permutations(range(len(x)), 2):
        found[i, j] = getattr(distance, metric)(x[i], x[j])
    return found


def slow_tau_a(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    return sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs) / len(pairs)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("metric", list(DISTANCES))
def test_every_distance(made, metric):
    store, values = made
    found = rdm(store, metric=metric, noise="all")
    assert list(found) == list(values)
    for name, data in found.items():
        assert data.rdm.dims == ("noise", "sample", "other_sample")
        assert data["label"].values.tolist() == LABELS
        assert data["sample"].values.tolist() == store.samples
        for level in range(2):
            np.testing.assert_allclose(
                data.rdm.values[level], slow_rdm(table(values, name, level), metric), rtol=2e-5, atol=1e-6
            )


COMPARE = {
    "spearman": lambda a, b: spearmanr(a, b).statistic,
    "pearson": lambda a, b: pearsonr(a, b).statistic,
    "cosine": lambda a, b: 1 - distance.cosine(a, b),
    "kendall": slow_tau_a,
}


@pytest.mark.parametrize("comparison", list(COMPARE))
def test_every_comparison(made, comparison):
    store, values = made
    found = similarity(store, method="rsa", comparison=comparison)
    upper = np.triu_indices(N, 1)
    flat = {name: slow_rdm(table(values, name), "correlation")[upper] for name in values}
    wanted = [[COMPARE[comparison](flat[a], flat[b]) for b in values] for a in values]
    np.testing.assert_allclose(found.similarity.values[:, 0, :, 0], wanted, atol=1e-6)
    assert found.attrs["comparison"] == comparison


def test_kendall_with_ties(tmp_path):
    rng = np.random.default_rng(1)
    values = {name: rng.integers(0, 2, (9, 1, 1, 4)).astype("float32") for name in "ab"}
    found = similarity(write_store(tmp_path / "s", values), method="rsa", metric="cityblock", comparison="kendall")
    upper = np.triu_indices(9, 1)
    a, b = (slow_rdm(table(values, name), "cityblock")[upper] for name in "ab")
    assert found.similarity.values[0, 0, 1, 0] == pytest.approx(slow_tau_a(a, b))
    assert found.similarity.values[0, 0, 0, 0] == pytest.approx(slow_tau_a(a, a))
    assert slow_tau_a(a, b) != pytest.approx(kendalltau(a, b).statistic)


def test_as_rsatoolbox_has_it(made):
    rsatoolbox = pytest.importorskip("rsatoolbox")
    store, values = made
    found = similarity(store, method="rsa")
    sets = [rsatoolbox.data.Dataset(table(values, name)) for name in values]
    theirs = rsatoolbox.rdm.calc_rdm(sets, method="correlation")
    np.testing.assert_allclose(
        found.similarity.values[:, 0, :, 0], rsatoolbox.rdm.compare(theirs, theirs, method="spearman"), atol=1e-6
    )
    for name, one in zip(values, theirs.get_matrices(), strict=True):
        np.testing.assert_allclose(rdm(store)[name].rdm.values[0], one, atol=1e-6)


def test_samples_without_a_direction(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 1, 1, 5)).astype("float32")
    x[2] = 0
    x[4] = 3
    store = write_store(tmp_path / "s", {"a": x})
    for metric, lost in (("cosine", [2]), ("correlation", [2, 4])):
        found = rdm(store, metric=metric)["a"]
        assert found.undirected.values.tolist() == [len(lost)]
        for i in lost:
            assert (np.delete(found.rdm.values[0, i], i) == 1).all()
        assert (np.diagonal(found.rdm.values[0]) == 0).all()
        assert np.isfinite(found.rdm.values).all()


def test_samples_that_are_not_finite_are_not_there(made, tmp_path):
    _, values = made
    values["maps"][3, 0, 1, 2, 0, 0] = np.nan
    store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
    found = rdm(store)
    assert "003.png" not in found["flat"]["sample"].values
    assert found["maps"].nan.values.tolist() == [1]
    assert found["flat"].nan.values.tolist() == [0]
    left = [i for i in range(N) if i != 3]
    np.testing.assert_allclose(
        found["flat"].rdm.values[0], slow_rdm(table(values, "flat")[left], "correlation"), atol=1e-6
    )


def test_a_part_of_the_samples(made):
    found = rdm(made[0], samples=5, seed=1)["maps"]
    whole = rdm(made[0])["maps"]
    assert len(found["sample"]) == 5
    chosen = found["sample"].values
    np.testing.assert_allclose(found.rdm.values, whole.rdm.sel(sample=chosen, other_sample=chosen).values, atol=1e-6)
