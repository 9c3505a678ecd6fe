"""Taking values out of a torch.fx graph, right ones even where later operations overwrite them.

A value is asked for by the name of its node, or as ``node@writer`` for what the node holds right after the node
`writer` wrote into its memory. What shares memory with what, and what writes to it, the operators' schemas say.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import fx

__all__ = ["Aliases", "cut_graph", "move_graph", "protect_state"]

# Operations that may return their input itself although their schema does not say so.
_PASSING = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "type_as", "einsum"})


class Aliases:
    """Which nodes of a graph may share memory, and which nodes write to it.

    Attributes
    ----------
    order : dict of Node to int
        Position of each node in the graph.
    writes : dict of Node to list of Node
        For each node that writes to memory, the nodes whose values it writes to.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.writes: dict[fx.Node, list[fx.Node]] = {}
        self._parents: dict[fx.Node, fx.Node] = {}
        for node in self.order:
            shared, written = _memory_of(node)
            for other in shared:
                self._parents[self._root(other)] = self._root(node)
            if written:
                self.writes[node] = written
        self._members: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for node in self.order:
            self._members[self._root(node)].append(node)
        self._writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for writer, targets in self.writes.items():
            for root in {self._root(target) for target in targets}:
                self._writers[root].append(writer)

    def family(self, node: fx.Node) -> list[fx.Node]:
        """List the nodes that may share memory with `node`, itself included, in the order of computation."""
        return self._members[self._root(node)]

    def written_after(self, node: fx.Node, position: int) -> bool:
        """Say whether anything behind a position in the graph writes to the memory of `node`."""
        return any(self.order[writer] > position for writer in self._writers[self._root(node)])

    def used_after(self, node: fx.Node, position: int) -> bool:
        """Say whether anything behind a position in the graph reads the value of `node`."""
        return any(self.order.get(user, len(self.order)) > position for user in node.users)

    def _root(self, node: fx.Node) -> fx.Node:
        while node in self._parents and self._parents[node] is not node:
            node = self._parents[node]
        return node


def _memory_of(node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """List the inputs that a node's value may share memory with, and the inputs that the node writes to."""
    if node.op != "call_function":
        return [], []
    if node.target is operator.getitem:
        return [a for a in node.args[:1] if isinstance(a, fx.Node)], []
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return _memory_of_nested(node)
    if not isinstance(node.target, torch._ops.OpOverload):
        return [], []
    shared, written = [], []
    schema = node.target._schema
    returns_alias = any(value.alias_info is not None for value in schema.returns)
    for argument, given in _arguments(node, schema):
        nodes = _nodes_in(given)
        if argument.alias_info is not None and returns_alias:
            shared += nodes
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += nodes
    if schema.name.rpartition("::")[2] in _PASSING:
        shared += node.all_input_nodes
    return shared, written


def _arguments(node: fx.Node, schema: Any) -> Iterator[tuple[Any, Any]]:
    """Pair the arguments of an operator with what a node gives for them."""
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            yield argument, node.args[i]
        elif argument.name in node.kwargs:
            yield argument, node.kwargs[argument.name]


def _nodes_in(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return found


def _memory_of_nested(node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    """Take the operands of a graph within the graph as shared, and as written to if anything in there writes."""
    root = node.graph.owning_module
    operands, writes = [], False
    for given in node.all_input_nodes:
        inner = getattr(root, str(given.target), None) if given.op == "get_attr" and root is not None else None
        if isinstance(inner, fx.GraphModule):
            writes |= any(_memory_of(n)[1] for n in inner.graph.nodes)
        else:
            operands.append(given)
    return operands, operands if writes else []


def protect_state(graph: fx.Graph) -> None:
    """Let the graph work on copies of those inputs, weights and buffers that it writes to."""
    aliases = Aliases(graph)
    for node in [n for n in graph.nodes if n.op in {"placeholder", "get_attr"}]:
        if aliases.written_after(node, -1):
            _insert_clone(node, node, redirect=True)


def move_graph(graph: fx.Graph, device: torch.device) -> None:
    """Let tensors that the graph makes arise on a device."""

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)


def cut_graph(
    graph: fx.Graph, wanted: Sequence[str], *, keep_output: bool, overwritten: Collection[str] = ()
) -> fx.Graph:
    """Copy a graph so that it returns ``(wanted values, output)``; nothing behind the last of them is computed.

    Parameters
    ----------
    graph : Graph
        Only read.
    wanted : sequence of str
        Values: ``node`` or ``node@writer``.
    keep_output : bool
        Return the graph's own output too; None in its place if not.
    overwritten : collection of str
        Values that are known to be overwritten later where the schemas don't tell.

    Returns
    -------
    Graph
        Gradients reach a wanted value from later ones wherever that can be had.
    """
    aliases = Aliases(graph)
    by_name = {node.name: node for node in graph.nodes}
    copies: dict[fx.Node, fx.Node] = {}
    copy = fx.Graph()
    copy.owning_module = graph.owning_module
    end = copy.output(copy.graph_copy(graph, copies))
    captured: dict[str, fx.Node] = {}
    # A value that is moved out of the way of its writers leaves them a copy, which is what they write to.
    for key in sorted(dict.fromkeys(wanted), key=lambda key: "@" in key):
        name, _, writer = key.partition("@")
        node, after = by_name[name], by_name[writer or name]
        captured[key] = copies[node]
        if key in overwritten or aliases.written_after(node, aliases.order[after]):
            is_moved = not writer and node.op == "call_function" and _is_free(aliases, node)
            clone = _insert_clone(copies[node], copies[after], redirect=is_moved)
            if is_moved:
                copies[node] = clone
            else:
                captured[key] = clone
    output = end.args[0] if keep_output else None
    copy.erase_node(end)
    if not keep_output:
        writers = {copies[by_name[key.partition("@")[2]]] for key in wanted if "@" in key}
        _drop_behind(copy, writers.union(captured.values()))
    copy.output((tuple(captured[key] for key in wanted), output))
    _drop_unused(copy)
    return copy


def _is_free(aliases: Aliases, node: fx.Node) -> bool:
    """Say whether all that reads the memory of `node` after it reads it through `node`, so that it can be moved."""
    position = aliases.order[node]
    earlier = [n for n in aliases.family(node) if aliases.order[n] < position]
    return not any(aliases.used_after(n, position) for n in earlier)


def _insert_clone(node: fx.Node, after: fx.Node, *, redirect: bool) -> fx.Node:
    """Copy a value; with `redirect` all that reads it reads the copy instead."""
    anchor = after
    while anchor.op == "placeholder" and anchor.next.op == "placeholder":
        anchor = anchor.next
    with node.graph.inserting_after(anchor):
        clone = node.graph.call_function(torch.ops.aten.clone.default, (node,))
    clone.meta = dict(node.meta)
    if redirect:
        node.replace_all_uses_with(clone, delete_user_cb=lambda user: user is not clone)
    return clone


def _drop_behind(graph: fx.Graph, wanted: set[fx.Node]) -> None:
    """Drop everything behind the last wanted value."""
    for node in reversed(list(graph.nodes)):
        if node in wanted:
            return
        if node.op != "placeholder":
            graph.erase_node(node)


def _drop_unused(graph: fx.Graph) -> None:
    """Drop what nobody reads; a node that writes to memory is dropped where nobody reads that memory afterwards."""
    aliases = Aliases(graph)

    def is_needed(node: fx.Node) -> bool:
        if node.op in {"placeholder", "output"}:
            return True
        position = aliases.order[node]
        members = {member for target in aliases.writes.get(node, []) for member in aliases.family(target)}
        return any(aliases.used_after(member, position) for member in members)

    graph.eliminate_dead_code(is_needed)
