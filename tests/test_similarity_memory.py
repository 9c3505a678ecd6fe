"""Similarity reads each chunk once, keeps to its memory, and runs on a cluster."""

from __future__ import annotations

import tracemalloc

import dask
import numpy as np
import pytest
from loopback import loopback_cluster
from small_stores import write_store

from fmx.analyze.compare import compare
from fmx.analyze.decomposition import decompose
from fmx.analyze.information import information
from fmx.analyze.likeness import similarity
from fmx.analyze.sample_table import SampleTable
from fmx.analyze.threads import task_bytes
from fmx.store import open_store

SHAPE = (64, 1, 1, 32, 24, 24)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Four layers of 4.7 MB each, in chunks of 64 kB, written from one sample's worth of values."""
    rng = np.random.default_rng(0)
    values = {f"l{i}": rng.normal(size=SHAPE).astype("float32") for i in range(4)}
    folder = tmp_path_factory.mktemp("large")
    return write_store(folder / "s", values, chunk_bytes=2**16, unit=16)


@pytest.fixture
def reads(monkeypatch):
    """Bytes that were read of each layer."""
    counted: dict[str, int] = {}
    parts = SampleTable._parts

    def count(self, array, column, positions):
        for where, part in parts(self, array, column, positions):
            counted[self.layer] = counted.get(self.layer, 0) + part.nbytes
            yield where, part

    monkeypatch.setattr(SampleTable, "_parts", count)
    return counted


@pytest.mark.parametrize(
    "how",
    [{}, {"method": "cka-rbf"}, {"method": "rsa"}, {"method": "svcca"}, {"estimator": "minibatch", "batch": 16}],
    ids=str,
)
def test_every_value_is_read_once_for_all_pairs(large, reads, how):
    similarity(large, space="full", **how)
    size = np.prod(SHAPE) * 4
    assert reads == dict.fromkeys(("l0", "l1", "l2", "l3"), size)


@pytest.mark.parametrize("how", [{}, {"estimator": "minibatch", "batch": 16}], ids=str)
def test_no_layer_is_in_memory_as_a_whole(large, monkeypatch, how):
    for module in ("gram", "minibatch"):
        monkeypatch.setattr(f"fmx.analyze.likeness.{module}.BLOCK_BYTES", 2**18)
    monkeypatch.setattr("fmx.analyze.sample_table.READ_BYTES", 2**16)
    similarity(large, layers="l0", **how)  # what is imported and kept for good
    tracemalloc.start()
    similarity(large, **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < np.prod(SHAPE) * 4 / 2


@pytest.mark.parametrize("how", [{}, {"estimator": "minibatch", "batch": 16}], ids=str)
def test_tasks_keep_to_what_a_worker_may_take(large, how, monkeypatch):
    distributed = pytest.importorskip("distributed")
    held = []
    read = SampleTable.read

    def note(self, array, column, rows):
        held.append(len(rows) * column.width * 4)
        return read(self, array, column, rows)

    monkeypatch.setattr(SampleTable, "read", note)
    assert task_bytes(2**28) == 2**28
    place = {"dashboard_address": None, "processes": False}
    # The worker is this process, which takes more than that.
    watched = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")}
    with (
        dask.config.set(watched),
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, memory_limit=2**21, **place) as made,
        distributed.Client(made),
    ):
        room = task_bytes(2**28)
        there = similarity(large, **how)
    assert room == 2**21 // 8
    assert max(held) <= room
    monkeypatch.setattr(SampleTable, "read", read)
    if not how:
        np.testing.assert_allclose(there.similarity.values, similarity(large).similarity.values, atol=1e-6)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        loopback_cluster(memory_limit=0) as made,
        distributed.Client(made) as client,
    ):
        yield client


@pytest.mark.parametrize("how", [{}, {"estimator": "minibatch", "batch": 16}, {"method": "pwcca"}], ids=str)
def test_on_a_cluster(large, how, cluster):
    with cluster.as_current():
        there = similarity(open_store(large.path), **how)
    with dask.config.set(scheduler="threads"):
        here = similarity(large, **how)
    np.testing.assert_allclose(there.similarity.values, here.similarity.values, atol=1e-6)


@pytest.mark.parametrize("what", ["compare", "pca", "nmf", "information"])
def test_the_other_comparisons_on_a_cluster(large, cluster, what):
    def run(store):
        if what == "compare":
            return compare(store, store)["l1"].best_correlation.values
        if what == "information":
            return information(store, about=np.arange(64) % 2, layers="l1")["l1"].information.values
        return decompose(store, method=what, layers="l1", components=2, clip=True)["l1"].coordinates.values

    with cluster.as_current():
        there = run(open_store(large.path))
    with dask.config.set(scheduler="threads"):
        here = run(large)
    np.testing.assert_allclose(there, here, atol=1e-6)
