"""Adding samples, layers or noise levels to a finished store.

What the store will be stands in an object of its own until all of it is there. New values go into chunks past those
that the store has, so that no reader sees them; a chunk that holds samples of both is written whole, with the old ones
as they were. At the end one write of the root's metadata makes everything visible. An append that was interrupted
is continued by the same command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fmx.errors import StoreError
from fmx.store.chunks import Piece
from fmx.store.compare import stored_settings
from fmx.store.create import hierarchy
from fmx.store.growth import GROWTH, Growth, added, below, new_layers, read_growth, settle_growth
from fmx.store.labels import label_chunks
from fmx.store.layout import Layout, read_root
from fmx.store.places import Place, place_of, written_to
from fmx.store.plan import StorePlan
from fmx.store.schema import APPENDING, ROOT, layer_key
from fmx.store.unit_writer import UnitWriter, _Unit

__all__ = ["AppendPart", "AppendPlan", "AppendUnit", "AppendWriter", "append_plan", "finish_append"]


@dataclass(frozen=True)
class AppendPart:
    """What is missing of some samples of a unit.

    Attributes
    ----------
    samples : range
        Positions on the sample axis.
    levels : tuple of int
        Positions on the noise axis.
    keys : tuple of str
        What is to be put: layers' names, ``outputs/<name>``, and ``inputs`` (at no level).
    """

    samples: range
    levels: tuple[int, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class AppendUnit:
    """A unit of which something is missing: one or two parts of old samples, and one of new ones."""

    unit: range
    parts: tuple[AppendPart, ...]


@dataclass(frozen=True)
class AppendPlan:
    """What a store will be, and what has to be run for it.

    Attributes
    ----------
    samples : list of str
        Ids of all samples, those that are there first.
    noise : list of float
        All levels, those that are there first.
    layers : list of str
        Names of all layers that the store will have.
    old : tuple of int
        Numbers of samples and of noise levels that are there.
    units : list of AppendUnit
        What is still missing; empty where everything is there and only `finish_append` is left.
    """

    samples: list[str]
    noise: list[float]
    layers: list[str]
    old: tuple[int, int]
    units: list[AppendUnit]


def append_plan(to: str | Path | Place, plan: StorePlan, *, restart: bool = False) -> AppendPlan:
    """Settle what is added to a store, and write it down; or go on with what was settled before.

    The store will have its own samples, layers and noise levels and those of the plan that it does not have yet. Model,
    preprocessing, noise and seed have to be the same.

    Parameters
    ----------
    to : str, path or Place
        A finished store.
    plan : StorePlan
        What is wanted. Where layers or levels are new, it has all samples of the store; layers are in the order of
        computation.
    restart : bool
        Forget an append that was interrupted and wanted something else.

    Returns
    -------
    AppendPlan
        Give `AppendWriter` what its units say, then call `finish_append`.

    Raises
    ------
    StoreError
        The store is not finished, was made with other settings, or is in the middle of another append.
    """
    place = place_of(to)
    root = read_root(place)
    if root is None:
        raise StoreError(f"{place} is no fmx store: make one with fmx extract.")
    if root["attributes"]["completeness"] != "complete":
        raise StoreError(f"{place} is not finished: run the command that made it again, without --append.")
    stored = stored_settings(place)
    pending = read_growth(place)
    if pending is not None and pending.root == root:
        # It was finished, and only its traces are left.
        _clear(place)
        pending = None
    growth = settle_growth(place, root, stored, plan)
    if pending is not None and pending != growth:
        if not restart:
            raise StoreError(
                f"Another append to {place} was interrupted ({added(pending)} new): run its command again, or add "
                "--overwrite to forget it."
            )
        _clear(place)
    if growth.root != root:
        _begin(place, growth, plan)
    return _what_to_run(place, growth)


def _begin(place: Place, growth: Growth, plan: StorePlan) -> None:
    """Write down what the store will be, and make the new layers' part of the hierarchy."""
    with written_to(place):
        place.write(GROWTH, growth.dump())
        if growth.new_keys:
            only = new_layers(plan, growth.new_keys, growth.labels, growth.levels)
            inside = [f"layers/{layer_key(name)}" for name in growth.new_keys]
            objects = hierarchy(only, growth.layout.unit)
            place.write_many({name: data for name, data in objects.items() if below(name, inside)})


def _clear(place: Place) -> None:
    with written_to(place):
        # The plan goes last: as long as it is there, what it says holds.
        place.delete_below(f"{APPENDING}/done")
        place.delete_below(APPENDING)


def _done(place: Place) -> set[int]:
    return {int(name.rpartition("/")[2]) for name, _ in place.list(f"{APPENDING}/done")}


def _what_to_run(place: Place, growth: Growth) -> AppendPlan:
    layout, done = growth.layout, _done(place)
    units = []
    for number, unit in enumerate(layout.units()):
        parts = _parts(unit, growth, layout)
        if parts and number not in done:
            units.append(AppendUnit(unit, parts))
    names = [*growth.root["attributes"]["layers"]]
    return AppendPlan(growth.labels["sample"], growth.levels, names, (growth.samples, growth.noise), units)


def _parts(unit: range, growth: Growth, layout: Layout) -> tuple[AppendPart, ...]:
    old = range(unit.start, min(unit.stop, max(growth.samples, unit.start)))
    new = range(old.stop, unit.stop)
    levels = tuple(range(len(growth.levels)))
    noisy = tuple(key for key in layout.arrays if key != "inputs")
    wanted = (
        AppendPart(old, levels[: growth.noise], growth.new_keys),
        AppendPart(old, levels[growth.noise :], noisy),
        AppendPart(new, levels, tuple(layout.arrays)),
    )
    return tuple(part for part in wanted if part.samples and part.levels and part.keys)


class AppendWriter(UnitWriter):
    """Writes what `append_plan` says, in the same way as `UnitWriter`: one unit at a time, with all its parts.

    Rows are counted from the unit's start, for old samples and new ones alike.
    """

    def _read_layout(self) -> Layout:
        growth = read_growth(self.place)
        if growth is None:
            raise StoreError(f"Nothing is being appended to {self.place}: begin with append_plan.")
        self._growth = growth
        return growth.layout

    def start_unit(self, unit: range) -> None:
        super().start_unit(unit)
        assert self._unit is not None
        if unit.start < self._growth.samples < unit.stop:
            self._load_counts(self._unit)

    def _load_counts(self, unit: _Unit) -> None:
        """Take over what was counted in the samples of the unit that are there."""
        old = self._growth.samples - unit.where.start
        for (key, what), array in self.layout.counts.items():
            if key in self._growth.new_keys:
                continue
            for level in range(self._growth.noise):
                data = self.place.read(array.chunk_name(unit.where.start // self.layout.unit, level))
                if data is not None:
                    values = np.frombuffer(array.encoder.decode(data, 4 * self.layout.unit), np.uint32)
                    blank = np.zeros((self.layout.unit, array.shape[1]), np.uint32)
                    unit.unusual.setdefault((key, what), blank)[:old, level] = values[:old]

    def _old(self, unit: _Unit, key: str, level: int) -> int:
        if key in self._growth.new_keys or level >= self._growth.noise:
            return 0
        return min(max(self._growth.samples - unit.where.start, 0), len(unit.where))

    def _begin_row(self, unit: _Unit, piece: Piece) -> tuple[NDArray[Any], int]:
        buffer, _ = super()._begin_row(unit, piece)
        row = piece.row
        chunker = self._chunkers[row.key]
        old = self._old(unit, row.key, row.level) - row.number * chunker.rows
        if old <= 0:
            return buffer, 0
        start = unit.where.start + row.number * chunker.rows
        array = zarr.open_array(self.place.zarr(), path=chunker.array.path, mode="r")
        index = (slice(start, start + old), *([row.level] if chunker.noisy else []), row.step)
        buffer[:old] = array[index]
        return buffer, old

    def _record(self, number: int) -> None:
        self.place.write(f"{APPENDING}/done/{number}", b"done\n")


def finish_append(to: str | Path | Place) -> None:
    """Make what was appended visible, all at once.

    Raises
    ------
    StoreError
        Some of it is missing, or the place can't be written.
    """
    place = place_of(to)
    growth = read_growth(place)
    if growth is None:
        return
    missing = _what_to_run(place, growth).units
    if missing:
        raise StoreError(f"The append to {place} is not finished: run the same command again.")
    with written_to(place):
        nodes = growth.root["consolidated_metadata"]["metadata"]
        objects: dict[str, bytes] = {}
        for name, values in {**growth.labels, "noise": growth.levels}.items():
            objects |= label_chunks(name, nodes[name], values)
        arrays = {path: node for path, node in nodes.items() if node["node_type"] == "array"}
        objects |= {f"{path}/{ROOT}": json.dumps(node, indent=2).encode() for path, node in arrays.items()}
        place.write_many(objects)
        place.sweep()
        # With this all of it is there.
        place.write(ROOT, json.dumps(growth.root, indent=2).encode())
        if "analysis" not in nodes:
            place.delete_below("analysis")
    _clear(place)
