"""Count, mean, spread, extremes and sparsity in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.protocol import State

__all__ = ["Moments"]


class Moments:
    """Mean, standard deviation, minimum, maximum and sparsity of the finite values.

    Mean and variance are merged by the pairwise formula of Chan, Golub and LeVeque (1983), in float64 whatever the
    data's type. Values that are NaN or infinite are counted apart and enter nothing else. The standard deviation is
    the population's (divided by n). Sparsity is the share of finite values that are exactly 0.
    """

    dtype = np.dtype(
        [
            ("count", np.int64),
            ("mean", np.float64),
            ("m2", np.float64),
            ("min", np.float64),
            ("max", np.float64),
            ("zeros", np.int64),
            ("nan", np.int64),
            ("inf", np.int64),
        ]
    )

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        state = np.zeros(tuple(shape), self.dtype)
        state["min"], state["max"] = np.inf, -np.inf
        return state

    def update(self, state: State, block: NDArray[Any], axes: Sequence[int]) -> State:
        """Take in a block (any dims); see `fmx.reduce.Reducer`."""
        axes = tuple(axes)
        kept = tuple(n for i, n in enumerate(block.shape) if i not in axes)
        seen = self.identity(kept)
        if block.size == 0:
            return self.merge(state, seen)
        finite = np.isfinite(block)
        if finite.all():
            self._fill(seen, block, axes)
        else:
            self._fill_finite(seen, block, finite, axes)
        return self.merge(state, seen)

    @staticmethod
    def _fill(seen: State, block: NDArray[Any], axes: tuple[int, ...]) -> None:
        seen["count"] = np.prod([block.shape[a] for a in axes], dtype=np.int64)
        mean = block.mean(axis=axes, dtype=np.float64, keepdims=True)
        spread = block - mean
        seen["mean"] = mean.reshape(seen.shape)
        seen["m2"] = np.square(spread, out=spread).sum(axis=axes)
        seen["min"], seen["max"] = block.min(axis=axes), block.max(axis=axes)
        seen["zeros"] = (block == 0).sum(axis=axes)

    @staticmethod
    def _fill_finite(seen: State, block: NDArray[Any], finite: NDArray[np.bool_], axes: tuple[int, ...]) -> None:
        count = finite.sum(axis=axes, keepdims=True)
        values = np.where(finite, block, 0).astype(np.float64)
        mean = values.sum(axis=axes, keepdims=True) / np.maximum(count, 1)
        seen["count"], seen["mean"] = count.reshape(seen.shape), mean.reshape(seen.shape)
        seen["m2"] = np.where(finite, (values - mean) ** 2, 0).sum(axis=axes)
        seen["min"] = np.where(finite, block, np.inf).min(axis=axes)
        seen["max"] = np.where(finite, block, -np.inf).max(axis=axes)
        seen["zeros"] = (finite & (block == 0)).sum(axis=axes)
        seen["nan"], seen["inf"] = np.isnan(block).sum(axis=axes), np.isinf(block).sum(axis=axes)

    def merge(self, a: State, b: State) -> State:
        """Combine two states of the same labels."""
        out = np.empty(np.broadcast_shapes(a.shape, b.shape), self.dtype)
        count = a["count"] + b["count"]
        share = b["count"] / np.maximum(count, 1)
        step = b["mean"] - a["mean"]
        out["count"] = count
        out["mean"] = a["mean"] + step * share
        out["m2"] = a["m2"] + b["m2"] + step**2 * a["count"] * share
        out["min"], out["max"] = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
        for name in ("zeros", "nan", "inf"):
            out[name] = a[name] + b[name]
        return out

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give count, mean, std, min, max, sparsity, nan and inf; NaN where nothing finite was seen."""
        count = state["count"]
        some = count > 0
        n = np.where(some, count, 1)
        return {
            "count": count.copy(),
            "mean": np.where(some, state["mean"], np.nan),
            "std": np.where(some, np.sqrt(state["m2"] / n), np.nan),
            "min": np.where(some, state["min"], np.nan),
            "max": np.where(some, state["max"], np.nan),
            "sparsity": np.where(some, state["zeros"] / n, np.nan),
            "nan": state["nan"].copy(),
            "inf": state["inf"].copy(),
        }
