"""Writing out a TorchScript forward pass: one graph without calls, in which every module's work is marked.

TorchScript refuses hooks, so the graph of ``forward`` is copied and the calls of submodules are replaced by their
graphs one by one, in every block of every ``if`` and loop. Where a module starts, an operation has run or a module is
left, an observer is told and may put nodes of its own there. The user's module is only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from fmx.ops import canonical_op
from fmx_adapters._torch import evaluation_mode

__all__ = ["Expansion", "Observer", "assigns", "evaluating"]

# A call of a traced module that is not its first one has a numbered method.
_CALL = re.compile(r"forward(\d+|__\d+)?")
# PyTorch's own Python functions are one operation each, as in PyTorch; anybody else's are written out.
_WHOLE_FUNCTION = re.compile(r"__torch__\.torch\.(nn\.functional|functional|_tensor)\.\w+")


class Observer(Protocol):
    """Is told what a pass does; `before` is a node of the graph in front of which it may put nodes of its own."""

    def enter(self, path: str, kind: str, before: Any) -> None:
        """A call of the module at `path` starts."""
        ...

    def op(self, path: str, op: str, value: Any, before: Any) -> None:
        """An operation of the module at `path` has given `value`."""
        ...

    def exit(self, path: str, kind: str, value: Any, before: Any) -> None:
        """A call of the module at `path` has given `value`."""
        ...


class _Nobody:
    """Observes nothing."""

    def enter(self, path: str, kind: str, before: Any) -> None:
        pass

    def op(self, path: str, op: str, value: Any, before: Any) -> None:
        pass

    def exit(self, path: str, kind: str, value: Any, before: Any) -> None:
        pass


class Expansion:
    """A copy of a module's forward graph with every submodule call written out.

    Parameters
    ----------
    module : ScriptModule
        In the mode that the copy shall have: what is constant then (``training`` above all) becomes a constant.

    Attributes
    ----------
    graph : torch.Graph
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self._modules = dict(module.named_modules())
        self._first = _first_paths(self._modules)
        self._assigned = _assigned_attributes(self._modules.values())
        self.graph = _copy(module._c._get_method("forward").graph)
        self._paths = {next(iter(self.graph.inputs())).unique(): ""}

    def run(self, observer: Observer) -> None:
        """Write everything out. The observer is told the same in the same order whenever the model is the same."""
        self._expand(list(self.graph.nodes()), "", observer)

    def fold(self) -> None:
        """Write out what is left and compute what is constant; a branch that is never or always taken is none then."""
        torch._C._jit_pass_inline(self.graph)
        tensors = next(iter(self._modules.values())).state_dict().values()
        _move_constants(self.graph, next((t.device for t in tensors), torch.device("cpu")))
        torch._C._jit_pass_constant_propagation(self.graph)

    def _expand(self, nodes: Sequence[Any], scope: str, observer: Observer) -> None:
        for node in nodes:
            kind = node.kind()
            if kind == "prim::GetAttr":
                self._follow_attribute(node)
            elif kind == "prim::CallMethod":
                self._call_method(node, scope, observer)
            elif kind == "prim::CallFunction":
                self._call_function(node, scope, observer)
            elif kind in {"prim::Print", "aten::warn"}:  # what a model says has no place in what a command prints
                node.destroy()
            else:
                self._operation(canonical_op(kind) if kind.startswith("aten::") else None, node, scope, observer)
                for block in list(node.blocks()):
                    self._expand(list(block.nodes()), scope, observer)

    def _operation(self, op: str | None, node: Any, scope: str, observer: Observer) -> None:
        if op is not None and node.outputsSize() == 1:
            end = self.graph.create("prim::TupleConstruct", [node.output()], 1)
            end.insertAfter(node)
            observer.op(scope, op, node.output(), end)
            end.destroy()

    def _follow_attribute(self, node: Any) -> None:
        """Remember which module a value is, from the attributes that lead to it; write plain attributes in."""
        holder, name = self._paths.get(node.input().unique()), node.s("name")
        if holder is None:
            return
        path = f"{holder}.{name}" if holder else name
        if path in self._modules:
            self._paths[node.output().unique()] = path
        elif name not in self._assigned:
            value = self._modules[holder]._c.getattr(name)
            # Members of an enumeration of words are words in Python, but not in TorchScript.
            if type(value) in {bool, int, float, str}:
                with self.graph.insert_point_guard(node):
                    node.output().replaceAllUsesWith(self.graph.insertConstant(value))
                node.destroy()

    # -- calls -------------------------------------------------------------------------------------

    def _call_method(self, call: Any, scope: str, observer: Observer) -> None:
        receiver = next(iter(call.inputs()))
        path = self._paths.get(receiver.unique())
        if path is None:
            if receiver.node().kind() == "prim::ModuleContainerIndex":
                self._choose(call, receiver.node(), scope, observer)
            return
        module, name, path = self._modules[path], call.s("name"), self._first[path]
        # Only calling a module makes it a layer; its other methods are parts of the caller, as they are in PyTorch,
        # and a method that it calls on itself (Conv2d._conv_forward) is a part of the same call.
        enters = _CALL.fullmatch(name) is not None and path != scope
        if enters:
            observer.enter(path, module.original_name, call)
        inside, end = self._insert(call, _copy(module._c._get_method(name).graph), list(call.inputs()))
        self._expand(inside, path if enters else scope, observer)
        if enters:
            observer.exit(path, module.original_name, end.input(), end)
        end.destroy()

    def _call_function(self, call: Any, scope: str, observer: Observer) -> None:
        name = next(iter(call.inputs())).type().annotation_str
        if _WHOLE_FUNCTION.fullmatch(name):
            self._operation(canonical_op(name.rpartition(".")[2].lstrip("_")), call, scope, observer)
            return
        inside, end = self._insert(call, _function_graph(call), list(call.inputs())[1:])
        self._expand(inside, scope, observer)
        end.destroy()

    def _insert(self, call: Any, graph: Any, arguments: Sequence[Any]) -> tuple[list[Any], Any]:
        """Put a graph in the place of a call; returns its nodes and a node behind them that holds its value.

        Expanding the nodes replaces some of them; the value is safe as the input of another node.
        """
        with self.graph.insert_point_guard(call):
            start = self.graph.insertConstant(0).node()
            returned = self.graph.insertGraph(graph, arguments)
            value = returned[0] if isinstance(returned, list | tuple) else returned
            end = self.graph.insertNode(self.graph.create("prim::TupleConstruct", [value], 1))
        inside = []
        node = end.prev()
        while node.outputsSize() != 1 or node.output().unique() != start.output().unique():
            inside.append(node)
            node = node.prev()
        call.output().replaceAllUsesWith(value)
        call.destroy()
        start.destroy()
        return inside[::-1], end

    # -- modules chosen at run time ----------------------------------------------------------------

    def _choose(self, call: Any, index: Any, scope: str, observer: Observer) -> None:
        """Turn a call of ``self.blocks[i]``, for an `i` known only at run time, into a choice between the blocks."""
        holder, key = list(index.inputs())
        path = self._paths.get(holder.unique())
        if path is None:
            return
        names = [p.rpartition(".")[2] for p in self._modules if p and p.rpartition(".")[0] == path]
        by_number = str(key.type().kind()) == "IntType"
        # An index from the end means the same module.
        keys: list[tuple[int | str, ...]] = [
            (i, i - len(names)) if by_number else (name,) for i, name in enumerate(names)
        ]
        with self.graph.insert_point_guard(call):
            value = self._choice(call, holder, key, list(zip(names, keys, strict=True)))
        call.output().replaceAllUsesWith(value)
        call.destroy()
        self._expand([value.node()], scope, observer)

    def _choice(self, call: Any, holder: Any, key: Any, left: Sequence[tuple[str, tuple[int | str, ...]]]) -> Any:
        (name, keys), *rest = left
        if not rest:
            return self._chosen(call, holder, name)
        hits = [self._new("aten::eq", [key, self.graph.insertConstant(k)], torch._C.BoolType.get()) for k in keys]
        hit = hits[0] if len(hits) == 1 else self._new("aten::__or__", hits, torch._C.BoolType.get())
        result = self._new("prim::If", [hit], call.output().type())
        for part in ([left[0]], rest):
            block = result.node().addBlock()
            with self.graph.insert_point_guard(block):
                block.registerOutput(self._choice(call, holder, key, part))
        return result

    def _chosen(self, call: Any, holder: Any, name: str) -> Any:
        path = self._paths[holder.unique()]
        module = self._new("prim::GetAttr", [holder], self._modules[f"{path}.{name}"]._c._type(), name)
        return self._new("prim::CallMethod", [module, *list(call.inputs())[1:]], call.output().type(), call.s("name"))

    def _new(self, kind: str, inputs: Sequence[Any], kind_of_value: Any, name: str | None = None) -> Any:
        node = self.graph.create(kind, list(inputs), 1)
        if name is not None:
            node.s_("name", name)
        node.output().setType(kind_of_value)
        return self.graph.insertNode(node).output()


def _move_constants(graph: Any, device: torch.device) -> None:
    """Let constants lie where the weights are: a trace writes down the device that it was made on."""
    for node in list(graph.findAllNodes("prim::Constant", True)):
        value: Any = node.output().toIValue()
        moved = device if isinstance(value, torch.device) else value
        if isinstance(value, torch.Tensor):
            moved = value.to(device)
        if moved is not value:
            with graph.insert_point_guard(node):
                node.output().replaceAllUsesWith(graph.insertConstant(moved))


def _copy(graph: Any) -> Any:
    """Copy a graph; what runs in the background there runs in its turn here, which gives the same values."""
    copied = graph.copy()
    torch._C._jit_pass_inline_fork_wait(copied)
    return copied


def _function_graph(call: Any) -> Any:
    """Give the graph of the function that a node calls; it can't be asked for it, but it can be inlined."""
    function, *arguments = call.inputs()
    graph: Any = torch._C.Graph()
    inputs = []
    for argument in arguments:
        inputs.append(graph.addInput())
        inputs[-1].setType(argument.type())
    callee = graph.insertNode(graph.createClone(function.node(), lambda value: value))
    again = graph.create("prim::CallFunction", [callee.output(), *inputs], 1)
    again.output().setType(call.output().type())
    graph.registerOutput(graph.insertNode(again).output())
    torch._C._jit_pass_inline(graph)
    return graph


def _first_paths(modules: dict[str, torch.jit.ScriptModule]) -> dict[str, str]:
    """Map the path of each module to the first path under which it is known.

    A module that stands in two places is two in TorchScript, of the same class with the very same tensors.
    """
    first: dict[str, str] = {}
    known: dict[Any, str] = {}
    for path, module in modules.items():
        holder, _, name = path.rpartition(".")
        through = f"{first[holder]}.{name}" if holder else path
        first[path] = through
        state = (*module.named_parameters(), *module.named_buffers())
        tensors = tuple((key, tensor.data_ptr(), tuple(tensor.shape)) for key, tensor in state)
        if through == path and any(pointer for _, pointer, _ in tensors):
            first[path] = known.setdefault((module.original_name, tensors), path)
    return first


def assigns(module: torch.jit.ScriptModule) -> bool:
    """Say whether a pass in evaluation mode changes the module: its attributes, or a tensor that it keeps."""
    graph = _plain_graph(module)
    if graph.findNode("prim::SetAttr", True) is not None:
        return True
    aliases = graph.alias_db()
    kept = (node.output() for node in graph.findAllNodes("prim::GetAttr", True))
    return any(aliases.has_writers(value) for value in kept if str(value.type().kind()) == "TensorType")


def evaluating(module: torch.jit.ScriptModule) -> AbstractContextManager[None]:
    """Put a module into evaluation mode for a while; a frozen one has no other."""
    return evaluation_mode(module) if hasattr(module, "training") else nullcontext()


def _plain_graph(module: torch.jit.ScriptModule) -> Any:
    with evaluating(module):
        expansion = Expansion(module)
        expansion.run(_Nobody())
        expansion.fold()
    return expansion.graph


def _graphs(module: torch.jit.ScriptModule) -> Iterator[Any]:
    return (_copy(module._c._get_method(name).graph) for name in module._c._method_names())


def _assigned_attributes(modules: Iterable[torch.jit.ScriptModule]) -> set[str]:
    """Collect the names of attributes that some method assigns to: these are no constants."""
    graphs = (graph for module in modules for graph in _graphs(module))
    return {node.s("name") for graph in graphs for node in graph.findAllNodes("prim::SetAttr", True)}
