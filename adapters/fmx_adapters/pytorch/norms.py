"""Which batch norms belong to which convolutions: those that alone read what the convolution gives."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import nn

from fmx_adapters._torch import tensors_in

__all__ = ["NormPairs"]

# Stands for values that no convolution gave.
_OTHER = ""


class NormPairs:
    """Told what happens in one pass, finds the convolutions that a batch norm can be folded into.

    Parameters
    ----------
    root : torch.nn.Module
    """

    def __init__(self, root: nn.Module) -> None:
        self._kinds = {path: type(module).__name__ for path, module in root.named_modules()}
        self._given: dict[int, str] = {}
        # Kept, so that no two values have the same identity.
        self._alive: list[torch.Tensor] = []
        self._calls: Counter[str] = Counter()
        self._reads: Counter[str] = Counter()
        self._into: defaultdict[str, list[str]] = defaultdict(list)
        self._shown: set[str] = set()

    def entered(self, path: str, read: tuple[Any, ...]) -> None:
        """Take note of what a module reads."""
        if self._kinds[path].startswith("BatchNorm") and read:
            self._into[path].append(self._given.get(id(read[0]), _OTHER))

    def called(self, given: Any, value: Any) -> None:
        """Take note of what a function of torch reads; what gives no tensor, such as a size, reads no values."""
        sources = [self._given[id(tensor)] for _, tensor in tensors_in(given) if id(tensor) in self._given]
        if sources and next(tensors_in(value), None) is not None:
            self._reads.update(sources)

    def left(self, path: str, output: Any) -> None:
        """Take note of what a module gives; ``""`` for the whole network."""
        for _, tensor in tensors_in(output):
            # Of a block that ends with a convolution, too.
            self._shown.update([self._given[id(tensor)]] if id(tensor) in self._given else [])
        if self._kinds[path].startswith("Conv") and isinstance(output, torch.Tensor):
            self._given[id(output)] = path
            self._alive.append(output)
            self._calls[path] += 1

    def pairs(self) -> dict[str, str]:
        """Give each convolution's batch norm, where that norm reads nothing else and nothing else reads its values."""
        return {
            sources[0]: norm
            for norm, sources in self._into.items()
            if len(set(sources)) == 1
            and sources[0] not in {_OTHER, *self._shown}
            and len(sources) == self._calls[sources[0]] == self._reads[sources[0]]
        }
