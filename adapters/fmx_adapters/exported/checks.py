"""What may stand in the graph of an exported program from somewhere else: operations on tensors, and plain names.

A program is JSON. Everything in it that torch would evaluate, import, look up or write into code is checked against
what torch itself writes there, and what the graph does not need (traces of source lines, guards, sample values) is
taken out.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch

__all__ = ["UnknownOperatorError", "UnsafeProgramError", "checked_payload", "checked_program"]


class UnsafeProgramError(Exception):
    """A program holds something that is not let through; the message is the end of a sentence."""


class UnknownOperatorError(UnsafeProgramError):
    """A program needs an operator of a library; `name` is ``library::operator``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it uses {name}, which nothing here has")
        self.name = name


# Arithmetic on lengths.
_SYMBOLIC = frozenset(
    [f"_operator.{name}" for name in "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_".split()]
    + [f"torch.sym_{name}" for name in "not int float ite max min sqrt".split()]
    + ["_operator.getitem", "_operator.lshift", "_operator.rshift", "math.trunc"]
)
# Operations that run a graph within the graph.
_NESTING = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast", "cond"})
_LIBRARIES = frozenset({"aten", "torchvision"})
# What else torch has under torch.ops.
_OWN = frozenset({"higher_order", "prim", "prims"})
# What a text given to an operation may mean; "filename", for one, is not among it.
_TEXTS = frozenset(
    """
    ord p norm rounding_mode driver padding UPLO approximate mode reduce interpolation activation assert_msg pad_mode
    side equation algorithm padding_side indexing
    """.split()
)
Rules = Mapping[str, Callable[[str], None]]

_OPERATION = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.(\w+))?")
_PATH = re.compile(r"[\w.\-:/+ ]*")
_SYMBOL = re.compile(r"[a-z]{1,3}\d+")
_STRUCTURES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_CPU = {"type": "cpu", "index": None}


def checked_program(program: dict[str, Any], *, trust: bool = False) -> dict[str, Any]:
    """Give a program without what the graph does not need.

    Parameters
    ----------
    program : dict
    trust : bool
        Let operators of any library through, if it is loaded.

    Raises
    ------
    UnsafeProgramError
        It holds something that could run code.
    """
    program["guards_code"] = []
    program["graph_module"]["metadata"] = {}
    program["graph_module"]["treespec_namedtuple_fields"] = {}
    # Only the calling convention of the whole network is of use.
    program["graph_module"]["module_call_graph"] = program["graph_module"]["module_call_graph"][:1]
    for name in program["range_constraints"]:
        _check_symbol(name)
    operation = partial(_check_operation, trust=trust)
    checked = _checked("", program, {**_RULES, "target": operation, "as_operator": operation})
    assert isinstance(checked, dict)
    return checked


def checked_payload(config: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Give the list of weights or constants, all of which are plain bytes.

    Raises
    ------
    UnsafeProgramError
        One of them is a pickle, or in a file that is none of ``prefix_0``, ``prefix_1``, ….
    """
    for name, entry in config["config"].items():
        if entry["use_pickle"] is not False or not re.fullmatch(rf"{prefix}_\d+", entry["path_name"]):
            raise UnsafeProgramError(
                f"{name[:100]} is a pickled object, and fmx runs no code from a file; export the network with plain "
                "tensors as weights"
            )
        if any("as_int" not in size for size in entry["tensor_meta"]["sizes"]):
            raise UnsafeProgramError(f"the weight {name[:100]} has no fixed shape")
    checked = _checked("", config, _RULES)
    assert isinstance(checked, dict)
    return checked


def _checked(key: str, value: Any, rules: Rules) -> Any:
    """Check a part of the JSON that stands under a key, and everything in it."""
    if key in {"device", "as_device"}:
        return dict(_CPU)
    if key == "metadata" and isinstance(value, dict):
        # Told by its place in a node; a tensor may be called metadata too.
        kept = value.get("nn_module_stack")
        return {"nn_module_stack": kept} if isinstance(kept, str) else _checked_items(value, rules, keep=False)
    if isinstance(value, dict):
        return _checked_items(value, rules, keep=True)
    if isinstance(value, list):
        return [_checked(key, item, rules) for item in value]
    if isinstance(value, str) and key in rules:
        rules[key](value)
    return value


def _checked_items(value: Mapping[str, Any], rules: Rules, *, keep: bool) -> dict[str, Any]:
    return {key: _checked(key, item, rules) for key, item in value.items() if keep or not isinstance(item, str)}


def _check_name(name: str) -> None:
    if name and not name.isidentifier():
        raise UnsafeProgramError(f"{name[:100]!r} is no name for a value of a graph")


def _check_path(path: str) -> None:
    if not _PATH.fullmatch(path):
        raise UnsafeProgramError(f"{path[:100]!r} is no name of a weight")


def _check_symbol(name: str) -> None:
    if not _SYMBOL.fullmatch(name):
        raise UnsafeProgramError(f"{name[:100]!r} is no name of a length")


def _refuse_object(name: str) -> None:
    raise UnsafeProgramError(f"it needs an object of the class {name[:100]}, and fmx makes none from a file")


def _check_operation(target: str, *, trust: bool = False) -> None:
    """Let through operations of torch and torchvision that work on tensors and numbers, and arithmetic on lengths.

    With `trust` those of other libraries too, which the user has loaded.
    """
    if target in _SYMBOLIC:
        return
    match = _OPERATION.fullmatch(target)
    if match and match[1] == "higher_order" and match[2] in _NESTING and match[3] is None:
        return
    if match and match[1] not in _LIBRARIES | _OWN:
        if not trust or not _is_registered(match[1], match[2], match[3] or "default"):
            raise UnknownOperatorError(f"{match[1]}::{match[2]}")
        return
    if not match or match[1] not in _LIBRARIES or not _works_on_tensors(match[1], match[2], match[3] or "default"):
        raise UnsafeProgramError(
            f"it uses {target[:100]}, which is no operation on tensors of torch or torchvision; "
            "export the network without it"
        )


def _is_registered(library: str, name: str, overload: str) -> bool:
    packet = getattr(getattr(torch.ops, library), name, None)
    return isinstance(getattr(packet, overload, None), torch._ops.OpOverload)


@lru_cache
def _works_on_tensors(library: str, name: str, overload: str) -> bool:
    if library == "torchvision":
        import torchvision  # noqa: F401  # registers its operations

    packet = getattr(getattr(torch.ops, library), name, None)
    operation = getattr(packet, overload, None)
    if not isinstance(operation, torch._ops.OpOverload):
        return False
    # What is known to TorchScript only, such as aten::save, is not among the operations that the dispatcher lists.
    schema = operation._schema
    is_dispatched = f"{schema.name}.{schema.overload_name}".rstrip(".") in torch._C._dispatch_get_all_op_names()
    return is_dispatched and all(a.name in _TEXTS for a in schema.arguments if "str" in str(a.type))


def _check_structure(text: str, *, of_inputs: bool) -> None:
    """Let through what puts tensors into tuples, lists and dicts; other classes would be imported."""
    pending = [json.loads(text)[1]]
    while pending:
        spec = pending.pop()
        context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
        keys = context if isinstance(context, list) else [] if context is None else [{}]
        if spec["type"] not in _STRUCTURES:
            raise UnsafeProgramError(
                f"it takes or returns a {str(spec['type'])[:100]}; export it with tensors in tuples or dicts"
            )
        if not all(isinstance(name, str) and (name.isidentifier() or not of_inputs) for name in keys):
            raise UnsafeProgramError(f"{str(keys)[:100]} are no names of inputs or outputs")
        pending += spec["children_spec"]


# -- symbolic lengths ------------------------------------------------------------------------------

_FUNCTIONS = frozenset(
    """
    Symbol Integer Rational Float Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing Where
    CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt ToFloat IntTrueDiv FloatTrueDiv FloatPow PowByNatural
    Equality Unequality Eq Ne GreaterThan StrictGreaterThan LessThan StrictLessThan Ge Gt Le Lt And Or Not Identity
    IsNonOverlappingAndDenseIndicator
    """.split()
)
_CONSTANTS = frozenset({"true", "false", "oo", "int_oo"})
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_MOST_POWERS = 4
_LARGEST_POWER = 4
_LONGEST = 10_000
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Load, ast.keyword,
)  # fmt: skip


def _check_length(text: str) -> None:
    """Let through the arithmetic that torch writes for lengths; it would be evaluated as Python."""
    try:
        tree = ast.parse(text[:_LONGEST], mode="eval")
    except SyntaxError:
        raise UnsafeProgramError(f"{text[:100]!r} is no arithmetic on lengths") from None
    nodes = list(ast.walk(tree))
    powers = [node for node in nodes if _exponent(node) is not None]
    if not all(map(_is_arithmetic, nodes)) or len(powers) > _MOST_POWERS or not all(map(_is_small, powers)):
        raise UnsafeProgramError(f"{text[:100]!r} is no arithmetic on lengths")


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS | _CONSTANTS or bool(_SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Constant):
        is_symbol = isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value))
        return is_symbol or isinstance(node.value, int | float)
    return isinstance(node, _ARITHMETIC) and not isinstance(node, ast.LShift | ast.MatMult)


def _exponent(node: ast.AST) -> ast.expr | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _POWERS:
        return node.args[-1] if node.args else node
    return None


def _is_small(node: ast.AST) -> bool:
    """Say whether a power has a small exponent, so that working it out takes no time."""
    exponent = ast.unparse(_exponent(node) or node)
    number = re.fullmatch(r"(?:Integer\()?-?(\d{1,3})\)?", exponent)
    return number is not None and int(number[1]) <= _LARGEST_POWER


_RULES: dict[str, Callable[[str], None]] = {
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_name,
    "parameter_name": _check_path,
    "buffer_name": _check_path,
    "tensor_constant_name": _check_path,
    "user_input_name": _check_name,
    "target": _check_operation,
    "as_operator": _check_operation,
    "in_spec": partial(_check_structure, of_inputs=True),
    "out_spec": partial(_check_structure, of_inputs=False),
    "expr_str": _check_length,
    "class_fqn": _refuse_object,
    "custom_obj_name": _refuse_object,
}
