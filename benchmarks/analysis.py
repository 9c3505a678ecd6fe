"""How fast summaries of a store are, beside reading it and beside xarray with Dask, and how much memory they take.

    python benchmarks/analysis.py                   rates, on a store of ReLU-like maps made for it
    python benchmarks/analysis.py --noise           rates of comparing four noise levels with the clean one
    python benchmarks/analysis.py --memory          peak memory at one and at four times that size

The store has the shapes of ResNet-18's layer1 to layer4 and lz4 chunks, 1.5 MB a sample and noise level. Machines are
noisy and differ: read the ratios, which are taken round by round. Contenders run in turn within a round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from printed import peak_rows, print_rows
from stores import print_peak, read, write_store

SHAPES = {"layer1": (64, 56, 56), "layer2": (128, 28, 28), "layer3": (256, 14, 14), "layer4": (512, 7, 7)}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 64


def make_store(
    path: Path, samples: int, noise: Sequence[float] = (0.0,), *, classes: int = 0, timesteps: int = 1
) -> None:
    """Write smooth maps of which a ReLU has cut off one half, each channel of another size."""
    rng = np.random.default_rng(0)
    scales = {name: np.exp(rng.normal(size=(shape[0], 1, 1))).astype(np.float32) for name, shape in SHAPES.items()}

    def make(count: int) -> Iterator[tuple[str, int, np.ndarray]]:
        for name, shape in SHAPES.items():
            clean = rng.standard_normal((count, *shape), dtype=np.float32)
            for number, level in enumerate(noise):
                values = clean + np.float32(level) * rng.standard_normal(clean.shape, np.float32) if level else clean
                yield name, number, np.maximum(values * scales[name], 0)

    write_store(path, samples, SHAPES, make, noise, classes=classes, timesteps=timesteps)


def robust(path: Path) -> None:
    """Compare noise levels with the clean one with fmx, sample by sample and channel by channel."""
    import fmx

    fmx.analyze.robustness(fmx.open_store(path))


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


LEVELS = (0.0, 0.1, 0.2, 0.4, 0.8)
OF_NOISE: dict[str, Callable[[Path], None]] = {"read and decompress": read, "fmx, robustness": robust}
CONTENDERS: dict[str, Callable[[Path], None]] = {
    "read and decompress": read,
    "fmx, all summaries": together,
    "fmx, top 9 samples": top,
}


def rates(
    path: Path, rounds: int, contenders: Mapping[str, Callable[[Path], None]], *, slow: bool
) -> list[dict[str, object]]:
    """Time contenders in turn, round after round."""
    size = count_bytes(path)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    work: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
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


def count_bytes(path: Path) -> int:
    """Count the bytes of a store's activations."""
    import fmx

    store = fmx.open_store(path)
    return sum(store.activation(layer.name).nbytes for layer in store.layers)


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=536, help="1.5 MB each (default: 536, 0.8 GB)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--noise", action="store_true", help="a fifth of the samples at five noise levels")
    parser.add_argument("--one-by-one", action="store_true", help="also time xarray with Dask, once: minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-peak", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_peak:
        print_peak(lambda: (together(asked.one_peak), top(asked.one_peak)))
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if asked.memory:
            rows = peak_rows(__file__, make_store, Path(folder), [asked.samples, 4 * asked.samples])
        else:
            place = Path(folder) / "a.zarr"
            make_store(place, asked.samples // (len(LEVELS) if asked.noise else 1), LEVELS if asked.noise else (0.0,))
            rows = rates(place, asked.rounds, OF_NOISE if asked.noise else CONTENDERS, slow=asked.one_by_one)
    print_rows(rows, as_json=asked.json, width=28)


if __name__ == "__main__":
    main()
