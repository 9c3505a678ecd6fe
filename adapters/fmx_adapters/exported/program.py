"""An exported program as a plain torch.fx module: weights are its own, inputs are tensors, and it runs as at inference.

The program itself is only read. Its graph takes weights and buffers as inputs and gives changed buffers as outputs;
here they are attributes, and changes are dropped or made on copies, so that every pass begins with the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from fmx.errors import ModelError
from fmx_adapters._fx import protect_state

__all__ = ["Declared", "plain_module"]

_STATE = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}
# Arguments that say that an operation shall behave as in training.
_TRAINING_FLAGS = {
    "dropout": "train",
    "alpha_dropout": "train",
    "feature_dropout": "train",
    "feature_alpha_dropout": "train",
    "native_dropout": "train",
    "batch_norm": "training",
    "rrelu": "training",
}


@dataclass(frozen=True)
class Declared:
    """An input as the program declares it.

    Attributes
    ----------
    name : str
    sizes : tuple of int or None
        Lengths of all axes, batch included; None for one that is free.
    hints : tuple of int
        The lengths that the program was exported with.
    least, most : int or None
        Bounds of the batch, None where there is no upper one.
    dtype : torch.dtype
    """

    name: str
    sizes: tuple[int | None, ...]
    hints: tuple[int, ...]
    least: int
    most: int | None
    dtype: torch.dtype


def plain_module(program: ExportedProgram, source: str) -> tuple[fx.GraphModule, list[Declared], bool]:
    """Turn a program into a module that takes its tensors by position and returns its output.

    Returns
    -------
    module : GraphModule
        Shares the program's weights.
    declared : list of Declared
    was_training : bool
        The program was exported in training mode, which is switched off in the module.

    Raises
    ------
    ModelError
        The program takes something that is no tensor, or returns an object of an unknown class.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    flat_output = graph.graph_copy(program.graph, copies)
    attributes = _nested_graphs(program)
    declared = []
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind in _STATE:
            name = str(spec.target)
            attributes[name] = _state_of(program, name)
            _replace_by_attribute(copies[node], name)
        elif spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument):
            _replace_by_constant(copies[node], spec.arg.value)
        else:
            declared.append(_declare(node, program, source))
    graph.output(_structured(program, flat_output, source))
    was_training = _switch_to_evaluation(graph)
    protect_state(graph)
    with warnings.catch_warnings():
        # Names of attributes that hide attributes of the module make torch warn.
        warnings.simplefilter("ignore")
        return fx.GraphModule(attributes, graph), declared, was_training


def _nested_graphs(program: ExportedProgram) -> dict[str, Any]:
    """List the graphs within the graph, which belong to operations such as a block without gradients."""
    targets = [str(node.target) for node in program.graph.nodes if node.op == "get_attr"]
    return {target: copy.deepcopy(program.graph_module.get_submodule(target)) for target in targets}


def _state_of(program: ExportedProgram, name: str) -> torch.Tensor:
    holder = program.state_dict if name in program.state_dict else program.constants
    if name not in holder:
        raise ModelError(f"The program has no weight {name}: export it again.")
    tensor: torch.Tensor = holder[name]
    return tensor


def _replace_by_attribute(placeholder: fx.Node, name: str) -> None:
    graph = placeholder.graph
    with graph.inserting_before(placeholder):
        attribute = graph.get_attr(name)
    attribute.meta = dict(placeholder.meta)
    placeholder.replace_all_uses_with(attribute)
    graph.erase_node(placeholder)


def _replace_by_constant(placeholder: fx.Node, value: Any) -> None:
    """Put in what the program was exported with: an argument that is None, a number or a word is a part of it."""

    def replaced(given: Any) -> Any:
        return value if given is placeholder else given

    for user in list(placeholder.users):
        user.args = fx.node.map_aggregate(user.args, replaced)
        user.kwargs = fx.node.map_aggregate(user.kwargs, replaced)
    placeholder.graph.erase_node(placeholder)


# -- inputs ----------------------------------------------------------------------------------------


def _declare(node: fx.Node, program: ExportedProgram, source: str) -> Declared:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise ModelError(f"{source} takes {node.name}, which is no tensor: export it with a fixed value for it.")
    if not value.dim():
        raise ModelError(f"{source} takes {node.name} without a batch axis: export it with one.")
    shape: list[Any] = list(value.shape)
    sizes = tuple(None if isinstance(size, torch.SymInt) else int(size) for size in shape)
    hints = tuple(_hint(size) for size in shape)
    least, most = (sizes[0], sizes[0]) if sizes[0] is not None else _bounds(shape[0], program)
    return Declared(node.name, sizes, hints, least, most, value.dtype)


def _hint(size: Any) -> int:
    """Give the length that a free axis had at export."""
    hint = size.node.hint if hasattr(size, "node") else size
    return int(hint) if hint is not None else 1


def _bounds(size: Any, program: ExportedProgram) -> tuple[int, int | None]:
    limits = program.range_constraints.get(size.node.expr)
    if limits is None:
        return 1, None
    upper = int(limits.upper) if limits.upper.is_Integer else None
    return max(int(limits.lower), 1), upper


# -- outputs ---------------------------------------------------------------------------------------


def _structured(program: ExportedProgram, flat: Any, source: str) -> Any:
    """Give the graph's results the structure that the network returned."""
    specs = program.graph_signature.output_specs
    values = [value for value, spec in zip(flat, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    layout = program.call_spec.out_spec
    if layout is None:
        return tuple(values)
    return _plain(pytree.tree_unflatten(values, layout), source)


def _plain(value: Any, source: str) -> Any:
    """Turn what holds results into tuples and dicts, which a graph can return."""
    if value is None or isinstance(value, fx.Node | int | float | bool | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), source) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, source) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_plain(inner, source) for inner in value)
    raise ModelError(f"{source} returns a {type(value).__name__}: export it with tensors in tuples or dicts.")


# -- training mode ---------------------------------------------------------------------------------


def _switch_to_evaluation(graph: fx.Graph) -> bool:
    """Switch off what a program that was exported in training mode does otherwise; says whether there was any."""
    found = False
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema = node.target._schema
        flag = _TRAINING_FLAGS.get(schema.name.rpartition("::")[2].rstrip("_"))
        given = {argument.name: i for i, argument in enumerate(schema.arguments) if i < len(node.args)}
        if flag == "training" and "running_mean" in given and node.args[given["running_mean"]] is None:
            continue  # normalises by the batch in evaluation too
        for name, i in given.items():
            if name == flag and node.args[i] is True:
                node.update_arg(i, False)
                found = True
    return found
