"""Naming what a pass recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from fmx.naming import NamedValue, PassTrace
from fmx_adapters._torch import Key, is_layer_value
from fmx_adapters.torchscript.record import Event

__all__ = ["Found", "name_events"]


class Found(NamedTuple):
    """A value of a recorded pass."""

    key: Key
    event: Event
    value: torch.Tensor


def name_events(events: Iterable[Event]) -> list[NamedValue[Found]]:
    """Name the values of a pass over the small batch that can be layers."""
    trace: PassTrace[Found] = PassTrace()
    for event in events:
        if event.site.event == "enter":
            trace.enter(event.site.path, event.site.name)
        elif event.site.event == "exit":
            trace.exit(*_layer_values(event))
        else:
            for _, found in _layer_values(event):
                trace.op(event.site.name, found)
    return trace.named()


def _layer_values(event: Event) -> Iterator[tuple[str, Found]]:
    for key, value in event.tensors():
        if is_layer_value(value):
            yield key.place, Found(key, event, value)
