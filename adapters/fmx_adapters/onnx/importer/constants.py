"""Values that are known when a graph is imported, and ONNX's element types as PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from fmx.errors import ModelError

__all__ = ["CARRIED", "DTYPES", "Const", "ValueType", "from_array", "tensor_of", "value_type"]

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}

# Integers of fewer bits than a byte: (type that carries them, least value, greatest value). PyTorch has no such types.
CARRIED: dict[int, tuple[torch.dtype, int, int]] = {
    getattr(TensorProto, name): carrier
    for name, carrier in {
        "INT4": (torch.int8, -8, 7),
        "UINT4": (torch.uint8, 0, 15),
        "INT2": (torch.int8, -2, 1),
        "UINT2": (torch.uint8, 0, 3),
    }.items()
    if hasattr(TensorProto, name)
}

_TRAINABLE = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


class ValueType(NamedTuple):
    """Element type (0 where unknown) and shape (None where unknown) of a value, as the graph says."""

    elem: int = 0
    shape: tuple[int | None, ...] | None = None


def value_type(info: onnx.ValueInfoProto) -> ValueType:
    """Read the type of a value; a sequence or an optional has none."""
    if info.type.WhichOneof("value") != "tensor_type":
        return ValueType()
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return ValueType(tensor.elem_type)
    return ValueType(
        tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    )


@dataclass(eq=False)
class Const:
    """A tensor that is known when the graph is imported.

    ``weight`` says that it is, or was computed from, a floating point initializer: something that training made.
    """

    tensor: torch.Tensor
    name: str
    weight: bool = False
    _parameters: dict[bool, nn.Parameter] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether it becomes a parameter rather than a buffer."""
        return self.weight and self.tensor.dtype in _TRAINABLE and self.tensor.ndim > 0

    def parameter(self, *, transposed: bool = False) -> nn.Parameter:
        """Give the tensor as a parameter: the same one each time, so that modules share what the graph shares."""
        if transposed not in self._parameters:
            tensor = self.tensor.t() if transposed else self.tensor
            self._parameters[transposed] = nn.Parameter(tensor, requires_grad=tensor.dtype in _TRAINABLE)
        return self._parameters[transposed]

    def attribute(self) -> torch.Tensor:
        """Give what a module registers for it."""
        return self.parameter() if self.trainable else self.tensor


def tensor_of(proto: TensorProto) -> torch.Tensor:
    """Turn an ONNX tensor into a PyTorch tensor of its own memory.

    Raises
    ------
    ModelError
        It holds strings or another type that PyTorch lacks, or its external data was not loaded.
    """
    kind = TensorProto.DataType.Name(proto.data_type)
    if proto.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"The external data of the ONNX tensor '{proto.name}' was not loaded: load the model with it.")
    if proto.data_type in CARRIED:
        carrier = CARRIED[proto.data_type][0]
        return torch.from_numpy(numpy_helper.to_array(proto).astype(_numpy_name(carrier)))
    if proto.data_type not in DTYPES:
        raise ModelError(f"The ONNX tensor '{proto.name}' is of type {kind}, which PyTorch does not have.")
    return from_array(numpy_helper.to_array(proto), DTYPES[proto.data_type])


def from_array(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """Turn an array into a tensor; bfloat16 and the 8-bit floats, which numpy lacks, go by their bits."""
    if not array.flags.c_contiguous or not array.flags.writeable:
        array = array.copy()  # a view of a protobuf's bytes: these must not be written to
    if array.dtype.isbuiltin != 1:
        bits = torch.from_numpy(array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8))
        return bits.view(dtype)
    return torch.from_numpy(array).to(dtype)


def _numpy_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
