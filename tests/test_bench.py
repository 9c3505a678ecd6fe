"""The benchmark of a model: every contender is there and the numbers hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from networks import tiny_resnet

import fmx
from fmx.cli.rates import draw_rates
from fmx.errors import DataError, FmxError
from fmx.extraction import bench

SHAPE = (3, 32, 32)


def test_contenders_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[bench.__module__], "_SECONDS", 0.05)
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


@pytest.mark.parametrize(("part", "count"), [("rates", 13), ("all-layers", 4), ("reduce", 4), ("again", 3)])
def test_committed_benchmarks_run(part: str, count: int, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "extraction.py"
    done = subprocess.run(
        [sys.executable, script, part, "--images", "8", "--batch-size", "4", "--rounds", "1", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) >= count
    if part == "again":  # a difference of two measurements, which may come out below 0 on a busy machine
        more = rows.pop()["seconds"]
        assert more == pytest.approx(rows[1]["seconds"] - rows[0]["seconds"])
    assert all(value > 0 for row in rows for key, value in row.items() if key not in {"contender", "what"})
    assert not list(tmp_path.iterdir())


def test_rates_are_drawn(tmp_path: Path) -> None:
    rows = [
        {"what": what, "engine": "eager", "asked": asked, "batch_size": 4, "device": "cpu", "images_per_s": rate}
        for what, asked, rate in (("bare forward", "eager", 10.0), ("capture", "eager", 9.0), ("capture", "auto", 20.0))
    ]
    draw_rates(rows, str(tmp_path / "new" / "rates.svg"))
    text = (tmp_path / "new" / "rates.svg").read_text()
    assert "bare forward" in text
    assert ">auto</text>" in text
    with pytest.raises(FmxError, match=r"as \.png, \.svg or \.pdf, not \.doc"):
        draw_rates(rows, "rates.doc")
