"""Reading ONNX files, and cutting a graph so that it gives just the wanted values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from fmx.errors import ModelError
from fmx_adapters.onnx.external import check_external, external_bytes, is_external

__all__ = ["cut_graph", "graph_inputs", "hash_model", "read_model"]


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; external data stays where it is, checked to lie inside the model's folder.

    Raises
    ------
    ModelError
        The file is no ONNX graph, is damaged, or its external data is missing or elsewhere.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError):
        raise ModelError(f"{path} is no ONNX model, or is truncated: copy or export it again.") from None
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror or error}.") from None
    if not model.graph.node:
        raise ModelError(f"{path} holds no graph, or is truncated: copy or export it again.")
    check_external(model, path)
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
    # All inputs that are fed stay, so that every session is fed alike.
    fed = {i.name for i in graph_inputs(graph)}
    cut.graph.input.extend(i for i in graph.input if i.name in names or i.name in fed)
    known = {output.name: output for output in graph.output}
    cut.graph.output.extend(known.get(n) or onnx.helper.make_empty_tensor_value_info(n) for n in wanted)
    return cut


def _reads(node: onnx.NodeProto) -> list[str]:
    """List what a node reads, including what its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            inside = {name for inner in graph.node for name in inner.output}
            inside |= {i.name for i in graph.input} | {i.name for i in graph.initializer}
            read = [name for inner in graph.node for name in _reads(inner)]
            # A branch may also hand on a value from outside as it is.
            read += [output.name for output in graph.output]
            names += [name for name in read if name not in inside]
    return names


def hash_model(model: onnx.ModelProto, folder: Path) -> str:
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
        if is_external(tensor):
            for block in external_bytes(tensor, folder):
                digest.update(block)
        else:
            digest.update(tensor.raw_data or numpy_helper.to_array(tensor).tobytes())
    return digest.hexdigest()
