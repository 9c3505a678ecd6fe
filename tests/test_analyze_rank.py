"""Rankings of channels against loops over samples, channels and classes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from analysis_stores import LABELS, adversarial_values, random_values, same, write_store
from hypothesis import given, settings
from hypothesis import strategies as st

from fmx.analyze import class_profile, rank, to_rows
from fmx.analyze.precision import Highest, top_channels
from fmx.errors import FmxError

NAMES = sorted(set(LABELS))
METRICS = ["max", "mean", "sum", "variance", "sparsity", "selectivity", "precision"]
KINDS = {
    "random": lambda: random_values(steps=2),
    "adversarial": adversarial_values,
    "half": lambda: adversarial_values(dtype=np.float16),
    "signed": lambda: random_values() - np.float32(0.4),
}


def score_of(part, metric, keep):
    """Score one sample's channel."""
    values = part.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not len(finite) or (keep and len(finite) < len(values)):
        return math.nan
    positive = np.maximum(finite, 0)
    found = {
        "max": finite.max(),
        "mean": finite.mean(),
        "sum": finite.sum(),
        "variance": ((finite - finite.mean()) ** 2).mean(),
        "sparsity": (finite == 0).mean(),
        "selectivity": positive.mean(),
        "precision": positive.mean(),
    }
    return found[metric]


def slow_scores(values, metric, keep=False):
    """Score (sample, channel)."""
    shape = values.shape[0], values.shape[3]
    return np.array([[score_of(values[s, 0, :, c], metric, keep) for c in range(shape[1])] for s in range(shape[0])])


def slow_precision(scores, labels, name):
    """Average over the order of equal scores, by counting for each of them."""
    pairs = [(s, own == name) for s, own in zip(scores, labels, strict=True) if not math.isnan(s)]
    n = min(list(labels).count(name), len(pairs))
    if not n:
        return math.nan
    edge = sorted((s for s, _ in pairs), reverse=True)[n - 1]
    above = [own for s, own in pairs if s > edge]
    ties = [own for s, own in pairs if s == edge]
    return (sum(above) + sum(ties) / len(ties) * (n - len(above))) / n


def slow_profile(values, labels, metric, n_each_image, keep=False):
    scores = slow_scores(values, metric, keep)
    positive = slow_scores(values, "selectivity")
    positive[np.isnan(scores)] = math.nan
    names, channels = sorted(set(labels)), scores.shape[1]
    blank = lambda: np.full((len(names), channels), math.nan)  # noqa: E731
    out = {key: blank() for key in ("score", "class_mean", "others_mean", "selectivity", "precision")}
    out["votes"] = np.zeros((len(names), channels), int)
    for k, c in itertools.product(range(len(names)), range(channels)):
        own = [i for i, name in enumerate(labels) if name == names[k] and not math.isnan(scores[i, c])]
        if own:
            out["score"][k, c] = sum(scores[i, c] for i in own) / len(own)
            out["class_mean"][k, c] = sum(positive[i, c] for i in own) / len(own)
        out["precision"][k, c] = slow_precision(scores[:, c], labels, names[k])
    for k, c in itertools.product(range(len(names)), range(channels)):
        others = [m for j, m in enumerate(out["class_mean"][:, c]) if j != k and not math.isnan(m)]
        if others:
            mean, rest = out["class_mean"][k, c], sum(others) / len(others)
            out["others_mean"][k, c] = rest
            out["selectivity"][k, c] = (mean - rest) / (mean + rest) if mean + rest else 0
    if metric in {"selectivity", "precision"}:
        out["score"] = out[metric]
    for i, name in enumerate(labels):
        there = [c for c in range(channels) if not math.isnan(scores[i, c])]
        best = sorted(there, key=lambda c: (-scores[i, c], c))[:n_each_image]
        for c in best:
            if scores[i, c] > min(scores[i, d] for d in there):
                out["votes"][names.index(name), c] += 1
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_profile_is_that_of_loops(tmp_path, monkeypatch, kind, metric):
    # A few runs of samples for each task, and a tree to join them in.
    monkeypatch.setattr("fmx.analyze.chunk_plan.TASK_BYTES", 1500)
    monkeypatch.setattr("fmx.analyze.layer_work._FAN_IN", 2)
    values = KINDS[kind]()
    store = write_store(tmp_path / "s", {"maps": values})
    for nan in ("skip", "keep"):
        found = class_profile(store, metric=metric, n_each_image=2, n_each_class=2, nan=nan)["maps"]
        wanted = slow_profile(values, LABELS, metric, 2, nan == "keep")
        assert found["label"].values.tolist() == NAMES
        for name, expected in wanted.items():
            assert found[name].dims == ("label", "channel")
            assert found[name].attrs["definition"]
            same(found[name], expected, err_msg=f"{nan} {name}")
        for k in range(len(NAMES)):
            check_top(found.isel(label=k), wanted, k, metric)
        lost = np.moveaxis(values, 3, 0).reshape(values.shape[3], -1)
        np.testing.assert_array_equal(found["nan"], np.isnan(lost).sum(axis=1))
        np.testing.assert_array_equal(found["inf"], np.isinf(lost).sum(axis=1))
        tops = found["top"].values
        for k, c in itertools.product(range(len(NAMES)), range(values.shape[3])):
            assert found["unique"].values[k, c] == (tops[k, c] and not any(tops[j, c] for j in range(3) if j != k))


def check_top(found, wanted, k, metric):
    """Check that no channel that is left out comes before one that is listed."""
    score, votes = wanted["score"][k], wanted["votes"][k]
    key = (lambda c: score[c]) if metric in {"selectivity", "precision"} else (lambda c: (votes[c], score[c]))
    there = [c for c in range(len(score)) if not math.isnan(score[c])]
    top = [c for c in there if found["top"].values[c]]
    assert len(top) == min(2, len(there))
    for kept, left in itertools.product(top, set(there) - set(top)):
        a, b = np.atleast_1d(key(kept)).tolist(), np.atleast_1d(key(left)).tolist()
        assert a >= b or np.allclose(a, b, rtol=1e-6)


def test_lists_of_all_classes_and_samples(tmp_path):
    values = adversarial_values()
    store = write_store(tmp_path / "s", {"maps": values})
    wanted = slow_profile(values, LABELS, "max", 10)
    scores = slow_scores(values, "max")
    over = [np.nanmean(scores[:, c]) if c != 4 else -math.inf for c in range(6)]
    order = sorted(range(6), key=lambda c: (-over[c], c))
    found = rank(store, top=6)["maps"]
    assert found["channel"].values.tolist() == [*order[:5], -1]
    same(found["score"], [*[over[c] for c in order[:5]], math.nan])
    for place, c in enumerate(order[:5]):
        k = int(np.nanargmax(wanted["class_mean"][:, c]))
        assert found["label"].values[place] == NAMES[k]
        for name in ("class_mean", "others_mean", "selectivity", "precision"):
            same(found[name].values[place], wanted[name][k, c])
    assert found["not_finite"].values[-1] == values.shape[0] * 12
    classes = rank(store, per="class", top=3)["maps"]
    for k in range(3):
        order = sorted((c for c in range(6) if c != 4), key=lambda c: (-wanted["score"][k, c], c))
        assert classes["channel"].values[k].tolist() == order[:3]
        same(classes["votes"].values[k], wanted["votes"][k][order[:3]])
        same(classes["precision"].values[k], wanted["precision"][k][order[:3]])
    each = rank(store, per="sample", top=6)["maps"]
    for i in range(len(LABELS)):
        order = sorted((c for c in range(6) if c != 4), key=lambda c: (-scores[i, c], c))
        assert each["channel"].values[i].tolist() == [*order, -1]
        same(each["score"].values[i], [*scores[i, order], math.nan])
    assert each["not_finite"].values[:, -1].tolist() == [12] * len(LABELS)


def test_by_votes_and_unique_ones(tmp_path):
    values = random_values(seed=8)
    store = write_store(tmp_path / "s", {"maps": values})
    wanted = slow_profile(values, LABELS, "mean", 2)
    found = rank(store, per="class", metric="mean", top=3, n_each_image=2)["maps"]
    orders = []
    for k in range(3):
        orders.append(sorted(range(6), key=lambda c: (-wanted["votes"][k, c], -wanted["score"][k, c], c))[:3])
        assert found["channel"].values[k].tolist() == orders[k]
    alone = rank(store, per="class", metric="mean", top=3, n_each_image=2, unique=True)["maps"]
    for k in range(3):
        own = [c for c in orders[k] if not any(c in orders[j] for j in range(3) if j != k)]
        assert alone["channel"].values[k].tolist() == own + [-1] * (3 - len(own))


def test_held_out_samples_have_no_part_in_anything_else(tmp_path):
    values = random_values(samples=33, seed=2)
    labels = LABELS * 3
    store = write_store(tmp_path / "s", {"maps": values}, labels=labels)
    found = class_profile(store, metric="mean", held_out=0.4, seed=3)["maps"]
    from fmx.analyze.parts import split_samples

    used, held = split_samples(labels, 0.4, 3)
    assert (used ^ held).all()
    assert [sum(h for h, own in zip(held, labels, strict=True) if own == name) for name in NAMES] == [5, 5, 4]
    wanted = slow_profile(values[used], [x for x, u in zip(labels, used, strict=True) if u], "mean", 10)
    for name, expected in wanted.items():
        same(found[name], expected, err_msg=name)
    kept = slow_scores(values[held], "mean")
    own = [x for x, h in zip(labels, held, strict=True) if h]
    expected = [[slow_precision(kept[:, c], own, name) for c in range(6)] for name in NAMES]
    same(found["precision_held_out"], expected)


def test_one_noise_level_is_read(tmp_path):
    values = random_values(noise=3)
    store = write_store(tmp_path / "s", {"maps": values}, noise=(0.0, 0.1, 0.2))
    found = rank(store, metric="mean", noise=0.2, top=1)["maps"]
    scores = values[:, 2].mean(axis=(0, 1, 3, 4), dtype=float)
    assert found["channel"].values.tolist() == [scores.argmax()]
    same(found["score"], [scores.max()])
    assert found.attrs["noise"] == 0.2


def test_tokens_vectors_and_stores_without_labels(tmp_path):
    rng = np.random.default_rng(3)
    values = {"tokens": rng.random((11, 1, 1, 5, 4), np.float32), "flat": rng.random((11, 1, 1, 7), np.float32)}
    store = write_store(tmp_path / "s", values, labels=[""] * 11)
    found = rank(store, metric="mean", top=20)
    for name, array in values.items():
        means = array.mean(axis=tuple(range(array.ndim - 1)), dtype=float)
        assert found[name]["channel"].values.tolist() == np.argsort(-means).tolist()
        assert "precision" not in found[name]
    assert len(to_rows(rank(store, per="sample", top=2))) == 2 * 2 * 11


MISTAKES = [
    ({"metric": "maxx"}, "can't be ranked by maxx: did you mean max"),
    ({"per": "klass"}, "per all, class or sample"),
    ({"per": "sample", "metric": "precision"}, "can't be told for one sample"),
    ({"top": 0}, "At least one channel is listed"),
    ({"noise": 0.3}, "no noise level 0.3: there are 0"),
    ({"nan": "drop"}, "skip"),
    ({"held_out": 1.5}, "between 0 and 1"),
    ({"layers": "map"}, "did you mean maps"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda x: str(x)[:20])
def test_mistakes(tmp_path, words, said):
    store = write_store(tmp_path / "s", {"maps": random_values()})
    with pytest.raises(FmxError, match=said):
        rank(store, **words)


def test_stores_that_will_not_do(tmp_path):
    values = {"maps": random_values()}
    one = write_store(tmp_path / "one", values, labels=["cat"] * 11)
    assert "precision" not in rank(one)["maps"]
    with pytest.raises(FmxError, match=r"All samples of .* have the label cat: classes take two labels"):
        rank(one, per="class")
    none = write_store(tmp_path / "none", values, labels=[""] * 11)
    with pytest.raises(FmxError, match="have no labels"):
        rank(none, metric="selectivity")
    noisy = write_store(tmp_path / "noisy", {"maps": random_values(noise=2)}, noise=(0.1, 0.2))
    with pytest.raises(FmxError, match=r"no noise level 0: choose one with --noise, of 0.1, 0.2"):
        rank(noisy)
    part = write_store(tmp_path / "part", values, units=[0, 2])
    with pytest.raises(FmxError, match=r"not complete \(7 of 11 samples\).*--allow-partial"):
        rank(part)
    there = [0, 1, 2, 3, 8, 9, 10]
    found = class_profile(part, allow_partial=True)["maps"]
    wanted = slow_profile(values["maps"][there], [LABELS[i] for i in there], "max", 10)
    for name, expected in wanted.items():
        same(found[name], expected, err_msg=name)
    lone = write_store(tmp_path / "lone", values, labels=["cat"] * 10 + ["dog"])
    with pytest.raises(FmxError, match="label dog has one sample only"):
        rank(lone, held_out=0.5)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_precision_is_the_same_however_it_is_joined(data):
    samples = data.draw(st.integers(2, 14))
    scores = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=samples, max_size=samples))
    )
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=samples, max_size=samples)))
    sizes = np.bincount(labels, minlength=3)
    cuts = sorted(data.draw(st.sets(st.integers(1, samples - 1), max_size=6)))
    parts = [Highest.of(scores[a:b, None], labels[a:b], sizes) for a, b in itertools.pairwise([0, *cuts, samples])]
    while len(parts) > 1:
        some = [parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(min(len(parts), 3))]
        parts.append(Highest.joined(some, sizes))
    assert parts[0].scores.shape[1] <= sizes.max()
    same(parts[0].precision(sizes)[:, 0], [slow_precision(scores, labels.tolist(), k) for k in range(3)])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_top_channels_are_those_of_a_full_sort(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 8)))
    pool = st.sampled_from([0.0, -1.0, 1.0, 5.0, math.nan])
    scores = np.array(data.draw(st.lists(pool, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))).reshape(
        shape
    )
    k = data.draw(st.integers(1, 9))
    best, values = top_channels(scores, k)
    for row in range(shape[0]):
        key = lambda c: (math.inf if math.isnan(scores[row, c]) else -scores[row, c], c)  # noqa: B023, E731
        assert best[row].tolist() == sorted(range(shape[1]), key=key)[: min(k, shape[1])]
    same(values, np.take_along_axis(scores, best, axis=1))
