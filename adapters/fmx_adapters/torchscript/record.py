"""A graph that keeps a record of its pass: which module started, which value it gave, in the order of computation.

A pass of a TorchScript graph can branch and loop, so what it computes is known only afterwards. The graph therefore
fills lists while it runs: a log of the *sites* that it came past, and the values that were found there. `replay` reads
them back, giving every value the same key that a pass of the same network in PyTorch would give it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

from fmx_adapters._torch import Key, tensors_in
from fmx_adapters.torchscript.graph import Expansion

__all__ = ["Event", "RecordedPass", "Recorder", "Site", "forward_arguments", "recorded_graph"]

_T = torch._C


class Site(NamedTuple):
    """A place in the graph: a module starts (``enter``), an operation has run (``op``), a module is left (``exit``).

    Attributes
    ----------
    event, path : str
    name : str
        Class of the module or canonical operation.
    values : tuple of (str, str)
        Where in the value found there something lies (``"1.0"``), and in which list it is kept.
    """

    event: str
    path: str
    name: str
    values: tuple[tuple[str, str], ...] = ()


class Event(NamedTuple):
    """What was recorded at a site: values with their places; `changed` if one was overwritten afterwards."""

    number: int
    site: Site
    key: Key
    values: list[tuple[str, Any]]
    changed: bool = False

    def tensors(self) -> Iterator[tuple[Key, torch.Tensor]]:
        """Give the tensors with their own keys; of an operation only the first."""
        for outer, value in self.values:
            for place, tensor in tensors_in(value, outer):
                yield self.key._replace(place=place), tensor
                if self.site.event == "op":
                    return


class Recorder:
    """Puts the record-keeping into a graph; an observer of `fmx_adapters.torchscript.graph.Expansion`.

    Parameters
    ----------
    graph : torch.Graph
    keys : collection of Key, optional
        The values that are wanted, everything if left out.
    copied : collection of int
        Numbers of sites whose values are overwritten later: copies are taken there.

    Attributes
    ----------
    sites : list of Site
    """

    def __init__(self, graph: Any, keys: Collection[Key] | None = None, copied: Collection[int] = ()) -> None:
        self.sites: list[Site] = []
        self._graph = graph
        self._keys = keys
        self._paths = {key.path for key in keys or ()}
        self._made_by = {(key.path, key.op) for key in keys or ()}
        self._copied = copied
        self._lists: dict[str, Any] = {}
        self.log = self._list(_T.IntType.get(), "log")
        self._versions = self._list(_T.IntType.get(), "versions")

    @property
    def lists(self) -> dict[str, Any]:
        """The lists that the pass fills, by what they hold."""
        return self._lists

    def enter(self, path: str, kind: str, before: Any) -> None:
        """Record that a module starts."""
        if self._keys is None or path in self._paths:
            self._note(before)
        self.sites.append(Site("enter", path, kind))

    def op(self, path: str, op: str, value: Any, before: Any) -> None:
        """Record the value of an operation."""
        self._found(Site("op", path, op), value, before)

    def exit(self, path: str, kind: str, value: Any, before: Any) -> None:
        """Record the value of a module."""
        self._found(Site("exit", path, kind), value, before)

    def _found(self, site: Site, value: Any, before: Any) -> None:
        made_by = (site.path, site.name if site.event == "op" else "")
        if self._keys is None or made_by in self._made_by:
            with self._graph.insert_point_guard(before):
                site = site._replace(values=tuple(self._keep(value, "")))
            # Last, so that what lies in front of this note is all that the values take.
            self._note(before)
        self.sites.append(site)

    def _keep(self, value: Any, place: str) -> Iterator[tuple[str, str]]:
        """Insert nodes that put what lies in a value into lists; tuples are taken apart."""
        kind, graph = value.type(), self._graph
        if _kind(kind) == "TupleType":
            for i, (name, inner) in enumerate(zip(_field_names(kind), kind.containedTypes(), strict=True)):
                part = graph.create("prim::TupleIndex", [value, graph.insertConstant(i)], 1)
                part.output().setType(inner)
                yield from self._keep(graph.insertNode(part).output(), f"{place}.{name}" if place else name)
        elif _holds_tensors(kind):
            if len(self.sites) in self._copied:
                value = _copied(graph, value)
            is_tensor = _kind(kind) == "TensorType"
            name = "Tensor" if is_tensor else kind.str()
            _append(graph, self._list(_T.TensorType.get() if is_tensor else kind, name), value)
            if is_tensor:
                version = graph.insertNode(graph.create("aten::_version", [value], 1)).output()
                version.setType(_T.IntType.get())
                _append(graph, self._versions, version)
            yield place, name

    def _note(self, before: Any) -> None:
        with self._graph.insert_point_guard(before):
            _append(self._graph, self.log, self._graph.insertConstant(len(self.sites)))

    def _list(self, kind: Any, name: str) -> Any:
        if name not in self._lists:
            node = self._graph.create("prim::ListConstruct", [], 1)
            node.output().setType(_T.ListType(kind))
            self._graph.prependNode(node)
            self._lists[name] = node.output()
        return self._lists[name]

    def replay(self, lists: dict[str, list[Any]]) -> Iterator[Event]:
        """Go through a finished pass."""
        values = {name: iter(found) for name, found in lists.items()}
        calls: Counter[str] = Counter({"": 1})
        ops: Counter[Key] = Counter()
        for number in lists["log"]:
            site = self.sites[number]
            if site.event == "enter":
                calls[site.path] += 1
            key = Key(site.path, calls[site.path], site.name if site.event == "op" else "")
            if site.event == "op":
                ops[key] += 1
                key = key._replace(nth=ops[key])
            found = [(place, name, next(values[name])) for place, name in site.values]
            # Of what lies in lists and mappings it is not known, so that these are always taken to be overwritten.
            changed = [name != "Tensor" or v._version != next(values["versions"]) for _, name, v in found]
            yield Event(number, site, key, [(place, v) for place, _, v in found], any(changed))


class RecordedPass:
    """A compiled copy of a module's forward pass that returns what was wanted on the way.

    Parameters
    ----------
    module : ScriptModule
        In the mode that it shall run in.
    keys, copied
        See `Recorder`.
    last : collection of int, optional
        Numbers of the sites behind which nothing is wanted any more and nothing shall be computed.
    keep_output : bool
        Compute the model's own output.
    prepare : callable, optional
        Given the graph, changes it before it is compiled.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        keys: Collection[Key] | None = None,
        copied: Collection[int] = (),
        last: Collection[int] | None = None,
        keep_output: bool = False,
        prepare: Callable[[Any], None] | None = None,
    ) -> None:
        graph, self._recorder = recorded_graph(module, keys, copied, keep_output)
        if last is not None and not keep_output:
            _cut(graph, self._recorder.log.unique(), last)
        torch._C._jit_pass_dce(graph)
        if prepare is not None:
            prepare(graph)
        graph.makeMultiOutputIntoTuple()
        graph.lint()
        self._module = module
        self._arguments = forward_arguments(module)
        self._compiled: Callable[..., tuple[Any, ...]] = torch._C._create_function_from_graph("forward", graph)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[Event], Any]:
        """Run on inputs by their names; returns what was recorded, and the model's output if it is kept."""
        given = (inputs.get(argument.name, argument.default_value) for argument in self._arguments)
        returned = self._compiled(self._module._c, *given)
        names = self._recorder.lists
        events = list(self._recorder.replay(dict(zip(names, returned, strict=False))))
        return events, returned[len(names)] if len(returned) > len(names) else None


def forward_arguments(module: torch.jit.ScriptModule) -> list[Any]:
    """List what forward takes, with names, types and defaults."""
    return list(module._c._get_method("forward").schema.arguments[1:])


def recorded_graph(
    module: torch.jit.ScriptModule, keys: Collection[Key] | None, copied: Collection[int], keep_output: bool
) -> tuple[Any, Recorder]:
    """Give a copy of the forward graph that returns the lists of its recorder, then, if asked for, its own output."""
    expansion = Expansion(module)
    graph = expansion.graph
    recorder = Recorder(graph, keys, copied)
    expansion.run(recorder)
    original = next(iter(graph.outputs()))
    graph.eraseOutput(0)
    for values in recorder.lists.values():
        graph.registerOutput(values)
    if keep_output:
        graph.registerOutput(original)
    expansion.fold()
    return graph, recorder


def _cut(graph: Any, log: int, last: Collection[int]) -> None:
    """Drop what comes behind the last wanted site; dead-code elimination alone would keep checks that can raise."""

    def notes(node: Any) -> bool:
        if node.kind() == "aten::append" and node.inputsAt(0).unique() == log:
            return node.inputsAt(1).toIValue() in last
        return any(notes(inner) for block in node.blocks() for inner in block.nodes())

    for node in reversed(list(graph.nodes())):
        if notes(node):
            return
        node.destroy()


def _append(graph: Any, values: Any, value: Any) -> None:
    node = graph.insertNode(graph.create("aten::append", [values, value], 1))
    node.output().setType(values.type())


def _kind(kind: Any) -> str:
    return str(kind.kind())


def _holds_tensors(kind: Any) -> bool:
    if _kind(kind) in {"OptionalType", "ListType", "TupleType", "DictType"}:
        return any(_holds_tensors(inner) for inner in kind.containedTypes())
    return _kind(kind) == "TensorType"


def _field_names(kind: Any) -> list[str]:
    """Give the names of a tuple's fields, which only its text tells: ``NamedTuple(out : Tensor, aux : Tensor?)``."""
    count = len(kind.containedTypes())
    text = kind.str()
    if not text.startswith("NamedTuple("):
        return [str(i) for i in range(count)]
    names, depth, start = [], 0, len("NamedTuple(")
    for i, letter in enumerate(text[start:-1], start):
        depth += (letter in "([") - (letter in ")]")
        if letter == ":" and depth == 0:
            names.append(text[start:i].strip())
        elif letter == "," and depth == 0:
            start = i + 1
    return names


# -- copies ----------------------------------------------------------------------------------------


def _copied(graph: Any, value: Any) -> Any:
    """Insert nodes that copy a tensor, or the tensors of an optional, a list or a mapping."""
    helper = _helpers().get("Tensor" if _kind(value.type()) == "TensorType" else value.type().annotation_str)
    if helper is None:
        return value
    copied = graph.insertGraph(helper, [value])
    return copied[0] if isinstance(copied, list | tuple) else copied


@cache
def _helpers() -> dict[str, Any]:
    """Give the graphs of functions that copy what a module may return, by the type that they take."""
    unit = torch.jit.CompilationUnit(_HELPERS)
    graphs = [getattr(unit, name).graph for name in ("tensor", "optional", "sequence", "mapping")]
    return {next(iter(graph.inputs())).type().annotation_str: graph for graph in graphs}


_HELPERS = """
def tensor(x: Tensor) -> Tensor:
    return x.clone()

def optional(x: Optional[Tensor]) -> Optional[Tensor]:
    return None if x is None else x.clone()

def sequence(x: List[Tensor]) -> List[Tensor]:
    return [y.clone() for y in x]

def mapping(x: Dict[str, Tensor]) -> Dict[str, Tensor]:
    copied = torch.jit.annotate(Dict[str, Tensor], {})
    for key, value in x.items():
        copied[key] = value.clone()
    return copied
"""
