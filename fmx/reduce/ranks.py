"""Exact quantiles: by narrowing down where each wanted rank is, or by sorting what is there as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import Runs
from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import State

__all__ = ["RankCounts", "SortedQuantiles", "between", "rank_of"]

_ALL = np.int64(2**63 - 1)


def rank_of(q: NDArray[np.float64], count: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the lower of the two ranks that each quantile lies between (*kept, quantile), and how far beyond it is."""
    ranks = q * np.maximum(count[..., None] - 1, 0)
    first = np.floor(ranks)
    return first.astype(np.int64), ranks - first


def between(low: NDArray[np.float64], high: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go from one value towards the next by a share."""
    return np.where(low == high, low, low * (1 - share) + high * share)


class RankCounts(ColumnReducer):
    """Counts that narrow down which values have given ranks among the finite values, pass by pass.

    Values are looked at as whole numbers in the same order (the bits of a float64). Each pass counts, for every wanted
    rank of every label, the values in 2**`bits` equal parts of the range where the rank is known to be, and those
    below. `narrow` then takes the part that has the rank; after at most 8 passes it is one value.

    The state has a range from the start: `seed` makes it, and merging keeps it.

    Parameters
    ----------
    targets : int
        Ranks wanted of each label.
    bits : int
    """

    def __init__(self, targets: int, bits: int = 9) -> None:
        self.targets, self.bits = targets, bits
        fields: list[Any] = [(name, np.int64, (targets,)) for name in ("first", "shift", "under")]
        self.dtype = np.dtype([*fields, ("counts", np.int64, (targets, 2**bits))])

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state that has seen nothing and looks at the whole range of numbers."""
        state = np.zeros(tuple(shape), self.dtype)
        state["shift"] = 64 - self.bits
        state["first"] = -(2 ** (self.bits - 1))
        return state

    def seed(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> State:
        """Give the state that looks between two values (*kept, target) for each rank, both included."""
        state = np.zeros(low.shape[:-1], self.dtype)
        least, most = _keys(low), _keys(high)
        # From 1 on, differences fit whole numbers; around 0 they might not.
        shift = ((least < 0) & (most >= 0)).astype(np.int64)
        while (wide := (most >> shift) - (least >> shift) >= 2**self.bits).any():
            shift += wide
        state["shift"], state["first"] = shift, least >> shift
        return state

    def narrow(self, state: State, ranks: NDArray[np.int64], finest: int) -> tuple[State, NDArray[np.float64], bool]:
        """Take the part that holds each rank (*kept, target).

        Parameters
        ----------
        state : array (*kept)
        ranks : array (*kept, target) of int64
        finest : int
            Lowest bits that are the same in all values: 29 where they were float32 or smaller.

        Returns
        -------
        state : array (*kept)
            For the next pass.
        values : array (*kept, target)
            The values, once they are settled.
        settled : bool
        """
        upto = np.cumsum(state["counts"], axis=-1) + state["under"][..., None]
        part = np.minimum((upto <= ranks[..., None]).sum(axis=-1), 2**self.bits - 1)
        at, before = state["first"] + part, state["shift"]
        after = np.maximum(before - self.bits, np.minimum(finest, before))
        found = np.zeros_like(state)
        found["shift"], found["first"] = after, at << (before - after)
        low = at << before
        keys = np.where(low < 0, low | ((np.int64(1) << before) - 1), low)
        return found, _values(keys), bool((before <= finest).all())

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the counts as they are."""
        return {name: state[name].copy() for name in self.dtype.names or ()}

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dims of results."""
        return dict.fromkeys(("first", "shift", "under"), ("target",)) | {"counts": ("target", "part")}

    def take_runs(self, columns: Table, at: int, runs: Runs) -> None:
        """Take in the runs of a block."""
        from fmx.reduce.rank_kernel import count_ranks

        where = runs.flat, runs.bases, runs.starts, runs.length, runs.step
        count_ranks(*where, self.targets, 2**self.bits, columns[0][:, at:])

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        counted = slice(at + 2 * self.targets, at + self.dtype.itemsize // 8)
        columns[0][:, counted] += others[0][:, counted]


class SortedQuantiles(ColumnReducer):
    """Quantiles of the finite values by sorting, for labels of which all values come in one block.

    Results
    -------
    quantiles : (*kept, quantile), numpy's (``method="linear"``); NaN where nothing finite was seen
    """

    def __init__(self, q: Sequence[float]) -> None:
        self.q = np.asarray(q, dtype=np.float64)
        self.dtype = np.dtype([("quantiles", np.float64, (len(self.q),))])

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dim of quantiles."""
        return {"quantiles": ("quantile",)}

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["quantiles"] = np.nan
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the quantiles."""
        return {"quantiles": state["quantiles"].copy()}

    def take_runs(self, columns: Table, at: int, runs: Runs) -> None:
        """Take in the block that holds everything."""
        from fmx.reduce.rank_kernel import sorted_quantiles

        where = runs.flat, runs.bases, runs.starts, runs.length, runs.step
        sorted_quantiles(*where, self.q, columns[1][:, at:])

    def join(self, columns: Table, others: Table, at: int) -> None:  # noqa: ARG002
        """Refuse: sorted parts can't be merged into quantiles."""
        raise TypeError("quantiles by sorting need all values of a label in one block")


def _keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn floats into whole numbers in the same order."""
    bits = np.ascontiguousarray(values + 0.0, dtype=np.float64).view(np.int64)
    return bits ^ ((bits >> 63) & _ALL)


def _values(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(keys ^ ((keys >> 63) & _ALL)).view(np.float64) + 0.0
