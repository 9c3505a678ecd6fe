"""Making the weights of a TorchScript graph constants, so that torch can fold and reorder them."""

from __future__ import annotations

from typing import Any

import torch

from fmx.errors import ModelError
from fmx_adapters.torchscript.graph import assigns

__all__ = ["freeze"]


def freeze(graph: Any, module: torch.jit.ScriptModule) -> None:
    """Write a module's attributes into a graph of its forward pass, and optimise it for inference; in place.

    It is what ``torch.jit.optimize_for_inference`` does to a module, for a graph that no module has.

    Raises
    ------
    ModelError
        The pass changes the module, so that its attributes are no constants.
    """
    if assigns(module):
        raise ModelError("its forward pass changes the module")
    found: dict[int, Any] = {next(iter(graph.inputs())).unique(): module._c}
    for node in list(graph.findAllNodes("prim::GetAttr", True)):
        holder: Any = found.get(node.input().unique())
        if holder is None:
            raise ModelError("its modules are chosen while it runs")
        value = holder.getattr(node.s("name"))
        found[node.output().unique()] = value
        if not isinstance(value, torch._C.ScriptObject):
            _write(graph, node, value)
    torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_optimize_frozen_graph(graph, True)
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        torch._C._jit_pass_convert_frozen_ops_to_mkldnn(graph)
    torch._C._jit_pass_lint(graph)


def _write(graph: Any, node: Any, value: Any) -> None:
    with graph.insert_point_guard(node):
        constant = graph.insertConstant(_without_gradients(value))
    node.output().replaceAllUsesWith(constant)


def _without_gradients(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_without_gradients, value))
    return value.detach() if isinstance(value, torch.Tensor) else value
