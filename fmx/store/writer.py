"""Making and filling a store in one go, by one process."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from fmx.store.create import create_store, finish_store
from fmx.store.layout import pending_units
from fmx.store.places import Place
from fmx.store.plan import StorePlan
from fmx.store.unit_writer import UnitWriter

__all__ = ["StoreWriter"]


class StoreWriter(UnitWriter):
    """Makes a store and fills it; a context manager that finishes the store once all units were written."""

    def __init__(self, to: str | Path | Place, plan: StorePlan, *, overwrite: bool = False) -> None:
        super().__init__(create_store(to, plan, overwrite=overwrite))
        self.plan = plan

    def put(
        self, key: str, rows: slice, block: NDArray[Any], *, noise: int | None = None, timestep: int | None = None
    ) -> None:
        """Copy a block into the unit, as `UnitWriter.put`, or a block of one timestep whose rows are samples."""
        if timestep is None:
            super().put(key, rows, block, noise=noise)
            return
        steps = self.layout.steps(key)
        for row, one in zip(range(rows.start, rows.stop), block, strict=True):
            position = row * steps + timestep
            super().put(key, slice(position, position + 1), one[None], noise=noise)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and not pending_units(self.place):
            finish_store(self.place)
