"""Values that trip up numbers, for every analysis: what comes out is right, or NaN with a count beside it."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_stores import LABELS, random_values, same, write_store
from analysis_verbs import KEEPING, VERBS, check_same

from fmx.analyze import aggregate, compare, decompose, hist, information, similarity, stats
from fmx.errors import FmxError

LARGEST = {"float16": 6e4, "float32": 3e38, "float64": 1e300}
SMALLEST = {"float16": 6e-8, "float32": 1e-45, "float64": 5e-324}


def constant(values):
    values[:, :, :, 0] = 2.5
    values[:, :, :, 1] = 0


def all_constant(values):
    values[...] = 0.1


def outlier(values):
    values[3, 0, 1, 2, 0, 0] = LARGEST[values.dtype.name]


def denormal(values):
    values[:, :, :, 3] = (values[:, :, :, 3] > 0.3) * values.dtype.type(SMALLEST[values.dtype.name])


def nan_channel(values):
    values[:, :, :, 4] = np.nan


def all_nan(values):
    values[...] = np.nan


def some(values):
    values[2, 0, 0, 5, 0, 0] = np.inf
    values[3, 0, 1, 1] = np.nan
    values[4, 1, 2, 2, 1, 1] = -np.inf


CONDITIONS = {f.__name__: f for f in (constant, all_constant, outlier, denormal, nan_channel, all_nan, some)}
SPOILED = {"nan_channel", "all_nan", "some"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a store of a layer with given values, and of one that is sound; once each."""
    folder, found = tmp_path_factory.mktemp("adversarial"), {}

    def make(condition, dtype):
        if (condition, dtype) not in found:
            values = random_values(noise=2, steps=3, dtype=np.dtype(dtype), seed=1)
            CONDITIONS[condition](values)
            sound = random_values(noise=2, steps=3, dtype=np.dtype(dtype), seed=2)
            place = folder / f"{condition}-{dtype}"
            found[condition, dtype] = write_store(place, {"odd": values, "sound": sound}, noise=(0.0, 0.5)), values
        return found[condition, dtype]

    return make


def nan_shares(dataset):
    """List the variables with NaN, and whether anything counted stands beside them that says why."""
    counts = [name for name in dataset.data_vars if dataset[name].dtype.kind in "iub"]
    names = [name for name in dataset.data_vars if dataset[name].dtype.kind == "f" and dataset[name].isnull().any()]
    return {str(name): [str(c) for c in counts] for name in names}


COUNTS = {"nan", "inf", "not_finite", "lost", "left_out", "outputs_lost"}


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_no_nan_comes_without_its_count(verb, condition, dtype, made):
    store, _ = made(condition, dtype)
    try:
        found = VERBS[verb](store)
    except FmxError as error:
        # Where nothing is left to be looked at, or cannot be multiplied, that is said.
        assert condition in SPOILED | {"outlier", "all_constant"}, error
        assert ": " in str(error)
        return
    for layer, dataset in found.items():
        for name, counts in nan_shares(dataset).items():
            assert COUNTS & set(counts), (layer, name)


COUNTED = {
    "hist": ("nan", "inf"), "aggregate": ("not_finite",), "class_sums": ("not_finite",), "robustness": ("lost",),
    "temporal": ("lost",), "compare": ("spoiled",), "information": ("spoiled",),
    "stats": ("nan", "inf"), "exact": ("nan", "inf"),
}  # fmt: skip
UNTOUCHED = {"edges", "nan_share", "inf_share", "entropy"}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("verb", COUNTED)
def test_kept_values_that_are_not_finite_make_exactly_their_own_results_nan(verb, condition, made):
    if verb in {"compare", "information"} and condition in {"nan_channel", "all_nan"}:
        pytest.skip("no sample is left")
    store, _ = made(condition, "float32")
    # Which channels are top ones may hang on what is kept, too.
    given = {"channels": {"cat": [0, 1, 5], "dog": [4], "eel": [2, 3]}} if verb == "class_sums" else {}
    skipped, kept = VERBS[verb](store, **given), VERBS[verb](store, **given, nan="keep")
    for layer, dataset in kept.items():
        lost = sum(dataset[name] for name in COUNTED[verb]) > 0
        assert bool(lost.any()) == (layer.startswith("odd") and condition in SPOILED)
        for name, variable in dataset.data_vars.items():
            before = skipped[layer][name]
            assert variable.dims == before.dims
            assert variable.attrs == before.attrs
            if variable.dtype.kind != "f" or name in UNTOUCHED:
                continue
            spoiled = lost.any([dim for dim in lost.dims if dim not in variable.dims]).broadcast_like(variable)
            spoiled = spoiled.transpose(*variable.dims).values
            assert np.isnan(variable.values[spoiled]).all(), name
            np.testing.assert_array_equal(variable.values[~spoiled], before.values[~spoiled], err_msg=str(name))


@pytest.mark.parametrize("verb", [name for name in KEEPING if name not in COUNTED])
def test_the_other_verbs_know_both_ways_too(verb, made):
    store, _ = made("constant", "float32")
    skipped, kept = VERBS[verb](store), VERBS[verb](store, nan="keep")
    for layer, dataset in kept.items():
        check_same(dataset, skipped[layer], rtol=1e-12)
    with pytest.raises(FmxError, match=r"left out \(skip\) or make results NaN"):
        VERBS[verb](store, nan="drop")


@pytest.mark.parametrize("verb", ["similarity", "rbf", "minibatch", "nystrom", "svcca", "rsa"])
@pytest.mark.parametrize("condition", ["some", "nan_channel", "all_nan"])
def test_layers_that_are_sound_are_compared_beside_those_that_are_not(verb, condition, made):
    store, _ = made(condition, "float32")
    found = VERBS[verb](store, nan="keep", noise="all")[""]
    lost = (found["nan"] + found["inf"] > 0).values.ravel()
    assert lost.any()
    values = found["similarity"].values.reshape(len(lost), -1)
    assert np.isnan(values[lost]).all()
    assert np.isnan(values[:, lost]).all()
    alone = VERBS[verb](store, layers="sound", noise="all")[""]["similarity"].values.reshape(2, 2)
    same(values[2:, 2:], alone)


def finite(values):
    return np.where(np.isfinite(values), values.astype(np.float64), np.nan)


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("condition", CONDITIONS)
class TestAgainstNumpy:
    """Each number as NumPy gives it from the values in memory, some of them in float64."""

    def test_stats(self, condition, dtype, made):
        store, values = made(condition, dtype)
        found = stats(store, layers="odd", by="channel", quantiles=(0.1, 0.5), exact=True)["odd"]
        for channel in range(6):
            whole = values[:, :, :, channel].astype(np.float64).ravel()
            own, one = whole[np.isfinite(whole)], found.isel(channel=channel)
            assert one["nan"] == np.isnan(whole).sum()
            assert one["inf"] == np.isinf(whole).sum()
            assert one["count"] == len(own)
            if not len(own):
                assert all(np.isnan(one[name]) for name in ("mean", "std", "min", "median", "sparsity"))
                continue
            # Offset and scale keep the reference's own squares from overflowing.
            size = np.abs(own).max() or 1.0
            scaled = own / size if size > 1e-300 else own
            same(one["mean"] / size, scaled.mean() if size > 1e-300 else 0)
            if size < 1e150:
                same(one["std"] / size, scaled.std() if size > 1e-150 else 0)
            assert (one["min"], one["max"]) == (own.min(), own.max())
            assert one["sparsity"] == (own == 0).mean()
            for name, q in (("q0.1", 0.1), ("median", 0.5)):
                np.testing.assert_allclose(one[name], np.quantile(own, q), rtol=1e-12)

    def test_hist(self, condition, dtype, made):
        store, values = made(condition, dtype)
        for log in (False, True):
            found = hist(store, layers="odd", by="channel", bins=16, log=log)["odd"]
            for channel in range(6):
                whole = values[:, :, :, channel].astype(np.float64).ravel()
                own, one = np.sort(whole[np.isfinite(whole)]), found.isel(channel=channel)
                assert one["counts"].sum() == one["count"] == len(own)
                edges = one["edges"].values
                if not len(own) or log:
                    continue
                assert edges[0] <= own[0]
                assert own[-1] <= edges[-1]
                below = np.searchsorted(own, edges[:-1], side="left")
                same(one["cdf"][:-1], below / len(own))

    def test_aggregate(self, condition, dtype, made):
        store, values = made(condition, dtype)
        whole = finite(values)
        there = np.isfinite(whole).any(axis=(3, 4, 5))
        for how, reference in (("sum", np.nansum), ("max", np.nanmax), ("mean", np.nanmean)):
            (found,) = store.compute(aggregate(store, layers="odd", over=("channel", "space"), how=how))
            wanted = np.full(there.shape, 0.0 if how == "sum" else np.nan)
            wanted[there] = reference(whole[there], axis=(1, 2, 3))
            np.testing.assert_allclose(found["odd"][how], wanted, rtol=1e-9)
            assert (found["odd"]["not_finite"].values == (~np.isfinite(values)).sum(axis=(3, 4, 5))).all()

    def test_compare(self, condition, dtype, made):
        store, values = made(condition, dtype)
        _, other = made("constant", dtype)
        if condition in {"nan_channel", "all_nan"} or (condition, dtype) == ("outlier", "float64"):
            pytest.skip("no sample is left, or products overflow")
        found = compare(store, made("constant", dtype)[0], layers="odd")["odd"]
        for level in range(2):
            good = np.isfinite(values[:, level]).all(axis=(1, 2, 3, 4))
            x, y = values[good, level].astype(np.float64), other[good, level].astype(np.float64)
            one = found.isel(noise=level)
            assert one["left_out"] == (~good).sum()
            gap = np.abs(x - y)
            axes = (0, 1, 3, 4)
            np.testing.assert_allclose(one["mean_abs"], gap.mean(axis=axes), rtol=1e-9)
            np.testing.assert_allclose(one["rmse"], np.sqrt((gap**2).mean(axis=axes)), rtol=1e-9)
            np.testing.assert_array_equal(one["max_abs"], gap.max(axis=axes))
            for channel in range(6):
                a, b = x[:, :, channel].ravel(), y[:, :, channel].ravel()
                varies = np.ptp(a) > 1e-150 and np.ptp(b) > 1e-150
                wanted = np.corrcoef(a, b)[0, 1] if varies else 0
                assert one["correlation"][channel] == pytest.approx(wanted, abs=1e-9)

    def test_linear_cka(self, condition, dtype, made):
        store, values = made(condition, dtype)
        good = np.isfinite(values[:, 0]).all(axis=(1, 2, 3, 4))
        if good.sum() < 4 or (condition, dtype) == ("outlier", "float64"):
            pytest.skip("no sample is left, or products overflow")
        found = similarity(store, estimator="biased")
        tables = [store.activation(name).values[good, 0].reshape(good.sum(), -1) for name in ("odd", "sound")]
        centred = [t.astype(np.float64) - t.astype(np.float64).mean(axis=0) for t in tables]
        scaled = [t / (np.abs(t).max() or 1) for t in centred]
        inner = [[np.sum((a.T @ b) ** 2) for b in scaled] for a in scaled]
        varies = condition != "all_constant"
        wanted = inner[0][1] / np.sqrt(inner[0][0] * inner[1][1]) if varies else 0
        assert found["similarity"][0, 0, 1, 0] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert bool(found["undefined"][0, 0, 1, 0]) != varies

    def test_principal_components(self, condition, dtype, made):
        store, values = made(condition, dtype)
        good = np.isfinite(values[:, 0]).all(axis=(1, 2, 3, 4))
        if good.sum() < 2 or (condition, dtype) == ("outlier", "float64"):
            pytest.skip("no sample is left, or products overflow")
        found = decompose(store, layers="odd", components=3)["odd"]
        points = np.moveaxis(values[good, 0].astype(np.float64), 2, 0).reshape(6, -1)
        size = np.abs(points).max()
        points -= points.mean(axis=1, keepdims=True)
        sizes = np.linalg.svd(points / size, compute_uv=False)[:3] ** 2 / points.shape[1]
        np.testing.assert_allclose(found["explained_variance"] / size / size, sizes, rtol=1e-6, atol=1e-12)

    def test_information(self, condition, dtype, made):
        store, values = made(condition, dtype)
        good = np.isfinite(values[:, 0]).all(axis=(1, 2, 3, 4))
        if good.sum() < 8 or condition in {"nan_channel", "all_nan"}:
            pytest.skip("too few samples are left")
        found = information(store, layers="odd", bins=2, shuffles=0, summary="max")["odd"]
        labels = np.unique(np.array(LABELS)[good], return_inverse=True)[1]
        scores = values[good, 0].astype(np.float64).max(axis=(3, 4)).mean(axis=1)
        for channel in range(6):
            side = scores[:, channel] > np.quantile(scores[:, channel], 0.5)
            joint = np.array([[(side == s)[labels == k].sum() for k in range(3)] for s in (False, True)])
            parts = [entropy_of(joint.sum(axis=1)), entropy_of(joint.sum(axis=0)), entropy_of(joint.ravel())]
            assert found["information"][0, channel] == pytest.approx(parts[0] + parts[1] - parts[2], abs=1e-9)


def entropy_of(counts):
    """Give the entropy in bits as Miller and Madow correct it."""
    shares = counts[counts > 0] / counts.sum()
    return -(shares * np.log2(shares)).sum() + (len(shares) - 1) / (2 * counts.sum() * np.log(2))
