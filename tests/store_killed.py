"""Writes a store in processes that are killed at random moments, until one of them gets to the end.

Run as a script: MODE FOLDER KILLS SEED. It forks, so that each process begins at once, and uses nothing that starts
threads before.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from fmx.layers import LayerInfo
from fmx.store import (
    AppendWriter,
    StoreLock,
    StorePlan,
    UnitWriter,
    append_plan,
    building_place,
    create_store,
    finish_append,
    finish_store,
    is_fmx_store,
    pending_units,
    place_of,
    schema,
)

LAYERS = [
    LayerInfo("conv", "Conv2d", ("channel", "y", "x"), (6, 8, 8), "float32"),
    LayerInfo("fc", "Linear", ("channel",), (40,), "float32"),
]


def a_plan(count, seed=0, noise=(0.0,)):
    ids = [f"s{i}" for i in range(count)]
    about = {"seed": seed, "fingerprint": "f", "layers": [i.name for i in LAYERS]}
    return StorePlan(ids, ids, ids, list(noise), LAYERS, about, batch=4)


def block(key, rows, level, seed):
    shape = next(layer.shape for layer in LAYERS if layer.name == key)
    drawn = [np.random.default_rng([seed, level, row]).normal(size=shape) for row in rows]
    return np.array(drawn, np.float32)


def write(to, plan, *, overwrite=False):
    seed = plan.attributes["seed"]
    final = place_of(to)
    with StoreLock(final):
        place = building_place(final, overwrite=overwrite)
        if not is_fmx_store(place):
            place = create_store(final, plan, overwrite=overwrite)
        with UnitWriter(place) as writer:
            for unit in pending_units(place):
                writer.start_unit(unit)
                for start in range(0, len(unit), 4):
                    rows = slice(start, min(start + 4, len(unit)))
                    for level in range(len(plan.noise)):
                        for layer in LAYERS:
                            values = block(layer.name, unit[rows], level, seed)
                            writer.put(layer.name, rows, values, noise=level)
                writer.finish_unit(unit)
        finish_store(place)


def append(to, plan):
    with StoreLock(to):
        settled = append_plan(to, plan)
        if settled.units:
            with AppendWriter(to) as writer:
                for unit in settled.units:
                    writer.start_unit(unit.unit)
                    for part in unit.parts:
                        at = slice(part.samples.start - unit.unit.start, part.samples.stop - unit.unit.start)
                        for level in part.levels:
                            for key in part.keys:
                                writer.put(key, at, block(key, part.samples, level, 1), noise=level)
                    writer.finish_unit(unit.unit)
        finish_append(to)


def work(mode, folder):
    if mode == "create":
        write(folder / "s", a_plan(40, seed=1))
    elif mode == "overwrite":
        write(folder / "s", a_plan(40, seed=1), overwrite=True)
    else:
        append(folder / "s", a_plan(61, seed=1, noise=(0.0, 0.5)))


def start(mode, folder):
    """Do the work in a process of its own."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work(mode, folder)
            code = 0
        finally:
            os._exit(code)
    return pid


def main(mode, folder, kills, seed):
    schema.MOST_UNIT_SAMPLES = 8
    schema.CHUNK_BYTES = 4096
    drawn = random.Random(seed)
    begun = time.perf_counter()
    if os.waitpid(start(mode, folder / "whole"), 0)[1]:
        sys.exit("the run that nobody killed failed")
    longest = time.perf_counter() - begun
    killed = 0
    while True:
        pid = start(mode, folder)
        if killed < kills:
            time.sleep(drawn.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if not status:
            break
        if status != signal.SIGKILL:
            sys.exit(f"a run that went on ended with {status} after {killed} kills")
        killed += 1
    sys.stdout.write(str(killed))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
