"""For each label the samples that excite it most, with the value and its position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import as_floats, find_runs, offsets
from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import Position, State

__all__ = ["TopSamples"]


class TopSamples(ColumnReducer):
    """The `k` samples with the largest values, and where in the sample the value is.

    A sample counts with its largest finite value over everything else that is summed up; of several places with that
    value the first one is told. Of samples with the same value the one that comes first is listed first. Only the best
    `k` so far are kept, and nothing is sorted in full.

    The first of the axes that are summed up is the sample's. For the strongest samples, blocks may hold parts of a
    sample; for the weakest ones every block must hold all of each of its samples, since a part can't tell how weak the
    whole is.

    Parameters
    ----------
    k : int
    position : sequence of str
        Names of the axes that are summed up beside the sample's, in their order.
    weakest : bool
        Give the samples whose largest value is smallest instead.

    Results
    -------
    value : (*kept, rank), best first; NaN where there are fewer samples
    sample : (*kept, rank), positions along the sample axis; -1 where there are fewer
    one for each name in `position` : (*kept, rank), positions along that axis; -1 where there are fewer
    """

    def __init__(self, k: int = 9, position: Sequence[str] = (), *, weakest: bool = False) -> None:
        if k < 1:
            raise ValueError(f"at least one sample is listed, not {k}")
        self.k = k
        self.position = tuple(position)
        self.weakest = weakest
        fields: list[Any] = [("value", np.float64, (k,)), ("sample", np.int64, (k,))]
        if self.position:
            fields.append(("position", np.int64, (k, len(self.position))))
        self.dtype = np.dtype(fields)

    @property
    def whole_samples(self) -> bool:
        """Whether every block must hold all of each of its samples."""
        return self.weakest

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dim of all results."""
        return dict.fromkeys(("value", "sample", *self.position), ("rank",))

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["value"], state["sample"] = np.nan, -1
        if self.position:
            state["position"] = -1
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give values, samples and positions."""
        results = {"value": state["value"].copy(), "sample": state["sample"].copy()}
        return results | {name: state["position"][..., i].copy() for i, name in enumerate(self.position)}

    def fill(
        self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int], start: Sequence[Position] | None
    ) -> None:
        """Take in a block."""
        from fmx.reduce.top_kernel import take_top

        summed = sorted(axes)
        if len(summed) != 1 + len(self.position):
            raise ValueError(f"{len(summed)} axes are summed up, and positions are named {self.position} beside sample")
        if block.size == 0:
            return
        values, first = np.moveaxis(as_floats(block), summed[0], 0), summed[0]
        values = np.ascontiguousarray(values) if min(values.strides) < 0 else values
        inner = summed[1:]
        runs = find_runs(values, inner)
        layout = [(values.shape[i], values.strides[i] // values.itemsize) for i in inner]
        begins = [_positions(n, start, i) for i, n in enumerate(block.shape)]
        grid = np.meshgrid(*(begins[i] for i in inner), indexing="ij")
        places = np.stack([g.ravel() for g in grid], axis=1) if grid else np.zeros((1, 0), np.int64)
        bases = runs.bases.reshape(len(values), -1)
        where = runs.flat, runs.mask, bases, runs.starts, runs.length, runs.step
        wanted = self.weakest, self.k, at
        take_top(*where, begins[first], offsets(layout), places, *wanted, *columns)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        from fmx.reduce.top_kernel import merge_top

        merge_top(self.weakest, self.k, len(self.position), at, *columns, *others)


def _positions(length: int, start: Sequence[Position] | None, axis: int) -> NDArray[np.int64]:
    """List where the entries along an axis are in the whole array."""
    begin: Position = 0 if start is None else start[axis]
    if isinstance(begin, np.ndarray):
        return np.asarray(begin, dtype=np.int64)
    return np.arange(begin, begin + length, dtype=np.int64)
