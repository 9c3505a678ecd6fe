"""Means and sums of sizes, for very many labels of few values each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import Runs
from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import State

__all__ = ["Sums"]


class Sums(ColumnReducer):
    """The least that tells means, and means of the values above 0, in float64 whatever the data's type.

    Results
    -------
    count : finite values
    mean : NaN where there are none
    l1 : sum of absolute values
    nan, inf : how many values are NaN, and how many infinite; they enter nothing else
    """

    dtype = np.dtype(
        [("count", np.int64), ("sum", np.float64), ("l1", np.float64), ("nan", np.int64), ("inf", np.int64)]
    )

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        return np.zeros(tuple(shape), self.dtype)

    def take_runs(self, columns: Table, at: int, runs: Runs) -> None:
        """Take in the runs of a block."""
        from fmx.reduce.sums_kernel import add_sums

        add_sums(runs.flat, runs.bases, runs.starts, runs.length, runs.step, at, *columns)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        for i, name in enumerate(self.dtype.names or ()):
            kind = int(name in {"sum", "l1"})
            columns[kind][:, at + i] += others[kind][:, at + i]

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above."""
        count, some = state["count"], state["count"] > 0
        with np.errstate(invalid="ignore"):
            mean = state["sum"] / np.where(some, count, np.nan)
        l1 = np.where(some, state["l1"], np.nan)
        return {"count": count.copy(), "mean": mean, "l1": l1, "nan": state["nan"].copy(), "inf": state["inf"].copy()}
