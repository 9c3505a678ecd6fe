"""Extraction on a cluster of real worker processes: the same store as one process makes, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loopback import loopback_cluster
from networks import tiny_resnet
from test_resume import LAYERS, SHAPE, UNIT_BYTES, content

import fmx
from fmx.errors import DataError

pytestmark = [
    # What Dask and its workers leave behind when one is killed is theirs.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and data in files, which is what other processes can open."""
    place = tmp_path_factory.mktemp("kit")
    torch.save(tiny_resnet().state_dict(), place / "weights.pth")
    np.save(place / "data.npy", np.random.default_rng(0).random((70, *SHAPE), dtype=np.float32))
    return place


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask

    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        loopback_cluster(memory_limit=0) as made,
    ):
        from distributed import Client

        with Client(made) as client:
            client.run(_small_units)
        yield made


def _small_units() -> None:
    import fmx.store.schema as schema

    schema.UNIT_BYTES = UNIT_BYTES


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", UNIT_BYTES)


def extract(kit: Path, to: Path, **more: Any) -> fmx.store.Store:
    how: dict[str, Any] = {"layers": LAYERS, "noise": [0, 0.3], "seed": 5, "batch_size": 4, "engine": "eager"}
    how |= {"weights": kit / "weights.pth", "input_shape": SHAPE}
    return fmx.extract("networks:tiny_resnet", kit / "data.npy", to=to, **how | more)


def test_same_store_as_one_process_makes(kit: Path, cluster: Any, tmp_path: Path) -> None:
    extract(kit, tmp_path / "one.zarr")
    statuses: list[Any] = []
    store = extract(kit, tmp_path / "many.zarr", scheduler=cluster.scheduler_address, progress=statuses.append)
    assert store.attributes["completeness"] == "complete"
    assert statuses[-1].done == 70
    assert content(tmp_path / "many.zarr") == content(tmp_path / "one.zarr")


def test_stopped_cluster_goes_on(kit: Path, cluster: Any, tmp_path: Path) -> None:
    extract(kit, tmp_path / "one.zarr")
    part = extract(kit, tmp_path / "many.zarr", scheduler=cluster.scheduler_address, stop=lambda: True)
    assert 0 < part.complete.sum() < 70
    extract(kit, tmp_path / "many.zarr", scheduler=cluster.scheduler_address)
    assert content(tmp_path / "many.zarr") == content(tmp_path / "one.zarr")


def test_summaries_on_a_cluster(kit: Path, cluster: Any, tmp_path: Path) -> None:
    extract(kit, tmp_path / "one.zarr", reduce=["stats"])
    extract(kit, tmp_path / "many.zarr", reduce=["stats"], scheduler=cluster.scheduler_address)
    assert content(tmp_path / "many.zarr") == content(tmp_path / "one.zarr")


def test_killed_worker_loses_nothing(kit: Path, cluster: Any, tmp_path: Path) -> None:
    extract(kit, tmp_path / "one.zarr")
    victims = [worker.pid for worker in cluster.workers.values()][:1]

    def kill() -> None:
        place = tmp_path / "many.zarr" / "complete" / "c"
        while not (place.exists() and any(place.iterdir())):
            time.sleep(0.01)
        os.kill(victims.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    store = extract(kit, tmp_path / "many.zarr", scheduler=cluster.scheduler_address)
    killer.join(60)
    assert not victims
    assert store.attributes["completeness"] == "complete"
    assert content(tmp_path / "many.zarr") == content(tmp_path / "one.zarr")


def test_workers_of_ones_own(kit: Path, tmp_path: Path) -> None:
    extract(kit, tmp_path / "one.zarr")
    extract(kit, tmp_path / "two.zarr", workers=2)
    # These workers have units of the usual size.
    one, two = (fmx.open_store(tmp_path / name) for name in ("one.zarr", "two.zarr"))
    for name in LAYERS.split(","):
        np.testing.assert_array_equal(one.activation(name).values, two.activation(name).values)


def test_workers_in_another_folder_find_relative_files(
    kit: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = extract(Path(os.path.relpath(kit)), Path("here.zarr"), scheduler=cluster.scheduler_address)
    assert store.attributes["completeness"] == "complete"
    from distributed import Client

    with Client(cluster):
        rows = fmx.analyze.to_rows(fmx.analyze.stats(fmx.open_store("here.zarr")))
    assert all(np.isfinite(row["mean"]) for row in rows)


def test_mistakes(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        extract(kit, tmp_path / "a.zarr", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(DataError, match="can't be sent to other processes"):
        rows = (row for row in np.zeros((3, *SHAPE), np.float32))
        fmx.extract("networks:tiny_resnet", rows, to=tmp_path / "a.zarr", workers=2)
    assert not (tmp_path / "a.zarr").exists()
