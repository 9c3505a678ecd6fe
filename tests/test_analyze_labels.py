"""Results apart by any labels of samples, such as the epoch and step of a recorded training, against loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from analysis_stores import LABELS, random_values, same, write_store

from fmx.analyze import aggregate, hist, layer_stats, stats
from fmx.errors import FmxError

EPOCHS = [0, 0, 0, 2, 2, 2, 2, 10, 10, 10, 10]
STEPS = [1, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("fmx.analyze.chunk_plan.READ_BYTES", 400)
    monkeypatch.setattr("fmx.analyze.chunk_plan.TASK_BYTES", 900)


@pytest.fixture
def values():
    return random_values(noise=2)


@pytest.fixture
def recorded(tmp_path, values):
    return write_store(tmp_path / "s", {"maps": values}, noise=(0.0, 0.5), more_labels={"epoch": EPOCHS, "step": STEPS})


def rows_with(**wanted):
    labels = {"epoch": EPOCHS, "step": STEPS, "label": LABELS}
    return [i for i in range(len(EPOCHS)) if all(labels[name][i] == value for name, value in wanted.items())]


@pytest.mark.parametrize("by", [("epoch",), ("step", "noise"), ("channel", "epoch"), ("epoch", "label", "channel")])
@pytest.mark.parametrize("exact", [False, True])
def test_statistics_by_labels_are_those_of_loops(recorded, values, by, exact):
    found = stats(recorded, by=by, quantiles=(0.5,), exact=exact)["maps"]
    assert set(found["mean"].dims) == set(by)
    for index in itertools.product(*(range(found.sizes[dim]) for dim in by)):
        one = found.isel(dict(zip(by, index, strict=True)))
        chosen = {name: one[name].item() for name in by}
        own = values[rows_with(**{k: v for k, v in chosen.items() if k not in {"noise", "channel"}})]
        own = own[:, [0.0, 0.5].index(chosen["noise"])] if "noise" in chosen else own
        own = own[..., chosen["channel"], :, :] if "channel" in chosen else own
        assert one["count"].item() == own.size
        same(one["mean"], own.mean(dtype=float) if own.size else np.nan)
        if exact:
            same(one["median"], np.median(own) if own.size else np.nan)


def test_labels_keep_their_order_and_type(recorded):
    found = stats(recorded, by="epoch")["maps"]
    assert found["epoch"].values.tolist() == [0, 2, 10]
    assert found["epoch"].dtype.kind == "i"


def test_one_layer_by_labels(recorded, values):
    found = layer_stats(recorded.layer("maps"), by=("label", "epoch"))
    assert found["mean"].dims == ("label", "epoch")
    same(found["mean"].sel(label="dog", epoch=2), values[rows_with(label="dog", epoch=2)].mean(dtype=float))
    same(found["count"].sel(label="eel", epoch=10), values[rows_with(label="eel", epoch=10)].size)


def test_histograms_by_step(recorded, values):
    found = hist(recorded, by="step", bins=4, value_range=(0, 2))["maps"]
    for i, step in enumerate(sorted(set(STEPS))):
        own = values[rows_with(step=step)]
        assert found["counts"].values[i].tolist() == np.histogram(own, 4, (0, 2))[0].tolist()


def test_samples_of_an_epoch_put_together(recorded, values):
    found = aggregate(recorded, over=("epoch", "space"), how="max")["maps"].compute()
    assert found["max"].dims == ("epoch", "noise", "timestep", "channel")
    for i, epoch in enumerate((0, 2, 10)):
        same(found["max"].values[i, :, 0], values[rows_with(epoch=epoch)].max(axis=(0, 2, 4, 5)))


def test_what_can_not_be_kept_apart(recorded):
    with pytest.raises(FmxError, match="one epoch, so that sample and epoch can't both be kept apart"):
        stats(recorded, by=("sample", "epoch"))
    with pytest.raises(FmxError, match="maps has no axis epok: did you mean epoch"):
        stats(recorded, by="epok")
    with pytest.raises(FmxError, match="by one label at a time, not by epoch and label"):
        aggregate(recorded, over=("epoch", "class"))
    with pytest.raises(FmxError, match="maps has no axis epok: did you mean epoch"):
        aggregate(recorded, over="epok")
