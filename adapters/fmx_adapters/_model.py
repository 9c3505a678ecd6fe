"""What the models of all formats have in common: they are looked at once, with a small batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fmx.adapter import InputInfo
from fmx.layers import LayerInfo

__all__ = ["ProbedModel", "layout_option"]


class Probed(Protocol):
    """What one pass over a small batch showed."""

    @property
    def layers(self) -> list[LayerInfo]: ...


class ProbedModel(ABC):
    """A model whose layers are known from one pass; see `fmx.adapter.Model`."""

    adapter: str
    source: str
    notes: str = ""
    preprocessing: Mapping[str, Any] | None = None

    @property
    @abstractmethod
    def _probed(self) -> Probed: ...

    @property
    @abstractmethod
    def inputs(self) -> Sequence[InputInfo]: ...

    def __repr__(self) -> str:
        return f"<fmx model {self.source}: {len(self.layers)} layers>"

    @property
    def layers(self) -> list[LayerInfo]:
        """Every layer, in the order of computation."""
        return self._probed.layers


def layout_option(info: InputInfo) -> str | None:
    """Give the option that keeps an input's layout when its shape changes."""
    return {"CHW": "NCHW", "HWC": "NHWC"}.get(info.layout)
