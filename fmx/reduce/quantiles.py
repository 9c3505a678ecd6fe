"""Quantiles in one pass, with a bound on their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.columns import FusedReducer, table
from fmx.reduce.protocol import State

__all__ = ["LogHistogram", "Quantiles"]

EMPTY = -(2**15)


class Quantiles(FusedReducer):
    """Quantiles of the finite values from counts in logarithmic cells.

    As in DDSketch (Masson, Rim and Lee 2019), cells grow with the size of the values and counts are merged by adding.
    Here a cell is what shares its sign, its power of two and the next bits of the mantissa, so that it is found without
    a logarithm and exactly. Cells are kept for `octaves` powers of two below the largest absolute value; smaller values
    other than 0 share one cell of either sign. The state depends on the values alone and not on their order.

    The quantile is numpy's (``method="linear"``: between the two values next to it in order). Each of these two is off
    by at most 1/`cells` of its own size, or by 2**-octaves of the power of two above the largest absolute value if that
    is more; 0, the minimum and the maximum are exact. Inside a cell values are taken as evenly spread, which makes the
    usual error much smaller than the bound.

    Parameters
    ----------
    q : sequence of float
        Quantiles from 0 to 1, in any order.
    cells : int
        Cells for each power of two; itself a power of two, up to 1024.
    octaves : int
        Powers of two below the largest value that are told apart.

    Results
    -------
    quantiles : (*kept, quantile), in the order of `q`; NaN where nothing finite was seen
    """

    part = 2

    def __init__(
        self, q: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95), *, cells: int = 64, octaves: int = 24
    ) -> None:
        if not all(0 <= value <= 1 for value in q):
            raise ValueError(f"quantiles are numbers from 0 to 1, not {list(q)}")
        if cells < 1 or cells & (cells - 1) or cells * octaves > 2**14 or octaves < 1:
            raise ValueError(f"{cells} cells in {octaves} octaves: take a power of two, and at most 16384 in all")
        self.q = tuple(float(value) for value in q)
        self.cells, self.octaves = cells, octaves
        side = (cells * octaves + 1,)
        self.dtype = np.dtype(
            [
                ("top", np.int64),
                ("min", np.float64),
                ("max", np.float64),
                ("nan", np.int64),
                ("inf", np.int64),
                ("positive", np.int64, side),
                ("negative", np.int64, side),
                ("zero", np.int64),
            ]
        )

    @property
    def settings(self) -> dict[int, int]:
        """Cells of a power of two, and powers of two."""
        return {4: self.cells, 5: self.octaves}

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dim of quantiles."""
        return {"quantiles": ("quantile",)}

    @property
    def error(self) -> str:
        """The bound on the error in words."""
        return (
            f"each of the two values that a quantile lies between is off by at most 1/{self.cells} of its size, or by "
            f"2**-{self.octaves} of the power of two above the largest absolute value"
        )

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["top"], state["min"], state["max"] = EMPTY, np.inf, -np.inf
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the quantiles."""
        return {"quantiles": self.at(state, self.q)}

    def at(self, state: State, q: Sequence[float]) -> NDArray[np.float64]:
        """Give any quantiles (*kept, quantile) of a state."""
        from fmx.reduce.quantile_kernel import look_up

        with table(state) as (whole, real):
            out = np.empty((len(whole), len(q)))
            look_up(whole, real, np.asarray(q, dtype=np.float64), self.cells, self.octaves, out)
        return out.reshape(*state.shape, len(q))

    def bounds(self, state: State, ranks: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the two numbers, both included, that the values of given ranks (*kept, rank) lie between."""
        low, high = np.zeros(ranks.shape), np.zeros(ranks.shape)
        for index in np.ndindex(state.shape):
            entry = state[index]
            edges, below = self._cumulative(entry)
            if below[-1]:
                cell = np.searchsorted(below, ranks[index], side="right") - 1
                low[index] = np.maximum(edges[cell], entry["min"])
                high[index] = np.minimum(edges[cell + 1], entry["max"])
        return low, high

    def distribution(self, state: State) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Give the empirical distribution of one entry: how many values lie below each edge, exactly.

        Returns
        -------
        edges : array (edge,)
            Edges of the cells that hold values, ascending.
        below : array (edge,) of int
            Values below the edge, for edges above 0; values of at most the edge, for those below. 0 is there twice
            if it was seen, before and after the zeros.
        """
        edges, below = self._cumulative(state)
        inside = np.flatnonzero(np.diff(below))
        chosen = np.unique(np.concatenate([inside, inside + 1]))
        return edges[chosen], below[chosen]

    def _cumulative(self, entry: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """List the edges of all cells in ascending order, and the number of values before each."""
        counts = np.concatenate([entry["negative"][::-1], [entry["zero"]], entry["positive"]])
        top = int(entry["top"]) if entry["top"] != EMPTY else 0
        steps = np.arange(self.cells * self.octaves + 1)
        octave, cell = np.divmod(steps, self.cells)
        sizes = _rounded_up(1 + cell / self.cells, (octave + (top - self.octaves + 1)).astype(np.int32))
        edges = np.concatenate([-sizes[::-1], [0.0, 0.0], sizes])
        return edges, np.concatenate([[0], np.cumsum(counts)])


def _rounded_up(mantissas: NDArray[np.float64], exponents: NDArray[np.int32]) -> NDArray[np.float64]:
    """Scale by powers of two. What is too small to be written exactly becomes the next larger number.

    Then the same values lie below it as below the exact edge.
    """
    with np.errstate(over="ignore"):
        found = np.ldexp(mantissas, exponents)
        return np.where(np.ldexp(found, -exponents) < mantissas, np.nextafter(found, np.inf), found)


class LogHistogram(Quantiles):
    """Counts of the finite values in logarithmic bins whose range is found in the same pass.

    Parameters
    ----------
    cells : int
        Bins for each power of two; itself a power of two.
    octaves : int
        Powers of two below the largest absolute value that have bins of their own.

    Results
    -------
    counts : (*kept, bin), from the most negative to the largest: ``cells * octaves`` bins of negative values, one of
        tiny ones, one of values that are exactly 0, one of tiny positive ones, and as many bins of positive ones
    edges : (*kept, edge), of which there is one more; 0 twice, around the zeros. Bins hold the edge that is nearer to 0
    nan, inf : how many values are NaN, and how many infinite
    """

    def __init__(self, cells: int = 1, octaves: int = 24) -> None:
        super().__init__((), cells=cells, octaves=octaves)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of counts and edges."""
        return {"counts": ("bin",), "edges": ("edge",)}

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give counts, edges, nan and inf."""
        bins = 2 * self.cells * self.octaves + 3
        counts, edges = np.zeros((*state.shape, bins), np.int64), np.full((*state.shape, bins + 1), np.nan)
        for index in np.ndindex(state.shape):
            found, below = self._cumulative(state[index])
            counts[index] = np.diff(below)
            if below[-1]:
                edges[index] = found
        return {"counts": counts, "edges": edges, "nan": state["nan"].copy(), "inf": state["inf"].copy()}
