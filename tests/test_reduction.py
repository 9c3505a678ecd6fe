"""Summaries made while the model runs: the same as those of a store that keeps everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_resume import LAYERS, extract

import fmx
from fmx.errors import DataError, StoreError
from fmx.store import open_analysis, saved_analyses

NAMES = ("stats", "hist", "quantiles", "top-samples")


@pytest.fixture
def data() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((37, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("space", ["full", "max"])
def test_summaries_equal_those_of_the_values(space: str, tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    kept = extract(tmp_path / "kept.zarr", data, space=space, channels=["stem=1,4-6"])
    summed = extract(tmp_path / "summed.zarr", data, reduce=NAMES, space=space, channels=["stem=1,4-6"])
    assert not summed.layers
    assert saved_analyses(tmp_path / "summed.zarr") == sorted(NAMES)
    results = {name: open_analysis(summed.tree, name) for name in NAMES}
    for layer in LAYERS.split(","):
        values = kept.activation(layer).isel(timestep=0).values.astype(np.float64)
        flat = np.moveaxis(values, 2, 0).reshape(values.shape[2], len(data), 2, -1)  # (channel, sample, noise, place)
        stats, tops = results["stats"][layer], results["top-samples"][layer]
        assert stats["channel"].values.tolist() == kept.activation(layer)["channel"].values.tolist()
        for channel, row in enumerate(flat):
            for level in range(2):
                found = stats.isel(channel=channel, noise=level)
                np.testing.assert_allclose(found["mean"], row[:, level].mean(), rtol=1e-6, atol=1e-9)
                np.testing.assert_allclose(found["std"], row[:, level].std(), rtol=1e-6, atol=1e-9)
                assert (found["min"], found["max"]) == (row[:, level].min(), row[:, level].max())
                hist = results["hist"][layer].isel(channel=channel, noise=level)
                expected = np.histogram(row[:, level], bins=hist["edges"].values)[0]
                np.testing.assert_array_equal(hist["counts"], expected)
                best = row[:, level].max(axis=1)
                order = np.argsort(-best, kind="stable")[:9]
                top = tops.isel(channel=channel, noise=level)
                np.testing.assert_array_equal(top["sample_index"], order)
                np.testing.assert_array_equal(top["value"], best[order])
        middle = results["quantiles"][layer]["quantiles"].sel(quantile=0.5).values  # (noise, channel)
        exact = np.median(flat, axis=(1, 3)).T
        np.testing.assert_allclose(middle, exact, rtol=1 / 64, atol=1e-6)


def test_frames_of_clips_are_told_by_sample_and_timestep(tmp_path: Path) -> None:
    clips = np.random.default_rng(1).random((5, 4, 3, 32, 32), dtype=np.float32)
    summed = extract(tmp_path / "a.zarr", clips, clips=True, reduce=["top-samples", "stats"])
    kept = extract(tmp_path / "b.zarr", clips, clips=True)
    values = kept.activation("fc").isel(noise=1)
    top = open_analysis(summed.tree, "top-samples")["fc"].isel(noise=1)
    for channel in range(values.sizes["channel"]):
        own = values.isel(channel=channel).values  # (sample, timestep)
        first = np.unravel_index(own.argmax(), own.shape)
        assert (top["sample_index"][channel, 0], top["timestep_index"][channel, 0]) == first
        assert top["value"][channel, 0] == own.max()


def test_mistakes(tmp_path: Path, data: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match="no --reduce median"):
        extract(tmp_path / "a.zarr", data, reduce=["median"])
    extract(tmp_path / "a.zarr", data[:5], reduce=["stats"])
    with pytest.raises(StoreError, match=r"summaries: 1 new \(hist\)"):
        extract(tmp_path / "a.zarr", data[:5], reduce=["stats", "hist"])
    assert fmx.open_store(tmp_path / "a.zarr").attributes["completeness"] == "complete"
