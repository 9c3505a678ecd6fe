"""The nodes that autograd recorded between a layer and the input, in an order in which signals can pass them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from fmx.project.steps import Step, shape_of, step_of

__all__ = ["Stop", "stops_between"]


@dataclass(frozen=True)
class Stop:
    """One node on the way.

    Attributes
    ----------
    node : node of autograd
    step : callable
    following : tuple of int or None
        The stops where its signals go on.
    shape, onward : tuple of int
        Of a signal that comes, and of what goes on to the first that follows.
    nbytes : int
        Of the largest tensor of one signal.
    first : bool
        No convolution lies between the layer and this node.
    """

    node: Any
    step: Step
    following: tuple[int | None, ...]
    shape: tuple[int, ...]
    onward: tuple[int, ...]
    nbytes: int
    first: bool


def stops_between(value: torch.Tensor, inputs: torch.Tensor) -> list[Stop] | None:
    """List the stops between a layer's value (1, …native) and the input (1, …), each behind all that lead to it.

    Returns
    -------
    list or None
        None where there is a node that no step is for, or nothing leads to the input.
    """
    if value.grad_fn is None or value.output_nr != 0 or not len(value) == len(inputs) == 1:
        return None
    order = _ordered(value.grad_fn, inputs)
    if order is None or any(number for node in order for to, number in _onward(node) if to is not None):
        return None
    place = {node: i for i, node in enumerate(order)}
    stops: list[Stop] = []
    unmixed = {value.grad_fn}
    for node in order[:-1]:
        first = node in unmixed
        try:
            step = step_of(node, first=first)
        except (AttributeError, RuntimeError):
            # Another version of autograd, or values that were overwritten.
            return None
        if step is None:
            return None
        if first and "Convolution" not in node.name():
            unmixed |= {to for to, _ in _onward(node)}
        following = tuple(place.get(to) for to, _ in _onward(node))
        shapes = [shape_of(node), *(shape_of(*edge) for edge in _onward(node) if edge[0] in place)]
        nbytes = value.element_size() * max(map(prod, shapes))
        stops.append(Stop(node, step, following, shapes[0], shapes[1], nbytes, first))
    return stops


def _onward(node: Any) -> list[tuple[Any, int]]:
    """List the edges on which signals leave a node: none goes to what was overwritten."""
    edges = list(node.next_functions)
    return [(None, 0), *edges[1:]] if node.name().endswith("CopyBackwards") else edges


def _ordered(root: Any, inputs: torch.Tensor) -> list[Any] | None:
    """List the nodes that lead to the input, each behind those that lead to it, the input's last; None if none do."""
    leads: dict[Any, bool] = {}
    order: list[Any] = []
    todo = [(root, False)]
    while todo:
        node, seen = todo.pop()
        following = [to for to, _ in _onward(node) if to is not None]
        if seen:
            own = getattr(node, "variable", None) is inputs
            leads[node] = own or any(leads[to] for to in following)
            if leads[node]:
                order.append(node)
        elif node not in leads:
            leads[node] = False
            todo.append((node, True))
            todo += [(to, False) for to in following if to not in leads]
    order.reverse()
    return order if leads[root] and getattr(order[-1], "variable", None) is inputs else None
