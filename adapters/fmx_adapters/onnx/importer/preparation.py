"""Getting a model ready: functions written out, and the types of its values worked out where that is possible."""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import inliner, shape_inference

from fmx.errors import ModelError

__all__ = ["Prepared", "prepare"]

_SMALL = 1024  # bytes; shapes and axes are smaller, weights larger


class Prepared(NamedTuple):
    """A graph that knows the types of its values, and its constants, which are those of the model itself."""

    graph: onnx.GraphProto
    initializers: dict[str, onnx.TensorProto]


def prepare(model: onnx.ModelProto) -> Prepared:
    """Write out the model's own functions and infer types.

    Raises
    ------
    ModelError
        The model has sparse weights.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"The ONNX weight '{name}' is sparse, which can't be turned into PyTorch: make it dense.")
    initializers = {i.name: i for i in model.graph.initializer}
    light = _without_weights(model)
    try:
        graph = shape_inference.infer_shapes(light, data_prop=True).graph
    except shape_inference.InferenceError:
        graph = light.graph  # what can't be inferred is found out at run time
    return Prepared(graph, initializers)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with small constants only, as inference copies it again and takes no more than 2 GiB."""
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4))  # from 4 on, an initializer need not be an input
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    known = {v.name for v in [*graph.input, *graph.value_info, *graph.output]}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            # A weight counts as an input here, which is told apart again by its name.
            graph.input.append(onnx.helper.make_value_info(tensor.name, kind))
    return light
