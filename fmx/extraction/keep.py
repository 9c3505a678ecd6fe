"""What is kept of a layer's values: some channels, maps or summaries of them over space."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError, LayerError
from fmx.layers import LayerInfo, select_layers

__all__ = ["Keep", "parse_channels"]

_OVER_SPACE: Mapping[str, Callable[..., NDArray[Any]]] = {"mean": np.mean, "max": np.max}
_SPACE_DIMS = frozenset({"z", "y", "x", "token"})
_ALL = slice(None)


@dataclass(frozen=True)
class Keep:
    """Which part of each layer's values is kept.

    Attributes
    ----------
    channels : mapping of str to tuple of int
        Channels by layer name; layers that are not named keep all.
    space : str
        ``full``: maps as they are; ``mean`` and ``max``: one number a channel, over all positions or tokens; ``K×K``:
        the means of a grid of cells (y, x), as adaptive average pooling defines them.
    """

    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    space: str = "full"

    def __post_init__(self) -> None:
        if self.space not in {"full", *_OVER_SPACE} and self.grid is None:
            raise DataError(f"There is no --space {self.space}: use full, mean, max, or a grid such as 4x4.")

    @property
    def grid(self) -> tuple[int, int] | None:
        """Cells along (y, x), if space is a grid."""
        match = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", self.space)
        return (int(match[1]), int(match[2])) if match else None

    @classmethod
    def of(cls, layers: Sequence[LayerInfo], channels: Iterable[str] | Mapping[str, Sequence[int]], space: str) -> Keep:
        """Read a user's choice: ``"0-15,31"`` for all layers, ``"layer1=0-15"`` or a mapping for some of them.

        Raises
        ------
        DataError, LayerError
            A layer or a channel that is not there.
        """
        wanted: dict[str, tuple[int, ...]] = {}
        asked = channels.items() if isinstance(channels, Mapping) else map(_split, channels)
        for pattern, picked in asked:
            numbers = parse_channels(picked) if isinstance(picked, str) else tuple(int(n) for n in picked)
            for layer in select_layers(layers, pattern) if pattern else _with_channels(layers):
                wanted[layer.name] = _check(layer, numbers)
        return cls(wanted, space)

    def over_space(self, layer: LayerInfo) -> LayerInfo:
        """Describe a layer with its maps summarised, and all its channels."""
        lengths = dict(zip(layer.dims, layer.shape, strict=True))
        if self.space in _OVER_SPACE:
            lengths = {dim: n for dim, n in lengths.items() if dim not in _SPACE_DIMS}
        elif self.grid is not None and {"y", "x"} <= set(lengths):
            lengths |= {dim: min(lengths[dim], cells) for dim, cells in zip("yx", self.grid, strict=True)}
        return replace(layer, dims=tuple(lengths), shape=tuple(lengths.values()))

    def summarise(self, layer: LayerInfo, block: NDArray[Any]) -> NDArray[Any]:
        """Summarise the maps of a block (sample, …native), of all channels."""
        if self.space in _OVER_SPACE:
            axes = tuple(1 + i for i, dim in enumerate(layer.dims) if dim in _SPACE_DIMS)
            return _OVER_SPACE[self.space](block, axis=axes) if axes else block
        if self.grid is not None and {"y", "x"} <= set(layer.dims):
            for dim, cells in zip("yx", self.grid, strict=True):
                block = _cell_means(block, 1 + layer.dims.index(dim), cells)
        return block

    def pick(self, layer: LayerInfo, block: NDArray[Any]) -> NDArray[Any]:
        """Take the kept channels out of a block (sample, …native)."""
        if layer.name not in self.channels:
            return block
        axis = 1 + layer.dims.index("channel")
        return block[(_ALL,) * axis + (list(self.channels[layer.name]),)]

    def named_channels(self) -> dict[str, list[int]]:
        """Give the kept channels as plain values."""
        return {name: list(numbers) for name, numbers in self.channels.items()}


def _cell_means(block: NDArray[Any], axis: int, cells: int) -> NDArray[Any]:
    """Average over cells along one axis; a cell runs from floor(i·n/k) to ceil((i+1)·n/k)."""
    length = block.shape[axis]
    if length <= cells:
        return block
    lead = (_ALL,) * axis
    bounds = [(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]
    return np.stack([block[(*lead, slice(*b))].mean(axis=axis) for b in bounds], axis=axis)


def parse_channels(text: str) -> tuple[int, ...]:
    """Read ``0-15,31``.

    Raises
    ------
    DataError
        Something else stands there.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise DataError(f"--keep-channels takes numbers and ranges such as 0-15,31, not '{text}'.")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(numbers))


def _split(text: str) -> tuple[str, str]:
    layer, _, numbers = text.rpartition("=")
    return layer, numbers


def _with_channels(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [layer for layer in layers if "channel" in layer.dims]


def _check(layer: LayerInfo, numbers: tuple[int, ...]) -> tuple[int, ...]:
    if "channel" not in layer.dims:
        raise LayerError(f"{layer.name} has no channels: leave it out of --keep-channels.")
    count = layer.shape[layer.dims.index("channel")]
    wrong = [n for n in numbers if not 0 <= n < count]
    if wrong or not numbers:
        asked = wrong[0] if wrong else "none"
        raise LayerError(f"{layer.name} has the channels 0 to {count - 1}, not {asked}: correct --keep-channels.")
    return numbers
