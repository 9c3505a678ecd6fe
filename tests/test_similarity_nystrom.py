"""Centred kernel alignment from landmarks, beside that of whole kernels."""

from __future__ import annotations

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze import similarity
from fmx.errors import FmxError

N = 160


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of four layers that have some directions in common, and one that does not vary."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(N, 3))

    def mixed(*shape, own=0.5):
        values = np.tensordot(shared, rng.normal(size=(3, *shape)), 1) + own * rng.normal(size=(N, *shape))
        return values[:, None, None].astype(np.float32)

    layers = {"a": mixed(4, 3, 3), "b": np.maximum(mixed(6, 2, 2, own=1.5), 0), "c": mixed(8) + 1000, "d": mixed(5, 6)}
    layers["e"] = np.ones((N, 1, 1, 3), np.float32)
    return write_store(tmp_path_factory.mktemp("made") / "s", layers, chunk_bytes=2000, unit=16)


def unbiased(k, m):
    """Give the unbiased HSIC of Song et al. (2012), as it stands there."""
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    whole = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return whole / (n * (n - 3))


def approximated(values, chosen, gaussian):
    """Make the kernel that landmarks stand for, by its definition."""
    x = values.reshape(len(values), -1).astype(np.float64)
    x -= x[chosen].mean(axis=0)
    if gaussian:
        squared = ((x[:, None] - x[None]) ** 2).sum(axis=2)
        own = np.sqrt(squared[np.ix_(chosen, chosen)])
        kernel = np.exp(-squared / (2 * np.median(own[np.triu_indices(len(chosen), 1)]) ** 2))
    else:
        kernel = x @ x.T
    c = kernel[:, chosen]
    return c @ np.linalg.pinv(c[chosen], rcond=1e-10, hermitian=True) @ c.T


@pytest.mark.parametrize("method", ["cka-linear", "cka-rbf"])
@pytest.mark.parametrize("landmarks", [12, 40])
def test_it_is_what_the_definition_says(method, landmarks, store):
    found = similarity(store, layers="a,b,c,d", method=method, estimator="nystrom", landmarks=landmarks, seed=4)
    chosen = np.sort(np.random.default_rng([4, 3]).permutation(N)[:landmarks])
    kernels = [approximated(store.activation(n).values, chosen, method == "cka-rbf") for n in "abcd"]
    for i, k in enumerate(kernels):
        for j, m in enumerate(kernels):
            wanted = unbiased(k, m) / np.sqrt(unbiased(k, k) * unbiased(m, m))
            assert found["similarity"][i, 0, j, 0] == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert found.attrs["estimator"] == "nystrom"
    assert "landmarks, stand for" in found.attrs["estimator_definition"]
    assert (found.attrs["landmarks"], found.attrs["seed"], found.attrs["samples"]) == (landmarks, 4, N)


@pytest.mark.parametrize("method", ["cka-linear", "cka-rbf"])
def test_the_error_shrinks_to_nothing_with_more_landmarks(method, store):
    exact = similarity(store, method=method, estimator="unbiased")
    errors = []
    for landmarks in (8, 40, N, 10 * N):
        found = similarity(store, method=method, estimator="nystrom", landmarks=landmarks)
        errors.append(float(abs(found["similarity"] - exact["similarity"]).max()))
        np.testing.assert_array_equal(found["undefined"], exact["undefined"])
    assert found["undefined"].any()
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.05
    assert errors[2] == errors[3] < 1e-4


def test_samples_that_are_not_finite_are_left_out_landmarks_or_not(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 1, 1, 6)).astype(np.float32)
    other = np.tanh(values @ rng.normal(size=(6, 5))).astype(np.float32)
    bad = np.array([3, 17, 30])
    spoiled = values.copy()
    spoiled[bad, 0, 0, 2] = [np.nan, np.inf, np.nan]
    good = np.setdiff1d(np.arange(40), bad)
    whole = write_store(tmp_path / "a", {"x": spoiled, "y": other})
    rest = write_store(tmp_path / "b", {"x": values[good], "y": other[good]})
    found = similarity(whole, estimator="nystrom", landmarks=40)
    wanted = similarity(rest, estimator="nystrom", landmarks=40)
    np.testing.assert_allclose(found["similarity"], wanted["similarity"], rtol=1e-5)
    assert found["nan"].values.ravel().tolist() == [2, 0]
    assert found["inf"].values.ravel().tolist() == [1, 0]
    assert (found.attrs["samples"], found.attrs["landmarks"]) == (37, 37)


def test_it_is_the_same_for_a_seed_and_between_stores(store):
    first, again = (similarity(store, estimator="nystrom", landmarks=20, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first["similarity"], again["similarity"])
    other = similarity(store, estimator="nystrom", landmarks=20, seed=2)
    assert (first["similarity"] != other["similarity"]).any()
    both = similarity(store, store, estimator="nystrom", landmarks=20, seed=1)
    np.testing.assert_allclose(both["similarity"], first["similarity"], atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"landmarks": 1}, "at least 2 landmarks, not 1: raise --landmarks"),
        ({"skip": "features"}, "leaves out samples only"),
        ({"samples": 3}, "takes at least 4 samples, and there are 3"),
    ],
)
def test_mistakes(settings, said, store):
    with pytest.raises(FmxError, match=said):
        similarity(store, estimator="nystrom", **settings)


def test_too_much_for_the_memory_is_said_before_anything_is_read(store, monkeypatch):
    monkeypatch.setattr("fmx.analyze.likeness.nystrom.MOST_GRAM_BYTES", 1000)
    with pytest.raises(FmxError, match=r"160 samples with 160 landmarks take .* take fewer landmarks"):
        similarity(store, estimator="nystrom")
