"""What is checked before anything is made: that every operator is known, in a version that its handler follows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

import onnx
from onnx import defs

from fmx.errors import ModelError
from fmx_adapters.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET

__all__ = ["check_nodes", "opset_versions"]


def opset_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Map each operator set that a model uses to its version; the default one is ``""``."""
    versions = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    return {"": 1, **versions}


def check_nodes(nodes: Iterable[onnx.NodeProto], opsets: Mapping[str, int], known: Container[tuple[str, str]]) -> None:
    """Check nodes and those of their subgraphs.

    Raises
    ------
    ModelError
        An operator is unknown, or known in other versions only; names all unknown ones.
    """
    unknown: dict[str, str] = {}
    for node in _with_subgraphs(nodes):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in known:
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            unknown.setdefault(name, node.name or next(iter(node.output), ""))
        elif not domain:
            _check_version(node, opsets[domain])
    if unknown:
        listed = ", ".join(f"{name} (node '{node}')" for name, node in unknown.items())
        plural = "s" if len(unknown) > 1 else ""
        raise ModelError(
            f"The ONNX operator{plural} {listed} can't be turned into PyTorch: not supported; "
            "ask for values before them with outputs=, or export the model without them."
        )


def _check_version(node: onnx.NodeProto, version: int) -> None:
    """An operator of an older or newer set will do if its definition is one that the handlers follow."""
    if OLDEST_OPSET <= version <= NEWEST_OPSET:
        return
    nearest = OLDEST_OPSET if version < OLDEST_OPSET else NEWEST_OPSET
    try:
        same = _defined_in(node.op_type, version) == _defined_in(node.op_type, nearest)
    except defs.SchemaError:
        same = False
    if not same or version > defs.onnx_opset_version():  # of a set that ONNX does not know yet, nobody knows
        raise ModelError(
            f"The ONNX operator {node.op_type} (node '{node.name}') is of operator set {version}: "
            f"sets {OLDEST_OPSET} to {NEWEST_OPSET} are supported, so export the model with one of these."
        )


def _defined_in(op_type: str, version: int) -> int:
    return int(defs.get_schema(op_type, version).since_version)


def _with_subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for graph in graphs:
                yield from _with_subgraphs(graph.node)
