"""Extractions that are interrupted, killed, refused and continued: the result is the same, bit by bit."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import tiny_resnet
from PIL import Image

import fmx
from fmx.errors import DataError, FmxError, StoreError
from fmx.extraction import Request, run, settle
from fmx.store import StoreLock, place_of
from fmx.store.places import FolderPlace

SHAPE = (3, 32, 32)
LAYERS = "stem,layer1.0.add,fc"
UNIT_BYTES = 4 * 4 * (2 * 8 * 16 * 16 + 10)


def model() -> fmx.adapter.Model:
    return fmx.load(tiny_resnet(), input_shape=SHAPE)


@pytest.fixture
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((37, *SHAPE), dtype=np.float32)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", UNIT_BYTES)


def extract(to: Path, data: Any, **more: Any) -> fmx.store.Store:
    how: dict[str, Any] = {"layers": LAYERS, "noise": [0, 0.3], "seed": 5, "batch_size": 4, "outputs": True}
    # Which engine is the fastest differs from run to run; the one in the store is kept.
    how["engine"] = "folded"
    if "resume" in more:
        return run(settle(Request(model=model(), data=data, to=to, **how | more)))
    return fmx.extract(model(), data, to=to, **how | more)


def content(store: Path) -> dict[str, str]:
    """Digest every chunk of a store, and list its metadata."""
    files = [f for f in store.rglob("*") if f.is_file() and (f.name != "zarr.json" or f.parent != store)]
    return {f.relative_to(store).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def stop_after(units: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= units


@pytest.mark.usefixtures("small_units")
def test_stopped_run_goes_on(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    whole = extract(tmp_path / "whole.zarr", data)
    part = extract(tmp_path / "part.zarr", data, stop=stop_after(3))
    assert 0 < part.complete.sum() < len(data)
    assert part.attributes["completeness"] == "partial"
    statuses: list[Any] = []
    # A store that is continued keeps its batches.
    done = extract(tmp_path / "part.zarr", data, batch_size=1, progress=statuses.append)
    assert done.attributes["completeness"] == "complete"
    assert statuses[0].done == part.complete.sum()
    assert statuses[-1].done == statuses[-1].total == len(data)
    assert content(tmp_path / "part.zarr") == content(tmp_path / "whole.zarr")
    assert whole.attributes["batch_size"] == done.attributes["batch_size"] == 4


def test_finished_store_is_left_alone(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    extract(tmp_path / "a.zarr", data)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "a.zarr").rglob("*") if f.is_file()}
    extract(tmp_path / "a.zarr", data)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "a.zarr").rglob("*") if f.is_file()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 6}, "seed: 5 in the store, 6 wanted"),
        ({"noise": [0, 0.5]}, r"noise levels: 1 new \(0.5\), 1 gone \(0.3\)"),
        ({"layers": "stem,fc"}, r"layers: 1 gone \(layer1.0.add\)"),
        ({"outputs": False}, "the model's outputs are kept in the store, and not wanted"),
        ({"dtype": "float16"}, "stem is stored as float32, and float16 is wanted"),
        ({"space": "mean"}, "what is kept of maps: full in the store, mean wanted"),
        ({"perturb": "salt-and-pepper"}, "kind of noise: gaussian in the store, salt-and-pepper wanted"),
    ],
)
def test_other_settings_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path, data: np.ndarray[Any, Any]
) -> None:
    extract(tmp_path / "a.zarr", data[:5])
    before = content(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=said) as caught:
        extract(tmp_path / "a.zarr", data[:5], **change)
    assert "--overwrite" in str(caught.value)
    assert content(tmp_path / "a.zarr") == before


def test_other_weights_and_other_data_are_refused(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    import torch

    extract(tmp_path / "a.zarr", data[:5])
    net = tiny_resnet()
    with torch.no_grad():
        next(net.parameters()).add_(1e-3)
    with pytest.raises(StoreError, match="the model's weights or graph"):
        fmx.extract(fmx.load(net, input_shape=SHAPE), data[:5], to=tmp_path / "a.zarr", layers=LAYERS)
    with pytest.raises(StoreError, match="samples: 2 gone"):
        extract(tmp_path / "a.zarr", data[:3])
    with pytest.raises(StoreError, match="content of the samples"):
        extract(tmp_path / "a.zarr", data[:5] + 1)


@pytest.mark.usefixtures("small_units")
def test_folder_that_changes_in_between(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    how: dict[str, Any] = {"pictures": fmx.PictureOptions(size=32)}
    extract(tmp_path / "a.zarr", folder, stop=stop_after(1), **how)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "19.png")
    with pytest.raises(StoreError, match="content of the samples"):
        extract(tmp_path / "a.zarr", folder, **how)
    (folder / "19.png").unlink()
    with pytest.raises(StoreError, match=r"samples: 1 gone \(19.png\)"):
        extract(tmp_path / "a.zarr", folder, **how)


@pytest.mark.usefixtures("small_units")
def test_corrupt_picture_in_the_middle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    whole = (folder / "17.png").read_bytes()
    (folder / "17.png").write_bytes(whole[:500])
    how: dict[str, Any] = {"pictures": fmx.PictureOptions(size=32)}
    with pytest.raises(DataError, match=r"17\.png can't be read"):
        extract(tmp_path / "a.zarr", folder, **how)
    assert 0 < fmx.open_store(tmp_path / "a.zarr").complete.sum() <= 16
    skipped = extract(tmp_path / "b.zarr", folder, on_error="skip", **how)
    assert skipped.attributes["skipped"] == ["17.png"]
    assert len(skipped.samples) == 19


def test_store_that_is_being_written_is_refused(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    with StoreLock(place_of(tmp_path / "a.zarr")), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        extract(tmp_path / "a.zarr", data)


@pytest.mark.usefixtures("small_units")
def test_overwriting_goes_on_and_keeps_the_old_store_until_then(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    old = extract(tmp_path / "a.zarr", data[:3])
    extract(tmp_path / "a.zarr", data, overwrite=True, stop=stop_after(2))
    assert len(fmx.open_store(tmp_path / "a.zarr").samples) == len(old.samples) == 3
    done = extract(tmp_path / "a.zarr", data, overwrite=True)
    assert len(done.samples) == len(data)
    whole = extract(tmp_path / "b.zarr", data)
    assert whole.attributes["completeness"] == "complete"
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_options_that_need_a_store(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    for way in ("append", "repair"):
        with pytest.raises(StoreError, match=f"no store .* for --{way}"):
            extract(tmp_path / "a.zarr", data, **{way: True})
    with pytest.raises(FmxError, match="exclude each other"):
        extract(tmp_path / "a.zarr", data, resume=True, overwrite=True)


# -- killed at any moment ------------------------------------------------------------------------------


def _killed(to: Path, data: np.ndarray[Any, Any], reduce: tuple[str, ...]) -> None:
    import torch

    import fmx.store.schema as schema

    torch.set_num_threads(1)
    schema.UNIT_BYTES = UNIT_BYTES
    extract(to, data, reduce=reduce)


def _run_with_kills(to: Path, data: np.ndarray[Any, Any], kills: int, reduce: tuple[str, ...] = ()) -> int:
    """Run an extraction again and again, killing it at random moments; give how often it was still running."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "fmx.extraction", "fmx_adapters.pytorch", "networks", __name__])
    chance = random.Random(0)
    hit = 0
    longest = 1.0
    for _ in range(kills):
        process = context.Process(target=_killed, args=(to, data, reduce))
        start = time.monotonic()
        process.start()
        process.join(chance.random() * longest)
        if process.is_alive():
            hit += 1
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        else:
            longest = max(time.monotonic() - start, 0.3)
            assert process.exitcode == 0
            if hit < kills:
                import shutil

                shutil.rmtree(to)
    process = context.Process(target=_killed, args=(to, data, reduce))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return hit


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_at_random_moments(
    kills: int, tmp_path: Path, data: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmx.store.schema.UNIT_BYTES", UNIT_BYTES)
    extract(tmp_path / "whole.zarr", data)
    assert _run_with_kills(tmp_path / "killed.zarr", data, kills) > 0
    assert fmx.open_store(tmp_path / "killed.zarr").attributes["completeness"] == "complete"
    assert content(tmp_path / "killed.zarr") == content(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("small_units")
def test_summaries_killed_at_random_moments(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    extract(tmp_path / "whole.zarr", data, reduce=("stats", "hist"))
    _run_with_kills(tmp_path / "killed.zarr", data, 4, ("stats", "hist"))
    assert content(tmp_path / "killed.zarr") == content(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("small_units")
def test_second_extraction_at_the_same_time_is_refused(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    going, end = threading.Event(), threading.Event()

    def wait(_status: Any) -> None:
        going.set()
        end.wait(60)

    first = threading.Thread(target=extract, args=(tmp_path / "a.zarr", data), kwargs={"progress": wait})
    first.start()
    try:
        assert going.wait(60)
        with pytest.raises(StoreError, match="is being written by"):
            extract(tmp_path / "a.zarr", data)
    finally:
        end.set()
        first.join()
    assert fmx.open_store(tmp_path / "a.zarr").attributes["completeness"] == "complete"


@pytest.mark.usefixtures("small_units")
def test_full_disk_stops_and_goes_on_once_there_is_room(
    tmp_path: Path, data: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(tmp_path / "whole.zarr", data)
    left = [400_000]
    real = FolderPlace._name

    def put(self: FolderPlace, name: str, partial: Path) -> None:
        left[0] -= partial.stat().st_size
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, name, partial)

    with monkeypatch.context() as full:
        full.setattr(FolderPlace, "_name", put)
        with pytest.raises(StoreError, match="No space left on device"):
            extract(tmp_path / "a.zarr", data)
    part = fmx.open_store(tmp_path / "a.zarr")
    assert 0 < part.complete.sum() < len(data)
    extract(tmp_path / "a.zarr", data)
    assert content(tmp_path / "a.zarr") == content(tmp_path / "whole.zarr")


def test_numbers_that_are_none_are_kept_and_counted(tmp_path: Path, cli: Any) -> None:
    import torch

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 1, bias=False)
            torch.nn.init.ones_(self.conv.weight)
            self.act = torch.nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.conv(x)).sqrt()

    data = np.ones((6, 1, 4, 4), np.float32)
    data[2, 0, 1, 1], data[4, 0, 0, :3] = np.nan, np.inf
    store = fmx.extract(fmx.load(Odd(), input_shape=(1, 4, 4)), data, to=tmp_path / "a.zarr", layers="conv")
    values = store.activation("conv").values[:, 0, 0]
    np.testing.assert_array_equal(values[:, 1], data[:, 0])
    (row,) = json.loads(cli("info", tmp_path / "a.zarr", "--json").out)
    assert (row["nan"], row["inf"]) == (2, 6)
    assert "nan" in cli("info", tmp_path / "a.zarr").out


def test_ctrl_c_ends_at_a_unit_and_says_how_to_go_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", rng.random((4000, *SHAPE), dtype=np.float32))
    script = (
        "import fmx.store.schema as s; s.UNIT_BYTES = 200_000\n"
        "from fmx.cli import main\nimport sys\nsys.argv = sys.argv[1:]\nmain()"
    )
    words = [
        "fmx",
        "extract",
        "networks:tiny_resnet",
        "data.npy",
        "-o",
        "a.zarr",
        "--layers",
        "stem",
        "--batch-size",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", script, *words, "--engine", "eager", "--input-shape", "3,32,32"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        done = tmp_path / "a.zarr" / "complete" / "c"
        deadline = time.monotonic() + 100
        while not (done.exists() and any(done.iterdir())):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command to go on" in said
    assert "Traceback" not in said
    store = fmx.open_store(tmp_path / "a.zarr")
    assert 0 < store.complete.sum() < 4000
    assert f"stopped after {store.complete.sum()} of 4000 samples" in said
