"""Similarity of layers by value, beside slow and obvious versions of every measure."""

from __future__ import annotations

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze.likeness import DISTANCES, rdm, similarity
from fmx.errors import FmxError, LayerError, StoreError

N = 13
LABELS = ["cat", "dog"] * 6 + ["eel"]


@pytest.fixture(params=["one column", "tiles", "tiles of one"])
def tiles(request, monkeypatch):
    """Room for all samples of a column, for a few, or for one chunk."""
    size = {"one column": 10**6, "tiles": 1500, "tiles of one": 1}[request.param]
    monkeypatch.setattr("fmx.analyze.likeness.gram.BLOCK_BYTES", size)
    monkeypatch.setattr("fmx.analyze.likeness.gram.SPAN", 7)
    monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 600)


def make_values(rng, noise=2, steps=2):
    shared = rng.normal(size=(N, 6))

    def mixed(*native, dtype):
        weights = rng.normal(size=(6, noise, steps, *native))
        return (np.tensordot(shared, weights, 1) + 2 * rng.normal(size=(N, noise, steps, *native)) + 3).astype(dtype)

    return {
        "maps": mixed(6, 4, 3, dtype="float32"),
        "tokens": mixed(5, 3, dtype="float16"),
        "flat": mixed(4, dtype="float64"),
    }


@pytest.fixture
def made(tmp_path):
    values = make_values(np.random.default_rng(5))
    return write_store(tmp_path / "s", values, labels=LABELS, noise=(0.0, 0.5)), values


def table(values, name, level=0, space="full"):
    """Samples × features, as float64."""
    part = values[name][:, level].astype(np.float64)
    if space != "full":
        axis = {"maps": (3, 4), "tokens": (2,), "flat": ()}[name]
        part = getattr(part, space)(axis=axis) if axis else part
    return part.reshape(len(part), -1)


def hsic(k, m, biased):
    """HSIC with a centring matrix, or as Song et al. (2012) write it for kernels without a diagonal."""
    n = len(k)
    if biased:
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    third = 2 / (n - 2) * (one @ k @ m @ one)
    return (np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - third) / (n * (n - 3))


def gaussian(x, width):
    d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    median = np.median([d[i, j] for i in range(len(x)) for j in range(i)])
    return np.exp(-(d**2) / (2 * (width * median) ** 2))


def slow_cka(x, y, biased, width=None):
    k, m = (t @ t.T if width is None else gaussian(t, width) for t in (x, y))
    return hsic(k, m, biased) / np.sqrt(hsic(k, k, biased) * hsic(m, m, biased))


def check_pairs(found, values, slow, levels=(0,), space="full", atol=2e-5):
    names = list(values)
    assert found.similarity.dims == ("layer", "noise", "other_layer", "other_noise")
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            for p, level in enumerate(levels):
                for q, other in enumerate(levels):
                    wanted = slow(table(values, a, level, space), table(values, b, other, space))
                    got = found.similarity.values[i, p, j, q]
                    np.testing.assert_allclose(got, wanted, atol=atol, err_msg=f"{a} {level} {b} {other}")


@pytest.mark.usefixtures("tiles")
class TestCKA:
    @pytest.mark.parametrize("biased", [True, False])
    @pytest.mark.parametrize("width", [None, 0.7])
    def test_all_pairs(self, made, biased, width):
        store, values = made
        method = "cka-linear" if width is None else "cka-rbf"
        estimator = "biased" if biased else "unbiased"
        found = similarity(store, method=method, estimator=estimator, width=width or 1, noise="all")
        check_pairs(found, values, lambda x, y: slow_cka(x, y, biased, width), (0, 1))
        assert found.attrs["estimator"] == estimator
        assert found.attrs["samples"] == N
        assert found.layer.values.tolist() == ["maps", "tokens", "flat"]
        assert found.noise.values.tolist() == [0, 0.5]

    @pytest.mark.parametrize("space", ["mean", "max"])
    def test_channels_summed_up(self, made, space):
        store, values = made
        check_pairs(similarity(store, space=space), values, lambda x, y: slow_cka(x, y, False), space=space)

    def test_two_stores_in_another_order(self, made, tmp_path):
        store, values = made
        order = np.random.default_rng(0).permutation(N)
        other = {"more": values["maps"][order] * 7 - 100, "flat": values["flat"][order]}
        ids = [store.samples[i] for i in order]
        b = write_store(tmp_path / "b", other, ids=ids, noise=(0.0, 0.5), chunk_bytes=900, unit=8)
        found = similarity(store, b)
        assert found.similarity.shape == (3, 1, 2, 1)
        np.testing.assert_allclose(found.similarity.sel(layer="maps", other_layer="more").item(), 1, atol=1e-5)
        wanted = slow_cka(table(values, "tokens"), table(values, "flat"), False)
        got = found.similarity.sel(layer="tokens", other_layer="flat").item()
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert found.features.values.ravel().tolist() == [144, 30, 8]
        assert found.other_features.values.ravel().tolist() == [144, 8]

    def test_not_finite(self, made, tmp_path):
        store, values = made
        values["maps"][3, 0, 1, 2, 0, 0] = np.nan
        values["tokens"][7, 0, 0, 1, 1] = np.inf
        values["tokens"][7, 0, 0, 1, 2] = -np.inf
        store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
        found = similarity(store)
        left = [i for i in range(N) if i not in (3, 7)]
        check_pairs(found, {k: v[left] for k, v in values.items()}, lambda x, y: slow_cka(x, y, False))
        assert found.nan.values.ravel().tolist() == [1, 0, 0]
        assert found.inf.values.ravel().tolist() == [0, 2, 0]
        assert found.attrs["samples"] == N - 2

    def test_features_that_are_not_finite_are_left_out(self, made, tmp_path):
        _, values = made
        values["maps"][3, 0, 1, 2, 0, 0] = np.nan
        values["maps"][9, 0, 1, 2, 0, 0] = np.inf
        values["flat"][:, 0, 0, 1] = np.inf
        store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
        found = similarity(store, skip="features", estimator="biased")
        names = list(values)
        x = {name: table(values, name) for name in names}
        x = {name: t[:, np.isfinite(t).all(axis=0)] for name, t in x.items()}
        wanted = [[slow_cka(x[a], x[b], True) for b in names] for a in names]
        np.testing.assert_allclose(found.similarity.values[:, 0, :, 0], wanted, atol=1e-5)
        assert found.attrs["samples"] == N

    @pytest.mark.parametrize("scale", [1e-42, 1e-25, 1e18, 1e37])
    def test_sizes_of_numbers_do_not_matter(self, tmp_path, scale):
        rng = np.random.default_rng(1)
        values = {n: (rng.normal(size=(N, 1, 1, 9)) * f).astype("float32") for n, f in (("a", scale), ("b", 1))}
        found = similarity(write_store(tmp_path / "s", values))
        wanted = slow_cka(table(values, "a") / scale, table(values, "b"), False)
        np.testing.assert_allclose(found.similarity.values[0, 0, 1, 0], wanted, atol=1e-5)


class TestNumbers:
    def test_biased_is_far_from_zero_for_independent_layers_and_unbiased_is_not(self, tmp_path):
        rng = np.random.default_rng(2)
        values = {name: rng.normal(size=(32, 1, 1, 10)).astype("float32") for name in "ab"}
        store = write_store(tmp_path / "s", values)
        biased, unbiased = (
            similarity(store, estimator=e).similarity.values[0, 0, 1, 0] for e in ("biased", "unbiased")
        )
        assert biased > 0.15
        assert abs(unbiased) < 0.1

    def test_a_layer_that_does_not_vary(self, tmp_path):
        rng = np.random.default_rng(2)
        values = {"a": rng.normal(size=(N, 1, 1, 5)).astype("f4"), "still": np.full((N, 1, 1, 4), 0.1, "f4")}
        store = write_store(tmp_path / "s", values)
        for how in (
            {"estimator": "biased"},
            {"estimator": "unbiased"},
            {"estimator": "minibatch", "batch": 5},
            {"method": "cka-rbf"},
            {"method": "cka-rbf", "estimator": "minibatch"},
            {"method": "svcca"},
            {"method": "pwcca"},
            *({"method": "rsa", "comparison": c} for c in ("spearman", "pearson", "cosine", "kendall")),
            *({"method": "rsa", "metric": m} for m in DISTANCES),
        ):
            found = similarity(store, **how)
            np.testing.assert_allclose(
                found.similarity.values[:, 0, :, 0], np.diag([1, 0]), atol=1e-9, err_msg=str(how)
            )
            assert found.undefined.values[:, 0, :, 0].tolist() == [[False, True], [True, True]]

    def test_values_far_from_zero_lose_nothing(self, tmp_path):
        rng = np.random.default_rng(3)
        small = rng.normal(size=(N, 1, 1, 9)).astype("f4")
        values = {"a": small, "far": (small + 4096).astype("f4")}
        found = similarity(write_store(tmp_path / "s", values))
        wanted = slow_cka(table(values, "a"), table(values, "far") - 4096, False)
        np.testing.assert_allclose(found.similarity.values[0, 0, 1, 0], wanted, atol=1e-6)

    def test_alike_layers_are_alike(self, tmp_path):
        rng = np.random.default_rng(3)
        x = rng.normal(size=(N, 1, 1, 4))
        turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
        store = write_store(tmp_path / "s", {"a": x, "turned": -3 * turned + 1, "again": x})
        for method in ("cka-linear", "cka-rbf", "svcca", "pwcca"):
            found = similarity(store, method=method, variance=1)
            np.testing.assert_allclose(found.similarity.values, 1, atol=1e-9, err_msg=method)

    def test_values_too_large_even_for_float64(self, tmp_path):
        values = {"a": np.random.default_rng(0).normal(size=(N, 1, 1, 4)) * 1e200}
        with np.errstate(over="ignore"), pytest.raises(FmxError, match="too large"):
            similarity(write_store(tmp_path / "s", values))


def slow_minibatch(x, y, batches, width=None):
    def mean(a, b):
        return np.mean([hsic(a[np.ix_(i, i)], b[np.ix_(i, i)], False) for i in batches])

    k, m = (t @ t.T if width is None else gaussian(t, width) for t in (x, y))
    return mean(k, m) / np.sqrt(mean(k, k) * mean(m, m))


class TestMinibatch:
    @pytest.mark.parametrize("room", [1, 3000, 10**6])
    @pytest.mark.parametrize("width", [None, 0.8])
    def test_terms_are_summed_and_divided_once(self, made, monkeypatch, room, width):
        from fmx.analyze.likeness import minibatch
        from fmx.analyze.sample_table import tables_of

        monkeypatch.setattr(minibatch, "BLOCK_BYTES", room)
        store, values = made
        tables = tables_of(store, list(values), None, np.arange(N))
        batches = [rows[b] for rows, some in minibatch.draw_groups(tables, 5, 3) for b in some]
        assert sorted(np.concatenate(batches)) == list(range(N))
        assert min(map(len, batches)) >= 4
        method = "cka-linear" if width is None else "cka-rbf"
        found = similarity(store, method=method, estimator="minibatch", batch=5, seed=3, width=width or 1)
        check_pairs(found, values, lambda x, y: slow_minibatch(x, y, batches, width))
        assert found.attrs["batches"] == len(batches)
        assert found.attrs["samples"] == N

    def test_a_single_batch_is_the_whole(self, made):
        store, values = made
        found = similarity(store, estimator="minibatch", batch=64)
        check_pairs(found, values, lambda x, y: slow_cka(x, y, False))

    def test_samples_that_are_not_finite_leave_their_batches(self, made, tmp_path):
        _, values = made
        values["maps"][3, 0, 1, 2, 0, 0] = np.nan
        store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
        found = similarity(store, estimator="minibatch", batch=64)
        left = [i for i in range(N) if i != 3]
        check_pairs(found, {k: v[left] for k, v in values.items()}, lambda x, y: slow_cka(x, y, False))
        assert found.nan.values.ravel().tolist() == [1, 0, 0]

    def test_groups_of_any_size_hold_every_sample_once(self, tmp_path, monkeypatch):
        from fmx.analyze.likeness import minibatch
        from fmx.analyze.sample_table import tables_of

        for count in (4, 5, 9, 17, 40):
            store = write_store(tmp_path / str(count), {"a": np.zeros((count, 1, 1, 3))}, chunk_bytes=48)
            tables = tables_of(store, ["a"], None, np.arange(count))
            for room in (1, 200, 500, 10**6):
                monkeypatch.setattr(minibatch, "BLOCK_BYTES", room)
                groups = list(minibatch.draw_groups(tables, 4, 0))
                batches = [rows[b] for rows, some in groups for b in some]
                assert sorted(np.concatenate(batches)) == list(range(count))
                assert min(map(len, batches)) >= 4

    def test_sorted_classes_do_not_bias_it(self, tmp_path):
        rng = np.random.default_rng(0)
        means = np.repeat(rng.normal(size=(8, 6)) * 2, 20, axis=0)
        values = {n: (means + rng.normal(size=(160, 6))).astype("f4")[:, None, None] for n in "ab"}
        store = write_store(tmp_path / "s", values, chunk_bytes=96)
        whole = similarity(store).similarity.values[0, 0, 1, 0]
        batches = similarity(store, estimator="minibatch", batch=20).similarity.values[0, 0, 1, 0]
        assert abs(whole - batches) < 0.08

    def test_many_samples_take_it_unasked(self, made, monkeypatch):
        monkeypatch.setattr("fmx.analyze.likeness.measure.MOST_SAMPLES", 10)
        assert similarity(made[0]).attrs["estimator"] == "minibatch"


def slow_cca(x, y, variance):
    """Canonical correlations from the singular value decomposition, and canonical vectors of x."""
    bases = []
    for t in (x, y):
        u, s, _ = np.linalg.svd(t - t.mean(axis=0), full_matrices=False)
        s = s[s > 1e-6 * s[0]]
        share = np.cumsum(s**2) / (s**2).sum()
        bases.append(u[:, : int(np.argmax(share >= variance - 1e-12)) + 1])
    left, r, _ = np.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    return r, bases[0] @ left


def slow_svcca(x, y, variance=0.5):
    return slow_cca(x, y, variance)[0].mean()


def slow_pwcca(x, y, variance=0.5):
    r, h = slow_cca(x, y, variance)
    weights = [sum(abs(v @ neuron) for neuron in (x - x.mean(axis=0)).T) for v in h.T]
    return np.dot(weights, r) / np.sum(weights)


class TestCCA:
    @pytest.mark.parametrize(("method", "slow"), [("svcca", slow_svcca), ("pwcca", slow_pwcca)])
    @pytest.mark.parametrize("space", ["full", None])
    def test_all_pairs(self, made, method, slow, space):
        store, values = made
        found = similarity(store, method=method, variance=0.5, space=space, noise="all")
        check_pairs(found, values, slow, (0, 1), space or "mean", atol=1e-4)
        assert found.attrs["space"] == (space or "mean")
        assert found.attrs["variance"] == 0.5

    def test_trivial_correlations_are_counted(self, tmp_path):
        rng = np.random.default_rng(0)
        values = {n: rng.normal(size=(10, 1, 1, c)) for n, c in (("six", 6), ("five", 5), ("one", 1))}
        found = similarity(write_store(tmp_path / "s", values), method="svcca", variance=1)
        assert found.components.values.ravel().tolist() == [6, 5, 1]
        assert found.trivial.values[:, 0, :, 0].tolist() == [[3, 2, 0], [2, 1, 0], [0, 0, 0]]

    def test_variance_is_checked(self, made):
        with pytest.raises(FmxError, match="--variance"):
            similarity(made[0], method="svcca", variance=1.5)


class TestErrors:
    def test_samples_differ(self, made, tmp_path):
        _, values = made
        ids = [f"{i:03d}.png" for i in range(N - 1)] + ["other.png"]
        other = write_store(tmp_path / "o", values, ids=ids, noise=(0.0, 0.5))
        with pytest.raises(StoreError, match=r"different samples, 1 only in .*s \(012.png\) and 1 only in .*other.png"):
            similarity(made[0], other)

    def test_partial(self, made, tmp_path):
        _, values = made
        store = write_store(tmp_path / "p", values, noise=(0.0, 0.5), units=(0, 2))
        with pytest.raises(FmxError, match=r"8 of 13 samples.*--allow-partial"):
            similarity(store)
        there = [0, 1, 2, 3, 8, 9, 10, 11]
        found = similarity(store, allow_partial=True)
        check_pairs(found, {k: v[there] for k, v in values.items()}, lambda x, y: slow_cka(x, y, False))
        both = similarity(made[0], store, allow_partial=True)
        np.testing.assert_allclose(both.similarity.values, found.similarity.values, atol=1e-6)
        none = write_store(tmp_path / "none", values, noise=(0.0, 0.5), units=())
        with pytest.raises(FmxError, match="no complete sample"):
            similarity(none, allow_partial=True)

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            ({"method": "cka"}, "no measure cka: did you mean"),
            ({"estimator": "best"}, "no estimator best"),
            ({"noise": 0.7}, "no noise level 0.7: there are 0, 0.5"),
            ({"noise": "some"}, "numbers or all"),
            ({"space": "sum"}, "can't be taken as sum"),
            ({"skip": "all"}, "can't be left out by all"),
            ({"method": "rsa", "metric": "far"}, "no distance far"),
            ({"method": "rsa", "comparison": "far"}, "can't be compared by far"),
            ({"estimator": "minibatch", "skip": "features"}, "samples only"),
            ({"estimator": "minibatch", "batch": 3}, "--batch"),
            ({"samples": 3}, "at least 4 samples, and there are 3"),
            ({"samples": 3, "estimator": "minibatch"}, "at least 4 samples"),
            ({"samples": 1, "method": "svcca"}, "at least 3 samples, and there is 1"),
        ],
        ids=str,
    )
    def test_wrong_words(self, made, words, match):
        with pytest.raises(FmxError, match=match):
            similarity(made[0], **words)

    def test_no_such_layer(self, made):
        with pytest.raises(LayerError):
            similarity(made[0], layers="nothing")

    def test_too_large_for_pairs(self, made, monkeypatch):
        monkeypatch.setattr("fmx.analyze.likeness.collect.MOST_SAMPLES", 10)
        with pytest.raises(FmxError, match="--subsample"):
            similarity(made[0], method="rsa")
        assert similarity(made[0], method="rsa", samples=10).attrs["samples"] == 10

    def test_hardly_anything_is_finite(self, made, tmp_path):
        _, values = made
        values["flat"][2:, 0] = np.nan
        store = write_store(tmp_path / "n", values, noise=(0.0, 0.5))
        for estimator in ("unbiased", "minibatch"):
            with pytest.raises(FmxError, match=r"--skip features|--layers"):
                similarity(store, estimator=estimator)


def test_rdm_needs_a_known_distance(made):
    with pytest.raises(FmxError, match="no distance far"):
        rdm(made[0], metric="far")
