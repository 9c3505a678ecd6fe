"""Every analysis on a cluster of processes and on a store in an object store, and what its user sees meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from analysis_stores import random_values, write_store
from analysis_verbs import VERBS, check_same
from dask.distributed import Client
from loopback import loopback_cluster
from s3_server import environment, make_bucket, moto_server

from fmx.cli import reading
from fmx.store import open_store, saved_analyses

COMMANDS = {
    "stats": "--by channel",
    "hist": "--bins 8",
    "aggregate": "--over channel,space",
    "rank": "--per class",
    "top-samples": "--top 2",
    "class-sums": "--n-each-class 2",
    "robustness": "",
    "temporal": "",
    "health": "",
    "compare": "STORE",
    "similarity": "--noise all",
    "decompose": "--components 2",
    "information": "--bins 2",
}


def write(place):
    """Write a store of two layers, two noise levels and three timesteps."""
    values = {"maps": random_values(noise=2, steps=3), "more": random_values(noise=2, steps=3, seed=6)}
    return write_store(place, values, noise=(0.0, 0.5))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "acts.zarr")


@pytest.fixture(scope="module")
def cluster():
    with loopback_cluster() as made:
        yield made


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_processes_find_what_threads_find(verb, small, cluster):
    wanted = VERBS[verb](small)
    with Client(cluster) as client:
        found = VERBS[verb](open_store(small.path))
        done = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes))
    assert done  # something was computed there
    assert set(found) == set(wanted)
    for layer, dataset in wanted.items():
        check_same(found[layer], dataset)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_progress_is_shown_for_a_cluster_too(cluster, monkeypatch):
    told = []

    @contextmanager
    def progress(what: str) -> Iterator[object]:
        yield lambda done, total: told.append((what, done, total))

    monkeypatch.setattr("fmx.cli.output.progress", progress)
    import dask

    with dask.config.set({"scheduler-address": cluster.scheduler_address}), reading.reading():
        dask.compute(*(dask.delayed(time.sleep)(0.3, dask_key_name=f"sleep-{i}") for i in range(6)))
    assert told
    assert {what for what, _, _ in told} == {"reading"}
    assert max(done for _, done, _ in told) > min(done for _, done, _ in told)
    assert all(total == 6 for _, _, total in told)
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_a_scheduler_that_is_not_there_is_named(small, cli, monkeypatch):
    import dask

    monkeypatch.setattr("fmx.cli.watching._PATIENCE", 1)
    with dask.config.set({"scheduler-address": "tcp://127.0.0.1:9"}):
        ran = cli("stats", small.path)
    assert ran.code == 2
    assert ran.err.startswith("fmx: No Dask scheduler answers at tcp://127.0.0.1:9")


@pytest.fixture(scope="module")
def bucket(small, tmp_path_factory):
    """A store with the same values behind an address of an object store, and what has to be set for it."""
    with moto_server() as address:
        make_bucket(address, "acts")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(address).items():
                patch.setenv(name, value)
            write("s3://acts/acts.zarr")
            yield "s3://acts/acts.zarr"


@pytest.mark.parametrize("verb", VERBS)
def test_an_object_store_gives_what_a_folder_gives(verb, small, bucket):
    found, wanted = VERBS[verb](open_store(bucket)), VERBS[verb](small)
    assert set(found) == set(wanted)
    for layer, dataset in wanted.items():
        check_same(found[layer], dataset)


def test_every_command_saves_into_an_object_store(bucket, cli, tmp_path):
    for command, words in COMMANDS.items():
        ran = cli(command, bucket, *(bucket if word == "STORE" else word for word in words.split()), "--save", command)
        assert ran.code == 0, ran.err
        assert f"saved as {command}: fmx export {bucket} --analysis {command}" in ran.err
    assert saved_analyses(bucket) == sorted(COMMANDS)
    files = cli("export", bucket, "-o", tmp_path, "--format", "h5")
    assert files.code == 0, files.err
    assert {line.split("/")[-2] for line in files.out.split()} == set(COMMANDS)
    shown = json.loads(cli("stats", bucket, "--json").out)
    assert {row["layer"] for row in shown} == {"maps", "more"}
