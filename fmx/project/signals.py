"""Which maps and activations of a layer are looked at: ranking, choosing, and the signals that start from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.errors import FmxError, LayerError, near_matches
from fmx.layers import LayerInfo

__all__ = ["METRICS", "Maps", "Signals", "amount", "check_channels", "find_layer", "ranked"]

_SCORES: dict[str, Any] = {"max": np.max, "mean": np.mean, "sum": np.sum, "variance": np.var}
METRICS = tuple(_SCORES)

Amount = int | float


def find_layer(model: Model, name: str) -> LayerInfo:
    """Look a layer with channels up.

    Raises
    ------
    LayerError
        The model has none of this name, or it has no channels.
    """
    for info in model.layers:
        if info.name == name:
            if "channel" not in info.dims:
                raise LayerError(f"{name} has no channels, but ({', '.join(info.dims)}): choose another layer.")
            return info
    raise LayerError(f"No layer is called {name}: {near_matches(name, [info.name for info in model.layers])}")


def check_channels(channels: Sequence[int], info: LayerInfo) -> list[int]:
    """Make sure that channels exist.

    Raises
    ------
    FmxError
        None asked for, or one that the layer does not have.
    """
    count = info.shape[info.dims.index("channel")]
    wanted = [int(channel) for channel in channels]
    if not wanted:
        raise FmxError(f"No channels of {info.name} asked for: give some, or leave them out to see all.")
    missing = [channel for channel in wanted if not 0 <= channel < count]
    if missing:
        raise FmxError(f"{info.name} has no channel {missing[0]}: there are 0 to {count - 1}.")
    return wanted


def amount(wanted: Amount, count: int, what: str) -> int:
    """Read how many of `count` are meant: a whole number is a count, a float a share of all.

    Returns
    -------
    int
        At least 1, at most `count`.

    Raises
    ------
    FmxError
        Less than one, or a share outside 0 to 1.
    """
    if isinstance(wanted, float):
        if not 0 < wanted <= 1:
            raise FmxError(f"A share of {what} lies above 0 and up to 1, not at {wanted:g}: a count has no point.")
        return max(1, math.ceil(wanted * count - 1e-9))
    if wanted < 1:
        raise FmxError(f"At least one of the {what} is needed, not {wanted}.")
    return min(int(wanted), count)


@dataclass(frozen=True)
class Maps:
    """The values of a layer for one sample, seen as maps.

    Attributes
    ----------
    info : LayerInfo
    values : array (channel, position)
        Positions in the order of the layer's other axes.
    """

    info: LayerInfo
    values: NDArray[Any]

    @classmethod
    def of(cls, value: NDArray[Any], info: LayerInfo) -> Maps:
        """Take a value (…native) apart."""
        moved = np.moveaxis(value, info.dims.index("channel"), 0)
        return cls(info, moved.reshape(moved.shape[0], -1))

    def native(self, maps: NDArray[Any]) -> NDArray[Any]:
        """Bring maps (…, channel, position) back to (…, …native)."""
        axis = self.info.dims.index("channel")
        others = [n for i, n in enumerate(self.info.shape) if i != axis]
        shaped = maps.reshape(*maps.shape[:-1], *others)
        return np.moveaxis(shaped, maps.ndim - 2, maps.ndim - 2 + axis)

    def strongest(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Give the largest value of each map and its position, of equal ones the first (channel)."""
        # NaN is no activation.
        known = np.where(np.isnan(self.values), -np.inf, self.values)
        best = known.argmax(axis=1)
        return known[np.arange(len(best)), best], best

    def places(self, positions: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Give positions along the layer's axes besides the channel, by their names."""
        axis = self.info.dims.index("channel")
        names = [d for i, d in enumerate(self.info.dims) if i != axis]
        lengths = [n for i, n in enumerate(self.info.shape) if i != axis]
        if not names:
            return {}
        return dict(zip(names, np.unravel_index(positions, lengths), strict=True))

    def scores(self, metric: str) -> NDArray[np.float64]:
        """Score each map (channel): its max, mean, sum or variance.

        Raises
        ------
        FmxError
            There is no such metric.
        """
        if metric not in METRICS:
            raise FmxError(f"Maps are not ranked by {metric}: {near_matches(metric, [*METRICS, 'selectivity'])}")
        score: NDArray[np.float64] = _SCORES[metric](self.values.astype(np.float64), axis=1)
        return score


def ranked(scores: NDArray[Any]) -> NDArray[np.int64]:
    """List channels from the highest score to the lowest; of equal ones the lower number first, NaN last."""
    return np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")


class Signals:
    """Signals of a deconvnet: the chosen activations of the chosen maps, everything else 0.

    Parameters
    ----------
    maps : Maps
    groups : sequence of sequences of int
        The maps of each signal.
    activations : int or float
        How many of a map's largest values are kept, or which share of its positions. Only values above 0 are: what a
        neuron looks for is what excites it.
    """

    def __init__(self, maps: Maps, groups: Sequence[Sequence[int]], activations: Amount) -> None:
        self._maps = maps
        self._groups = groups
        self._kept = _largest(maps.values, amount(activations, maps.values.shape[1], "activations"))

    def __len__(self) -> int:
        return len(self._groups)

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        """Give some signals at the layer, (signal, …native)."""
        found = np.zeros((stop - start, *self._kept.shape), self._kept.dtype)
        for signal, group in zip(found, self._groups[start:stop], strict=True):
            chosen = list(group)
            signal[chosen] = self._kept[chosen]
        return torch.from_numpy(np.ascontiguousarray(self._maps.native(found)))


def _largest(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Keep the largest values of each map (channel, position) that are above 0; of equal ones the first."""
    positive = np.where(values > 0, values, 0)
    if count >= values.shape[1]:
        return positive
    order = np.argsort(-positive, axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(positive)
    np.put_along_axis(kept, order, np.take_along_axis(positive, order, axis=1), axis=1)
    return kept
