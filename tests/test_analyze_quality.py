"""Robustness, change over time and health against loops, and their reducers in any blocks and order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from analysis_stores import LABELS, adversarial_values, random_values, same, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.analyze import health, robustness, temporal
from fmx.analyze.robustness import flipped_predictions, half_levels
from fmx.errors import FmxError
from fmx.reduce import NoisePairs, TimeSeries
from fmx.reduce.places import Extremes, Places

SHAPE = (5, 3, 4, 2, 3)  # sample, noise, timestep, channel, y


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("fmx.analyze.batches.BATCH_BYTES", 1500)
    monkeypatch.setattr("fmx.analyze.chunk_plan.READ_BYTES", 400)
    monkeypatch.setattr("fmx.analyze.chunk_plan.TASK_BYTES", 900)


def holes(seed, shape=SHAPE):
    values = np.random.default_rng(seed).normal(2, 1, size=shape).astype(np.float32)
    values.flat[::13] = np.nan
    values.flat[7::31] = np.inf
    return values


# -- the reducers ----------------------------------------------------------------------------------


def slow_pairs(x, y):
    pairs = [(float(a), float(b)) for a, b in zip(x.ravel(), y.ravel(), strict=True)]
    known = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    out = dict.fromkeys(("sqnr", "cosine", "relative_l2", "correlation"), math.nan)
    out |= {"count": len(known), "lost": len(pairs) - len(known)}
    if not known:
        return out
    xx, yy = sum(a * a for a, _ in known), sum(b * b for _, b in known)
    xy, dd = sum(a * b for a, b in known), sum((a - b) ** 2 for a, b in known)
    mx, my = (sum(side) / len(known) for side in zip(*known, strict=True))
    vx, vy = sum((a - mx) ** 2 for a, _ in known), sum((b - my) ** 2 for _, b in known)
    if xx or dd:
        out["sqnr"] = math.inf if not dd else (-math.inf if not xx else 10 * math.log10(xx / dd))
    if xx and yy:
        out["cosine"] = xy / math.sqrt(xx) / math.sqrt(yy)
    if xx:
        out["relative_l2"] = math.sqrt(dd / xx)
    if vx > 1e-20 and vy > 1e-20:
        out["correlation"] = sum((a - mx) * (b - my) for a, b in known) / math.sqrt(vx) / math.sqrt(vy)
    return out


def slow_series(values, lags):
    """Take in neurons one after the other: values (neuron, timestep)."""
    known = [[float(v) for v in row] for row in values if np.isfinite(row).all()]
    times = values.shape[1]
    out = {"count": len(known), "lost": len(values) - len(known)}
    if not known:
        return out | {"change": math.nan, "variance": math.nan, "autocorrelation": [math.nan] * lags}
    centred = [[v - sum(row) / times for v in row] for row in known]
    squares = sum(v * v for row in centred for v in row)
    steps = [sum(abs(row[t + 1] - row[t]) for row in known) / len(known) for t in range(times - 1)]
    lagged = [sum(row[t] * row[t + lag] for row in centred for t in range(times - lag)) for lag in range(1, lags + 1)]
    out |= {"steps": steps, "change": sum(steps) / (times - 1), "variance": squares / len(known) / times}
    return out | {"autocorrelation": [v / squares if squares else math.nan for v in lagged]}


def in_blocks(reducer, values, keep, data, whole):
    """Reduce in blocks that are cut anywhere but along one axis, merged in any order."""
    axes = [i for i in range(values.ndim) if i not in keep]
    shape = [values.shape[i] for i in keep]
    cuts = []
    for i, n in enumerate(values.shape):
        inner = [] if i == whole or i in keep else sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=2)))
        cuts.append(list(itertools.pairwise([0, *inner, n])))
    states = []
    for region in itertools.product(*cuts):
        block = values[tuple(slice(*part) for part in region)]
        start = [part[0] for part in region]
        if data.draw(st.booleans()):
            block = np.asfortranarray(block)
        states.append(reducer.update(reducer.identity(shape), block, axes, start=start))
    while len(states) > 1:
        a = states.pop(data.draw(st.integers(0, len(states) - 1)))
        b = states.pop(data.draw(st.integers(0, len(states) - 1)))
        states.append(reducer.merge(a, b))
    return reducer.finalize(states[0])


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(0, 9))
def test_pairs_in_any_blocks(data, seed):
    values = holes(seed)
    found = in_blocks(NoisePairs(3, 1), values, (3,), data, 1)
    for level, channel in itertools.product(range(3), range(2)):
        for name, wanted in slow_pairs(values[:, 1, :, channel], values[:, level, :, channel]).items():
            same(found[name][channel, level], wanted, err_msg=name)


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairs_of_more_values_and_labels_than_a_buffer_holds(side_by_side, dtype):
    rng = np.random.default_rng(3)
    values = rng.normal(1, 2, size=(2, 3, 1, 40, 1500)).astype(dtype)
    values[:, :, :, 3] = 0.1  # has a mean that rounding would miss
    values[1, 2, :, 5, ::7] = np.nan
    values[0, 0, :, 6, 1400:] = -np.inf
    values[:, 1, :, 7] = np.inf
    block = values.swapaxes(3, 4) if side_by_side else values
    keep = 4 if side_by_side else 3
    reducer = NoisePairs(3)
    found = reducer.finalize(reducer.update(reducer.identity((40,)), block, [i for i in range(5) if i != keep]))
    for level, channel in itertools.product(range(3), (*range(8), 39)):
        for name, wanted in slow_pairs(values[:, 0, :, channel], values[:, level, :, channel]).items():
            same(found[name][channel, level], wanted, err_msg=f"{name} {channel}")
    assert np.isnan(found["correlation"][3]).all()


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(0, 9))
def test_series_in_any_blocks(data, seed):
    values = holes(seed)
    values[:, :, :, 1, 0] = 3.25  # still
    found = in_blocks(TimeSeries(4, 2), values, (3,), data, 2)
    for channel in range(2):
        series = np.moveaxis(values[:, :, :, channel], 2, -1).reshape(-1, 4)
        for name, wanted in slow_series(series, 2).items():
            same(found[name][channel], wanted, err_msg=name)


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(0, 9))
def test_extremes_and_places_in_any_blocks(data, seed):
    values = np.round(holes(seed))
    found = in_blocks(Extremes(), values, (3,), data, -1)
    positions = np.array([[0, 0, 0, 0], [4, 2, 3, 2], [2, 1, 1, 1]])
    places = in_blocks(Places(positions), values, (3,), data, -1)["values"]
    for channel in range(2):
        flat = values[:, :, :, channel].ravel()
        known = flat[np.isfinite(flat)]
        assert found["max"][channel] == known.max()
        assert found["min"][channel] == known.min()
        assert found["at_max"][channel] == (known == known.max()).sum()
        assert found["at_min"][channel] == (known == known.min()).sum()
        for i, (s, n, t, y) in enumerate(positions):
            same(places[channel, i], values[s, n, t, channel, y])


def test_reducers_that_need_an_axis_whole_say_so():
    block = np.zeros((2, 2, 3, 4))
    with pytest.raises(ValueError, match="2 of 3 noise levels"):
        NoisePairs(3).update(NoisePairs(3).identity(()), block, (0, 1, 2, 3))
    with pytest.raises(ValueError, match="3 of 4 timesteps"):
        TimeSeries(4, 1).update(TimeSeries(4, 1).identity(()), block, (0, 1, 2, 3))
    with pytest.raises(ValueError, match="not among those"):
        NoisePairs(2).update(NoisePairs(2).identity((2,)), block, (0, 2, 3))
    with pytest.raises(ValueError, match="two timesteps at least"):
        TimeSeries(1, 0)


# -- robustness ------------------------------------------------------------------------------------

KINDS = {
    "random": random_values,
    "adversarial": adversarial_values,
    "half": lambda **k: adversarial_values(dtype=np.float16, **k),
}


@pytest.mark.parametrize("kind", KINDS)
def test_robustness_is_that_of_loops(tmp_path, kind):
    values = KINDS[kind](noise=3, steps=2)
    values[:, 1] = values[:, 0] * values.dtype.type(0.9)
    levels = (0.0, 0.5, 0.25)
    store = write_store(tmp_path / "s", {"maps": values}, noise=levels)
    layer = robustness(store, top=2)["maps"]
    each = robustness(store, per="channel")["maps"]
    for level in range(3):
        for name, wanted in slow_pairs(values[:, 0], values[:, level]).items():
            same(layer[name].values[level], wanted, err_msg=name)
        for channel in range(6):
            for name, wanted in slow_pairs(values[:, 0, :, channel], values[:, level, :, channel]).items():
                if name == "correlation" and channel == 3:
                    continue  # denormals: the loops' squares are 0
                same(each[name].values[channel, level], wanted, err_msg=f"{name} {channel}")
        same(layer["top_overlap"].values[level], slow_overlap(values, level, 2))
    assert layer["halved"].values[0] == 0
    half = [(each["relative_l2"].values[:, i] ** 2 >= 0.5).sum() for i in range(3)]
    assert layer["halved"].values.tolist() == half
    assert np.isnan(each["half_level"].values[~each["half_reached"].values]).all()
    assert "flipped" not in layer


def slow_overlap(values, level, k):
    total = 0.0
    for sample in values:
        both = np.isfinite(sample[0]) & np.isfinite(sample[level])
        lists = []
        for part in (sample[0], sample[level]):
            means = [part[:, c][both[:, c]].astype(float).mean() if both[:, c].any() else -math.inf for c in range(6)]
            lists.append(set(sorted(range(6), key=lambda c: (-means[c], c))[:k]))
        total += len(lists[0] & lists[1]) / k
    return total / len(values)


def test_half_levels_by_hand():
    share = np.array([[0, 0.25, 0.75], [0, 0.1, 0.2], [0.6, 0.7, 0.8], [0, 0.5, 1]])
    found = half_levels(share[:, [0, 2, 1]], np.array([0.0, 0.4, 0.2]))
    same(found, [0.3, math.nan, 0.0, 0.2])


def test_flipped_predictions_are_counted(tmp_path):
    store = write_store(tmp_path / "s", {"maps": random_values(noise=2)}, noise=(0.0, 0.1))
    assert flipped_predictions(store, 0) is None
    scores = np.random.default_rng(0).normal(size=(11, 2, 1, 5))
    scores[0, 1, 0, 2] = np.nan
    store.tree["outputs"] = xr_outputs(scores)
    share, lost = flipped_predictions(store, 0)
    flips = [scores[i, 0, 0].argmax() != scores[i, 1, 0].argmax() for i in range(1, 11)]
    same(share, [0, sum(flips) / 10])
    assert lost.tolist() == [0, 1]
    assert robustness(store)["maps"]["flipped"].values[1] == pytest.approx(sum(flips) / 10)


def xr_outputs(scores):
    import xarray as xr

    array = xr.DataArray(scores, dims=("sample", "noise", "timestep", "class")).chunk(sample=3)
    return xr.DataTree(xr.Dataset({"scores": array}))


def test_noise_that_can_not_be_compared(tmp_path):
    with pytest.raises(FmxError, match="no noise level 0 to compare"):
        robustness(write_store(tmp_path / "a", {"maps": random_values(noise=2)}, noise=(0.1, 0.2)))
    with pytest.raises(FmxError, match="no noise level beside 0"):
        robustness(write_store(tmp_path / "b", {"maps": random_values()}))
    part = write_store(tmp_path / "c", {"maps": random_values(noise=2)}, noise=(0.0, 0.2), units=[0])
    for verb in (robustness, health):
        with pytest.raises(FmxError, match=r"not complete \(4 of 11 samples\)"):
            verb(part)
    assert robustness(part, allow_partial=True)["maps"]["count"].values.tolist() == [4 * 72] * 2


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_change_is_that_of_loops(tmp_path, kind):
    values = KINDS[kind](steps=5, noise=2)
    store = write_store(tmp_path / "s", {"maps": values}, noise=(0.0, 0.1))
    layer = temporal(store, lags=3, noise=0.1)["maps"]
    each = temporal(store, lags=9, per="channel")["maps"]
    assert each.sizes["lag"] == 4
    series = np.moveaxis(values[:, 1], 1, -1).reshape(-1, 5)
    for name, wanted in slow_series(series, 3).items():
        same(layer[name], wanted, err_msg=name)
    for channel in range(6):
        series = np.moveaxis(values[:, 0, :, channel], 1, -1).reshape(-1, 5)
        for name, wanted in slow_series(series, 4).items():
            if name == "autocorrelation" and channel == 3 and kind != "random":
                continue  # denormals: squares are 0
            same(each[name].isel(channel=channel), wanted, err_msg=f"{name} {channel}")
    change = each["change"].values
    order = sorted(range(6), key=lambda c: (math.inf if math.isnan(change[c]) else -change[c], c))
    assert [order.index(c) + 1 for c in range(6)] == each["rank"].values.tolist()


def test_change_takes_two_timesteps(tmp_path):
    store = write_store(tmp_path / "s", {"maps": random_values()})
    for layers in ("all", "maps"):
        with pytest.raises(FmxError, match="one timestep, and change takes two"):
            temporal(store, layers=layers)


# -- health ----------------------------------------------------------------------------------------


def test_what_is_wrong_is_found(tmp_path):
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(0.2, 1, size=(11, 1, 1, 8, 4, 4)), 0).astype(np.float32)
    values[:, :, :, 1] = 0
    values[:, :, :, 2] += 1
    values[:, :, :, 3] = np.clip(rng.uniform(-2, 20, size=values[:, :, :, 3].shape), 0, 6)
    values[:, :, :, 5] = values[:, :, :, 4] * 2
    values[0, 0, 0, 6, 0, 0] = np.nan
    values[:, :, :, 7] = np.nan
    store = write_store(tmp_path / "s", {"maps": values})
    found = health(store, per="channel")["maps"]
    flags = {name: np.flatnonzero(found[name]).tolist() for name in ("dead", "always_on", "saturated", "duplicate")}
    assert flags == {"dead": [1], "always_on": [2], "saturated": [3], "duplicate": [4, 5]}
    assert found["twin"].values[[4, 5]].tolist() == [5, 4]
    assert found["nan"].values.tolist() == [0] * 6 + [1, 11 * 16]
    layer = health(store)["maps"]
    assert (
        layer["verdict"].item().startswith("177 values are NaN or infinite; 1 of 8 channels dead; 1 of 8 channels alw")
    )
    assert [int(layer[n]) for n in ("dead", "always_on", "saturated", "duplicate")] == [1, 1, 1, 2]
    known = values[np.isfinite(values)].astype(float)
    same(layer["sparsity"], (known == 0).mean())


def test_numbers_of_health(tmp_path):
    values = adversarial_values()
    signed = random_values(seed=3) - np.float32(0.5)
    signed[:, :, :, 2] = -1
    store = write_store(tmp_path / "s", {"maps": values, "signed": signed})
    found = health(store, per="channel")
    for name, array in (("maps", values), ("signed", signed)):
        for c in range(6):
            flat = array[:, 0, :, c].astype(float).ravel()
            known = flat[np.isfinite(flat)]
            one = found[name].isel(channel=c)
            if not len(known):
                assert math.isnan(one["mean"])
                assert not one["dead"]
                continue
            same(one["mean"], known.mean())
            same(one["magnitude"], np.abs(known).mean())
            same(one["sparsity"], (known == 0).mean())
            same(one["at_max"], (known == known.max()).mean() if known.max() else 0)
            assert one["dead"] == (known.max() <= 0 if name == "maps" else known.min() == known.max())
    np.testing.assert_array_equal(np.flatnonzero(found["signed"]["dead"]), [2])
    assert not found["signed"]["always_on"].any()
    # 12 values of each sample are all there are, so that the correlation is that of all values.
    whole = np.corrcoef(np.moveaxis(signed[:, 0, 0], 1, 0).reshape(6, -1)[[0, 1, 3, 4, 5]])
    np.fill_diagonal(whole, 0)
    same(found["signed"]["correlation"].values[0], whole[0][np.abs(whole[0]).argmax()])
    assert math.isnan(found["signed"]["correlation"].values[2])
    assert found["signed"]["twin"].values[2] == -1


def test_layers_without_channels_are_named(tmp_path):
    values = np.ones((len(LABELS), 2, 1, 4, 3), np.float32)
    store = write_store(tmp_path / "s", {"grid": values}, native={"grid": ("y", "x")}, noise=(0.0, 1.0))
    for verb in (health, robustness):
        with pytest.raises(FmxError, match="grid has no axis channel"):
            verb(store)
