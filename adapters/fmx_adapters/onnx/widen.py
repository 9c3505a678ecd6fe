"""Letting a graph that was exported for one batch size take any.

The batch axis of the inputs is opened, and in reshapes to a constant shape that begins with the old batch size that
length is left open too. Whether the result still computes the same is not argued but tried: its values for two
different batches at once have to be those of the original for one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fmx_adapters.onnx.external import is_external

__all__ = ["same_values", "widened"]

_TOLERANCE = 1e-5


def widened(model: onnx.ModelProto, inputs: list[str], batch: int) -> onnx.ModelProto:
    """Copy a graph with an open batch axis.

    Parameters
    ----------
    model : onnx.ModelProto
    inputs : list of str
    batch : int
        The batch size that the graph was exported for.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in wide.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for output in wide.graph.output:
        if output.type.tensor_type.shape.dim:
            output.type.tensor_type.shape.dim[0].ClearField("dim_value")
    del wide.graph.value_info[:]
    constants = {tensor.name: tensor for tensor in wide.graph.initializer}
    constants.update(
        (node.output[0], a.t)
        for node in wide.graph.node
        if node.op_type == "Constant"
        for a in node.attribute
        if a.name == "value"
    )
    for node in wide.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            _open_reshape(node, constants[node.input[1]], batch)
    return wide


def _open_reshape(node: onnx.NodeProto, tensor: onnx.TensorProto, batch: int) -> None:
    """Let the first length follow from the others, or where another one does already, be copied from the input."""
    if is_external(tensor):
        return
    shape = numpy_helper.to_array(tensor).copy()
    if shape.ndim != 1 or len(shape) < 2 or shape[0] != batch:
        return
    if -1 not in shape:
        shape[0] = -1
    elif 0 not in shape:
        shape[0] = 0
        for attribute in node.attribute:
            if attribute.name == "allowzero":
                attribute.i = 0
    tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def same_values(wide: Mapping[str, Any], parts: list[Mapping[str, Any]], batch: int) -> bool:
    """Say whether values of several batches at once are those of the batches one after the other."""
    for name, first in parts[0].items():
        if not isinstance(first, np.ndarray) or first.dtype.kind != "f" or first.shape[:1] != (batch,):
            continue
        whole, joined = wide.get(name), np.concatenate([part[name] for part in parts])
        if not isinstance(whole, np.ndarray) or whole.shape != joined.shape:
            return False
        scale = float(np.abs(joined).max(initial=0.0)) or 1.0
        if not np.allclose(whole, joined, rtol=0, atol=_TOLERANCE * scale, equal_nan=True):
            return False
    return True
