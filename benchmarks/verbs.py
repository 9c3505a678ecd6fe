"""What every question to a store costs: processor time and memory, beside reading once all that it needs.

    python benchmarks/verbs.py                        all of them, on stores of 0.4 GB made for it
    python benchmarks/verbs.py --verbs rank,health    some of them
    python benchmarks/verbs.py --cluster              on a LocalCluster of two processes

The stores are those of `analysis.py`, with ten classes; one has four noise levels, one eight timesteps. Processor time
and wall time are medians of a few rounds, each beside a bare read of the same store in the same round; memory is the
peak of a process of its own above its imports, less what a bare read adds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from analysis import make_store
from printed import print_rows
from stores import print_peak, read

Verb = Callable[[Any], object]
LEVELS = (0.0, 0.1, 0.2, 0.4)
STEPS = 8
CLASSES = 10
SAMPLES = 264


def _aggregated(store: Any) -> object:
    import fmx

    return store.compute(fmx.analyze.aggregate(store, over=("channel",)))


def _verbs() -> dict[str, tuple[str, Verb]]:
    """Give by name of a verb which store it is asked, and how."""
    import fmx.analyze as a

    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    plain: dict[str, Verb] = {
        "read": str,
        "stats": lambda s: a.stats(s, by="channel", quantiles=quantiles),
        "stats-exact": lambda s: a.stats(s, by="channel", quantiles=quantiles, exact=True),
        "hist": lambda s: a.hist(s, by="channel"),
        "aggregate": _aggregated,
        "rank": lambda s: a.rank(s, per="class"),
        "rank-precision": lambda s: a.rank(s, per="class", metric="precision", held_out=0.5),
        "rank-samples": lambda s: a.rank(s, per="sample"),
        "top-samples": a.top_samples,
        "class-sums": a.class_sums,
        "health": a.health,
        "similarity": a.similarity,
        "similarity-minibatch": lambda s: a.similarity(s, estimator="minibatch"),
        "compare": lambda s: a.compare(s, s),
        "decompose": a.decompose,
        "decompose-nmf": lambda s: a.decompose(s, method="nmf"),
        "information": a.information,
    }
    return {
        **{name: ("plain", verb) for name, verb in plain.items()},
        "robustness": ("noise", a.robustness),
        "temporal": ("clips", a.temporal),
    }


# How often each reads all values, where it is not once.
READS = {"class-sums": 2, "compare": 2, "stats-exact": 3}


def make_stores(folder: Path, samples: int) -> None:
    """Write the three stores, about equally large."""
    make_store(folder / "plain", samples, classes=CLASSES)
    make_store(folder / "noise", max(samples // len(LEVELS), CLASSES), LEVELS, classes=CLASSES)
    make_store(folder / "clips", max(samples // STEPS, CLASSES), classes=CLASSES, timesteps=STEPS)


def run_verb(folder: Path, name: str) -> None:
    """Ask one question, or read the store it would be asked."""
    import fmx

    which, verb = _verbs()[name]
    verb(fmx.open_store(folder / which))


def _cpu(children: bool) -> float:
    """Give the processor seconds of this process, and of its children so far."""
    if not children:
        return time.process_time()
    import psutil

    every = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in every)


def rates(folder: Path, names: list[str], rounds: int, *, children: bool) -> dict[str, dict[str, float]]:
    """Time verbs, each beside a bare read."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        which = folder / _verbs()[name][0]
        seconds: list[tuple[float, float, float, float]] = []
        for number in range(rounds + 1):
            marks = [(time.perf_counter(), _cpu(children))]
            read(which)
            marks.append((time.perf_counter(), _cpu(children)))
            run_verb(folder, name)
            marks.append((time.perf_counter(), _cpu(children)))
            (a, i), (b, j), (c, k) = marks
            if number:  # the first round warms up and compiles
                seconds.append((b - a, j - i, c - b, k - j))
        times = READS.get(name, 1)
        found[name] = {
            "reads": times,
            "cpu_s": median(s[3] for s in seconds),
            "cpu_to_reading": median(s[3] / (times * max(s[1], 1e-9)) for s in seconds),
            "rate_to_reading": median(times * s[0] / s[2] for s in seconds),
        }
    return found


def peaks(folder: Path, names: list[str]) -> Mapping[str, float]:
    """Give the peak memory of each verb above the imports in MB, in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--one-peak", str(folder), name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = float(done.stdout.split()[-1])
    return found


@contextmanager
def workers(wanted: bool) -> Iterator[None]:
    """Let a LocalCluster of two processes do the work, if so asked."""
    if not wanted:
        yield
        return
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster),
    ):
        yield


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"1.5 MB each (default: {SAMPLES}, 0.4 GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--verbs", help="some only, separated by commas")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--stores", type=Path, help="folder in which the stores are kept for the next time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-peak", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_peak:
        folder, name = asked.one_peak
        which = Path(folder) / _verbs()[name][0]
        print_peak(lambda: read(which) if name == "read" else run_verb(Path(folder), name))
        return
    names = asked.verbs.split(",") if asked.verbs else [name for name in _verbs() if name != "read"]
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = asked.stores or Path(scratch)
        if not (folder / "clips").exists():
            make_stores(folder, asked.samples)
        with workers(asked.cluster):
            found = rates(folder, names, asked.rounds, children=asked.cluster)
        if not asked.no_memory and not asked.cluster:
            os.environ["OMP_NUM_THREADS"] = "1"
            bare = peaks(folder, ["read"])["read"]
            for name, peak in peaks(folder, names).items():
                found[name]["mb_above_reading"] = peak - bare
    rows = [{"verb": name, **row} for name, row in found.items()]
    print_rows(rows, as_json=asked.json, width=20)


if __name__ == "__main__":
    main()
