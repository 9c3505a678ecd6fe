"""The table of operators: which function turns which ONNX operator into PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fmx_adapters.onnx.importer.call import Call, Value

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "REGISTRY", "Handler", "operator"]

# Handlers follow the definitions of ONNX's default domain between these versions. An operator whose definition in
# another version is the same as in one of these is taken as well.
OLDEST_OPSET = 9
NEWEST_OPSET = 28

Handler: TypeAlias = "Callable[[Call], Value | Sequence[Value]]"

REGISTRY: dict[tuple[str, str], Handler] = {}


def operator(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a function as the handler of operators.

    A handler takes the node with its inputs, adds what computes the node to the graph, and gives the node's outputs.
    It raises `fmx.errors.ModelError` by ``call.unsupported(...)`` for what it can't do.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            REGISTRY[domain, name] = handler
        return handler

    return register
