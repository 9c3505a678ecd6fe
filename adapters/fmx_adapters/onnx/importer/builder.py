"""Makes a `torch.fx` graph out of an ONNX graph, node by node."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import fx, nn

from fmx.errors import ModelError
from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.constants import Const, ValueType, tensor_of, value_type
from fmx_adapters.onnx.importer.registry import REGISTRY

__all__ = ["Builder", "free_names"]


class Builder:
    """One ONNX graph on its way to a module.

    Parameters
    ----------
    graph : onnx.GraphProto
    opsets : mapping of str to int
        Version of each operator set; the default one is ``""``.
    initializers : mapping of str to onnx.TensorProto
        The graph's own constants.
    outer : Builder, optional
        The graph around a subgraph, whose values it may use.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        opsets: Mapping[str, int],
        initializers: Mapping[str, onnx.TensorProto],
        outer: Builder | None = None,
    ) -> None:
        self.opsets = opsets
        self._proto = graph
        self._initializers = initializers
        self._outer = outer
        self._env: dict[str, Value | None] = {}
        self._types = {v.name: value_type(v) for v in [*graph.input, *graph.value_info, *graph.output]}
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._attributes: dict[int, tuple[Const, fx.Node]] = {}
        self._node = onnx.NodeProto()
        self.values: dict[str, str] = {}

    # -- what to make ------------------------------------------------------------------------------

    def inputs(self, names: Sequence[str]) -> None:
        """Add the placeholders."""
        taken: set[str] = set()
        for name in names:
            target = identifier(name)
            while target in taken or keyword.iskeyword(target):
                target += "_"
            taken.add(target)
            self._bind(name, self._mark(self._graph.placeholder(target)))

    def nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Add nodes, in the order of computation."""
        for node in nodes:
            self._add(node)

    def finish(self, outputs: Sequence[str], *, single: bool) -> fx.GraphModule:
        """Give the module; a single output comes as it is if asked for, several as a tuple."""
        values = [self._attribute(self._lookup(name)) for name in outputs]
        self._graph.output(values[0] if single and len(values) == 1 else tuple(values))
        module = fx.GraphModule(self._root, self._graph, "OnnxGraph")
        return module.eval()

    def subgraph(self, graph: onnx.GraphProto, captured: Sequence[str]) -> fx.GraphModule:
        """Make a module of a subgraph; it takes the captured values of this graph after its own inputs."""
        inner = Builder(graph, self.opsets, {i.name: i for i in graph.initializer}, self)
        inner.inputs([*(i.name for i in graph.input), *captured])
        inner.nodes(graph.node)
        return inner.finish([o.name for o in graph.output], single=False)

    def captured(self, *graphs: onnx.GraphProto) -> dict[str, Value]:
        """Find the values of this graph that subgraphs use and that are computed at run time."""
        names = dict.fromkeys(name for graph in graphs for name in free_names(graph))
        found = {name: self._lookup(name) for name in names}
        return {name: value for name, value in found.items() if isinstance(value, fx.Node)}

    def inline(self, graph: onnx.GraphProto) -> list[Value]:
        """Add the nodes of a subgraph without inputs to this graph, and give its outputs."""
        self._initializers = {**self._initializers, **{i.name: i for i in graph.initializer}}
        self._types.update({v.name: value_type(v) for v in [*graph.value_info, *graph.output]})
        self.nodes(graph.node)
        values = [self._lookup(output.name) for output in graph.output]
        return [value if value is not None else Const(torch.empty(0), "") for value in values]

    # -- values ------------------------------------------------------------------------------------

    def type_of(self, name: str) -> ValueType:
        """Give what the graph says of a value's type."""
        known = self._types.get(name, ValueType())
        if name in self._initializers:
            known = ValueType(self._initializers[name].data_type, tuple(self._initializers[name].dims))
        elif name not in self._types and self._outer is not None:
            known = self._outer.type_of(name)
        found = self._env.get(name)
        return ValueType(known.elem, tuple(found.tensor.shape)) if isinstance(found, Const) else known

    def _lookup(self, name: str) -> Value | None:
        if not name:
            return None
        if name not in self._env:
            self._env[name] = self._find(name)
        return self._env[name]

    def _find(self, name: str) -> Value | None:
        if name in self._initializers:
            tensor = tensor_of(self._initializers[name])
            return Const(tensor, name, weight=tensor.is_floating_point())
        if self._outer is not None:
            return self._outer._lookup(name)
        raise ModelError(f"The ONNX graph uses the value '{name}', which nothing computes: export the model again.")

    def _bind(self, name: str, value: Value) -> None:
        self._env[name] = value
        if isinstance(value, fx.Node):
            value.meta["onnx_value"] = name
            self.values[name] = value.name

    # -- nodes -------------------------------------------------------------------------------------

    def _add(self, node: onnx.NodeProto) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        handler = REGISTRY[domain, node.op_type]
        self._node = node
        call = Call(node, self.opsets.get(domain, 1), [self._lookup(name) for name in node.input], self)
        made = handler(call)
        call.finish()
        self._node = node  # a branch that was written out has left its own
        values = [made] if isinstance(made, fx.Node | Const) else list(made)
        wanted = [name for name in node.output if name]
        if any(name in node.output[len(values) :] for name in wanted):
            call.unsupported(f"output {len(values)}")
        for name, value in zip(node.output, values, strict=False):
            if name:
                self._bind(name, self._own(name, value))

    def _own(self, name: str, value: Value) -> Value:
        """Give a value that stands for this ONNX value alone."""
        if isinstance(value, Const) or "onnx_value" not in value.meta:
            return value
        return self.emit(name, identity, (value,), {})

    def emit(self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> fx.Node:
        """Add a function call."""
        node = self._graph.create_node(
            "call_function",
            function,
            tuple(self._attribute(a) for a in args),
            {key: self._attribute(value) for key, value in kwargs.items()},
            name=identifier(name),
        )
        # Functions stay whole where someone traces the module again, as unpickling does.
        node.meta["is_wrapped"] = str(function.__module__).startswith(__package__ or "fmx")
        return self._mark(node)

    def emit_module(self, name: str, path: str, module: nn.Module, inputs: Sequence[Value | None]) -> fx.Node:
        """Add a call of a module that is registered under a path."""
        target = self._register(path, module.eval())
        args = tuple(self._attribute(value) for value in inputs)
        return self._mark(self._graph.create_node("call_module", target, args, {}, name=identifier(name)))

    def unpack(self, values: Any, node: onnx.NodeProto) -> list[Value]:
        """Give a value's elements, one for each output of a node."""
        if not isinstance(values, fx.Node):
            return [Const(tensor, name) for tensor, name in zip(values, node.output, strict=False)]
        # What nobody asks for is not taken out; the tuple holds its place.
        outputs = enumerate(node.output)
        return [self.emit(name, operator.getitem, (values, i), {}) if name else values for i, name in outputs]

    def _mark(self, node: fx.Node) -> fx.Node:
        node.meta["onnx_node"] = self._node.name
        return node

    def _attribute(self, item: Any) -> Any:
        """Replace constants among nested arguments by nodes that read them from the module."""
        if type(item) in {list, tuple}:
            return type(item)(self._attribute(i) for i in item)
        if not isinstance(item, Const):
            return item
        if id(item) not in self._attributes:
            target = self._register(item.name or "constant", item.attribute())
            node = self._graph.create_node("get_attr", target, name=identifier(item.name or "constant"))
            node.meta["onnx_value"] = item.name
            node.meta["onnx_node"] = ""
            self.values.setdefault(item.name, node.name)
            self._attributes[id(item)] = (item, node)
        return self._attributes[id(item)][1]

    def _register(self, path: str, item: nn.Module | torch.Tensor) -> str:
        """Put a module or tensor under a path, or one near it where that is taken, and give the path."""
        parts = [identifier(part, first="") for part in re.split(r"[./]+", path) if part] or ["value"]
        parent = self._container(parts[:-1])
        if parent is None:
            parts, parent = ["_".join(parts)], self._root
        name, count = parts[-1], 0
        while hasattr(parent, name):
            count += 1
            name = f"{parts[-1]}_{count}"
        if isinstance(item, nn.Module):
            parent.add_module(name, item)
        elif isinstance(item, nn.Parameter):
            parent.register_parameter(name, item)
        else:
            parent.register_buffer(name, item)
        return ".".join([*parts[:-1], name])

    def _container(self, parts: Sequence[str]) -> nn.Module | None:
        """Find or make the modules around a path; None where something else has such a name."""
        module = self._root
        for part in parts:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            child = getattr(module, part)
            if type(child) is not nn.Module:
                return None
            module = child
        return module


def identity(x: Any) -> Any:
    """Give back what comes in."""
    return x


def identifier(name: str, first: str = "_") -> str:
    """Turn a name into one that Python takes."""
    name = re.sub(r"\W", "_", name.strip("/"), flags=re.ASCII).strip("_") or "value"
    return f"{first}{name}" if name[0].isdigit() else name


def free_names(graph: onnx.GraphProto) -> list[str]:
    """List the names that a graph uses and does not define."""
    defined = {i.name for i in [*graph.input, *graph.initializer]}
    free: dict[str, None] = {}
    for node in graph.node:
        free.update(dict.fromkeys(name for name in reads(node) if name not in defined))
        defined.update(node.output)
    free.update(dict.fromkeys(o.name for o in graph.output if o.name not in defined))
    return list(free)


def reads(node: onnx.NodeProto) -> list[str]:
    """List the names that a node reads, including what its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        names += [name for graph in graphs for name in free_names(graph)]
    return names


def needed_nodes(graph: onnx.GraphProto, wanted: Collection[str]) -> list[onnx.NodeProto]:
    """Find the nodes that wanted values depend on, in the order of computation."""
    names = set(wanted)
    needed = []
    for node in reversed(graph.node):
        if names.intersection(node.output):
            needed.append(node)
            names.update(reads(node))
    return needed[::-1]
