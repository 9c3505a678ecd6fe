"""Naming the values of an exported graph: every node says in which calls of which modules it runs.

Values are those that depend on the inputs. Where a node writes into memory that others read later, these read what it
wrote: ``relu_`` stands for the convolution that it overwrote, and ``conv@fill_`` for a convolution's value after a part
of it was filled. A module that several values leave has no name of its own, as the graph does not tell which is first;
a value that nothing reads may be one that its module returned and nobody took.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fmx.graph_naming import ModuleCall, Step, name_steps
from fmx.naming import NamedValue
from fmx.ops import canonical_op
from fmx_adapters._fx import Aliases

__all__ = ["named_values"]


def named_values(graph: fx.Graph, is_layer: Callable[[str], bool]) -> list[NamedValue[str]]:
    """Name the values of a graph in the order of computation.

    Parameters
    ----------
    graph : Graph
        With all nodes that the program has.
    is_layer : callable
        Says of a node, by its name, whether its value can be a layer.

    Returns
    -------
    list of NamedValue
        The value is what `fmx_adapters._fx.cut_graph` takes: ``node`` or ``node@writer``.
    """
    reader = _Reader(graph, is_layer)
    steps = reader.steps()
    return name_steps(steps, reader.leaving, choose=reader.first_of)


class _Reader:
    """Reads a graph as steps."""

    def __init__(self, graph: fx.Graph, is_layer: Callable[[str], bool]) -> None:
        self._graph = graph
        self._is_layer = is_layer
        self._by_name = {node.name: node for node in graph.nodes}
        self._aliases = Aliases(graph)
        self._current: dict[fx.Node, str] = {node: node.name for node in graph.nodes}
        self._depends = {node for node in graph.nodes if node.op == "placeholder"}
        self._modules: tuple[ModuleCall, ...] = ()
        self.leaving: list[str] = []

    def steps(self) -> list[Step]:
        """List the steps in the order of computation."""
        steps: list[Step] = []
        for node in self._graph.nodes:
            if node.op == "output":
                self.leaving += self._reads(node)
            elif node.op in {"call_function", "call_module"} and not self._depends.isdisjoint(node.all_input_nodes):
                self._depends.add(node)
                self._modules = _modules_of(node, self._modules)
                if _holds_tensors(node):
                    op = _op_of(node) if self._is_layer(node.name) else None
                    steps.append(self._step(op, node.name, self._reads(node)))
                    if not node.users and node not in self._aliases.writes and node.target is not operator.getitem:
                        self.leaving.append(node.name)
                steps += self._written(node)
        return steps

    def first_of(self, values: Sequence[str]) -> str | None:
        """Say which of the values that leave a module is the first that it puts out, None if that can't be told."""
        values = [value for value in values if self._is_layer(value.partition("@")[0])]
        nodes = [self._by_name.get(value) for value in values]
        made_by = {node.args[0] for node in nodes if node is not None and node.target is operator.getitem}
        if len(made_by) == 1 and _is_returned_whole(next(iter(made_by))):
            return next((node.name for node in nodes if node is not None and node.args[1:] == (0,)), None)
        return values[0] if len(values) == 1 else None

    def _reads(self, node: fx.Node) -> list[str]:
        return [self._current[given] for given in node.all_input_nodes]

    def _step(self, op: str | None, value: str, reads: Sequence[str]) -> Step:
        return Step(self._modules, op, "Module", value, tuple(reads), value)

    def _written(self, writer: fx.Node) -> list[Step]:
        """Let what is read behind a node that writes to memory be what it wrote."""
        steps: list[Step] = []
        position = self._aliases.order[writer]
        for target in self._aliases.writes.get(writer, []):
            before = self._current[target]
            for member in self._aliases.family(target):
                if self._aliases.order[member] >= position or not self._aliases.used_after(member, position):
                    continue
                self._depends.add(member)
                if self._current[member] == before and writer in self._aliases.family(target):
                    self._current[member] = writer.name
                elif member.op == "call_function":
                    value = f"{member.name}@{writer.name}"
                    steps.append(self._step(None, value, [self._current[member], writer.name]))
                    self._current[member] = value
        return steps


def _modules_of(node: fx.Node, before: tuple[ModuleCall, ...]) -> tuple[ModuleCall, ...]:
    """Give the calls that a node runs in; one that export has added runs where the node before it did."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    if not stack or any(key.startswith("_empty_nn_module_stack") for key in stack):
        return before
    calls = [(path, kind, key) for key, (path, kind) in stack.items() if path]
    return tuple(ModuleCall(path, _class_name(kind), key) for path, kind, key in calls)


def _class_name(kind: Any) -> str:
    name = kind if isinstance(kind, str) else kind.__qualname__
    return name.rpartition(".")[2]


def _holds_tensors(node: fx.Node) -> bool:
    """Say whether a node's value is a tensor or holds some; numbers such as lengths are no values of the network."""
    value = node.meta.get("val", ...)
    return value is ... or isinstance(value, torch.Tensor | tuple | list)


def _is_returned_whole(node: Any) -> bool:
    """Say whether a node is one of torch's modules whose output is what the operation gives, in its order."""
    name = _aten_name(node) if isinstance(node, fx.Node) else ""
    return name in {"lstm", "gru", "rnn_tanh", "rnn_relu"} or ("max_pool" in name and name.endswith("_with_indices"))


def _op_of(node: fx.Node) -> str | None:
    """Give the canonical operation of a node; one that gives several tensors is named where the first is taken."""
    made_by = node
    if node.target is operator.getitem and node.args[1] == 0 and isinstance(node.args[0], fx.Node):
        made_by = node.args[0]
    elif not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    return canonical_op(_aten_name(made_by))


def _aten_name(node: fx.Node) -> str:
    return node.target._schema.name.rpartition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""
