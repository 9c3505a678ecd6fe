"""Several analyses in one read say what each of them says by itself, whatever the batches."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from small_stores import write_store

from fmx.analyze import health, rank, robustness, stats, top_samples
from fmx.analyze.class_profile import settle
from fmx.analyze.overview import Questions, overview
from fmx.reduce import Moments, ReducerSet
from fmx.reduce.apart import BySample, OneLevel
from fmx.reduce.places import Extremes, Places
from fmx.reduce.sums import Sums
from fmx.store import Store

RNG = np.random.default_rng(0)


def small(path: Path, levels: int) -> Store:
    """Give two layers, three classes and timesteps; a channel holds values that are not finite."""
    maps = np.maximum(RNG.normal(size=(9, levels, 2, 5, 6, 6)), 0).astype(np.float32)
    maps[3, levels - 1, 0, 2, 1, 1], maps[4, levels - 1, 1, 2, 1, 1] = np.nan, np.inf
    values = {"conv": maps, "fc": RNG.normal(size=(9, levels, 2, 12)).astype(np.float32)}
    return write_store(path / "acts.zarr", values, labels=["cat", "dog", "cow"] * 3, noise=(0.3, 0.0)[-levels:])


# A batch holds all samples; two samples.
@pytest.mark.parametrize("batch", [64 * 2**20, 3000])
@pytest.mark.parametrize("levels", [1, 2])
def test_it_says_what_each_analysis_says(tmp_path: Path, batch: int, levels: int) -> None:
    store = small(tmp_path, levels)
    ranking = settle(store, metric="precision", noise=0.0, held_out=0.4)
    for info in store.layers:
        one = {"layers": [info.name]}
        with mock.patch("fmx.analyze.batches.BATCH_BYTES", batch):
            found = overview(store, info, Questions(levels - 1, ranking=ranking))
        assert found.top is not None and found.health is not None and found.channels is not None
        assert found.classes is not None
        assert found.top.identical(top_samples(store, k=6, **one)[info.name])
        wanted = health(store, **one)[info.name]
        assert found.health.attrs == wanted.attrs and str(found.health["verdict"]) == str(wanted["verdict"])
        same(found.health, wanted.drop_vars("verdict"))
        same(
            found.classes,
            rank(store, per="class", metric="precision", top=5, held_out=0.4, **one)[info.name],
        )
        by_channel = stats(store, by=["noise", "channel"], **one)[info.name].sel(noise=0.0)
        same(found.channels, by_channel[["mean", "std", "min", "max", "sparsity", "skewness", "nan", "inf"]])
        values = store.activation(info.name).sel(noise=0.0).values
        values = values[np.isfinite(values)].astype(np.float64)
        assert found.whole["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert found.counts.tolist() == [
            int(((values >= a) & (values < b)).sum()) for a, b in zip(found.edges, found.edges[1:], strict=False)
        ]
        if levels > 1:
            assert found.robustness is not None
            told = robustness(store, **one)[info.name]
            same(found.robustness, told[["sqnr", "cosine", "relative_l2", "correlation", "count", "lost"]])
        else:
            assert found.robustness is None


def same(found: object, wanted: object) -> None:
    """Compare all that is wanted by value."""
    for name, values in wanted.data_vars.items():  # type: ignore[attr-defined]
        np.testing.assert_allclose(found[name].values, values.values, rtol=1e-9, err_msg=str(name))  # type: ignore[index]


def test_what_is_not_asked_is_not_told(tmp_path: Path) -> None:
    store = small(tmp_path, 2)
    found = overview(store, store.layers[0], Questions(1, parts=("top",)))
    assert found.top is not None
    assert (found.health, found.classes, found.robustness) == (None, None, None)


def test_samples_are_kept_apart_beside_what_is_put_together() -> None:
    values = RNG.normal(size=(6, 3, 4, 5))  # sample, noise, channel, position
    places = np.array([[1, 0], [1, 4]])
    both = ReducerSet({"all": Extremes(), "each": BySample(Moments(), 6), "places": BySample(Places(places), 6)})
    one = OneLevel(both, 1)
    parts = [values[:4], values[4:]]
    states = []
    for part, first in zip(parts, (0, 4), strict=True):
        state = one.identity((4,))
        for channels in (slice(0, 3), slice(3, 4)):
            one.update(state[channels], part[:, :, channels], (0, 1, 3), start=[first, 0, 0, 0])
        states.append(state)
    merged = one.merge(*states)
    own = values[:, 1]
    each = BySample(Moments(), 6)
    found = Moments().finalize(each.states(merged["each"]))
    for sample in range(6):
        for channel in range(4):
            assert found["mean"][sample, channel] == pytest.approx(own[sample, channel].mean())
            assert found["max"][sample, channel] == own[sample, channel].max()
            wanted = own[sample, channel, [0, 4]].tolist()
            assert merged["places"]["sample"]["value"][channel, sample].tolist() == wanted
    assert merged["all"]["max"].tolist() == own.max(axis=(0, 2)).tolist()
    assert merged["all"]["count"].tolist() == [30] * 4


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_extremes_of_channels_that_lie_side_by_side(dtype: str) -> None:
    values = np.round(RNG.normal(size=(3, 7, 5)) * 2).astype(dtype)  # sample, position, channel
    values[0, 0, 1], values[1, 2, 1], values[2, 3, 1], values[:, :, 4] = np.nan, np.inf, -np.inf, np.nan
    values[0, 0, 2] = -0.0
    reducer = Extremes()
    found = reducer.finalize(reducer.update(reducer.identity((5,)), values, (0, 1)))
    for channel in range(4):
        known = values[:, :, channel][np.isfinite(values[:, :, channel])].astype(np.float64)
        assert (found["min"][channel], found["max"][channel]) == (known.min(), known.max())
        assert found["at_min"][channel] == (known == known.min()).sum()
        assert found["at_max"][channel] == (known == known.max()).sum()
        assert found["count"][channel] == known.size
    assert np.isnan(found["max"][4]) and found["at_max"][4] == found["count"][4] == 0


@pytest.mark.parametrize(("samples", "told"), [(15, 0), (16, 2)])
def test_few_values_make_no_duplicates(tmp_path: Path, samples: int, told: int) -> None:
    values = RNG.normal(size=(samples, 1, 1, 3)).astype(np.float32)
    values[..., 1] = 2 * values[..., 0]
    found = health(write_store(tmp_path / "s", {"fc": values}), per="channel")["fc"]
    assert int(found["duplicate"].sum()) == told
    assert found["twin"].values[:2].tolist() == [1, 0] and found["correlation"].values[0] == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sums_are_of_the_finite_values(dtype: str) -> None:
    values = RNG.normal(size=(4, 6, 5)).astype(dtype)  # label, position, run
    values[0, 0, 0], values[0, 1, 2], values[1, 2, 3], values[3] = np.nan, np.inf, -np.inf, np.nan
    reducer = Sums()
    parts = [reducer.update(reducer.identity((4,)), part, (1, 2)) for part in (values[:, :2], values[:, 2:, ::-1])]
    found = reducer.finalize(reducer.merge(*parts))
    for label in range(4):
        flat = [float(v) for v in values[label].ravel()]
        known = [v for v in flat if np.isfinite(v)]
        assert found["count"][label] == len(known)
        assert found["nan"][label] == sum(np.isnan(v) for v in flat)
        assert found["inf"][label] == sum(np.isinf(v) for v in flat)
        if known:
            assert found["mean"][label] == pytest.approx(sum(known) / len(known), rel=1e-12)
            assert found["l1"][label] == pytest.approx(sum(map(abs, known)), rel=1e-12)
    assert np.isnan(found["mean"][3]) and np.isnan(found["l1"][3])
