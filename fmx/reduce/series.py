"""Summaries of values that belong together along an axis: noise levels beside the clean one, and timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.reduce.blocks import as_floats, find_runs
from fmx.reduce.columns import ColumnReducer, Table
from fmx.reduce.protocol import State

__all__ = ["NoisePairs", "TimeSeries"]


class NoisePairs(ColumnReducer):
    """How like the clean values those of each noise level are: SQNR, cosine, relative L2 and correlation.

    Every block must hold all levels. Pairs of which one value is NaN or infinite are counted and left out. Means and
    central moments are merged as Chan, Golub and LeVeque (1983) do; ratios and logarithms are taken once, at the end.

    Parameters
    ----------
    levels : int
    clean : int
        Position of the clean level.
    axis : int
        Of the levels; it is one of those that are summed up.

    Results
    -------
    All (*kept, noise); x is the clean and y the noisy value.
    sqnr : 10·log10(Σx² / Σ(x-y)²) in dB; infinite where nothing differs, NaN where both sums are 0 or nothing was seen
    cosine : Σxy / √(Σx² Σy²), NaN where either is 0 throughout
    relative_l2 : √(Σ(x-y)² / Σx²), NaN where x is 0 throughout
    correlation : Pearson's, NaN where either is constant
    count, lost : pairs, and pairs that were left out
    """

    def __init__(self, levels: int, clean: int = 0, axis: int = 1) -> None:
        self.levels, self.clean, self.axis = levels, clean, axis
        whole, real = ("count", "lost"), ("mean_x", "mean_y", "xx", "yy", "xy", "difference")
        self.dtype = np.dtype([(n, np.int64, (levels,)) for n in whole] + [(n, np.float64, (levels,)) for n in real])

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """Axes that blocks must hold from end to end."""
        return (self.axis,)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dim of all results."""
        names = ("sqnr", "cosine", "relative_l2", "correlation", "count", "lost")
        return dict.fromkeys(names, ("noise",))

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        return np.zeros(tuple(shape), self.dtype)

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above."""
        n, mx, my = state["count"], state["mean_x"], state["mean_y"]
        lost = state["difference"]
        with np.errstate(all="ignore"):
            xx, yy, xy = state["xx"] + n * mx**2, state["yy"] + n * my**2, state["xy"] + n * mx * my
            return {
                "sqnr": 10 * np.log10(xx / lost),
                "cosine": np.clip(xy / (np.sqrt(xx) * np.sqrt(yy)), -1, 1),
                "relative_l2": np.sqrt(lost / np.where(xx > 0, xx, np.nan)),
                "correlation": np.clip(state["xy"] / (np.sqrt(state["xx"]) * np.sqrt(state["yy"])), -1, 1),
                "count": n.copy(),
                "lost": state["lost"].copy(),
            }

    def take(self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block."""
        from fmx.reduce.series_kernel import add_pairs

        found = _without_axis(block, axes, self.axis, self.levels, "noise levels")
        if found is not None:
            flat, runs, apart = found
            where = flat, runs.mask, runs.bases, runs.starts, runs.length, runs.step, apart
            add_pairs(*where, self.clean, self.levels, at, *columns)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns."""
        from fmx.reduce.series_kernel import join_pairs

        join_pairs(self.levels, at, *columns, *others)


class TimeSeries(ColumnReducer):
    """How the values of each neuron change from timestep to timestep.

    Every block must hold all timesteps. Series with a value that is NaN or infinite are counted and left out.

    Parameters
    ----------
    times : int
        Timesteps, two or more.
    lags : int
        Of the autocorrelation, below `times`.
    axis : int
        Of the timesteps; it is one of those that are summed up.

    Results
    -------
    change : mean of |x[t+1] - x[t]|
    steps : (*kept, step), the same at each step
    variance : mean over neurons of the population variance of their series
    autocorrelation : (*kept, lag), Σ (x[t] - m)(x[t+lag] - m) / Σ (x[t] - m)², the sums over timesteps and neurons
        and m the mean of a neuron's series (the usual, biased estimator); NaN where nothing changes
    count, lost : series, and series that were left out
    """

    def __init__(self, times: int, lags: int, axis: int = 2) -> None:
        if times < 2 or not 0 <= lags < times:
            raise ValueError(
                f"{times} timesteps and {lags} lags: two timesteps at least, and fewer lags than timesteps"
            )
        self.times, self.lags, self.axis = times, lags, axis
        fields: list[Any] = [("count", np.int64), ("lost", np.int64), ("squares", np.float64)]
        fields.append(("steps", np.float64, (times - 1,)))
        if lags:
            fields.append(("products", np.float64, (lags,)))
        self.dtype = np.dtype(fields)

    @property
    def whole_axes(self) -> tuple[int, ...]:
        """Axes that blocks must hold from end to end."""
        return (self.axis,)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Dims of steps and autocorrelation."""
        return {"steps": ("step",), "autocorrelation": ("lag",)}

    def identity(self, shape: Sequence[int]) -> State:
        """Give the state of nothing seen."""
        return np.zeros(tuple(shape), self.dtype)

    def finalize(self, state: State) -> dict[str, NDArray[Any]]:
        """Give the results listed above."""
        with np.errstate(all="ignore"):
            n = np.where(state["count"] > 0, state["count"], np.nan)
            squares = np.where(state["squares"] > 0, state["squares"], np.nan)[..., None]
            products = state["products"] if self.lags else np.zeros((*state.shape, 0))
            return {
                "change": state["steps"].sum(axis=-1) / n / (self.times - 1),
                "steps": state["steps"] / n[..., None],
                "variance": state["squares"] / n / self.times,
                "autocorrelation": products / squares,
                "count": state["count"].copy(),
                "lost": state["lost"].copy(),
            }

    def take(self, columns: Table, at: int, block: NDArray[Any], axes: Sequence[int]) -> None:
        """Take in a block."""
        from fmx.reduce.series_kernel import add_series

        found = _without_axis(block, axes, self.axis, self.times, "timesteps")
        if found is not None:
            flat, runs, apart = found
            where = flat, runs.bases, runs.starts, runs.length, runs.step, apart
            add_series(*where, self.times, self.lags, at, *columns)

    def join(self, columns: Table, others: Table, at: int) -> None:
        """Merge columns: all of them are sums."""
        whole = slice(at, at + 2)
        real = slice(at + 2, at + self.dtype.itemsize // 8)
        columns[0][:, whole] += others[0][:, whole]
        columns[1][:, real] += others[1][:, real]


def _without_axis(
    block: NDArray[Any], axes: Sequence[int], axis: int, length: int, what: str
) -> tuple[NDArray[Any], Any, int] | None:
    """See a block as runs of the values at the first entry of an axis; the others lie so far behind each."""
    if block.shape[axis] != length:
        raise ValueError(f"a block holds {block.shape[axis]} of {length} {what}")
    if axis not in axes:
        raise ValueError(f"axis {axis} is not among those that are summed up, {tuple(axes)}")
    if block.size == 0:
        return None
    values = np.ascontiguousarray(as_floats(block))
    rest = [i - (i > axis) for i in axes if i != axis]
    first: Any = (*(slice(None),) * axis, 0)
    runs = find_runs(values[first], rest)
    return values.reshape(-1), runs, values.strides[axis] // values.itemsize
