"""Sessions that share the processor with what writes beside them compute the same, and leave nothing behind."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import fmx
from fmx.adapter import sharing


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()


@pytest.mark.parametrize("engine", ["eager", "auto", "folded"])
def test_values_are_the_same(engine: str) -> None:
    model = fmx.load(network(), input_shape=(3, 16, 16))
    batch = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    with model.session(["2"], engine=engine) as session:
        alone = session.run(batch)["2"].copy()
        before = threading.active_count()
        with sharing(session):
            assert threading.active_count() == before + 1
            np.testing.assert_array_equal(session.run(batch)["2"], alone)
        assert threading.active_count() == before


def test_sessions_that_know_nothing_of_it_run_as_they_are() -> None:
    class Plain:
        pass

    with sharing(Plain()):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(("much", "shared"), [(4 * 8 * 14 * 14 * 4, True), (4 * 8 * 14 * 14 * 4 + 1, False)])
def test_large_batches_share(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, much: int, shared: bool) -> None:
    asked = []

    def note(session: Any) -> Any:
        asked.append(session)
        return nullcontext()

    streaming = import_module("fmx.extraction.streaming")
    monkeypatch.setattr(streaming, "sharing", note)
    monkeypatch.setattr(streaming, "_MUCH", much)
    data = np.zeros((6, 3, 16, 16), np.float32)
    model = fmx.load(network(), input_shape=(3, 16, 16))
    fmx.extract(model, data, to=tmp_path / "a.zarr", layers="2", noise=[0, 0.5], batch_size=4, engine="eager")
    assert bool(asked) == shared
