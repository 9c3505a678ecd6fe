"""Reading ONNX files, and cutting a graph so that it gives just the wanted values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from fmx.errors import ModelError

__all__ = ["cut_graph", "graph_inputs", "hash_model", "read_model"]


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data, which may lie only inside the model's folder.

    Raises
    ------
    ModelError
        The file is no ONNX graph, is damaged, or its external data is missing or elsewhere.
    """
    try:
        model = onnx.load(path)
    except (DecodeError, ValueError):
        raise ModelError(f"{path} is no ONNX model, or is truncated: copy or export it again.") from None
    except (onnx.checker.ValidationError, FileNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} can't be read with its external data: {reason}") from None
    if not model.graph.node:
        raise ModelError(f"{path} holds no graph, or is truncated: copy or export it again.")
    return model


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """List the inputs that have to be fed; older files list their weights among the inputs."""
    weights = {i.name for i in graph.initializer}
    return [i for i in graph.input if i.name not in weights]


def cut_graph(model: onnx.ModelProto, wanted: Sequence[str]) -> onnx.ModelProto:
    """Copy what the wanted values need, with these as the only outputs.

    Marking values as outputs keeps them from being fused away, so nothing else is marked.
    """
    graph = model.graph
    maker = {output: i for i, node in enumerate(graph.node) for output in node.output if output}
    needed: set[int] = set()
    names: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in names:
            continue
        names.add(name)
        if name in maker and maker[name] not in needed:
            needed.add(maker[name])
            pending.extend(_reads(graph.node[maker[name]]))
    cut = onnx.ModelProto()
    cut.ir_version, cut.producer_name = model.ir_version, model.producer_name
    cut.opset_import.extend(model.opset_import)
    cut.functions.extend(model.functions)
    cut.graph.name = graph.name
    cut.graph.node.extend(node for i, node in enumerate(graph.node) if i in needed)
    cut.graph.initializer.extend(i for i in graph.initializer if i.name in names)
    cut.graph.sparse_initializer.extend(graph.sparse_initializer)
    cut.graph.input.extend(i for i in graph.input if i.name in names)
    known = {output.name: output for output in graph.output}
    cut.graph.output.extend(known.get(n) or onnx.helper.make_empty_tensor_value_info(n) for n in wanted)
    return cut


def _reads(node: onnx.NodeProto) -> list[str]:
    """List what a node reads, including what its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            inside = {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in _reads(inner) if name not in inside]
    return names


def hash_model(model: onnx.ModelProto) -> str:
    """Hash the graph and its weights with sha256, part by part, as the whole may be too large to serialise."""
    digest = hashlib.sha256()
    for node in model.graph.node:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.ClearField("metadata_props")
        plain.ClearField("doc_string")
        digest.update(plain.SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        digest.update(tensor.name.encode())
        digest.update(repr((tensor.data_type, list(tensor.dims))).encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


def _raw(tensor: Any) -> bytes:
    return tensor.raw_data or onnx.numpy_helper.to_array(tensor).tobytes()
