"""ONNX graphs as differentiable PyTorch modules.

`to_torch` turns a graph into a `torch.fx.GraphModule`. What is a layer there becomes a module of `torch.nn`, so that
it can be found by its type and replaced; everything else becomes a call of a small pure function. Weights are
parameters, and gradients flow to weights and inputs.

The operators are a table, `fmx_adapters.onnx.importer.registry.REGISTRY`, filled by the modules that are named after
their theme. ``python -m fmx_adapters.onnx.importer`` lists it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import fx

from fmx.errors import ModelError, near_matches
from fmx_adapters.onnx.importer.builder import Builder, needed_nodes
from fmx_adapters.onnx.importer.checks import check_nodes, opset_versions
from fmx_adapters.onnx.importer.operators import names
from fmx_adapters.onnx.importer.preparation import prepare
from fmx_adapters.onnx.importer.registry import REGISTRY

__all__ = ["CLAIMED", "to_torch"]

CLAIMED: list[str] = sorted(names())
"""The operators that can be imported, by name; those of another domain than ONNX's own as ``domain.name``."""


def to_torch(model: onnx.ModelProto, *, outputs: Sequence[str] | None = None) -> fx.GraphModule:
    """Turn an ONNX model into a differentiable PyTorch module.

    Parameters
    ----------
    model : onnx.ModelProto
        With its external data loaded. It is not changed; operator sets 9 to 28.
    outputs : sequence of str, optional
        Names of the values to return; the graph's outputs if left out. What they don't need is left out, so that it
        need not be supported.

    Returns
    -------
    torch.fx.GraphModule
        In evaluation mode. It takes the graph's inputs in their order and returns a tensor, or a tuple where there are
        several outputs. Weights are parameters under the names of the initializers where these are paths, and can
        be trained. Each node of its graph says in ``meta["onnx_value"]`` which ONNX value it computes and in
        ``meta["onnx_node"]`` in which ONNX node; the attribute ``onnx_values`` maps the names of the ONNX values to
        names of nodes of ``module.graph``. Both survive `copy.deepcopy`, but not pickling, which traces the module
        anew. Values that don't depend on the inputs are computed once, here, and appear only where something reads
        them. No gradient passes a rounding, and so none passes QuantizeLinear.

    Raises
    ------
    ModelError
        The graph uses an operator, attribute or element type that can't be turned into PyTorch, or it has no value
        of that name. Nothing has been run then.
    """
    prepared = prepare(model)
    graph = prepared.graph
    wanted = [output.name for output in graph.output] if outputs is None else list(outputs)
    _check_known(wanted, graph, prepared.initializers)
    nodes = needed_nodes(graph, wanted)
    opsets = opset_versions(model)
    check_nodes(nodes, opsets, REGISTRY)
    builder = Builder(graph, opsets, prepared.initializers)
    builder.inputs([i.name for i in graph.input if i.name not in prepared.initializers])
    builder.nodes(nodes)
    module = builder.finish(wanted, single=True)
    module.onnx_values = builder.values  # type: ignore[assignment]
    # Deep copies and pickles of a GraphModule keep just the attributes that are listed here.
    module.meta[torch.fx.graph_module._USER_PRESERVED_ATTRIBUTES_KEY] = {"onnx_values": builder.values}
    return module


def _check_known(wanted: Sequence[str], graph: onnx.GraphProto, initializers: dict[str, onnx.TensorProto]) -> None:
    known = dict.fromkeys([*(i.name for i in graph.input), *initializers])
    known.update(dict.fromkeys(name for node in graph.node for name in node.output if name))
    for name in wanted:
        if name not in known:
            raise ModelError(f"The ONNX graph has no value '{name}': {near_matches(name, known)}")
