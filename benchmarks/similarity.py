"""How fast the similarity of all pairs of layers is, beside a loop over pairs, and how much memory it takes.

    python benchmarks/similarity.py            linear CKA of all pairs of 16 layers, 2000 samples
    python benchmarks/similarity.py --memory   peak memory above the imports, at one and at four times the samples

The loop opens both layers of a pair with xarray, makes both Gram matrices with NumPy in float32 and compares them. It
is timed on some pairs, drawn at random, and taken times the number of all pairs. *Parts* is one read of the store and
the Gram products of arrays that are in memory already, which is the least that there is to do. Machines are noisy and
differ: read the ratios. Contenders run in turn within a round.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from printed import peak_rows, print_rows
from stores import print_peak, read, write_store

SHAPES = [(16, 28, 28), (32, 14, 14), (64, 7, 7), (512,)]
LAYERS = {f"block{i // 4}.{i % 4}": shape for i, shape in enumerate(s for s in SHAPES for _ in range(4))}


def make_store(path: Path, samples: int) -> None:
    """Write ReLU-like maps that have something in common from layer to layer."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((8, *shape), dtype=np.float32) for name, shape in LAYERS.items()}

    def make(count: int) -> Iterator[tuple[str, int, np.ndarray]]:
        shared = rng.standard_normal((count, 8), dtype=np.float32)
        for name, shape in LAYERS.items():
            values = np.tensordot(shared, weights[name], 1) + rng.standard_normal((count, *shape), np.float32)
            yield name, 0, np.maximum(values, 0)

    write_store(path, samples, LAYERS, make)


def grams(path: Path) -> None:
    """Make the Gram matrices of arrays as large as the layers, which are in memory."""
    import fmx

    samples = len(fmx.open_store(path).samples)
    for shape in SHAPES:
        values = np.ones((samples, int(np.prod(shape))), np.float32)
        for _ in range(len(LAYERS) // len(SHAPES)):
            values @ values.T


def all_pairs(path: Path) -> None:
    """Compare all pairs with fmx."""
    import fmx
    from fmx.analyze.likeness import similarity

    similarity(fmx.open_store(path))


def minibatches(path: Path) -> None:
    """Compare all pairs with fmx by minibatches."""
    import fmx
    from fmx.analyze.likeness import similarity

    similarity(fmx.open_store(path), estimator="minibatch")


def one_pair(path: Path, a: str, b: str) -> float:
    """Compare a pair with xarray and NumPy."""
    import xarray as xr

    tree = xr.open_datatree(path, engine="zarr")
    kernels = []
    for name in (a, b):
        values = tree[f"layers/{name}/activation"].values
        x = values.reshape(len(values), -1)
        x = x - x.mean(axis=0)
        k = (x @ x.T).astype(np.float64)
        np.fill_diagonal(k, 0)
        n = len(k)
        sums = k.sum(axis=0) / (n - 2)
        k += sums.sum() / (n - 1) - sums[:, None] - sums[None, :]
        np.fill_diagonal(k, 0)
        kernels.append(k)
    left, right = kernels
    return float((left * right).sum() / np.sqrt((left * left).sum() * (right * right).sum()))


def rates(path: Path, rounds: int, pairs: int) -> list[dict[str, object]]:
    """Time all contenders in turn, round after round."""
    every = list(itertools.combinations(LAYERS, 2))
    contenders: dict[str, Callable[[Path], object]] = {
        "read": read,
        "Gram products": grams,
        "fmx, all pairs": all_pairs,
        "fmx, minibatches": minibatches,
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*contenders, "loop over pairs"]}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        found = {}
        for name, run in contenders.items():
            start = time.perf_counter()
            run(path)
            found[name] = time.perf_counter() - start
        start = time.perf_counter()
        for i in rng.choice(len(every), pairs, replace=False):
            one_pair(path, *every[i])
        found["loop over pairs"] = (time.perf_counter() - start) * len(every) / pairs
        for name, took in found.items() if number else ():  # the first round warms up
            seconds[name].append(took)
    base = seconds["fmx, all pairs"]
    parts = [a + b for a, b in zip(seconds["read"], seconds["Gram products"], strict=True)]
    rows = seconds | {"parts: read + products": parts}
    return [
        {
            "contender": name,
            "seconds": median(times),
            "to_fmx_all_pairs": median(t / b for t, b in zip(times, base, strict=True)),
        }
        for name, times in rows.items()
    ]


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="0.36 MB each (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=6, help="pairs that the loop is timed on, of 120")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-peak", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_peak:
        print_peak(lambda: all_pairs(asked.one_peak))
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if asked.memory:
            rows = peak_rows(__file__, make_store, Path(folder), [asked.samples, 4 * asked.samples])
        else:
            make_store(Path(folder) / "a.zarr", asked.samples)
            rows = rates(Path(folder) / "a.zarr", asked.rounds, asked.pairs)
    print_rows(rows, as_json=asked.json, width=24)


if __name__ == "__main__":
    main()
