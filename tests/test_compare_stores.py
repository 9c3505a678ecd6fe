"""Differences between stores by value, beside loops over channels and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import pearsonr
from small_stores import write_store

from fmx.analyze.compare import compare
from fmx.errors import FmxError, LayerError, StoreError
from fmx.store import open_store

N = 11
CHANNEL_AXIS = {"maps": 3, "tokens": 4, "flat": 3}


@pytest.fixture(params=["one run", "many runs"])
def runs(request, monkeypatch):
    if request.param == "many runs":
        monkeypatch.setattr("fmx.analyze.pair_task.RUN_BYTES", 1)
        monkeypatch.setattr("fmx.analyze.pair_task._LEAST_PART_BYTES", 2000)
        monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 600)


def make_values(seed=5):
    rng = np.random.default_rng(seed)
    shapes = {"maps": ((6, 4, 3), "f4"), "tokens": ((5, 3), "f2"), "flat": ((4,), "f8")}
    return {name: (rng.normal(size=(N, 2, 2, *native)) + 3).astype(dtype) for name, (native, dtype) in shapes.items()}


def noisy(values, seed=6):
    rng = np.random.default_rng(seed)
    return {name: (v + rng.normal(size=v.shape) / 2).astype(v.dtype) for name, v in values.items()}


@pytest.fixture
def pair(tmp_path):
    """Two stores with the same samples in another order and in other chunks, and their values in the first's order."""
    a = make_values()
    b = noisy(a)
    order = np.random.default_rng(0).permutation(N)
    first = write_store(tmp_path / "a", a, noise=(0.0, 0.5))
    ids = [first.samples[i] for i in order]
    moved = {name: v[order] for name, v in b.items()}
    second = write_store(tmp_path / "b", moved, ids=ids, noise=(0.0, 0.5), chunk_bytes=900, unit=8)
    return first, second, a, b


def channels(values, name, level):
    """Channel × point, as float64."""
    x = np.moveaxis(values[name].astype(np.float64), CHANNEL_AXIS[name], 0)[:, :, level]
    return x.reshape(len(x), -1)


def slow_match(related):
    """The pairing with the largest sum, among all of them."""
    n, m = related.shape
    if n > m:
        pairs = {j: i for i, j in enumerate(slow_match(related.T))}
        return [pairs.get(i, -1) for i in range(n)]
    return max(itertools.permutations(range(m), n), key=lambda p: sum(related[i, j] for i, j in enumerate(p)))


def numbers(x, y):
    gap = x - y
    return {
        "mean_abs": np.abs(gap).mean(),
        "rmse": np.sqrt((gap**2).mean()),
        "max_abs": np.abs(gap).max(),
        "relative_l2": np.linalg.norm(gap) / np.linalg.norm(x),
        "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "correlation": pearsonr(x, y).statistic,
    }


@pytest.mark.usefixtures("runs")
def test_every_number(pair):
    first, second, a, b = pair
    found = compare(first, second)
    assert list(found) == ["maps", "tokens", "flat"]
    for name, data in found.items():
        for level in range(2):
            x, y = channels(a, name, level), channels(b, name, level)
            for channel in range(len(x)):
                for key, wanted in numbers(x[channel], y[channel]).items():
                    np.testing.assert_allclose(data[key].values[level, channel], wanted, rtol=1e-9, err_msg=key)
            for key, wanted in numbers(x.ravel(), y.ravel()).items():
                np.testing.assert_allclose(data[f"layer_{key}"].values[level], wanted, rtol=1e-9, err_msg=key)
            related = np.array([[pearsonr(one, other).statistic for other in y] for one in x])
            match = slow_match(related)
            assert data.match.values[level].tolist() == list(match)
            own = [related[i, j] for i, j in enumerate(match)]
            np.testing.assert_allclose(data.match_correlation.values[level], own, rtol=1e-9)
            np.testing.assert_allclose(data.layer_match_correlation.values[level], np.mean(own), rtol=1e-9)
            np.testing.assert_allclose(data.best_correlation.values[level], related.max(axis=1), rtol=1e-9)
            assert data.points.values[level] == x.shape[1]
        assert data.noise.values.tolist() == [0, 0.5]
        assert data.attrs["matched_by"] == "every position"


@pytest.mark.usefixtures("runs")
def test_maps(pair):
    first, second, a, b = pair
    found = compare(first, second, maps=True)
    for name in a:
        wanted = np.abs(a[name].astype(np.float64) - b[name]).mean(axis=(0, 2))
        if name == "tokens":
            wanted = wanted.swapaxes(1, 2)
        np.testing.assert_allclose(found[name].difference_map.values, wanted, rtol=1e-6)
    assert found["maps"].difference_map.dims == ("noise", "channel", "y", "x")
    assert found["tokens"].difference_map.dims == ("noise", "channel", "token")
    assert "difference_map" not in compare(first, second)["maps"]


@pytest.mark.usefixtures("runs")
def test_channels_in_another_order_are_found(tmp_path):
    a = make_values()
    rng = np.random.default_rng(1)
    order = rng.permutation(6)
    b = {"other": (-1 + 2 * a["maps"][:, :, :, order]).astype("f4")}
    first, second = (write_store(tmp_path / n, v, noise=(0.0, 0.5)) for n, v in (("a", a), ("b", b)))
    found = compare(first, second, mapping={"maps": "other"})["maps"]
    assert found.match.values[0].tolist() == np.argsort(order).tolist()
    np.testing.assert_allclose(found.match_correlation.values, 1, atol=1e-6)
    assert found.attrs["other_layer"] == "other"


@pytest.mark.parametrize("wide", ["first", "second"])
def test_other_shapes_are_matched_only(tmp_path, wide):
    rng = np.random.default_rng(2)
    a = {"small": rng.normal(size=(N, 1, 1, 3, 2, 2)).astype("f4")}
    b = {"large": rng.normal(size=(N, 1, 1, 5, 4, 4)).astype("f4")}
    a, b = (a, b) if wide == "second" else (b, a)
    first, second = (write_store(tmp_path / n, v) for n, v in (("a", a), ("b", b)))
    found = compare(first, second, mapping={next(iter(a)): next(iter(b))})
    data = next(iter(found.values()))
    x, y = (next(iter(v.values())).astype(np.float64).mean(axis=(4, 5))[:, 0, 0].T for v in (a, b))
    related = np.array([[pearsonr(one, other).statistic for other in y] for one in x])
    assert data.match.values[0].tolist() == list(slow_match(related))
    assert "rmse" not in data
    assert "shapes differ" in data.attrs["differences"]
    assert data.attrs["matched_by"] == "mean of each channel"
    assert (data.match.values == -1).sum() == max(len(x) - len(y), 0)


def test_constant_channels_and_empty_ones(tmp_path):
    a = {"x": np.random.default_rng(0).normal(size=(N, 1, 1, 4)).astype("f4")}
    a["x"][..., 1] = 0
    a["x"][..., 2] = 0.1
    b = {"x": a["x"].copy()}
    b["x"][..., 1] = 2
    first, second = (write_store(tmp_path / n, v) for n, v in (("a", a), ("b", b)))
    data = compare(first, second)["x"]
    assert data.constant.values[0].tolist() == [False, True, True, False]
    assert data.correlation.values[0].tolist() == pytest.approx([1, 0, 0, 1])
    assert data.cosine.values[0].tolist() == pytest.approx([1, 0, 1, 1])
    assert data.relative_l2.values[0].tolist() == [0, np.inf, 0, 0]
    assert data.constant_channels.item() == 2
    assert data.layer_match_correlation.item() == pytest.approx(1)
    assert not np.isnan(data.to_array().values.astype(float)).any()


def test_not_finite(pair, tmp_path):
    _, second, a, b = pair
    a["maps"][3, 0, 1, 2, 0, 0] = np.nan
    a["maps"][4, 0, 0, 2, 0, 0] = np.inf
    first = write_store(tmp_path / "n", a, noise=(0.0, 0.5))
    data = compare(first, second)["maps"]
    assert data.nan.values.tolist() == [1, 0]
    assert data.inf.values.tolist() == [1, 0]
    assert data.other_nan.values.tolist() == [0, 0]
    assert data.left_out.values.tolist() == [2, 0]
    left = [i for i in range(N) if i not in (3, 4)]
    x, y = (channels({"maps": v["maps"][left]}, "maps", 0) for v in (a, b))
    np.testing.assert_allclose(data.layer_rmse.values[0], np.sqrt(((x - y) ** 2).mean()), rtol=1e-9)
    a["flat"][:] = np.nan
    with pytest.raises(FmxError, match="flat has no sample that is finite"):
        compare(write_store(tmp_path / "m", a, noise=(0.0, 0.5)), second)


def test_far_from_zero_loses_nothing(tmp_path):
    x = np.random.default_rng(0).normal(size=(N, 1, 1, 3))
    stores = [write_store(tmp_path / n, {"x": v}) for n, v in (("a", x), ("b", x[..., ::-1] + 1e7))]
    data = compare(*stores)["x"]
    assert data.match.values[0].tolist() == [2, 1, 0]
    np.testing.assert_allclose(data.match_correlation.values, 1, atol=1e-12)


def test_a_channel_mean_can_be_compared(pair):
    first, second, a, b = pair
    data = compare(first, second, space="mean", layers="maps", noise=0.5, maps=True)["maps"]
    x, y = (v["maps"][:, 1].astype(np.float64).mean(axis=(3, 4)) for v in (a, b))
    np.testing.assert_allclose(data.mean_abs.values[0], np.abs(x - y).mean(axis=(0, 1)), rtol=1e-9)
    assert data.difference_map.dims == ("noise", "channel")
    assert data.noise.values.tolist() == [0.5]


def test_labels_of_channels_that_were_chosen(tmp_path):
    from fmx.layers import LayerInfo
    from fmx.store import StorePlan, StoreWriter

    rng = np.random.default_rng(0)
    ids = [f"{i}.png" for i in range(5)]
    values = rng.normal(size=(5, 4)).astype("f4")
    for name, kept, block in (("a", [3, 7], values[:, [0, 1]]), ("b", [9, 5], values[:, [1, 0]])):
        layer = LayerInfo("x", "Linear", ("channel",), (16,), "float32")
        plan = StorePlan(ids, ids, ids, [0.0], [layer], {"layers": ["x"]}, channels={"x": kept})
        with StoreWriter(tmp_path / name, plan) as writer:
            for unit in plan.units():
                writer.start_unit(unit)
                writer.put("x", slice(0, len(unit)), block[unit.start : unit.stop], noise=0)
                writer.finish_unit(unit)
    data = compare(open_store(tmp_path / "a"), open_store(tmp_path / "b"))["x"]
    assert data.channel.values.tolist() == [3, 7]
    assert data.match.values[0].tolist() == [5, 9]


class TestErrors:
    def test_words(self, pair, tmp_path):
        first, second, a, _ = pair
        other = write_store(tmp_path / "o", {"else": a["maps"]}, noise=(0.0, 0.5))
        with pytest.raises(LayerError, match=r"has no layer maps, tokens, flat: .*else.* --map"):
            compare(first, other)
        with pytest.raises(LayerError):
            compare(first, second, mapping={"maps": "nothing"})
        with pytest.raises(FmxError, match=r"no noise level 0\.3"):
            compare(first, second, noise=[0.3])
        levels = write_store(tmp_path / "l", a, noise=(0.1, 0.2))
        with pytest.raises(FmxError, match="no noise level in common"):
            compare(first, levels)
        short = write_store(tmp_path / "t", {"maps": a["maps"][:, :, :1]}, noise=(0.0, 0.5))
        with pytest.raises(FmxError, match=r"2 timesteps .* 1 in the other"):
            compare(first, short)
        fewer = write_store(tmp_path / "f", {"maps": a["maps"][:5]}, noise=(0.0, 0.5))
        with pytest.raises(StoreError, match="different samples"):
            compare(first, fewer)

    def test_partial(self, pair, tmp_path):
        first, _, a, b = pair
        part = write_store(tmp_path / "p", b, noise=(0.0, 0.5), units=(1,))
        with pytest.raises(FmxError, match="--allow-partial"):
            compare(first, part)
        data = compare(first, part, allow_partial=True)["flat"]
        gap = np.abs(a["flat"][4:8, 0] - b["flat"][4:8, 0])
        np.testing.assert_allclose(data.mean_abs.values[0], gap.mean(axis=(0, 1)), rtol=1e-9)


def test_no_layer_is_in_memory_as_a_whole(tmp_path, monkeypatch):
    import tracemalloc

    values = {"x": np.random.default_rng(0).normal(size=(128, 1, 1, 32, 24, 24)).astype("f4")}
    stores = [write_store(tmp_path / n, values, chunk_bytes=2**14, unit=16) for n in "ab"]
    monkeypatch.setattr("fmx.analyze.pair_task.RUN_BYTES", 2**16)
    monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 2**16)
    compare(*stores)
    tracemalloc.start()
    compare(*stores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values["x"].nbytes / 2
