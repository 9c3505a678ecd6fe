"""Top samples and their boxes, class sums, histograms and aggregates against loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from analysis_stores import LABELS, adversarial_values, dims_of, random_values, same, write_store
from torch import nn

import fmx
from fmx.analyze import aggregate, class_sums, hist, rank, receptive_field, top_samples
from fmx.analyze.receptive import ReceptiveField, proportional_field
from fmx.errors import FmxError, StoreError

NAMES = sorted(set(LABELS))
KINDS = {
    "random": lambda: random_values(steps=2, noise=2),
    "adversarial": lambda: adversarial_values(noise=2),
    "half": lambda: adversarial_values(noise=2, dtype=np.float16),
}


@pytest.fixture(params=KINDS)
def made(request, tmp_path, monkeypatch):
    """A store, its values, small batches and small reads."""
    monkeypatch.setattr("fmx.analyze.batches.BATCH_BYTES", 1500)
    monkeypatch.setattr("fmx.analyze.chunk_plan.READ_BYTES", 400)
    monkeypatch.setattr("fmx.analyze.chunk_plan.TASK_BYTES", 900)
    values = KINDS[request.param]()
    return write_store(tmp_path / "s", {"maps": values}, noise=(0.0, 0.5)), values


def finite(values):
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


# -- top samples -----------------------------------------------------------------------------------


def slow_top(values, samples, k, weakest):
    """List (value, sample, place) of one channel (sample, timestep, y, x), by a full sort."""
    found = []
    for sample, part in zip(samples, values, strict=True):
        known = [(float(part[place]), place) for place in np.ndindex(part.shape) if np.isfinite(part[place])]
        if known:
            high = max(v for v, _ in known)
            found.append((high, sample, next(place for v, place in known if v == high)))
    return sorted(found, key=lambda f: (f[0] if weakest else -f[0], f[1]))[:k]


@pytest.mark.parametrize("weakest", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_top_samples_are_those_of_a_sort(made, weakest, per_class):
    store, values = made
    found = top_samples(store, k=4, per_class=per_class, weakest=weakest, noise=0.5)["maps"]
    for label, channel in itertools.product(NAMES if per_class else [None], range(values.shape[3])):
        own = [i for i, name in enumerate(LABELS) if label in {None, name}]
        wanted = slow_top(values[own, 1, :, channel], own, 4, weakest)
        one = found.sel(label=label, channel=channel) if per_class else found.sel(channel=channel)
        for place in range(4):
            if place >= len(wanted):
                assert one["sample_number"].values[place] == -1
                assert one["sample_id"].values[place] == ""
                assert math.isnan(one["value"].values[place])
                assert one["y0"].values[place] == -1
                continue
            value, sample, (step, y, x) = wanted[place]
            assert one["value"].values[place] == value
            assert one["sample_number"].values[place] == sample
            assert one["sample_id"].values[place] == store.samples[sample]
            assert (one["y"].values[place], one["x"].values[place]) == (y, x)
            assert "at_timestep" not in one or one["at_timestep"].values[place] == step
    lost = np.moveaxis(values[:, 1], 2, 0).reshape(values.shape[3], -1)
    np.testing.assert_array_equal(found["nan"], np.isnan(lost).sum(axis=1))
    np.testing.assert_array_equal(found["inf"], np.isinf(lost).sum(axis=1))


def test_boxes_in_proportion_are_said_to_be_so(tmp_path):
    field = proportional_field((4, 3), (32, 24))
    assert not field.exact
    assert [tuple(int(edge) for edge in field.box(0, np.array(i))) for i in range(4)] == [
        (0, 8),
        (8, 16),
        (16, 24),
        (24, 32),
    ]
    wide = ReceptiveField((11.0, 11.0), (4.0, 4.0), (-3.0, -3.0), (20, 20), True)
    assert [a.tolist() for a in wide.box(1, np.array([0, 2, 4]))] == [[0, 5, 13], [8, 16, 20]]


NETWORKS = {
    "convolution": (nn.Conv2d(2, 3, 5, stride=2, padding=2), (5, 2, -2)),
    "pooling": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3, padding=1)),
        (8, 2, -2),
    ),
    "dilated": (nn.Sequential(nn.Conv2d(2, 4, 3, dilation=3), nn.Conv2d(4, 2, 3, stride=3)), (9, 3, 0)),
    "wider than the input": (
        nn.Sequential(*(nn.Conv2d(4 if i else 2, 4, 9, padding=4) for i in range(4))),
        (33, 1, -16),
    ),
    "everything": (nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1)), None),
}


class Differentiable(nn.Module):
    """What `torch_module()` gives, as far as it is needed."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward_with(self, inputs, names):
        return None, {names[0]: self.net(inputs)}


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_fields_are_those_of_the_arithmetic(name):
    torch.manual_seed(0)
    net, wanted = NETWORKS[name]
    field = receptive_field(Differentiable(net), "layer", (2, 24, 30))
    length = net(torch.zeros(1, 2, 24, 30)).shape[2:]
    for axis, pixels in enumerate((24, 30)):
        for i in range(length[axis]):
            start, end = (int(edge) for edge in field.box(axis, np.array(i)))
            size, stride, offset = wanted or (pixels, 1, 0)
            first = i * stride + offset
            assert (start, end) == (max(first, 0), min(first + size, pixels)), (axis, i)
    assert field.exact


# By hand: each kernel k at a stride of s so far adds (k - 1) s to the size, each padding p takes p s from the offset.
BY_HAND = {
    "squeezenet1_1": {"features.4": (23, 4, -8), "features.7": (63, 8, -24), "features.10": (143, 16, -56)},
    "alexnet": {"features.3": (51, 8, -18), "features.10": (163, 16, -66)},
    "resnet18": {"layer1": (43, 4, -21), "layer2": (99, 8, -49), "layer3": (211, 16, -105)},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_receptive_fields_of_known_networks_at_even_and_odd_sizes(name):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None).eval()
    size = (224, 227)
    module = fmx.load(net, input_shape=(3, *size)).torch_module()
    for layer, (side, stride, offset) in BY_HAND[name].items():
        field = receptive_field(module, layer, (3, *size))
        assert (field.size, field.stride, field.offset) == ((side,) * 2, (stride,) * 2, (offset,) * 2)


def test_a_layer_without_maps_has_no_receptive_field():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(FmxError, match="has no maps"):
        receptive_field(Differentiable(flat), "fc", (2, 2, 2))
    with pytest.raises(FmxError, match="No gradient gets"):
        receptive_field(Differentiable(nn.Threshold(1e9, 0.0)), "dead", (2, 4, 4))


# -- class sums ------------------------------------------------------------------------------------


def test_class_sums_are_sums(made):
    store, values = made
    top = rank(store, per="class", metric="mean", top=2)["maps"]
    for unique in (False, True):
        found = class_sums(store, n_each_class=2, unique=unique)["maps"]
        lists = {label: [c for c in top["channel"].values[i] if c >= 0] for i, label in enumerate(NAMES)}
        for i, label in enumerate(NAMES):
            others = {c for other in NAMES if other != label for c in lists[other]}
            own = [c for c in lists[label] if not (unique and c in others)]
            wanted = [sum(np.nansum(finite(values[s, 0, :, c])) for c in own) for s in range(len(LABELS))]
            same(found["sum"].values[:, i], wanted)
            assert found["channels"].values[i] == len(own)
            lost = [sum(int((~np.isfinite(values[s, 0, :, c])).sum()) for c in own) for s in range(len(LABELS))]
            np.testing.assert_array_equal(found["not_finite"].values[:, i], lost)
        assert found["own"].values.tolist() == LABELS
        some = found["channels"].values > 0
        best = np.where(some, found["sum"].values, -np.inf).argmax(axis=1)
        assert found["largest"].values.tolist() == [NAMES[i] if some.any() else "" for i in best]


def test_class_sums_of_given_channels_and_held_out_samples(tmp_path):
    values = random_values(samples=22)
    store = write_store(tmp_path / "s", {"maps": values}, labels=LABELS * 2)
    found = class_sums(store, channels={"b": [1, 3], "a": [0]})["maps"]
    assert found["label"].values.tolist() == ["b", "a"]
    same(found["sum"].values[:, 0], values[:, :, :, [1, 3]].sum(axis=(1, 2, 3, 4, 5), dtype=float))
    half = class_sums(store, held_out=0.5, seed=1)["maps"]
    from fmx.analyze.parts import split_samples

    held = split_samples(LABELS * 2, 0.5, 1)[1]
    assert half["sample"].values.tolist() == [s for s, kept in zip(store.samples, held, strict=True) if kept]
    with pytest.raises(FmxError, match="no channel 9 for a"):
        class_sums(store, channels={"a": [9]})


# -- histograms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [(), ("channel",), ("label", "noise")], ids=str)
@pytest.mark.parametrize(
    "how", [{}, {"bins": 5}, {"log": True}, {"value_range": (0.1, 3.0), "bins": 7}, {"edges": [-1, 0, 2]}], ids=str
)
def test_histograms_count_every_value_once(made, by, how):
    store, values = made
    found = hist(store, by=by, **how)["maps"]
    dims = dims_of(values, "maps")
    for index in np.ndindex(found["count"].shape):
        part = values
        for dim, i in zip(by, index, strict=True):
            chosen = [j for j, own in enumerate(LABELS) if own == NAMES[i]] if dim == "label" else [i]
            part = part.take(chosen, axis=dims.index("sample" if dim == "label" else dim))
        flat = part.astype(np.float64).ravel()
        known = flat[np.isfinite(flat)]
        one = found.isel(dict(zip(by, index, strict=True)))
        assert one["count"] == len(known)
        assert one["nan"] == np.isnan(flat).sum()
        assert one["inf"] == np.isinf(flat).sum()
        if not len(known):
            assert np.isnan(one["cdf"].values).all()
            assert one["counts"].values.sum() == 0
            continue
        edges = one["edges"].values
        if not how.get("log"):
            below = np.array([(known < edge).sum() for edge in edges])
            if "under" in one:
                below[-1] = (known <= edges[-1]).sum()
                assert one["under"] == (known < edges[0]).sum()
                assert one["over"] == (known > edges[-1]).sum()
            same(one["cdf"], below / len(known))
            np.testing.assert_array_equal(one["counts"], np.diff(below))
        else:
            zero = np.flatnonzero(edges == 0)
            below = [
                (known <= e).sum() if e < 0 or (e == 0 and i == zero[-1]) else (known < e).sum()
                for i, e in enumerate(edges)
            ]
            same(one["cdf"], np.array(below) / len(known))
        assert all(found[name].attrs["definition"] for name in found.data_vars)


@pytest.mark.parametrize(
    "how", [{"bins": 0}, {"value_range": (2.0, 1.0)}, {"log": True, "value_range": (-1.0, 1.0)}, {"edges": [1.0]}]
)
def test_wrong_bins(tmp_path, how):
    store = write_store(tmp_path / "s", {"maps": random_values()})
    with pytest.raises(FmxError, match="correct --bins or --range"):
        hist(store, **how)


# -- aggregates ------------------------------------------------------------------------------------

SLOW = {
    "sum": np.nansum,
    "mean": np.nanmean,
    "max": np.nanmax,
    "min": np.nanmin,
    "norm": lambda v, axis: np.sqrt(np.nansum(v * v, axis=axis)),
    "std": np.nanstd,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize(
    "over", ["channel", "depth,space", "space", "noise", "class", "timestep,sample", "class,space"]
)
def test_aggregates_are_those_of_numpy(made, how, over):
    store, values = made
    names = over.split(",")
    found = aggregate(store, over=names, how=how)["maps"]
    dims = dims_of(values, "maps")
    gone = {"depth": ["channel"], "space": ["y", "x"], "class": ["sample"]}
    axes = tuple(dims.index(d) for name in names for d in gone.get(name, [name]))
    wanted = finite(values)
    if "class" in names:
        rows = [np.array([own == name for own in LABELS]) for name in NAMES]
        expected = np.stack([SLOW[how](wanted[chosen], axis=axes) for chosen in rows])
        lost = np.stack([(~np.isfinite(values[chosen])).sum(axis=axes) for chosen in rows])
    else:
        expected, lost = SLOW[how](wanted, axis=axes), (~np.isfinite(values)).sum(axis=axes)
    assert found[how].chunks is not None
    same(found[how].compute(), expected)
    np.testing.assert_array_equal(found["not_finite"].compute(), lost)
    kept = aggregate(store, over=names, how=how, nan="keep")["maps"][how].compute()
    same(kept, np.where(lost > 0, np.nan, expected))


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    store = write_store(tmp_path / "s", {"maps": random_values()})
    for chunk in (tmp_path / "s/layers/maps/activation/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"")
    lazy = aggregate(store, over="channel")["maps"]
    assert lazy.sizes == {"sample": 11, "noise": 1, "timestep": 1, "y": 4, "x": 3}
    with pytest.raises(StoreError, match="is damaged"):
        store.compute(lazy)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"over": "chanel"}, "no axis chanel: did you mean channel"),
        ({"how": "average"}, "can't be put together by average"),
        ({"over": ()}, "No axis"),
        ({"nan": "drop"}, "skip"),
    ],
)
def test_mistakes(tmp_path, words, said):
    store = write_store(tmp_path / "s", {"maps": random_values()})
    with pytest.raises(FmxError, match=said):
        aggregate(store, **words)
