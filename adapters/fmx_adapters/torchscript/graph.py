"""Rewriting a TorchScript graph so that it returns intermediate values.

TorchScript refuses hooks, so the graph of ``forward`` is copied, the calls of submodules are replaced by their graphs
one by one, and what each call returned is remembered under the module's path. Wanted values then become outputs of the
copy, everything behind the last of them is dropped, and the copy is compiled. The user's module is only read.

Values are remembered by their number in the graph and never as objects: replacing a call invalidates the objects of the
call's outputs, while the numbers can be followed from each replaced output to what replaced it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fmx.naming import PassTrace
from fmx.ops import canonical_op

__all__ = ["InlinedGraph", "compile_graph"]


class InlinedGraph:
    """A copy of a module's forward graph with every submodule call written out.

    Attributes
    ----------
    graph : torch.Graph
    trace : PassTrace of int
        What the pass does, with the numbers of the values.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._modules = dict(module.named_modules())
        self.graph = module._c._get_method("forward").graph.copy()
        self.trace: PassTrace[int] = PassTrace()
        self._replaced: dict[int, int] = {}
        self._paths = {next(iter(self.graph.inputs())).unique(): ""}
        self._expand(list(self.graph.nodes()))

    def values(self) -> dict[int, Any]:
        """Map numbers to the values at the top level of the graph."""
        found = {v.unique(): v for v in self.graph.inputs()}
        found.update({v.unique(): v for node in self.graph.nodes() for v in node.outputs()})
        return found

    def current(self, number: int) -> int:
        """Follow a value to the one that stands for it now."""
        while number in self._replaced:
            number = self._replaced[number]
        return number

    def _expand(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            kind = node.kind()
            if kind == "prim::GetAttr":
                self._follow_attribute(node)
            elif kind == "prim::CallMethod":
                self._inline(node)
            elif node.outputsSize() == 1:
                op = _op_of(node)
                if op is not None:
                    self.trace.op(op, node.output().unique())

    def _follow_attribute(self, node: Any) -> None:
        """Remember which module a value is, from the chain of attributes that leads to it."""
        holder = self._paths.get(node.input().unique())
        if holder is not None:
            path = f"{holder}.{node.s('name')}" if holder else node.s("name")
            if path in self._modules:
                self._paths[node.output().unique()] = path

    def _inline(self, call: Any) -> None:
        arguments = list(call.inputs())
        path = self._paths.get(arguments[0].unique())
        if path is None:  # an object that is no submodule: left as a call
            return
        method = self._modules[path]._c._get_method(call.s("name"))
        with self.graph.insert_point_guard(call):
            marker = self.graph.insertConstant(0)
            returned = self.graph.insertGraph(method.graph, arguments)
        result = returned[0] if isinstance(returned, list | tuple) else returned
        inside = _between(marker, call)
        number, is_tensor = result.unique(), _is_tensor(result)
        self._replaced[call.output().unique()] = number
        call.output().replaceAllUsesWith(result)
        call.destroy()
        marker.node().destroy()
        # A method that the module calls on itself (Conv2d._conv_forward) is a part of the same call.
        if path == self.trace.scope:
            self._expand(inside)
            return
        self.trace.enter(path, self._modules[path].original_name)
        self._expand(inside)
        self.trace.exit(*([("", number)] if is_tensor else []))


def _between(marker: Any, call: Any) -> list[Any]:
    inside = []
    node = call.prev()
    while node.outputsSize() != 1 or node.output().unique() != marker.unique():
        inside.append(node)
        node = node.prev()
    return inside[::-1]


def _is_tensor(value: Any) -> bool:
    return str(value.type().kind()) == "TensorType"


def _op_of(node: Any) -> str | None:
    """Give the canonical operation of a node: an aten operator or a function of torch.nn.functional."""
    if not _is_tensor(node.output()):
        return None
    if node.kind() == "prim::CallFunction":
        function = next(iter(node.inputs())).type().annotation_str
        return canonical_op(function.rpartition(".")[2])
    return canonical_op(node.kind()) if node.kind().startswith("aten::") else None


def compile_graph(
    module: torch.jit.ScriptModule, wanted: Sequence[int], keep_output: bool
) -> Callable[..., tuple[Any, ...]]:
    """Compile a copy of the forward graph that returns the wanted values, then, if asked for, the model's output.

    Parameters
    ----------
    module : ScriptModule
        In the mode that it shall run in.
    wanted : sequence of int
        Numbers of values, as `InlinedGraph` gives them for this module.
    keep_output : bool
        Return the model's own output as the last value.

    Returns
    -------
    callable
        ``f(module._c, *inputs) -> tuple``; nothing behind the wanted values is computed.
    """
    inlined = InlinedGraph(module)
    graph, values = inlined.graph, inlined.values()
    originals = list(graph.outputs())
    for number in wanted:
        graph.registerOutput(values[inlined.current(number)])
    if keep_output:
        for original in originals:
            graph.registerOutput(original)
    for _ in originals:
        graph.eraseOutput(0)
    _drop_behind(graph, {value.unique() for value in graph.outputs()})
    torch._C._jit_pass_inline(graph)
    torch._C._jit_pass_dce(graph)
    _copy_overwritten(graph, len(wanted))
    graph.makeMultiOutputIntoTuple()
    graph.lint()
    compiled = torch._C._create_function_from_graph("forward", graph)

    def run(*inputs: Any) -> tuple[Any, ...]:
        result = compiled(*inputs)
        return result if isinstance(result, tuple) else (result,)

    return run


def _drop_behind(graph: Any, wanted: set[int]) -> None:
    """Drop everything behind the last wanted value; dead-code elimination alone would keep checks that can raise."""
    for node in reversed(list(graph.nodes())):
        if any(value.unique() in wanted for value in node.outputs()):
            return
        node.destroy()


def _copy_overwritten(graph: Any, count: int) -> None:
    """Return copies, made on the spot, of those values that an in-place operation may write to later."""
    aliases = graph.alias_db()
    outputs = list(graph.outputs())[:count]
    written = [bool(aliases.has_writers(value)) for value in outputs]
    for i, (value, is_written) in enumerate(zip(outputs, written, strict=True)):
        if not is_written:
            continue
        copy = graph.create("aten::clone", [value], 1)
        if value.node().kind() == "prim::Param":
            graph.prependNode(copy)
        else:
            copy.insertAfter(value.node())
        none = graph.create("prim::Constant", 1)
        none.output().setType(torch._C.NoneType.get())
        none.insertBefore(copy)
        copy.addInput(none.output())
        copy.output().setType(value.type())
        graph.return_node().replaceInput(i, copy.output())
