"""Stores that benchmarks of analyses are run on: written for them, read bare, and what reading them adds to memory."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["print_peak", "read", "write_store"]

NATIVE = ("channel", "y", "x")


def write_store(
    path: Path,
    samples: int,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[int], Iterable[tuple[str, int, np.ndarray]]],
    noise: Sequence[float] = (0.0,),
) -> None:
    """Write layers of vectors or maps, whose values a function makes: name, noise level's number, (sample, …native)."""
    from fmx.layers import LayerInfo
    from fmx.store import StorePlan, StoreWriter

    layers = [LayerInfo(name, "ReLU", NATIVE[: len(shape)], shape, "float32") for name, shape in shapes.items()]
    ids = [str(i) for i in range(samples)]
    plan = StorePlan(ids, ids, ids, list(noise), layers, {"layers": list(shapes)})
    with StoreWriter(path, plan) as writer:
        for unit in plan.units():
            writer.start_unit(unit)
            for name, level, values in make(len(unit)):
                writer.put(name, slice(0, len(unit)), values, noise=level)
            writer.finish_unit(unit)


def read(path: Path) -> None:
    """Read and decompress every chunk with xarray and Dask, and drop it."""
    import dask

    import fmx

    store = fmx.open_store(path)
    arrays = [store.activation(layer.name).data for layer in store.layers]

    def drop(block: np.ndarray) -> np.ndarray:
        return np.zeros((1,) * block.ndim, np.int8)

    dask.compute([a.map_blocks(drop, dtype=np.int8, chunks=(1,) * a.ndim) for a in arrays])


def print_peak(run: Callable[[], object]) -> None:
    """Print what something adds to the peak memory of this process with everything imported, in MB."""
    import dask.array
    import threadpoolctl
    import xarray

    import fmx.analyze  # noqa: F401

    assert dask.array
    assert threadpoolctl
    assert xarray
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
