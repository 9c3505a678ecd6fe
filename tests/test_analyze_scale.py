"""Every analysis on a cluster whose workers can't hold the data, and its peak memory here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from analysis_stores import random_values, write_store
from analysis_verbs import STREAMED, TABLES, check_same
from dask.distributed import Client
from loopback import loopback_cluster

VERBS = STREAMED | {name: TABLES[name] for name in ("pca", "information")}
# Similarities hold columns of a layer, which test_similarity_memory.py looks at.
SHARED = VERBS | {name: TABLES[name] for name in ("compare", "similarity")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    values = random_values(noise=2, steps=3)
    return write_store(tmp_path_factory.mktemp("small") / "s", {"maps": values}, noise=(0.0, 0.5))


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_on_threads_and_one_after_the_other(verb, small):
    with dask.config.set(scheduler="sync"):
        wanted = VERBS[verb](small)
    with dask.config.set(scheduler="threads", num_workers=4):
        for layer, found in VERBS[verb](small).items():
            check_same(found, wanted[layer])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of one layer of 604 MB."""
    rng = np.random.default_rng(0)
    part = np.maximum(rng.normal(size=(36, 2, 2, 16, 64, 128)).astype(np.float32), 0)
    values = np.broadcast_to(part[None], (8, *part.shape)).reshape(288, *part.shape[1:])
    path = tmp_path_factory.mktemp("large") / "s"
    return write_store(path, {"maps": values}, labels=["a", "b", "c"] * 96, noise=(0.0, 0.5), chunk_bytes=2**20)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_on_a_cluster_whose_workers_hold_less_than_the_data(large):
    # An idle worker with what fmx imports takes about 250 MB, and a column of the layer 75 MB.
    limit = 500 * 2**20
    assert large.activation("maps").nbytes > 1.1 * limit
    # Compiled once here, and kept: compiling takes more memory than computing does.
    wanted = {verb: SHARED[verb](large) for verb in SHARED}
    with loopback_cluster(memory_limit=limit) as cluster, Client(cluster) as client:
        before = client.run(lambda: __import__("os").getpid())
        found = {verb: SHARED[verb](large) for verb in SHARED}
        # No worker ran out of memory and was replaced.
        assert client.run(lambda: __import__("os").getpid()) == before
    assert set(found) == set(wanted)
    for verb, results in found.items():
        for layer, dataset in results.items():
            check_same(dataset, wanted[verb][layer])


PEAK = """
import json, re, sys
from pathlib import Path
import fmx
from test_analyze_scale import VERBS

def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3

store, small = fmx.open_store(sys.argv[1]), fmx.open_store(sys.argv[2])
found = {}
for name, verb in VERBS.items():
    verb(small)  # compiled, and everything imported
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    verb(store)
    found[name] = memory("VmHWM") - before
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's count of the peak memory")
def test_no_analysis_holds_a_layer(small, large):
    """See how many megabytes each analysis adds to the peak."""
    size = large.activation("maps").nbytes / 1e6
    assert size > 600
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(large.path), str(small.path)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    added = json.loads(done.stdout)
    assert set(added) == set(VERBS)
    # Two threads on two cores, each with 8 MB of a layer as it is stored and unpacked: much the same on any store.
    assert 0 < max(added.values()) < size / 3, added
