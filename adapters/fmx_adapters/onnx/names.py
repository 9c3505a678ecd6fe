"""Finding PyTorch's module paths in an exported ONNX graph.

Two exporters leave them: the torch.export-based one in the metadata of each node, as full paths; the older one in the
names of the nodes (``/layer1/layer1.0/conv1/Conv``), where each part is a module's own name, led by the names before it
as far back as they are numbers. A graph with neither keeps the names of its own values.

The older exporter folds a batch norm into the convolution before it. The node then bears the convolution's name but
gives what the batch norm gave, so it is listed under the batch norm's name: a name never stands for another value.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from fmx.graph_naming import ModuleCall, Step, name_steps
from fmx.naming import NamedValue
from fmx.ops import canonical_op
from fmx_adapters.onnx.external import is_external
from fmx_adapters.onnx.vocabulary import words_of

__all__ = ["computed_values", "constant_values", "named_values"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_FOLDED_WEIGHT = re.compile(r"onnx::(Conv|ConvTranspose)_\d+")
_NUMBERED = re.compile(r"(.+)_(\d+)")


class _Graph:
    """A graph with what naming needs to know of it."""

    def __init__(self, graph: onnx.GraphProto, ranks: Mapping[str, int]) -> None:
        self.proto = graph
        self.constants = constant_values(graph)
        self.nodes = [n for n in graph.node if self._computes(n)]
        self._ranks = ranks

    def _computes(self, node: onnx.NodeProto) -> bool:
        return any(name and name not in self.constants for name in node.input)

    def only_reshaped(self) -> set[str]:
        """List the values of which nothing is made but other shapes."""
        users: dict[str, set[str]] = defaultdict(set)
        for node in self.nodes:
            for name in node.input:
                users[name].add(node.op_type)
        for output in self.proto.output:
            users[output.name].add("")
        return {name for name, kinds in users.items() if kinds == {"Reshape"}}

    def words(self, node: onnx.NodeProto) -> tuple[str | None, str]:
        """Give operation and kind of a node."""
        return words_of(node, self._ranks.get(node.output[0], 0), _clip_limits(node, self.constants))


def computed_values(graph: onnx.GraphProto) -> list[str]:
    """List the values that depend on the input, in the order of computation."""
    return [output for node in _Graph(graph, {}).nodes for output in node.output if output]


def named_values(
    graph: onnx.GraphProto, ranks: Mapping[str, int], split: Collection[str] = ()
) -> list[NamedValue[str]]:
    """Name the values of a graph in the order of computation.

    Parameters
    ----------
    graph : onnx.GraphProto
    ranks : mapping of str to int
        Number of axes, batch and channel included, of each value that can be a layer.
    split : collection of str
        Values in which an axis of the maps is in several pieces. Where all that follows is a reshape, a module that
        seems to put one out put it together first: the newer exporter merges the last reshape of a module with the
        first of the next. Such a module has no name, as its value is not in the graph.

    Returns
    -------
    list of NamedValue
        The value is its name in the graph.
    """
    whole = _Graph(graph, ranks)
    for read in (_from_metadata, _from_node_names):
        steps = read(whole)
        if steps is not None:
            outputs = [output.name for output in graph.output]
            choose = partial(_choose, ranks, whole.only_reshaped().intersection(split))
            return name_steps([_only_layers(step, ranks) for step in steps], outputs, choose=choose)
    return [
        NamedValue(output, whole.words(node)[1], output) for node in whole.nodes for output in node.output if output
    ]


def _only_layers(step: Step, ranks: Mapping[str, int]) -> Step:
    """Take the name off an operation that makes no layer, so that it does not count among those that do."""
    return step if step.value in ranks else replace(step, op=None)


def _choose(ranks: Mapping[str, int], unfinished: Collection[str], leaving: Sequence[str]) -> str | None:
    """Say which value is a module's output: the only one that can be a layer; of several the graph does not tell."""
    found = [value for value in leaving if value in ranks]
    return found[0] if len(found) == 1 and found[0] not in unfinished else None


def constant_values(graph: onnx.GraphProto) -> dict[str, Any]:
    """Map every value that does not depend on the input to its tensor, or to None where it is computed."""
    known: dict[str, Any] = {i.name: None if is_external(i) else i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = next((a.t for a in node.attribute if a.name == "value"), None)
        elif all(i in known for i in node.input if i):
            known.update(dict.fromkeys(node.output))
    return known


def _clip_limits(node: onnx.NodeProto, constants: dict[str, Any]) -> tuple[float, float] | None:
    if node.op_type != "Clip":
        return None
    given = {a.name: a.f for a in node.attribute}
    if "min" in given and "max" in given:
        return given["min"], given["max"]
    tensors = [constants.get(name) for name in node.input[1:3]]
    if len(tensors) < 2 or tensors[0] is None or tensors[1] is None:
        return None
    low, high = (float(np.asarray(numpy_helper.to_array(t)).reshape(-1)[0]) for t in tensors if t is not None)
    return low, high


# -- the torch.export-based exporter ---------------------------------------------------------------


def _from_metadata(graph: _Graph) -> list[Step] | None:
    steps: list[Step] = []
    scopes: list[tuple[ModuleCall, ...] | None] = []
    for node in graph.nodes:
        meta = {p.key: p.value for p in node.metadata_props}
        paths, classes = _names_in(meta.get(_SCOPES, "")), _names_in(meta.get(_CLASSES, ""))
        kind = graph.words(node)[1]
        if paths and classes:
            inner = zip(paths[:-1], classes[:-1], strict=False)
            scopes.append(tuple(ModuleCall(path, name.rpartition(".")[2]) for path, name in inner if path))
            steps.append(_step(node, _aten_op(classes[-1]), kind, paths[-1]))
        else:
            scopes.append(None)
            steps.append(_step(node, None, kind, node.output[0]))
    return _within(steps, scopes) if any(scopes) else None


def _within(steps: list[Step], scopes: Sequence[tuple[ModuleCall, ...] | None]) -> list[Step]:
    """Put each step into its modules; one of unknown place is in what the steps on either side have in common."""
    after: list[tuple[ModuleCall, ...]] = []
    following: tuple[ModuleCall, ...] = ()
    for scope in reversed(scopes):
        following = following if scope is None else scope
        after.append(following)
    placed: list[Step] = []
    before: tuple[ModuleCall, ...] = ()
    for step, scope, later in zip(steps, scopes, reversed(after), strict=True):
        before = scope if scope is not None else _common(before, later)
        placed.append(replace(step, modules=before))
    return placed


def _common(one: tuple[ModuleCall, ...], two: tuple[ModuleCall, ...]) -> tuple[ModuleCall, ...]:
    pairs = zip(one, two, strict=False)
    return tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _names_in(text: str) -> list[str]:
    """Read a list of names that is written as Python would print it; anything else is no list of names."""
    if re.fullmatch(r"\[(?:'[^'\\]*'(?:, )?)*\]", text) is None:
        return []
    return re.findall(r"'([^']*)'", text)


def _aten_op(name: str) -> str | None:
    """``aten.add.Tensor`` is add."""
    parts = name.split(".")
    return canonical_op(parts[1]) if len(parts) > 1 and parts[0] == "aten" else None


def _step(node: onnx.NodeProto, op: str | None, kind: str, group: str) -> Step:
    return Step((), op, kind, node.output[0], tuple(node.input), group)


# -- the older exporter ----------------------------------------------------------------------------


def _from_node_names(graph: _Graph) -> list[Step] | None:
    nodes = graph.nodes
    pattern = re.compile(r"/(?:.+/)?(\w+?)(?:_\d+)?")
    matching = [pattern.fullmatch(node.name) for node in nodes]
    named = [m is not None and n.op_type == m[1] for m, n in zip(matching, nodes, strict=True)]
    if not nodes or sum(named) * 2 < len(nodes):
        return None
    paths = _ScopePaths(graph.constants)
    steps: list[Step] = []
    scopes: list[tuple[ModuleCall, ...] | None] = []
    for node, is_named in zip(nodes, named, strict=True):
        parts = paths.of(node.name.split("/")[1:-1]) if is_named else None
        scopes.append(None if parts is None else tuple(ModuleCall(path) for path in parts))
        op, kind = graph.words(node)
        steps.append(_step(node, op if is_named else None, kind, node.output[0]))
    return _unfold(_within(steps, scopes))


class _ScopePaths:
    """Turns the parts of node names into full module paths."""

    def __init__(self, constants: dict[str, Any]) -> None:
        self._with_weights = {name.rpartition(".")[0] for name in constants}
        self._seen: set[str] = set()

    def of(self, parts: Sequence[str]) -> list[str]:
        """Give the full paths of the modules that the parts name, outermost first."""
        paths: list[str] = []
        path = ""
        for part in parts:
            path = self._first_call(_join(path, part))
            paths.append(path)
            self._seen.add(path)
        return paths

    def _first_call(self, path: str) -> str:
        """``relu_1`` is the second call of ``relu``, unless it has weights of its own or there is no ``relu``."""
        match = _NUMBERED.fullmatch(path)
        if match and match[1] in self._seen and path not in self._with_weights:
            return match[1]
        return path


def _join(path: str, part: str) -> str:
    """Append a part, which may repeat the end of the path: ``a.layer1`` and ``layer1.0`` make ``a.layer1.0``."""
    have, new = path.split(".") if path else [], part.split(".")
    for overlap in range(min(len(have), len(new) - 1), 0, -1):
        if have[-overlap:] == new[:overlap]:
            return ".".join(have + new[overlap:])
    return ".".join(have + new)


def _unfold(steps: list[Step]) -> list[Step]:
    """Give convolutions that hold a folded batch norm the batch norm's place."""
    paths = {path for step in steps for path in (module.path for module in step.modules)}
    says_norm = any(re.fullmatch(r"norm\d*", path.rpartition(".")[2]) for path in paths)
    return [_unfold_step(step, paths, says_norm) for step in steps]


def _unfold_step(step: Step, paths: set[str], says_norm: bool) -> Step:
    folded = step.kind.startswith("Conv") and _FOLDED_WEIGHT.fullmatch(step.reads[1])
    if not folded or not step.modules:
        return step
    path = step.modules[-1].path
    parent, dot, own = path.rpartition(".")
    conv = re.fullmatch(r"conv(\d*)", own)
    if own.isdigit():
        norm = f"{parent}{dot}{int(own) + 1}"
    elif conv and not says_norm:
        norm = f"{parent}{dot}bn{conv[1]}"
    else:
        norm = f"{path}.batch_norm"
    if norm in paths:
        norm = f"{path}.batch_norm"
    return replace(step, modules=(*step.modules[:-1], ModuleCall(norm, f"BatchNorm{step.kind[-2:]}")))
