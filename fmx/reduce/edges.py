"""Histograms between edges that are given, and histograms in powers of two whose range is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import Runs
from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import State

__all__ = ["EdgeHistogram"]


class EdgeHistogram(ColumnReducer):
    """Counts of the finite values between given edges; what lies outside is counted apart.

    Bins hold their left edge and not their right one, but for the last bin, which holds both (as numpy's do).

    Parameters
    ----------
    edges : sequence of float
        Ascending and finite, at least two; see `linear` and `log`.

    Results
    -------
    counts : (*kept, bin)
    edges : (*kept, edge)
    under, over : finite values below the first and above the last edge
    nan, inf : how many values are NaN, and how many infinite
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        if self.edges.ndim != 1 or len(self.edges) < 2 or not np.isfinite(self.edges).all():
            raise ValueError("a histogram has at least two edges, all of them finite")
        if not (np.diff(self.edges) > 0).all():
            raise ValueError("the edges of a histogram ascend")
        columns = [(name, np.int64) for name in ("under", "over", "nan", "inf")]
        self.dtype = np.dtype([*columns, ("counts", np.int64, (len(self.edges) - 1,))])

    @classmethod
    def linear(cls, low: float, high: float, bins: int = 64) -> EdgeHistogram:
        """Make bins of the same width from `low` to `high`."""
        return cls(np.linspace(low, high, bins + 1).tolist())

    @classmethod
    def log(cls, low: float, high: float, bins: int = 64) -> EdgeHistogram:
        """Make bins whose edges have the same ratio, from `low` to `high`, both above 0."""
        if not 0 < low < high:
            raise ValueError(f"logarithmic bins lie between two numbers above 0, not {low} and {high}")
        return cls(np.geomspace(low, high, bins + 1).tolist())

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of counts and edges."""
        return {"counts": ("bin",), "edges": ("edge",)}

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        return np.zeros(tuple(shape), self.dtype)

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above."""
        results = {name: state[name].copy() for name in ("counts", "under", "over", "nan", "inf")}
        return results | {"edges": np.broadcast_to(self.edges, (*state.shape, len(self.edges))).copy()}

    def take_runs(self, columns: Table, at: int, runs: Runs) -> None:
        """Take in the runs of a block."""
        from fmx.reduce.edge_kernel import count_between

        count_between(runs.flat, runs.bases, runs.starts, runs.length, runs.step, self.edges, columns[0][:, at:])

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        mine = slice(at, at + self.dtype.itemsize // 8)
        columns[0][:, mine] += others[0][:, mine]
