"""Layers of a model by what a user or a session calls them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fmx.adapter.contract import Model
from fmx.errors import LayerError
from fmx.layers import LayerInfo, select_layers

__all__ = ["choose_layers", "resolve"]


def choose_layers(model: Model, patterns: str | Iterable[str]) -> list[LayerInfo]:
    """Select layers of a model; see `fmx.layers.select_layers`.

    Raises
    ------
    LayerError
        A pattern matches nothing, or the model has no layers at all.
    """
    if not model.layers:
        raise LayerError(f"{model.source} has no layers: it is a single operation, or hands its input on.")
    return select_layers(model.layers, patterns)


def resolve(layers: Sequence[LayerInfo], wanted: Iterable[LayerInfo | str]) -> list[LayerInfo]:
    """Look wanted layers up by name, in the order of computation.

    Raises
    ------
    LayerError
        A name that is no layer.
    """
    names = {w if isinstance(w, str) else w.name for w in wanted}
    exact = [layer for layer in layers if layer.name in names]
    if len(exact) == len(names):
        return exact
    return select_layers(layers, names)
