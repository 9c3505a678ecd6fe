"""How fast summaries of a store are, beside reading it and beside xarray with Dask, and how much memory they take.

    python benchmarks/analysis.py                   rates, on a store of ReLU-like maps made for it
    python benchmarks/analysis.py --memory          peak memory at one and at four times that size

The store has the shapes of ResNet-18's layer1 to layer4 and lz4 chunks, 1.5 MB a sample. Machines are noisy and differ:
read the ratios, which are taken round by round. Contenders run in turn within a round.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from printed import peak_rows, print_rows

SHAPES = {"layer1": (64, 56, 56), "layer2": (128, 28, 28), "layer3": (256, 14, 14), "layer4": (512, 7, 7)}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 64


def make_store(path: Path, samples: int) -> None:
    """Write smooth maps of which a ReLU has cut off one half, each channel of another size."""
    from fmx.layers import LayerInfo
    from fmx.store import StorePlan, StoreWriter

    layers = [LayerInfo(name, "ReLU", ("channel", "y", "x"), shape, "float32") for name, shape in SHAPES.items()]
    ids = [str(i) for i in range(samples)]
    plan = StorePlan(ids, ids, ids, [0.0], layers, {"layers": list(SHAPES)})
    rng = np.random.default_rng(0)
    scales = {name: np.exp(rng.normal(size=(shape[0], 1, 1))).astype(np.float32) for name, shape in SHAPES.items()}
    with StoreWriter(path, plan) as writer:
        for unit in plan.units():
            writer.start_unit(unit)
            for name, shape in SHAPES.items():
                values = rng.standard_normal((len(unit), *shape), dtype=np.float32)
                writer.put(name, slice(0, len(unit)), np.maximum(values * scales[name], 0), noise=0)
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


def together(path: Path) -> None:
    """Take moments, histogram and quantiles of every channel with fmx, in one read."""
    import fmx
    from fmx.analyze.store_reduce import summarise
    from fmx.reduce import Histogram, Moments, Quantiles

    reducers = {"stats": Moments(), "hist": Histogram(BINS), "quantiles": Quantiles(QUANTILES)}
    summarise(fmx.open_store(path), reducers, by="channel")


def top(path: Path) -> None:
    """Find the nine strongest samples of every channel with fmx."""
    import fmx
    from fmx.analyze.store_reduce import summarise
    from fmx.reduce import TopSamples

    summarise(fmx.open_store(path), lambda dims: {"top": TopSamples(9, dims[1:])}, by="channel")


def one_by_one(path: Path) -> None:
    """Take the same of every channel with xarray and Dask, one after the other."""
    import fmx

    store = fmx.open_store(path)
    for layer in store.layers:
        array = store.activation(layer.name)
        dims = [dim for dim in array.dims if dim != "channel"]
        array.mean(dims).compute()
        array.std(dims).compute()
        low, high = array.min(dims).compute().values, array.max(dims).compute().values
        (array == 0).mean(dims).compute()
        histograms(array, low, high)
        array.chunk(dict.fromkeys(dims, -1)).quantile(QUANTILES, dims).compute()


def histograms(array: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Count with numpy in every chunk, channel by channel, and add up on Dask."""

    def count(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        first = block_info[0]["array-location"][3][0]
        ranges = zip(low[first:], high[first:], strict=True)
        each = [
            np.histogram(block[:, :, :, i], BINS, r)[0] for i, r in zip(range(block.shape[3]), ranges, strict=False)
        ]
        return np.stack(each)[None, None, None, :, :, None]

    source = array.data
    chunks = (*((1,) * n for n in source.numblocks[:3]), source.chunks[3], (BINS,), (1,))
    return source.map_blocks(count, dtype=np.int64, chunks=chunks).sum(axis=(0, 1, 2, 5)).compute()


CONTENDERS: dict[str, Callable[[Path], None]] = {
    "read and decompress": read,
    "fmx, all summaries": together,
    "fmx, top 9 samples": top,
}


def rates(path: Path, rounds: int, *, slow: bool) -> list[dict[str, object]]:
    """Time all contenders in turn, round after round."""
    size = sum(np.prod(shape) * 4 for shape in SHAPES.values()) * count_samples(path)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    work: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        for name, run in CONTENDERS.items():
            start, used = time.perf_counter(), time.process_time()
            run(path)
            if number:  # the first round warms up and compiles
                seconds[name].append(time.perf_counter() - start)
                work[name].append(time.process_time() - used)
    if slow:
        start, used = time.perf_counter(), time.process_time()
        one_by_one(path)
        seconds["xarray and Dask, one by one"] = [time.perf_counter() - start]
        work["xarray and Dask, one by one"] = [time.process_time() - used]
    base = seconds["read and decompress"]
    return [
        {
            "contender": name,
            "gb_per_s": size / median(times) / 1e9,
            "to_reading": median(b / t for b, t in zip(base, times, strict=False)),
            "core_s": median(work[name]),
        }
        for name, times in seconds.items()
    ]


def count_samples(path: Path) -> int:
    """Count the samples of a store."""
    import fmx

    return len(fmx.open_store(path).samples)


def peak_memory(path: Path) -> None:
    """Take all summaries in this process and print what that added to its peak memory, in MB."""
    import dask.array
    import xarray

    import fmx.analyze  # noqa: F401

    assert dask.array, xarray
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    together(path)
    top(path)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=536, help="1.5 MB each (default: 536, 0.8 GB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one-by-one", action="store_true", help="also time xarray with Dask, once: minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-peak", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_peak:
        peak_memory(asked.one_peak)
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if asked.memory:
            rows = peak_rows(__file__, make_store, Path(folder), [asked.samples, 4 * asked.samples])
        else:
            make_store(Path(folder) / "a.zarr", asked.samples)
            rows = rates(Path(folder) / "a.zarr", asked.rounds, slow=asked.one_by_one)
    print_rows(rows, as_json=asked.json, width=28)


if __name__ == "__main__":
    main()
