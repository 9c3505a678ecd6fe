"""What an extraction says it will take: sizes that come true, and limits that are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_resume import LAYERS, SHAPE, extract, model

from fmx.cli import texts
from fmx.errors import DataError, FmxError, LayerError, StoreError
from fmx.extraction import Request, estimate, run, settle
from fmx.extraction.keep import Keep, parse_channels
from fmx.layers import LayerInfo


@pytest.fixture
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((120, *SHAPE), dtype=np.float32)


def request(to: Path, data: Any, **more: Any) -> Request:
    how: dict[str, Any] = {"layers": LAYERS, "noise": [0, 0.3], "batch_size": 8, "engine": "eager", "codec": "lz4"}
    return Request(model=model(), data=data, to=to, **how | more)


def test_sizes_come_true(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    found = estimate(settle(request(tmp_path / "a.zarr", data)))
    assert not list(tmp_path.iterdir())
    store = run(settle(request(tmp_path / "a.zarr", data)))
    for row in found.rows:
        array = store.activation(row["layer"])
        assert row["bytes"] == array.nbytes
        assert row["shape"] == "×".join(map(str, array.shape))
        assert row["chunks"] == "×".join(map(str, array.encoding["chunks"]))
        folder = tmp_path / "a.zarr" / "layers" / row["layer"] / "activation" / "c"
        assert row["objects"] == sum(f.is_file() for f in folder.rglob("*"))
    files = [f for f in (tmp_path / "a.zarr").rglob("*") if f.is_file()]
    assert found.objects == len(files)
    chunks = sum(f.stat().st_size for f in files if "activation" in f.parts and "c" in f.parts)
    assert found.disk_bytes == pytest.approx(chunks, rel=0.15)
    assert found.seconds > 0
    assert found.bottleneck in {"decode", "model", "copy", "write"}


def test_summaries_take_next_to_nothing(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    found = estimate(settle(request(tmp_path / "a.zarr", data, reduce=["stats"])))
    assert found.rows == []
    assert found.disk_bytes == 0
    assert not list(tmp_path.iterdir())


def test_plan_that_does_not_fit_the_disk(
    tmp_path: Path, data: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(StoreError, match=r"would take about .* MB, and 1 MB are free"):
        estimate(settle(request(tmp_path / "a.zarr", data)))
    with pytest.raises(StoreError, match="are free there"):
        run(settle(request(tmp_path / "a.zarr", data)))
    assert not list(tmp_path.iterdir())


def test_memory_that_is_too_little_is_refused(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"takes about .* of memory, and --memory allows 100 MB"):
        extract(tmp_path / "a.zarr", data, memory=100_000_000)
    assert not (tmp_path / "a.zarr").exists()


def test_memory_that_was_allowed_is_kept(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
import numpy as np
import fmx
from networks import tiny_resnet
data = np.lib.format.open_memmap(sys.argv[1] + "/data.npy", "w+", np.float32, (6000, 3, 32, 32))
budget = int(sys.argv[2])
fmx.extract(fmx.load(tiny_resnet(), input_shape=(3, 32, 32)), sys.argv[1] + "/data.npy", to=sys.argv[1] + "/a.zarr",
            layers="all", memory=budget, engine="eager")
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024)
"""
    budget = 1_200_000_000
    command = [sys.executable, "-c", script, str(tmp_path), str(budget)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True, env=environment)
    assert int(done.stdout) < budget


def test_dry_run_in_a_terminal(tmp_path: Path, data: np.ndarray[Any, Any], cli: Any) -> None:
    np.save(tmp_path / "data.npy", data)
    words = ["networks:tiny_resnet", tmp_path / "data.npy", "-o", tmp_path / "a.zarr", "--layers", LAYERS, "--dry-run"]
    out = cli("extract", *words).out
    assert "compressed" in out
    assert "bound by" in out
    rows = json.loads(cli("extract", *words, "--json").out)
    assert [row["layer"] for row in rows] == LAYERS.split(",")
    assert not (tmp_path / "a.zarr").exists()


# -- what is kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["mean", "max", "3x2", "40x40"])
def test_summaries_of_maps(space: str) -> None:
    layer = LayerInfo("a", "Conv2d", ("channel", "y", "x"), (4, 7, 5), "float32")
    block = np.random.default_rng(0).normal(size=(3, 4, 7, 5)).astype(np.float32)
    keep = Keep.of([layer], ["a=0,2-3"], space)
    got = keep.pick(keep.over_space(layer), keep.summarise(layer, block))
    expected = np.empty((3, 3, 3, 2)) if space == "3x2" else None
    if expected is not None:
        for i in range(3):
            for j in range(2):
                rows = range(int(np.floor(i * 7 / 3)), int(np.ceil((i + 1) * 7 / 3)))
                columns = range(int(np.floor(j * 5 / 2)), int(np.ceil((j + 1) * 5 / 2)))
                for s in range(3):
                    for c, channel in enumerate((0, 2, 3)):
                        cell = [block[s, channel, y, x] for y in rows for x in columns]
                        expected[s, c, i, j] = sum(map(float, cell)) / len(cell)
    elif space == "40x40":
        expected = block[:, [0, 2, 3]]
    else:
        expected = getattr(block[:, [0, 2, 3]], space)(axis=(2, 3))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert keep.over_space(layer).shape == (4, *got.shape[2:])


def test_tokens_are_summarised_and_channels_alone_are_not() -> None:
    tokens = LayerInfo("t", "Linear", ("token", "channel"), (5, 4), "float32")
    plain = LayerInfo("p", "Linear", ("channel",), (4,), "float32")
    block = np.arange(40, dtype=np.float32).reshape(2, 5, 4)
    keep = Keep(space="mean")
    np.testing.assert_allclose(keep.summarise(tokens, block), block.mean(axis=1))
    assert keep.over_space(tokens).dims == ("channel",)
    np.testing.assert_array_equal(keep.summarise(plain, block[:, 0]), block[:, 0])


def test_mistakes() -> None:
    layer = LayerInfo("a", "Conv2d", ("channel", "y", "x"), (4, 7, 5), "float32")
    flat = LayerInfo("b", "sum", (), (), "float32")
    assert parse_channels("0-2, 7,1") == (0, 1, 2, 7)
    for wrong in ("a", "1-", "", "0,,2"):
        with pytest.raises(DataError, match="--keep-channels takes numbers"):
            parse_channels(wrong)
    with pytest.raises(LayerError, match="a has the channels 0 to 3, not 4"):
        Keep.of([layer], ["2-4"], "full")
    with pytest.raises(LayerError, match="b has no channels"):
        Keep.of([layer, flat], ["b=0"], "full")
    with pytest.raises(DataError, match="no --space median"):
        Keep(space="median")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 1.5 * 2**30), ("64k", 64000), (None, None)],
)
def test_amounts_of_memory(text: str | None, value: int | None) -> None:
    assert texts.memory(text) == value


def test_amounts_and_notes_that_are_none() -> None:
    for wrong in ("much", "0GB", "-1GB", "2 pounds"):
        with pytest.raises(FmxError, match="--memory takes an amount"):
            texts.memory(wrong)
    assert texts.pairs("--meta", ["a=1", "b = x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(FmxError, match="--meta takes key=value"):
        texts.pairs("--meta", ["gaze"])
