"""Looking for missing, truncated and altered parts of a store, and for what has to be redone."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import zarr

from fmx.errors import StoreError
from fmx.store.labels import alone
from fmx.store.layout import Layout, StoredArray, layout_of, read_array, read_root
from fmx.store.places import Place, place_of
from fmx.store.schema import APPENDING, EVERY_CHUNK, LOCK, MAKING, ROOT, SAMPLE_LABELS

__all__ = ["ArrayReport", "Damage", "Verification", "verify_store"]

_THREADS = 4
_MOST_ORPHANS = 1000
_Job = Callable[[], "Damage | None"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that is not as it was written.

    Attributes
    ----------
    name : str
        Of the object below the store.
    what : str
        ``missing``, ``truncated``, ``altered``, or what else is wrong with it.
    array : str
        What fills the array (`fmx.store.StorePlan.arrays`), or the array's path where no sample does.
    samples : range
        Positions of the samples that it holds; empty where it holds none.
    """

    name: str
    what: str
    array: str
    samples: range = range(0)


@dataclass
class ArrayReport:
    """What was found in one array: how many chunks belong there, and what is wrong with which."""

    array: str
    chunks: int = 0
    damages: list[Damage] = field(default_factory=list)

    def count(self, what: str) -> int:
        """Count the damaged chunks of a kind."""
        return sum(damage.what == what for damage in self.damages)


@dataclass
class Verification:
    """What was found in a store.

    Attributes
    ----------
    arrays : dict of str to ArrayReport
    labels : list of Damage
        Metadata and labels, which belong to no sample.
    units : list of range
        Write units that have to be redone.
    samples : dict of int to str
        Positions and ids of the samples that have to be redone (the ids are empty where they can't be read).
    pending : int
        Samples that were not extracted yet, which is no damage.
    appending : bool
        Whether an append was interrupted, which is no damage.
    orphans : list of str
        Objects that belong to nothing, at most the first 1000; they do no harm.
    """

    arrays: dict[str, ArrayReport] = field(default_factory=dict)
    labels: list[Damage] = field(default_factory=list)
    units: list[range] = field(default_factory=list)
    samples: dict[int, str] = field(default_factory=dict)
    pending: int = 0
    appending: bool = False
    orphans: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.labels and not self.units

    @property
    def damages(self) -> list[Damage]:
        """All damaged objects."""
        return [*self.labels, *(damage for report in self.arrays.values() for damage in report.damages)]


def verify_store(to: str | Path | Place, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Read all of a store and see that every part is as it was written.

    Parameters
    ----------
    to : str, path or Place
    progress : callable, optional
        Called with the number of chunks that were read and the number in all.

    Raises
    ------
    StoreError
        There is no store, or its root's metadata is damaged, without which nothing can be told.
    """
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    layout = layout_of(root)
    found = Verification(arrays={key: ArrayReport(key) for key in layout.arrays})
    done = {int(name.rpartition("/")[2]) for name, _ in place.list("complete/c")}
    units = dict(enumerate(layout.units()))
    for number, unit in units.items():
        if number in done:
            for key, array in layout.arrays.items():
                found.arrays[key].chunks += math.prod(_grid(array)) // _grid(array)[0] * len(_rows(array, unit))
    total = sum(report.chunks for report in found.arrays.values())
    _check_labels(place, root, found)
    jobs = _jobs(place, root, layout, {n: u for n, u in units.items() if n in done})
    for count, damage in enumerate(_in_threads(jobs)):
        if damage is not None:
            found.arrays[damage.array].damages.append(damage)
        if progress is not None:
            progress(count + 1, total)
    _gather(place, root, layout, found, done)
    return found


def _in_threads(jobs: Iterable[_Job]) -> Iterator[Damage | None]:
    """Run jobs in a few threads, in order, without listing them all."""
    waiting: deque[Future[Damage | None]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fmx-verify") as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > 2 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# -- chunks of samples ---------------------------------------------------------------------------------


def _grid(array: StoredArray) -> tuple[int, ...]:
    return tuple(math.ceil(n / c) for n, c in zip(array.shape, array.chunks, strict=True))


def _rows(array: StoredArray, unit: range) -> range:
    """Give the numbers of the chunks that hold a unit's samples."""
    return range(unit.start // array.chunks[0], -(-unit.stop // array.chunks[0]))


def _jobs(place: Place, root: Mapping[str, Any], layout: Layout, units: Mapping[int, range]) -> Iterator[_Job]:
    for unit in units.values():
        for key, array in layout.arrays.items():
            # Older stores leave out chunks of nothing but the fill value.
            may_lack = EVERY_CHUNK not in root["attributes"] and array.dtype.kind != "f"
            for indices in product(_rows(array, unit), *map(range, _grid(array)[1:])):
                first = indices[0] * array.chunks[0]
                samples = range(first, min(first + array.chunks[0], unit.stop))
                yield _Chunk(place, key, array, indices, samples, may_lack)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk that is to be looked at."""

    place: Place
    key: str
    array: StoredArray
    indices: tuple[int, ...]
    samples: range
    may_lack: bool

    def __call__(self) -> Damage | None:
        name = self.array.chunk_name(*self.indices)
        what = self._look(name)
        return Damage(name, what, self.key, self.samples) if what else None

    def _look(self, name: str) -> str:
        try:
            data = self.place.read(name)
        except OSError as error:
            return f"unreadable ({error.strerror or error})"
        if data is None:
            return "" if self.may_lack else "missing"
        try:
            self.array.encoder.decode(data, math.prod(self.array.chunks) * self.array.dtype.itemsize)
        except (ValueError, RuntimeError) as error:
            return str(error) if isinstance(error, ValueError) else "altered"
        return ""


# -- labels and metadata -------------------------------------------------------------------------------


def _check_labels(place: Place, root: Mapping[str, Any], found: Verification) -> None:
    """Look at everything that does not belong to one sample."""
    for path, node in root["consolidated_metadata"]["metadata"].items():
        what = _look_at_metadata(place, f"{path}/{ROOT}", node)
        if what:
            found.labels.append(Damage(f"{path}/{ROOT}", what, path))
        if node["node_type"] == "array" and _is_label(path, node):
            found.labels += _look_at_label(place, path, node)


def _is_label(path: str, node: Mapping[str, Any]) -> bool:
    dims = node.get("dimension_names") or ()
    return path in SAMPLE_LABELS or path.startswith("analysis/") or "sample" not in dims


def _look_at_metadata(place: Place, name: str, node: Mapping[str, Any]) -> str:
    data = place.read(name)
    if data is None:
        return "missing"
    try:
        stored = dict(json.loads(data))
    except (ValueError, TypeError):
        return "altered"
    # An append that is being finished changes the arrays' own shapes before those in the root.
    both = [{k: v for k, v in each.items() if k not in {"shape", "consolidated_metadata"}} for each in (stored, node)]
    return "" if both[0] == both[1] else "altered"


def _look_at_label(place: Place, path: str, node: Mapping[str, Any]) -> list[Damage]:
    array = zarr.open_array(alone(path, node), path=path, mode="r")
    found = []
    for indices in product(*(range(math.ceil(n / c)) for n, c in zip(array.shape, array.chunks, strict=True))):
        name = "/".join([path, "c", *map(str, indices)])
        data = place.read(name)
        if data is None:
            if not path.startswith("analysis/"):
                found.append(Damage(name, "missing", path))
            continue
        where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(indices, array.chunks, strict=True))
        try:
            zarr.open_array(alone(path, node, {name: data}), path=path, mode="r")[where]
        except Exception:  # what a codec raises on altered bytes is anybody's guess
            found.append(Damage(name, "altered", path))
    return found


# -- what follows --------------------------------------------------------------------------------------


def _gather(place: Place, root: Mapping[str, Any], layout: Layout, found: Verification, done: set[int]) -> None:
    """Work out what has to be redone."""
    numbers = {d.samples.start // layout.unit for report in found.arrays.values() for d in report.damages}
    units = layout.units()
    complete = root["attributes"]["completeness"] == "complete"
    for number, unit in enumerate(units):
        name = layout.complete.chunk_name(number)
        if number not in done:
            if complete:
                found.labels.append(Damage(name, "missing", "complete", unit))
                numbers.add(number)
            else:
                found.pending += len(unit)
        elif _look_at_label_of_unit(place, layout, number):
            found.labels.append(Damage(name, "altered", "complete", unit))
            numbers.add(number)
    found.units = [units[number] for number in sorted(numbers)]
    ids = _ids(place, found)
    damaged = [d.samples for report in found.arrays.values() for d in report.damages]
    damaged += [d.samples for d in found.labels if d.array == "complete"]
    positions = sorted({position for samples in damaged for position in samples})
    found.samples = {p: ids[p] if p < len(ids) else "" for p in positions}
    found.appending = place.read(f"{APPENDING}/plan.json") is not None
    found.orphans = _orphans(place, root, found.appending)


def _look_at_label_of_unit(place: Place, layout: Layout, number: int) -> bool:
    array = layout.complete
    data = place.read(array.chunk_name(number))
    if [codec["name"] for codec in array.codecs] != ["bytes", "crc32c"]:
        return not data
    try:
        array.encoder.decode(data or b"", layout.unit)
    except ValueError:
        return True
    return False


def _ids(place: Place, found: Verification) -> list[str]:
    return [] if any(d.array == "sample" for d in found.labels) else [str(s) for s in read_array(place, "sample")]


def _orphans(place: Place, root: Mapping[str, Any], appending: bool) -> list[str]:
    nodes = root["consolidated_metadata"]["metadata"]
    known = {ROOT, LOCK, MAKING, *(f"{path}/{ROOT}" for path in nodes)}
    found: list[str] = []
    for name, _ in place.list():
        if name in known or _is_chunk(name, nodes) or (appending and name.startswith(APPENDING)):
            continue
        found.append(name)
        if len(found) == _MOST_ORPHANS:
            break
    return sorted(found)


def _is_chunk(name: str, nodes: Mapping[str, Any]) -> bool:
    path, _, indices = name.partition("/c/")
    node = nodes.get(path)
    if node is None or node["node_type"] != "array":
        return path in nodes and indices == ""
    grid = [
        math.ceil(n / c) for n, c in zip(node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"], strict=True)
    ]
    parts = indices.split("/")
    return len(parts) == len(grid) and all(
        part.isdigit() and int(part) < most for part, most in zip(parts, grid, strict=True)
    )
