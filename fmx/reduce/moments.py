"""Count, mean, spread, shape, extremes, norms and sparsity in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.columns import FusedReducer
from fmx.reduce.protocol import State

__all__ = ["Moments"]


class Moments(FusedReducer):
    """Moments, extremes, norms and shares of the finite values.

    Central moments up to the fourth are kept in float64 whatever the data's type: from two passes over each piece that
    fits the cache, merged by the pairwise formulas of Chan, Golub and LeVeque (1983) and Pébay (2008). Values that are
    NaN or infinite are counted apart and enter nothing else; their share is of all values, the other shares are of the
    finite ones.

    Parameters
    ----------
    only : sequence of str
        Results that are wanted; all of them where left out.

    Results
    -------
    count : finite values
    mean, std, var : of the population (divided by n)
    skewness, kurtosis : m3 / m2**1.5 and m4 / m2**2 - 3 of the population; NaN where all values are the same
    min, max : smallest and largest
    sparsity : share that is exactly 0 (of either sign)
    negative : share below 0
    l1, l2 : sum of absolute values, root of the sum of squares
    hoyer : (√n - l1/l2) / (√n - 1), from 0 where all values are as large to 1 where only one is not 0; Hoyer (2004)
    nan, inf : how many are NaN, and how many infinite
    nan_share, inf_share : the same as shares of all values
    """

    dtype = np.dtype(
        [
            ("count", np.int64),
            ("mean", np.float64),
            ("m2", np.float64),
            ("m3", np.float64),
            ("m4", np.float64),
            ("l1", np.float64),
            ("min", np.float64),
            ("max", np.float64),
            ("zeros", np.int64),
            ("negative", np.int64),
            ("nan", np.int64),
            ("inf", np.int64),
        ]
    )
    part = 0

    def __init__(self, only: Sequence[str] = ()) -> None:
        self.only = tuple(only)

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["min"], state["max"] = np.inf, -np.inf
        return state

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above; NaN where nothing finite was seen."""
        count, some = state["count"], state["count"] > 0
        with np.errstate(all="ignore"):
            n = np.where(some, count, np.nan)
            every = count + state["nan"] + state["inf"]
            mean, var = np.where(some, state["mean"], np.nan), state["m2"] / n
            spread = np.where(var > 0, var, np.nan)
            l2 = np.sqrt(state["m2"] + n * mean**2)
            ratio = np.where(l2 > 0, state["l1"] / l2, np.nan)
            results = {
                "count": count.copy(),
                "mean": mean,
                "std": np.sqrt(var),
                "var": var,
                "skewness": state["m3"] / n / spread**1.5,
                "kurtosis": state["m4"] / n / spread**2 - 3,
                "min": np.where(some, state["min"], np.nan),
                "max": np.where(some, state["max"], np.nan),
                "sparsity": state["zeros"] / n,
                "negative": state["negative"] / n,
                "l1": np.where(some, state["l1"], np.nan),
                "l2": l2,
                "hoyer": np.clip((np.sqrt(n) - ratio) / np.where(n > 1, np.sqrt(n) - 1, np.nan), 0, 1),
                "nan": state["nan"].copy(),
                "inf": state["inf"].copy(),
                "nan_share": state["nan"] / np.where(every > 0, every, np.nan),
                "inf_share": state["inf"] / np.where(every > 0, every, np.nan),
            }
        return {name: results[name] for name in self.only or results}
