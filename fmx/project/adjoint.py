"""The way back through a network as a list of steps: one forward pass of one copy, many signals.

Autograd needs as many copies of a picture as signals go back at once. Yet what is between a layer and the input is, but
for rules of ReLUs, linear in the signal, and depends on the picture by switches and masks alone, which are the same for
all signals. `way_back` reads the graph that autograd recorded for one copy and makes a step of each of its nodes; where
it meets a node that it doesn't know there is no such way, and autograd has to do.

What takes less time than by autograd: nothing is computed for copies; convolutions run with channels last; the first
one takes only those channels of the layer in which a signal has something; a signal from a few neurons is no larger
than what they see; nothing is copied for operations in place; and signals are split on the way to where maps are large,
so that no tensor leaves the processor's cache, or is so large that fresh memory has to be found for it at each step,
which takes longer than to fill it. Where many signals are whole maps, convolutions are compiled (`fmx.project.quick`),
and each thread goes the way with signals of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch

from fmx.project.quick import quickened, usable, work
from fmx.project.steps import Signal, sum_of, whole
from fmx.project.stops import Stop, stops_between

__all__ = ["WayBack", "way_back"]

# Bytes of a tensor. A processor's last cache holds what goes into a step and what comes out of it, and the C library
# keeps freed memory of this size for the next step; devices are wider.
_MOST = {"cpu": 14 * 2**20}
_MOST_ELSEWHERE = 2**30
# A signal within so much of a map is cut down to it, and goes alone.
_SMALL = 0.2
# Multiplications from which on compiled code saves more time than it takes to load, or at worst to make.
_WORTH = 3 * 10**11
# Threads a signal up to which each signal has one alone; more of them share every step.
_SHARE = 2


@dataclass(frozen=True)
class _Route:
    """Stops, and where on them signals can be split: how many bytes one signal takes until the next such stop."""

    stops: Sequence[Stop]
    narrow: dict[int, int]

    @classmethod
    def of(cls, stops: Sequence[Stop]) -> _Route:
        return cls(stops, _narrow(stops))


class WayBack:
    """Steps from a layer to the input, for any number of signals.

    Parameters
    ----------
    stops : list of Stop
        Each behind all those that lead to it; the input is behind the last.
    shape : tuple of int
        Of the input (1, …).
    most : int
        Bytes that no tensor exceeds, as far as splitting signals helps.
    many : bool
        So many signals come that compiled code is worth its while. The graph has to be kept until the first of them.
    """

    def __init__(self, stops: list[Stop], shape: tuple[int, ...], most: int, *, many: bool = False) -> None:
        self._plain = _Route.of(stops)
        self._shape = shape
        self._most = most
        self._many = many

    def __call__(self, signals: torch.Tensor) -> torch.Tensor:
        """Pull signals (signal, …native) back to the input."""
        with torch.inference_mode():
            threads = torch.get_num_threads() if signals.device.type == "cpu" else 1
            small = _parts(signals)
            if small is not None:
                return self._shared(self._plain, small, threads)
            if self._many and threads <= _SHARE * len(signals):
                parts = signals.tensor_split(min(threads, len(signals)))
                return self._shared(self._quick, [Signal(part, False) for part in parts], threads)
            return self._from(self._plain, 0, Signal(signals, False))

    @cached_property
    def _quick(self) -> _Route:
        return _Route.of(quickened(self._plain.stops))

    def _shared(self, route: _Route, parts: list[Signal], threads: int) -> torch.Tensor:
        """Give each part to a thread: those that share every step wait for each other."""

        def alone(part: Signal) -> torch.Tensor:
            with torch.inference_mode():
                return self._from(route, 0, part)

        if min(threads, len(parts)) == 1:
            return torch.cat([alone(part) for part in parts])
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return torch.cat(list(pool.map(alone, parts)))
        finally:
            # What a thread sets holds for the others, too.
            torch.set_num_threads(threads)

    def _from(self, route: _Route, start: int, signal: Signal) -> torch.Tensor:
        """Go on at a stop that all signals pass."""
        stops = route.stops
        waiting = {start: signal}
        del signal
        for i in range(start, len(stops)):
            signal = waiting.pop(i)
            count = len(signal.values)
            parts = min(count, -(-count * route.narrow.get(i, 0) // self._most))
            if parts > 1:
                split = signal.values.tensor_split(parts)
                return torch.cat([self._from(route, i, Signal(part, signal.owned, signal.at)) for part in split])
            made = stops[i].step(signal)
            del signal
            for to, given in zip(stops[i].following, made, strict=False):
                if to is not None and given is not None:
                    waiting[to] = sum_of(waiting[to], given) if to in waiting else given
            del made
        return whole(waiting[len(stops)], self._shape).values


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


def _narrow(stops: Sequence[Stop]) -> dict[int, int]:
    """Find the stops that all signals pass, and the bytes of one signal until the next one of them."""
    found: dict[int, int] = {}
    furthest = last = 0
    for i, stop in enumerate(stops):
        if furthest <= i:
            last = i
        found[last] = max(found.get(last, 0), stop.nbytes)
        furthest = max(furthest, *(to for to in stop.following if to is not None))
    return found


def way_back(value: torch.Tensor, inputs: torch.Tensor, count: int = 1) -> WayBack | None:
    """Make steps of the graph between a layer and the input.

    Parameters
    ----------
    value : tensor (1, …native)
        A layer's value in a pass of one copy.
    inputs : tensor (1, …)
        What the pass started from.
    count : int
        Signals that will go this way.

    Returns
    -------
    WayBack or None
        None where there is a node that no step is for, or nothing leads to the input.
    """
    stops = stops_between(value, inputs)
    if stops is None:
        return None
    many = count * work(stops) >= _WORTH and usable()
    return WayBack(stops, tuple(inputs.shape), _MOST.get(value.device.type, _MOST_ELSEWHERE), many=many)
