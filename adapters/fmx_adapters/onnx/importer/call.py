"""One ONNX node as its handler sees it: attributes, inputs, and ways to put its computation into the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np
import onnx
import torch
from torch import fx, nn

from fmx.errors import ModelError
from fmx_adapters.onnx.importer.constants import CARRIED, DTYPES, Const, tensor_of

if TYPE_CHECKING:
    from fmx_adapters.onnx.importer.builder import Builder

__all__ = ["Call", "Ints", "Value"]

Value: TypeAlias = fx.Node | Const
Ints: TypeAlias = Sequence[int] | torch.Tensor
"""A list of integers that a kernel takes: from an attribute, or computed at run time."""


class Call:
    """One node of an ONNX graph.

    Parameters
    ----------
    node : onnx.NodeProto
    version : int
        Version of the node's operator set.
    inputs : sequence
        The values that the node reads; None for an optional input that is left out.
    builder : Builder
        The graph that is being made.
    """

    def __init__(self, node: onnx.NodeProto, version: int, inputs: Sequence[Value | None], builder: Builder) -> None:
        self.node = node
        self.version = version
        self.inputs = inputs
        self.builder = builder
        self._attributes = {a.name: a for a in node.attribute}
        self._read: set[str] = set()

    # -- attributes --------------------------------------------------------------------------------

    def _raw(self, name: str) -> Any:
        self._read.add(name)
        found = self._attributes.get(name)
        return None if found is None else onnx.helper.get_attribute_value(found)

    def has(self, name: str) -> bool:
        """Say whether an attribute is given."""
        return name in self._attributes

    def integer(self, name: str, default: int = 0) -> int:
        """Give an integer attribute."""
        value = self._raw(name)
        return default if value is None else int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Give an integer attribute that stands for yes or no."""
        return bool(self.integer(name, default))

    def decimal(self, name: str, default: float = 0.0) -> float:
        """Give a floating point attribute, as the decimal that its 32 bits stand for."""
        value = self._raw(name)
        return default if value is None else _decimal(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Give an attribute that lists integers, or None where it is left out."""
        value = self._raw(name)
        return None if value is None else tuple(int(i) for i in value)

    def decimals(self, name: str) -> tuple[float, ...] | None:
        """Give an attribute that lists numbers, or None where it is left out."""
        value = self._raw(name)
        return None if value is None else tuple(_decimal(i) for i in value)

    def text(self, name: str, default: str = "") -> str:
        """Give a text attribute."""
        value = self._raw(name)
        return default if value is None else value.decode()

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Give an attribute that lists texts, or None where it is left out."""
        value = self._raw(name)
        return None if value is None else tuple(v.decode() for v in value)

    def one_of(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """Give a text attribute that has to be one of the allowed ones."""
        value = self.text(name, default)
        if value not in allowed:
            self.unsupported(f"{name}={value!r}")
        return value

    def graph(self, name: str) -> onnx.GraphProto:
        """Give an attribute that is a graph."""
        value = self._raw(name)
        assert isinstance(value, onnx.GraphProto)
        return value

    def tensor(self, name: str) -> torch.Tensor | None:
        """Give an attribute that is a tensor."""
        value = self._raw(name)
        return None if value is None else tensor_of(value)

    def dtype(self, name: str, default: int = 0) -> torch.dtype | None:
        """Give the element type that an attribute names, or None where it is left out."""
        elem = self.integer(name, default)
        return self.dtype_of(elem) if elem else None

    def dtype_of(self, elem: int) -> torch.dtype:
        """Give PyTorch's name of an ONNX element type."""
        if elem in CARRIED:
            return CARRIED[elem][0]
        if elem not in DTYPES:
            self.unsupported(f"the element type {onnx.TensorProto.DataType.Name(elem)}")
        return DTYPES[elem]

    def ignore(self, *names: str) -> None:
        """Say that attributes make no difference here."""
        self._read.update(names)

    def finish(self) -> None:
        """Check that no attribute was overlooked."""
        unread = sorted(set(self._attributes) - self._read)
        if unread:
            self.unsupported(f"the attribute {unread[0]}")

    # -- inputs ------------------------------------------------------------------------------------

    def __getitem__(self, index: int) -> Value:
        """Give a required input."""
        value = self.get(index)
        if value is None:
            self.unsupported(f"leaving out input {index}")
        return value

    def get(self, index: int) -> Value | None:
        """Give an input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def given(self) -> list[Value]:
        """Give all inputs that are not left out."""
        return [value for value in self.inputs if value is not None]

    def constant(self, index: int) -> torch.Tensor | None:
        """Give the tensor of an input that is known now, else None."""
        value = self.get(index)
        return value.tensor if isinstance(value, Const) else None

    def number(self, index: int) -> float | int | None:
        """Give the number of an input that is a single number known now, else None."""
        tensor = self.constant(index)
        return tensor.item() if tensor is not None and tensor.numel() == 1 else None

    def int_list(self, index: int) -> tuple[int, ...] | Value | None:
        """Give an input that lists integers: the integers where they are known now."""
        tensor = self.constant(index)
        return self.get(index) if tensor is None else tuple(int(i) for i in tensor.reshape(-1).tolist())

    def scales(self, index: int) -> tuple[float, ...] | Value | None:
        """Give an input that lists numbers: the numbers where they are known now; none where it is empty."""
        tensor = self.constant(index)
        return self.get(index) if tensor is None else tuple(tensor.reshape(-1).tolist()) or None

    def attribute_or_input(self, name: str, index: int, since: int) -> tuple[int, ...] | Value | None:
        """Give a list of integers that was an attribute before an operator set and is an input from it on."""
        return self.integers(name) if self.version < since else self.int_list(index)

    def scalar(self, index: int, default: float | int | None = None) -> float | int | Value | None:
        """Give an input that is one number: the number where it is known now."""
        number = self.number(index)
        if number is not None:
            return number
        value = self.get(index)
        return default if value is None else value

    def rank(self, index: int = 0) -> int | None:
        """Give the number of axes of an input, or None where the graph does not tell."""
        value = self.get(index)
        if isinstance(value, Const):
            return value.tensor.ndim
        shape = self.builder.type_of(self.node.input[index]).shape
        return None if shape is None else len(shape)

    def elem(self, index: int = 0) -> int:
        """Give the ONNX element type of an input; 0 where the graph does not tell."""
        return self.builder.type_of(self.node.input[index]).elem if index < len(self.node.input) else 0

    def is_float(self, index: int = 0, *, unknown: bool = False) -> bool:
        """Say whether an input is floating point; the graph may not tell."""
        value = self.get(index)
        if isinstance(value, Const):
            return value.tensor.is_floating_point()
        dtype = DTYPES.get(self.elem(index))
        return unknown if dtype is None else dtype.is_floating_point

    def wants(self, output: int) -> bool:
        """Say whether something may use an output."""
        return output < len(self.node.output) and bool(self.node.output[output])

    # -- the graph ---------------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call a pure function on values and constants; where every value is known now, it is called now."""
        return self._call(self._name(), function, args, kwargs)

    def helper(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call a function whose result is not yet a value of the ONNX graph."""
        return self._call(f"{self._name()}_{function.__name__}", function, args, kwargs)

    def run_time(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Call a function at run time even if all that it takes is known now."""
        return self.builder.emit(self._name(), function, args, kwargs)

    def split(self, values: Value | Sequence[torch.Tensor]) -> list[Value]:
        """Give the node's outputs out of a value that is a tuple of them."""
        return self.builder.unpack(values, self.node)

    def several(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Value]:
        """Call a function that returns a tuple, one element an output."""
        consts = _consts(args, kwargs)
        if consts is None:
            return self.split(self.builder.emit(f"{self._name()}_{function.__name__}", function, args, kwargs))
        tensors = _now(function, args, kwargs)
        weight = any(c.weight for c in consts)
        return [Const(t, name, weight) for t, name in zip(tensors, self.node.output, strict=False)]

    def module(self, module: nn.Module, *inputs: Value, path: str | None = None) -> Value:
        """Call a module that belongs to this node alone."""
        if all(isinstance(value, Const) for value in inputs):
            return self._call(self._name(), module.eval(), inputs, {})
        return self.builder.emit_module(self._name(), path or self.node.name or self._name(), module, inputs)

    def subgraphs(self, module: nn.Module, inputs: Sequence[Value | None]) -> fx.Node:
        """Call a module that holds subgraphs and gives a tuple, one element an output."""
        name = f"{self._name()}_{self.node.op_type.lower()}"
        return self.builder.emit_module(name, self.node.name or name, module, inputs)

    def weight_path(self, index: int = 1) -> str | None:
        """Give the path of the module that a weight belongs to, going by its name."""
        value = self.get(index)
        parent, _, last = value.name.rpartition(".") if isinstance(value, Const) else ("", "", "")
        return parent if parent and last == "weight" else None

    def parameter(self, index: int, *, transposed: bool = False) -> nn.Parameter:
        """Give an input that is known now as a parameter."""
        value = self.get(index)
        assert isinstance(value, Const)
        return value.parameter(transposed=transposed)

    def unsupported(self, what: str) -> NoReturn:
        """Raise the error that says what can't be done, with operator and node."""
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        domain = f"{self.node.domain}." if self.node.domain not in {"", "ai.onnx"} else ""
        raise ModelError(
            f"The ONNX operator {domain}{self.node.op_type} (node '{name}', opset {self.version}) "
            f"can't be turned into PyTorch: {what} is not supported."
        )

    def _name(self) -> str:
        return next((name for name in self.node.output if name), self.node.op_type)

    def _call(self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Value:
        consts = _consts(args, kwargs)
        if consts is None:
            return self.builder.emit(name, function, args, kwargs)
        result = _now(function, args, kwargs)
        return Const(result, name, any(c.weight for c in consts))


def _decimal(value: float) -> float:
    """Give the shortest decimal that the 32 bits stand for: 0.1, not 0.10000000149."""
    return float(str(np.float32(value)))


def _consts(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Const] | None:
    """List the constants among nested arguments, or give None where something is computed at run time."""
    found: list[Const] = []
    pending: list[Any] = [*args, *kwargs.values()]
    while pending:
        item = pending.pop()
        if isinstance(item, fx.Node):
            return None
        if isinstance(item, Const):
            found.append(item)
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return found


def _now(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    with torch.no_grad():
        return function(*map(_tensors, args), **{key: _tensors(value) for key, value in kwargs.items()})


def _tensors(item: Any) -> Any:
    if isinstance(item, Const):
        return item.tensor
    return type(item)(map(_tensors, item)) if type(item) in {list, tuple} else item
