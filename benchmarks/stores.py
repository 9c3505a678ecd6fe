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
    *,
    classes: int = 0,
    timesteps: int = 1,
) -> None:
    """Write layers of vectors or maps, whose values a function makes: name, noise level's number, (sample, …native).

    Samples have so many labels in turn; without a number, one each. Values are made anew for every timestep.
    """
    from fmx.layers import LayerInfo
    from fmx.store import StorePlan, StoreWriter

    layers = [LayerInfo(name, "ReLU", NATIVE[: len(shape)], shape, "float32") for name, shape in shapes.items()]
    ids = [str(i) for i in range(samples)]
    labels = [str(i % classes) for i in range(samples)] if classes else ids
    plan = StorePlan(ids, ids, labels, list(noise), layers, {"layers": list(shapes)}, timesteps=timesteps)
    with StoreWriter(path, plan) as writer:
        for unit in plan.units():
            writer.start_unit(unit)
            for step in range(timesteps):
                for name, level, values in make(len(unit)):
                    writer.put(name, slice(0, len(unit)), values, noise=level, timestep=step)
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
    before = _peak_kb()
    run()
    print((_peak_kb() - before) / 1e3)


def _peak_kb() -> float:
    """Give the peak of this process; what `getrusage` says begins at that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
