"""What TorchScript's operators do, for going through a graph in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fmx.errors import ModelError

__all__ = [
    "CONTAINERS",
    "Traced",
    "arguments_of",
    "check_path",
    "mapped",
    "on_path",
    "operator_of",
]


class Traced:
    """A value of a torch.fx graph.

    Attributes
    ----------
    node : torch.fx.Node
    value : object
        What it is on the small batch.
    names : list of torch.Value
        The TorchScript values that it stands for.
    """

    def __init__(self, node: fx.Node, value: Any) -> None:
        self.node = node
        self.value = value
        self.names: list[Any] = []


def mapped(value: Any, change: Callable[[Traced], Any]) -> Any:
    """Change the traced values in lists, tuples and dictionaries."""
    if isinstance(value, Traced):
        return change(value)
    if isinstance(value, list | tuple):
        items = [mapped(inner, change) for inner in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    return value


def operator_of(node: Any) -> Any:
    """Give the operator that a node calls.

    Raises
    ------
    ModelError
        It is none that Python can call.
    """
    namespace, _, name = node.kind().partition("::")
    schema = node.schema()
    try:
        if schema == "(no schema)":
            raise AttributeError(name)
        overload = torch._C.parse_schema(schema).overload_name
        return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    except (AttributeError, RuntimeError):
        raise ModelError(f"its operator {node.kind()} has no gradient that fmx knows of") from None


def arguments_of(target: Any, inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Split the inputs of a node into what its operator takes by position and by keyword."""
    pairs = list(zip(target._schema.arguments, inputs, strict=True))
    by_position = [given for argument, given in pairs if not argument.kwarg_only]
    return by_position, {argument.name: given for argument, given in pairs if argument.kwarg_only}


def check_path(found: Any, expected: Any) -> bool:
    """Stop where data leads elsewhere than when the graph was made.

    Raises
    ------
    ModelError
        It does.
    """
    if found != expected:
        raise ModelError(
            "The model's path depends on its data, and this batch leads elsewhere than the one that was looked at: "
            "capture its layers with a session."
        )
    return True


def on_path(value: Any, *_checks: bool) -> Any:
    """Give a value once its path is checked."""
    return value


# -- lists, tuples and dictionaries ----------------------------------------------------------------

# Makes a plain number out of a position that the graph may compute.
Settle = Callable[[Any], Any]


def _append(_: Settle, items: list[Any], item: Any) -> Any:
    items.append(item)
    return items


def _extend(_: Settle, items: list[Any], more: list[Any]) -> Any:
    items.extend(more)
    return items


def _insert(settle: Settle, items: list[Any], place: Any, item: Any) -> Any:
    items.insert(settle(place), item)
    return items


def _set_item(settle: Settle, items: Any, place: Any, item: Any) -> Any:
    items[settle(place)] = item
    return items


def _delete(settle: Settle, items: Any, place: Any) -> Any:
    del items[settle(place)]
    return items


def _clear(_: Settle, items: Any) -> Any:
    items.clear()
    return items


def _reverse(_: Settle, items: list[Any]) -> Any:
    items.reverse()
    return items


def _pop(settle: Settle, items: Any, place: Any = -1, *default: Any) -> Any:
    return items.pop(settle(place), *default)


def _slice(settle: Settle, items: list[Any], start: Any, stop: Any, step: Any) -> Any:
    return items[settle(start) : settle(stop) : settle(step)]


def _get(settle: Settle, items: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return items.get(settle(key), default)


def _contains(settle: Settle, items: Any, item: Any) -> Any:
    return settle(item) in [settle(x) for x in items]


CONTAINERS: dict[str, Callable[..., Any]] = {
    "append": _append,
    "extend": _extend,
    "insert": _insert,
    "pop": _pop,
    "clear": _clear,
    "reverse": _reverse,
    "slice": _slice,
    "get": _get,
    "_set_item": _set_item,
    "Delete": _delete,
    "__contains__": _contains,
    "__getitem__": lambda settle, items, place: items[settle(place)],
    "len": lambda _, items: len(items),
    "copy": lambda _, items: items.copy(),
    "list": lambda _, items: list(items),
    "add": lambda _, items, more: items + more,
    "add_": _extend,
    "mul": lambda settle, items, count: items * settle(count),
    "keys": lambda _, items: list(items.keys()),
    "values": lambda _, items: list(items.values()),
    "items": lambda _, items: list(items.items()),
}
