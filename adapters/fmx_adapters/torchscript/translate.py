"""Translating a recorded TorchScript graph into a torch.fx graph, which autograd and other tools understand.

The graph is gone through once on a small batch, node by node. What follows from the input becomes nodes of the new
graph; everything else is computed and becomes constant. Where the path depends on a value, the path of the small batch
is taken, with a check that it is still the right one.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import fx, nn

from fmx.errors import ModelError
from fmx_adapters._relu import Rectifier, as_rectifier
from fmx_adapters.torchscript.operators import (
    CONTAINERS,
    Traced,
    arguments_of,
    check_path,
    mapped,
    on_path,
    operator_of,
)
from fmx_adapters.torchscript.record import Event, forward_arguments, recorded_graph

__all__ = ["Translation"]

_ATEN = torch.ops.aten
# What is the same for every batch of samples of one shape.
_FIXED = {"dim", "is_floating_point", "is_complex", "dtype", "device", "layout", "is_cuda"}


# Nodes that hold on to what they read.
_KEEPING = {"prim::ListConstruct", "prim::TupleConstruct", "prim::DictConstruct", "prim::Return", "aten::append"}


class _Notes(list[Any]):
    """A list of the recorder's."""


class _Holder:
    """A module of the graph: its path, and the module."""

    def __init__(self, path: str, module: Any) -> None:
        self.path = path
        self.module = module


class Translation:
    """A module's forward pass as a torch.fx graph.

    Parameters
    ----------
    module : ScriptModule
        In evaluation mode.
    batch : mapping of str to tensor
        The small batch, by the names of the inputs.

    Attributes
    ----------
    module : torch.fx.GraphModule
        Its weights are copies. ReLUs are modules, also those that TorchScript does in place.
    events : list of Event
        What was recorded on the small batch.
    """

    def __init__(self, module: torch.jit.ScriptModule, batch: Mapping[str, torch.Tensor]) -> None:
        self._root = nn.Module()
        self._new = fx.Graph()
        self._order: dict[fx.Node, int] = {}
        self._found: dict[int, Any] = {}
        # By their memory; kept, so that memory is not used again.
        self._traced: dict[int, list[Traced]] = defaultdict(list)
        self._state: dict[Any, fx.Node] = {}
        self._assigned: dict[tuple[str, str], Any] = {}
        self._checks: list[fx.Node] = []
        self._writers: dict[int, fx.Node] = {}
        self._keys: dict[int, str] = {}
        self._depth = 0
        graph, recorder = recorded_graph(module, None, (), keep_output=True)
        self._lists = {values.unique() for values in recorder.lists.values()}
        self._bind_inputs(module, graph, batch)
        with torch.no_grad():
            self._run(graph.nodes())
        *lists, output = (self._found[value.unique()] for value in graph.outputs())
        self.events: list[Event] = list(recorder.replay(dict(zip(recorder.lists, lists, strict=True))))
        self._new.output(mapped(self._checked(output), lambda traced: traced.node))
        self.module = fx.GraphModule(self._root, self._new)
        # A layer may be what nothing else needs.
        layers = {name for key in self._keys.values() for name in key.split("@")}
        self.module.graph.eliminate_dead_code(lambda node: node.is_impure() or node.name in layers)
        self.module.recompile()

    def key_of(self, value: torch.Tensor) -> str:
        """Say by which key `LayeredModule` knows a tensor of the events."""
        return self._keys[id(value)]

    def _bind_inputs(self, module: torch.jit.ScriptModule, graph: Any, batch: Mapping[str, torch.Tensor]) -> None:
        itself, *inputs = graph.inputs()
        self._found[itself.unique()] = _Holder("", module._c)
        for value, argument in zip(inputs, forward_arguments(module), strict=True):
            name = argument.name
            given = self._trace(self._new.placeholder(name), batch[name]) if name in batch else argument.default_value
            self._found[value.unique()] = given

    # -- going through the graph -------------------------------------------------------------------

    def _run(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            inputs = [self._found[value.unique()] for value in node.inputs()]
            special = _SPECIAL.get(node.kind())
            results = special(self, node, inputs) if special else self._compute(node, inputs)
            for value, result in zip(node.outputs(), results, strict=True):
                self._found[value.unique()] = result
                if isinstance(result, Traced):
                    result.names.append(value)

    def _compute(self, node: Any, inputs: list[Any]) -> list[Any]:
        name = node.kind().rpartition("::")[2]
        first = inputs[0] if inputs else None
        if isinstance(first, _Notes) and name == "append":
            first.append(mapped(self._checked(inputs[1]), self._noted))
            return [first]
        if name in CONTAINERS and isinstance(first, list | tuple | dict):
            return [CONTAINERS[name](self._settle, *inputs)][: node.outputsSize()]
        if name in {"eq", "ne"} and isinstance(first, Enum):
            return [(first == inputs[1]) == (name == "eq")]
        if isinstance(first, Traced) and _is_floating(first.value):
            what = as_rectifier(name, inputs[1:])
            if what is not None:
                return [self._rectify(node, first, what)]
        result = self._call(operator_of(node), inputs)
        return list(result) if node.outputsSize() > 1 else [result][: node.outputsSize()]

    def _call(self, target: Any, inputs: Sequence[Any]) -> Any:
        """Compute, and add a node to the new graph where the result depends on the input or is a tensor."""
        given = arguments_of(target, inputs)
        values, keywords = mapped(given, lambda traced: traced.value)
        value = target(*values, **keywords)
        depends = [False]
        mapped(inputs, lambda _: depends.append(True))
        name = target._schema.name.rpartition("::")[2]
        if name in _FIXED or not (any(depends) or any(_tensors(value))):
            return value
        arguments, keywords = mapped(given, lambda traced: traced.node)
        made = self._add(self._new.call_function(target, tuple(arguments), keywords))
        for argument, passed in zip(target._schema.arguments, inputs, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(passed, Traced):
                self._writers[_memory(passed.value)] = made
        return self._unpacked(made, value)

    def _unpacked(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value if value is None else self._trace(node, value)
        items = [
            self._unpacked(self._new.call_function(operator.getitem, (node, i)), inner) for i, inner in enumerate(value)
        ]
        return tuple(items) if isinstance(value, tuple) else items

    def _trace(self, node: fx.Node, value: Any) -> Traced:
        traced = Traced(self._add(node), value)
        self._traced[_memory(value) if isinstance(value, torch.Tensor) else 0].append(traced)
        return traced

    def _add(self, node: fx.Node) -> fx.Node:
        self._order.setdefault(node, len(self._order))
        return node

    # -- paths -------------------------------------------------------------------------------------

    def _settle(self, value: Any) -> Any:
        """Give a plain value; where the graph computes it, the new graph checks that it stays the same."""
        if not isinstance(value, Traced):
            return value
        self._checks.append(self._new.call_function(check_path, (value.node, value.value)))
        return value.value

    def _checked(self, value: Any) -> Any:
        """Let what is taken out of the graph depend on the checks of its path."""
        return mapped(value, self._after_checks) if self._checks else value

    def _after_checks(self, traced: Traced) -> Traced:
        done = len(traced.node.args) - 1 if traced.node.target is on_path else 0
        if done < len(self._checks):
            traced.node = self._add(self._new.call_function(on_path, (traced.node, *self._checks)))
        return traced

    def _noted(self, traced: Traced) -> Any:
        """Take a value down as a new object, by which its key can be found again."""
        if not isinstance(traced.value, torch.Tensor):
            return traced.value
        noted = traced.value.detach()
        writer = self._writers.get(_memory(noted), traced.node)
        is_later = self._order[writer] > self._order[traced.node]
        self._keys[id(noted)] = f"{traced.node.name}@{writer.name}" if is_later else traced.node.name
        return noted

    # -- ReLUs -------------------------------------------------------------------------------------

    def _rectify(self, node: Any, x: Traced, what: Rectifier) -> Traced:
        """Add a ReLU as a module, and what limits it from above behind it."""
        name = f"relu_{sum(1 for _ in self._root.children())}"
        self._root.add_module(name, nn.ReLU())
        made, value = self._new.call_module(name, (x.node,)), torch.relu(x.value)
        if what.bound is not None:
            arguments = (made, what.bound)
            made, value = self._new.call_function(_ATEN.clamp_max.default, arguments), value.clamp_max(what.bound)
        result = self._trace(made, value)
        if what.in_place and not self._is_last_use(node, x):
            written: Traced = self._call(_ATEN.copy_.default, [x, result, False])
            return written
        return result

    def _is_last_use(self, node: Any, x: Traced) -> bool:
        """Say whether nobody behind this node reads the memory of its input, so that it need not be written to."""
        if self._depth:
            return False
        names = (value for sharing in self._traced[_memory(x.value)] for value in sharing.names)
        users = (use.user for value in names for use in value.uses())
        return all(self._is_done(user, node) for user in users)

    def _is_done(self, user: Any, node: Any) -> bool:
        """Say whether a reader has run when `node` has, and kept nothing."""
        if user.kind() == "aten::_version":
            return True
        if user.kind() == "aten::append" and user.inputsAt(0).unique() in self._lists:
            return True
        return user.kind() not in _KEEPING and not user.isAfter(node)

    # -- special nodes -----------------------------------------------------------------------------

    def _constant(self, node: Any, _: list[Any]) -> list[Any]:
        return [self._kept(node.output().toIValue(), "constant")]

    def _attribute(self, node: Any, inputs: list[Any]) -> list[Any]:
        holder, name = inputs[0], node.s("name")
        path = f"{holder.path}.{name}" if holder.path else name
        if (holder.path, name) in self._assigned:
            return [self._assigned[holder.path, name]]
        value = holder.module.getattr(name)
        return [_Holder(path, value) if isinstance(value, torch._C.ScriptObject) else self._kept(value, path)]

    def _assign(self, node: Any, inputs: list[Any]) -> list[Any]:
        holder, value = inputs
        self._assigned[holder.path, node.s("name")] = value
        return []

    def _kept(self, value: Any, path: str) -> Any:
        """Give a constant, or a weight or a list of weights, of which the new module has copies."""
        if isinstance(value, torch.Tensor):
            return self._weight(value, path)
        if isinstance(value, list | tuple):
            items = [self._kept(inner, f"{path}.{i}") for i, inner in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return {k: self._kept(v, f"{path}.{k}") for k, v in value.items()} if isinstance(value, dict) else value

    def _weight(self, tensor: torch.Tensor, path: str) -> Traced:
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else path
        if key not in self._state:
            name = f"{path.replace('.', '_')}_{len(self._state)}"
            copied = tensor.detach().clone()
            if isinstance(tensor, nn.Parameter) or tensor.requires_grad:
                self._root.register_parameter(name, nn.Parameter(copied, tensor.requires_grad))
            else:
                self._root.register_buffer(name, copied)
            # At the beginning, as a branch or loop may be where it is read first.
            with self._new.inserting_before(next(iter(self._new.nodes))):
                self._state[key] = self._new.get_attr(name)
        return self._trace(self._state[key], tensor.detach())

    def _make_list(self, node: Any, inputs: list[Any]) -> list[Any]:
        return [_Notes() if node.output().unique() in self._lists else list(inputs)]

    def _branch(self, node: Any, inputs: list[Any]) -> list[Any]:
        taken, other = node.blocks()
        return self._block(taken if self._settle(inputs[0]) else other, [])

    def _loop(self, node: Any, inputs: list[Any]) -> list[Any]:
        (block,) = node.blocks()
        most, goes_on, *carried = inputs
        most, turn = self._settle(most), 0
        while turn < most and self._settle(goes_on):
            goes_on, *carried = self._block(block, [turn, *carried])
            turn += 1
        return carried

    def _block(self, block: Any, inputs: Sequence[Any]) -> list[Any]:
        self._found.update(zip((value.unique() for value in block.inputs()), inputs, strict=True))
        self._depth += 1
        self._run(block.nodes())
        self._depth -= 1
        return [self._found[value.unique()] for value in block.outputs()]

    def _fail(self, _: Any, inputs: list[Any]) -> list[Any]:
        raise ModelError(str(inputs[0]))

    def _element(self, _: Any, inputs: list[Any]) -> list[Any]:
        return [inputs[0][self._settle(inputs[1])]]


def _tensors(value: Any) -> Iterator[bool]:
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
    yield isinstance(value, torch.Tensor)


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# What makes no node of its own in the new graph.
_SPECIAL: dict[str, Callable[[Translation, Any, list[Any]], list[Any]]] = {
    "prim::Constant": Translation._constant,
    "prim::GetAttr": Translation._attribute,
    "prim::SetAttr": Translation._assign,
    "prim::ListConstruct": Translation._make_list,
    "prim::TupleConstruct": lambda _, __, inputs: [tuple(inputs)],
    "prim::DictConstruct": lambda _, __, inputs: [dict(zip(inputs[::2], inputs[1::2], strict=True))],
    "prim::ListUnpack": lambda _, __, inputs: list(inputs[0]),
    "prim::TupleUnpack": lambda _, __, inputs: list(inputs[0]),
    "prim::TupleIndex": Translation._element,
    "prim::TupleSlice": lambda _, node, inputs: [inputs[0][node.i("beg") : node.i("end")]],
    "prim::If": Translation._branch,
    "prim::Loop": Translation._loop,
    "prim::RaiseException": Translation._fail,
    "prim::unchecked_cast": lambda _, __, inputs: inputs,
    "prim::Uninitialized": lambda _, __, ___: [None],
    "aten::__is__": lambda _, __, inputs: [inputs[0] is inputs[1]],
    "aten::__isnot__": lambda _, __, inputs: [inputs[0] is not inputs[1]],
    # The text of an error that is not raised.
    "aten::format": lambda _, __, ___: [""],
    "aten::percentFormat": lambda _, __, ___: [""],
    # Gradients are what the new graph is for: the shortcuts that models take without them are not taken.
    "aten::is_grad_enabled": lambda _, __, ___: [True],
    "prim::requires_grad": lambda _, __, ___: [True],
    "aten::_version": lambda _, __, inputs: [inputs[0].value._version],
}
