"""The way back through a network as a list of steps: one forward pass of one copy, many signals.

Autograd needs as many copies of a picture as signals go back at once. Yet what is between a layer and the input is, but
for rules of ReLUs, linear in the signal, and depends on the picture by switches and masks alone, which are the same for
all signals. `way_back` reads the graph that autograd recorded for one copy and makes a step of each of its nodes; where
it meets a node that it doesn't know there is no such way, and autograd has to do.

What takes less time than by autograd: nothing is computed for copies; convolutions run with channels last; the first
one takes only those channels of the layer in which a signal has something; a signal from a few neurons is no larger
than what they see; nothing is copied for operations in place; and signals are split on the way to where maps are large,
so that no tensor leaves the processor's cache, or is so large that fresh memory has to be found for it at each step,
which takes longer than to fill it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from fmx.project.steps import Signal, Step, shape_of, step_of, sum_of, whole

__all__ = ["WayBack", "way_back"]

# Bytes of a tensor. A processor's last cache holds what goes into a step and what comes out of it, and the C library
# keeps freed memory of this size for the next step; devices are wider.
_MOST = {"cpu": 14 * 2**20}
_MOST_ELSEWHERE = 2**30
# A signal within so much of a map is cut down to it, and goes alone.
_SMALL = 0.2


@dataclass(frozen=True)
class _Stop:
    """One node on the way: its step, the stops where its signals go on, and the bytes of one signal around it."""

    step: Step
    following: tuple[int | None, ...]
    nbytes: int


class WayBack:
    """Steps from a layer to the input, for any number of signals.

    Parameters
    ----------
    stops : list
        Each behind all those that lead to it; the input is behind the last.
    shape : tuple of int
        Of the input (1, …).
    most : int
        Bytes that no tensor exceeds, as far as splitting signals helps.
    """

    def __init__(self, stops: list[_Stop], shape: tuple[int, ...], most: int) -> None:
        self._stops = stops
        self._shape = shape
        self._most = most
        self._narrow = _narrow(stops)

    def __call__(self, signals: torch.Tensor) -> torch.Tensor:
        """Pull signals (signal, …native) back to the input."""
        with torch.inference_mode():
            parts = _parts(signals)
            if parts is None:
                return self._from(0, Signal(signals, False))
            threads = torch.get_num_threads() if signals.device.type == "cpu" else 1
            if min(threads, len(parts)) == 1:
                return torch.cat([self._alone(part) for part in parts])
            # Threads that share so little work wait for each other more than they work.
            try:
                with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    return torch.cat(list(pool.map(self._alone, parts)))
            finally:
                # What a thread sets holds for the others, too.
                torch.set_num_threads(threads)

    def _alone(self, part: Signal) -> torch.Tensor:
        with torch.inference_mode():
            return self._from(0, part)

    def _from(self, start: int, signal: Signal) -> torch.Tensor:
        """Go on at a stop that all signals pass."""
        waiting = {start: signal}
        del signal
        for i in range(start, len(self._stops)):
            if i not in waiting:
                # What was overwritten.
                continue
            signal = waiting.pop(i)
            count = len(signal.values)
            parts = min(count, -(-count * self._narrow.get(i, 0) // self._most))
            if parts > 1:
                split = signal.values.tensor_split(parts)
                return torch.cat([self._from(i, Signal(part, signal.owned, signal.at)) for part in split])
            made = self._stops[i].step(signal)
            del signal
            for to, given in zip(self._stops[i].following, made, strict=False):
                if to is not None and given is not None:
                    waiting[to] = sum_of(waiting[to], given) if to in waiting else given
            del made
        return whole(waiting[len(self._stops)], self._shape).values


def _parts(signals: torch.Tensor) -> list[Signal] | None:
    """Cut each signal down to what is not 0; None where that is too much of a map for any of them."""
    if signals.ndim != 4:
        return None
    lit = (signals != 0).any(dim=1)
    found = []
    for signal, where in zip(signals, lit, strict=True):
        rows, columns = (where.any(dim=axis).nonzero()[:, 0].tolist() or [0] for axis in (1, 0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        if (bottom - top) * (right - left) > _SMALL * where.numel():
            return None
        found.append(Signal(signal[None, :, top:bottom, left:right], False, (top, left)))
    return found


def _narrow(stops: list[_Stop]) -> dict[int, int]:
    """Find the stops that all signals pass, and the bytes of one signal until the next one of them."""
    found: dict[int, int] = {}
    furthest = last = 0
    for i, stop in enumerate(stops):
        if furthest <= i:
            last = i
        found[last] = max(found.get(last, 0), stop.nbytes)
        furthest = max(furthest, *(to for to in stop.following if to is not None))
    return found


def way_back(value: torch.Tensor, inputs: torch.Tensor) -> WayBack | None:
    """Make steps of the graph between a layer and the input.

    Parameters
    ----------
    value : tensor (1, …native)
        A layer's value in a pass of one copy.
    inputs : tensor (1, …)
        What the pass started from.

    Returns
    -------
    WayBack or None
        None where there is a node that no step is for, or nothing leads to the input.
    """
    if value.grad_fn is None or value.output_nr != 0 or not len(value) == len(inputs) == 1:
        return None
    order = _ordered(value.grad_fn, inputs)
    if order is None or any(number for node in order for _, number in node.next_functions):
        return None
    place = {node: i for i, node in enumerate(order)}
    stops: list[_Stop] = []
    unmixed = {value.grad_fn}
    for node in order[:-1]:
        try:
            step = step_of(node, first=node in unmixed)
        except (AttributeError, RuntimeError):
            # Another version of autograd, or values that were overwritten.
            return None
        if step is None:
            return None
        if node in unmixed and "Convolution" not in node.name():
            unmixed |= {following for following, _ in node.next_functions}
        following = tuple(place.get(to) for to, _ in node.next_functions)
        shapes = [shape_of(node), *(shape_of(to, number) for to, number in node.next_functions if to in place)]
        stops.append(_Stop(step, following, value.element_size() * max(map(prod, shapes))))
    return WayBack(stops, tuple(inputs.shape), _MOST.get(value.device.type, _MOST_ELSEWHERE))


def _ordered(root: Any, inputs: torch.Tensor) -> list[Any] | None:
    """List the nodes that lead to the input, each behind those that lead to it, the input's last; None if none do."""
    leads: dict[Any, bool] = {}
    order: list[Any] = []
    todo = [(root, False)]
    while todo:
        node, seen = todo.pop()
        following = [to for to, _ in node.next_functions if to is not None]
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
