"""Every question to a store, asked in the same way: for tests of what holds for all of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from fmx.analyze import (
    aggregate,
    class_profile,
    class_sums,
    compare,
    decompose,
    export_activations,
    health,
    hist,
    information,
    rank,
    rdm,
    robustness,
    similarity,
    stats,
    temporal,
    top_samples,
)

# Verbs that read a layer chunk by chunk into small states.
STREAMED = {
    "stats": lambda store, **more: stats(store, by="channel", **more),
    "hist": lambda store, **more: hist(store, by="channel", **more),
    "aggregate": lambda store, **more: computed(store, aggregate(store, over=("channel", "space"), **more)),
    "rank": lambda store, **more: rank(store, per="class", **more),
    "class_profile": class_profile,
    "class_sums": lambda store, **more: class_sums(store, n_each_class=2, **more),
    "top_samples": lambda store: top_samples(store, k=3),
    "robustness": robustness,
    "temporal": lambda store, **more: temporal(store, per="channel", **more),
    "health": health,
}
# Verbs that read tables of samples × features, and keep matrices.
TABLES = {
    "exact": lambda store, **more: stats(store, by="noise", quantiles=(0.1, 0.5), exact=True, **more),
    "compare": lambda store, **more: compare(store, store, **more),
    "similarity": lambda store, **more: together(similarity(store, **more)),
    "rbf": lambda store, **more: together(similarity(store, method="cka-rbf", estimator="biased", **more)),
    "minibatch": lambda store, **more: together(similarity(store, estimator="minibatch", batch=4, **more)),
    "nystrom": lambda store, **more: together(similarity(store, estimator="nystrom", landmarks=6, **more)),
    "svcca": lambda store, **more: together(similarity(store, method="svcca", **more)),
    "pwcca": lambda store, **more: together(similarity(store, method="pwcca", **more)),
    "rsa": lambda store, **more: together(similarity(store, method="rsa", **more)),
    "rdm": rdm,
    "pca": lambda store: decompose(store, components=2),
    "nmf": lambda store: decompose(store, method="nmf", components=2, clip=True),
    "tsne": lambda store: decompose(store, method="tsne"),
    "information": lambda store, **more: information(store, bins=4, **more),
}
# Those that let values that are not finite be kept.
KEEPING = [
    "stats", "hist", "aggregate", "rank", "class_profile", "class_sums", "robustness", "temporal", "exact", "compare",
    "similarity", "rbf", "minibatch", "nystrom", "svcca", "pwcca", "rsa", "information",
]  # fmt: skip


def computed(store, found):
    """Compute lazy results."""
    return store.compute(found)[0]


def together(found):
    """Give similarities as other results are given."""
    return {"": found}


def exported(store):
    """Write activations to files, and say what is in them."""
    with tempfile.TemporaryDirectory() as folder:
        files = export_activations(store, folder, format="npy")
        return {Path(file).stem: _summed(file) for file in files}


def _summed(file):
    rows = []
    for i in range(len(np.load(file, mmap_mode="r"))):
        row = np.load(file, mmap_mode="r")[i]  # opened anew, so that no more of it stays in memory
        rows.append((np.isfinite(row).sum(), row[np.isfinite(row)].sum(dtype=np.float64)))
    return xr.Dataset({"finite": ("sample", [n for n, _ in rows]), "sum": ("sample", [s for _, s in rows])})


def check_same(found, wanted, rtol=1e-9):
    """Compare two results variable by variable."""
    for name in wanted.data_vars:
        left, right = found[name].values, wanted[name].values
        if right.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-12, err_msg=str(name))
        else:
            np.testing.assert_array_equal(left, right, err_msg=str(name))


STREAMED["export"] = exported
VERBS = STREAMED | TABLES
