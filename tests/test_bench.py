"""The benchmark of a model: every contender is there and the numbers hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from networks import tiny_resnet

import fmx
from fmx.errors import DataError, FmxError
from fmx.extraction import bench

SHAPE = (3, 32, 32)


def test_contenders_and_numbers() -> None:
    seen: list[tuple[int, int]] = []
    rows = bench(
        fmx.load(tiny_resnet(), input_shape=SHAPE),
        layers="stem,layer1",
        batch_sizes=(4,),
        engines=("eager", "auto"),
        rounds=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [(row["what"], row["asked"]) for row in rows] == [
        (what, engine)
        for engine in ("eager", "auto")
        for what in ("bare forward", "stem alone", "capture of 2 layers", "capture + reduce", "capture + store")
    ]
    assert [row["bottleneck"] != "" for row in rows] == [False, False, False, True, True] * 2
    assert rows[0]["ratio"] == 1
    assert all(row["images_per_s"] > 0 and row["ratio"] > 0 for row in rows)
    assert all(row["engine"] == "eager" for row in rows[:5])
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_mistakes() -> None:
    model = fmx.load(tiny_resnet(), input_shape=SHAPE)
    for change in ({"batch_sizes": [0]}, {"batch_sizes": []}, {"rounds": 0}):
        with pytest.raises(DataError):
            bench(model, **change)
    with pytest.raises(FmxError, match="no engine warp"):
        bench(model, engines=["warp"])


@pytest.mark.parametrize("arguments", [("--images", "8", "--batch-size", "4", "--rounds", "1")])
def test_committed_benchmark_runs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "throughput.py"
    done = subprocess.run(
        [sys.executable, script, *arguments, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["contender"]: row for row in json.loads(done.stdout)}
    assert rows["bare eager model(x)"]["to_bare_eager"] == 1
    assert rows["bare ONNX Runtime"]["to_bare_onnx"] == 1
    assert len(rows) == 8
    assert not list(tmp_path.iterdir())
