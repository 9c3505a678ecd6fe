"""Histograms whose range is found while they are filled, and histograms between given edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.columns import FusedReducer
from fmx.reduce.protocol import State

__all__ = ["Histogram"]

# Fine bins for each bin of the result: the result's bins end at most an eighth of the range behind it.
FINE = 8
# What the compiled pass writes where nothing was seen.
EMPTY = -(2**15)


class Histogram(FusedReducer):
    """Counts of the finite values in equally wide bins whose range is found in the same pass.

    Fine bins have a power of two as their width and begin at multiples of it. When a value lies outside of their range
    they grow by joining in pairs, so that counts are never split and the state depends on the values alone and not on
    their order. The result joins fine bins to `bins` bins from the one with the smallest value on; the last ones may
    lie behind the largest value and be empty. A bin holds its left edge and not its right one.

    The finest width is 2**-23 of the power of two above the largest absolute value, and not below 2**-120.

    Parameters
    ----------
    bins : int
        From 1 to 1024.

    Results
    -------
    counts : (*kept, bin)
    edges : (*kept, edge), of which there is one more than bins; NaN where nothing finite was seen
    nan, inf : how many values are NaN, and how many infinite
    """

    part = 1

    def __init__(self, bins: int = 64) -> None:
        if not 1 <= bins <= 1024:
            raise ValueError(f"a histogram has 1 to 1024 bins, not {bins}")
        self.bins = bins
        self.fine = max(FINE * bins, 64)
        self.dtype = np.dtype(
            [
                ("exponent", np.int64),
                ("low", np.int64),
                ("min", np.float64),
                ("max", np.float64),
                ("nan", np.int64),
                ("inf", np.int64),
                ("counts", np.int64, (self.fine,)),
            ]
        )

    @property
    def settings(self) -> dict[int, int]:
        """Number of fine bins."""
        return {3: self.fine}

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of counts and edges."""
        return {"counts": ("bin",), "edges": ("edge",)}

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["exponent"], state["min"], state["max"] = EMPTY, np.inf, -np.inf
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give counts, edges, nan and inf."""
        some = state["exponent"] != EMPTY
        last = np.where(some, self._last(state), 0)
        each = last // self.bins + 1  # fine bins in a bin
        padded = np.concatenate([state["counts"], np.zeros((*state.shape, 1), np.int64)], axis=-1)
        total = np.cumsum(padded, axis=-1) - padded
        ends = np.minimum(np.arange(self.bins + 1) * each[..., None], self.fine)
        cumulative = np.take_along_axis(total, ends, axis=-1)
        steps = state["low"][..., None] + np.arange(self.bins + 1) * each[..., None]
        exponent = np.where(some, state["exponent"], 0)[..., None].astype(np.int32)
        with np.errstate(over="ignore"):
            edges = np.ldexp(steps.astype(np.float64), exponent)
        return {
            "counts": np.diff(cumulative, axis=-1),
            "edges": np.where(some[..., None], edges, np.nan),
            "nan": state["nan"].copy(),
            "inf": state["inf"].copy(),
        }

    def _last(self, state: State) -> NDArray[np.int64]:
        """Number the fine bin of the largest value, from the first one on."""
        used = state["counts"] > 0
        return np.asarray(self.fine - 1 - np.argmax(used[..., ::-1], axis=-1), dtype=np.int64)
