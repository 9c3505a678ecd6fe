"""Activation maximization: pictures that excite what one asks for.

``fmx.maximize.maximize(model, "layer3", [5, 9])`` makes them; objectives add, subtract and scale:
``maximize(model, channel("layer3", 5) - 0.5 * logit(281))``. Torch is imported when something is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fmx.maximize.objectives import Objective, channel, direction, diversity, logit, neuron, parse_objective

if TYPE_CHECKING:
    from fmx.maximize.api import maximize
    from fmx.maximize.transforms import Transforms

__all__ = [
    "Objective",
    "Transforms",
    "channel",
    "direction",
    "diversity",
    "logit",
    "maximize",
    "neuron",
    "parse_objective",
]

_HOMES = {"Transforms": "fmx.maximize.transforms", "maximize": "fmx.maximize.api"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fmx.maximize' has no attribute {name!r}")
