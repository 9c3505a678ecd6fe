"""Small stores of given values, in small chunks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fmx.layers import LayerInfo
from fmx.store import Store, StorePlan, StoreWriter, open_store
from fmx.store.schema import chunk_shape

NATIVE = {1: ("channel",), 2: ("token", "channel"), 3: ("channel", "y", "x")}


def write_store(
    path: Path,
    values: Mapping[str, np.ndarray],
    *,
    ids: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    more_labels: Mapping[str, Sequence[Any]] | None = None,
    noise: Sequence[float] = (0.0,),
    chunk_bytes: int = 400,
    unit: int = 4,
    units: Sequence[int] | None = None,
    pictures: np.ndarray | None = None,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    kinds: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Store:
    """Write layers (sample, noise, timestep, …native) and open them; with `units`, only those of the write units."""
    first: Any = next(iter(values.values()))
    count, _, steps = first.shape[:3]
    names = list(ids or (f"{i:03d}.png" for i in range(count)))
    layers = [
        LayerInfo(n, (kinds or {}).get(n, "ReLU"), (dims or {}).get(n, NATIVE[v.ndim - 3]), v.shape[3:], v.dtype.name)
        for n, v in values.items()
    ]
    with (
        mock.patch("fmx.store.plan.chunk_shape", functools.partial(chunk_shape, chunk_bytes=chunk_bytes)),
        mock.patch("fmx.store.schema.MOST_UNIT_SAMPLES", unit),
    ):
        plan = StorePlan(
            names,
            names,
            list(labels or [""] * count),
            list(noise),
            layers,
            {"layers": list(values), **(about or {})},
            timesteps=steps,
            picture=None if pictures is None else pictures.shape[2:],
            more_labels=more_labels or {},
        )
        with StoreWriter(path, plan) as writer:
            every = writer.plan.units()
            for one in every if units is None else [every[i] for i in units]:
                writer.start_unit(one)
                for name, array in values.items():
                    for level, step in itertools.product(*map(range, array.shape[1:3])):
                        block = array[one.start : one.stop, level, step]
                        writer.put(name, slice(0, len(one)), block, noise=level, timestep=step)
                if pictures is not None:
                    for step in range(steps):
                        writer.put("inputs", slice(0, len(one)), pictures[one.start : one.stop, step], timestep=step)
                writer.finish_unit(one)
    return open_store(path)
