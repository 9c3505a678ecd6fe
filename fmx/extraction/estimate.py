"""What an extraction will take, before it runs: bytes, chunks, memory, and time from a small piece of it."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError, StoreError
from fmx.extraction.settle import Settled
from fmx.store import Store, StorePlan, building_place, encoded_ratio, hierarchy, writer_bytes

__all__ = ["Estimate", "buffers_within", "check_room", "compressed_bytes", "estimate"]

_BATCHES = 3
_BUFFERS = 2
_SAMPLES_TRIED = 4
# Batches in memory ahead of the model, and captured ones behind it.
_BATCHES_READ = 5
_BATCHES_CAPTURED = 3


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take.

    Attributes
    ----------
    rows : list of dict
        For each array ``layer``, ``dims``, ``shape``, ``dtype``, ``chunks``, ``objects``, ``sample_mb``, ``mb``.
    nbytes : int
        Of all arrays before compression.
    ratio : float
        How many times smaller the calibration's store was than its arrays.
    objects : int
        Files or objects in the store.
    memory : int
        Peak memory of the process in bytes, as the calibration had it.
    seconds : float
        For all samples, from the rate of the calibration's last batches.
    free : int or None
        Bytes free on the disk; None where the place does not say.
    bottleneck : str
        What the calibration waited for.
    """

    rows: list[dict[str, Any]]
    nbytes: int
    ratio: float
    objects: int
    memory: int
    seconds: float
    free: int | None
    bottleneck: str

    @property
    def disk_bytes(self) -> int:
        """Bytes of the store, compressed as well as the calibration's was."""
        return math.ceil(self.nbytes / self.ratio)

    def facts(self) -> dict[str, str]:
        """Say it in words, by heading."""
        free = "" if self.free is None else f" of {_size(self.free)} free"
        return {
            "size": f"{_size(self.nbytes)}, about {_size(self.disk_bytes)} compressed ({self.ratio:.2f}×){free}",
            "objects": f"{self.objects}",
            "memory": f"about {_size(self.memory)}",
            "time": f"about {_duration(self.seconds)}, bound by {self.bottleneck}",
        }


def estimate(settled: Settled) -> Estimate:
    """Find out what an extraction will take, by extracting its first samples into a store that is then deleted.

    Raises
    ------
    StoreError
        It does not fit the disk.
    """
    plan = settled.plan({}, {})
    rows = [_row(key, spec, len(plan.samples)) for key, spec in plan.arrays().items()]
    nbytes = sum(row["bytes"] for row in rows)
    seconds, ratio, memory, bottleneck = _calibrate(settled)
    found = Estimate(
        rows=rows,
        nbytes=nbytes,
        ratio=ratio,
        objects=len(hierarchy(plan)) + sum(row["objects"] for row in rows) + len(plan.units()),
        memory=memory,
        seconds=seconds,
        free=free_bytes(settled),
        bottleneck=bottleneck,
    )
    check_room(settled, found.disk_bytes)
    return found


def compressed_bytes(plan: StorePlan, blocks: Mapping[str, NDArray[Any]]) -> int:
    """Say about how large a store will be, if all of it can be compressed as well as these first blocks."""
    total = 0.0
    for key, spec in plan.arrays().items():
        nbytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        block = blocks.get(key)
        total += nbytes * (
            1.0 if block is None else encoded_ratio(spec.codec, np.ascontiguousarray(block[:_SAMPLES_TRIED]))
        )
    return math.ceil(total)


def _row(key: str, spec: Any, samples: int) -> dict[str, Any]:
    nbytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    grid = (math.ceil(n / c) for n, c in zip(spec.shape, spec.chunks, strict=True))
    return {
        "layer": key,
        "dims": " ".join(spec.dims),
        "shape": "×".join(map(str, spec.shape)),
        "dtype": spec.precision or spec.dtype,
        "chunks": "×".join(map(str, spec.chunks)),
        "objects": math.prod(grid),
        "sample_mb": nbytes / samples / 1e6,
        "mb": nbytes / 1e6,
        "bytes": nbytes,
    }


def _calibrate(settled: Settled) -> tuple[float, float, int, str]:
    """Extract a few batches for real; give seconds for all samples, compression, peak memory and the bottleneck."""
    from fmx.extraction.run import run

    samples = settled.source.samples
    each = settled.request.batch_size * _BATCHES // settled.rows_per_sample
    few = settled.source.subset(range(min(max(each, 1), len(samples))))
    with tempfile.TemporaryDirectory(prefix="fmx-try-", dir=_beside(settled)) as folder:
        place = Path(folder) / "try.zarr"
        request = replace(settled.request, to=place, overwrite=False, resume=False, append=False, repair=False)
        tried = replace(settled, request=request, source=few, stored=None)
        marks: list[Any] = []
        store = run(tried, marks.append)
        stored = sum(file.stat().st_size for file in place.rglob("c/**/*") if file.is_file())
        raw = _raw_bytes(store)
    last = marks[-1]
    first = marks[0] if len(marks) > 1 else replace(last, done=0, seconds=0.0)
    rate = (last.done - first.done) / max(last.seconds - first.seconds, 1e-9)
    # Summaries alone take next to nothing.
    ratio = raw / stored if raw and stored else 1.0
    return len(samples) / rate, ratio, _peak_memory(), last.bottleneck


def _raw_bytes(store: Store) -> int:
    """Bytes of all arrays with a sample axis, before compression."""
    arrays = (array for node in store.tree.subtree for array in node.to_dataset(inherit=False).data_vars.values())
    return sum(int(array.nbytes) for array in arrays if "sample" in array.dims)


def _beside(settled: Settled) -> Path | None:
    """Find the folder on the store's own disk in which to try; None for the system's own."""
    place = building_place(settled.request.to).local
    return None if place is None else _existing(place)


def _existing(path: Path) -> Path:
    return next(parent for parent in path.resolve().parents if parent.is_dir())


def free_bytes(settled: Settled) -> int | None:
    """Bytes free where the store will be, or None for places that don't say."""
    place = building_place(settled.request.to).local
    return None if place is None else shutil.disk_usage(_existing(place)).free


def check_room(settled: Settled, needed: int) -> None:
    """See that a store of so many bytes fits its disk.

    Raises
    ------
    StoreError
        It does not.
    """
    free = free_bytes(settled)
    if free is not None and needed > free:
        raise StoreError(
            f"{settled.request.to} would take about {_size(needed)}, and {_size(free)} are free there: keep less "
            "(--layers, --space, --dtype, --keep-channels) or choose another place with -o."
        )


def buffers_within(settled: Settled, plan: StorePlan) -> int:
    """Choose how many units may be in memory, once the model has run and its own share is known.

    Raises
    ------
    DataError
        Not even one fits the memory that was allowed; says how much is needed.
    """
    budget = settled.request.memory
    if budget is None:
        return _BUFFERS
    batch = settled.request.batch_size
    inputs = sum(math.prod(info.shape) * np.dtype(info.dtype).itemsize for info in settled.model.inputs)
    captured = sum(layer.nbytes for layer in settled.layers)
    running = _peak_memory() + batch * (_BATCHES_READ * inputs + _BATCHES_CAPTURED * captured)
    for buffers in range(_BUFFERS, 0, -1):
        needed = running + writer_bytes(plan, buffers)
        if needed <= budget:
            return buffers
    raise DataError(
        f"This takes about {_size(needed)} of memory, and --memory allows {_size(budget)}: allow more, or lower "
        "--batch-size."
    )


def _peak_memory() -> int:
    """Peak memory of this process; the system's usual count begins with that of the process that started it."""
    import resource
    import sys

    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _size(nbytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}" if unit != "bytes" else f"{nbytes:.0f} bytes"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
