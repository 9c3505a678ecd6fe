"""The same values in other chunks, or in a part of a store, and values that are hidden in one number of many."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_stores import LABELS, random_values, write_store
from analysis_verbs import VERBS, check_same

from fmx.analyze import compare, decompose, health, information, similarity, top_samples

NOISE = (0.0, 0.5)
MANY = (LABELS * 3)[:24]
# Ids of samples are those of their places in a store.
PLACES = {"sample_id", "sample_number"}
# What the verbs of the list take no further words for.
PARTLY = {
    "top_samples": lambda store: top_samples(store, k=3, allow_partial=True),
    "health": lambda store: health(store, allow_partial=True),
    "pca": lambda store: decompose(store, components=2, allow_partial=True),
}


def values_with_holes():
    """Make layers of which one lacks values in two samples."""
    values = random_values(samples=24, noise=2, steps=3, channels=7, size=(5, 3))
    values[2, 1, 0, 3, 1, 1], values[6, 0, 2, 5, 4, 2] = np.nan, -np.inf
    return {"holes": values, "sound": random_values(samples=24, noise=2, steps=3, channels=5, size=(4, 4), seed=9)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same values in ragged chunks, in one, in a half-written store, and what is written of that by itself."""
    folder, values = tmp_path_factory.mktemp("layouts"), values_with_holes()
    more = {"noise": NOISE}
    part = write_store(folder / "part", values, labels=MANY, chunk_bytes=777, units=[0, 1, 3, 5], **more)
    there = np.flatnonzero(part.complete)
    return {
        "ragged": write_store(folder / "ragged", values, labels=MANY, chunk_bytes=777, **more),
        "one": write_store(folder / "one", values, labels=MANY, chunk_bytes=10**7, **more),
        "part": part,
        "of the part": write_store(
            folder / "of", {k: v[there] for k, v in values.items()}, labels=[MANY[i] for i in there], **more
        ),
    }


# What is drawn depends on chunks, and the weights of canonical vectors whose correlations are all 1 on rounding.
DRAWN = {"minibatch", "tsne", "nmf", "pwcca"}


@pytest.mark.parametrize("verb", sorted(set(VERBS) - DRAWN))
def test_chunks_change_nothing(verb, stores):
    found, wanted = VERBS[verb](stores["ragged"]), VERBS[verb](stores["one"])
    for layer, dataset in wanted.items():
        check_same(found[layer], dataset, rtol=1e-5)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - DRAWN - {"export"}))
def test_what_is_complete_is_as_a_store_of_it_alone(verb, stores):
    partly = PARTLY.get(verb, lambda store: VERBS[verb](store, allow_partial=True))
    found, wanted = partly(stores["part"]), VERBS[verb](stores["of the part"])
    for layer, dataset in wanted.items():
        check_same(found[layer], dataset.drop_vars(PLACES & set(dataset.data_vars)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_one_number_of_a_map_hides_is_counted_value_by_value(tmp_path, dtype):
    values = random_values(channels=4, dtype=dtype)
    values[2, 0, 0, 1, 0, 0] = -np.inf  # below the largest
    values[3, 0, 0, 2, :2, 0] = np.nan
    values[4, 0, 0, 3, 1, :2] = np.inf, -np.inf  # whose sum is not a number
    store = write_store(tmp_path / "s", {"odd": values, "sound": random_values(channels=4, seed=8, dtype=dtype)})
    good = [i for i in range(11) if i not in {2, 3, 4}]
    alone = write_store(tmp_path / "a", {"odd": values[good]}, labels=[LABELS[i] for i in good])
    for space in ("mean", "max"):
        alike = similarity(store, space=space)
        assert alike.attrs["samples"] == 8
        assert (alike["nan"].values.ravel().tolist(), alike["inf"].values.ravel().tolist()) == ([2, 0], [3, 0])
        gaps = compare(store, store, layers="odd", space=space)["odd"]
        assert (gaps["nan"].item(), gaps["inf"].item(), gaps["left_out"].item()) == (2, 3, 3)
        assert gaps["spoiled"].values.tolist() == [[False, True, True, True]]
        known = information(store, layers="odd", bins=2, summary=space)["odd"]
        assert (known["nan"].item(), known["inf"].item(), known["left_out"].item()) == (2, 3, 3)
        wanted = information(alone, bins=2, summary=space)["odd"]
        np.testing.assert_allclose(known["information"], wanted["information"])
