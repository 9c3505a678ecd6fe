"""ReLUs whose backward rule is somebody else's: one mechanism for modules that run in Python and for graphs.

A rule is ``rule(grad_output, input) -> grad_input``. The values of the pass stay what they are. With
``lambda grad, x: grad.clamp(min=0)`` gradients are those of a deconvnet (Zeiler & Fergus 2014), with
``lambda grad, x: grad.clamp(min=0) * (x > 0)`` guided backpropagation (Springenberg et al. 2015).

A ReLU is whatever gives max(x, 0), and may be limited from above: ReLU6 is a ReLU with a minimum behind it, through
which gradients pass as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from fmx.errors import ModelError

__all__ = ["Rectifier", "ReluMode", "Rule", "as_rectifier", "replace_relus"]

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_ATEN = torch.ops.aten
# Where in the arguments behind the input each operation has its lower and its upper limit.
_LIMITS: dict[str, tuple[tuple[str, ...], tuple[float | None, float | None]]] = {
    "relu": ((), (0.0, None)),
    "relu6": ((), (0.0, 6.0)),
    "hardtanh": (("min_val", "max_val"), (-1.0, 1.0)),
    "clamp": (("min", "max"), (None, None)),
    "clip": (("min", "max"), (None, None)),
    "clamp_min": (("min",), (None, None)),
}


@dataclass(frozen=True, slots=True)
class Rectifier:
    """What an operation is that gives max(x, 0): what limits it from above, and whether it writes to its input."""

    bound: float | None = None
    in_place: bool = False


def as_rectifier(
    name: str, arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
) -> Rectifier | None:
    """Tell whether an operation is a ReLU.

    Parameters
    ----------
    name : str
        What PyTorch calls it: ``relu_``, ``hardtanh``, ….
    arguments, keywords
        What it is given besides its input.

    Returns
    -------
    Rectifier or None
        None for anything else.
    """
    given = dict(keywords or {})
    in_place = name.endswith("_") or bool(given.get("inplace")) or any(argument is True for argument in arguments)
    plain = name.rstrip("_")
    if plain == "threshold":
        limits = [*arguments, *(given[key] for key in ("threshold", "value") if key in given)][:2]
        return Rectifier(None, in_place) if limits == [0, 0] else None
    if plain not in _LIMITS:
        return None
    names, (low, high) = _LIMITS[plain]
    found = {**dict(zip(names, arguments, strict=False)), **given}
    low, high = (found.get(key, usual) for key, usual in zip((*names, "", "")[:2], (low, high), strict=True))
    if not (_is_number(low) and low == 0 and (high is None or (_is_number(high) and high > 0))):
        return None
    return Rectifier(high, in_place)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Ruled(torch.autograd.Function):
    """A ReLU by a rule."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rule: Rule) -> torch.Tensor:
        """Give max(x, 0)."""
        ctx.save_for_backward(x)
        ctx.rule = rule
        return torch.relu(x)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Hand on what the rule makes of the gradient."""
        (x,) = ctx.saved_tensors
        found = ctx.rule(grad_output, x)
        if not isinstance(found, torch.Tensor) or found.shape != x.shape:
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ModelError(
                f"The ReLU rule gave {what} for an input of shape {tuple(x.shape)}: "
                "it takes (grad_output, input) and has to give a gradient of the input's shape."
            )
        return found, None


def _rectify(x: torch.Tensor, rule: Rule, what: Rectifier) -> torch.Tensor:
    result: torch.Tensor = _Ruled.apply(x.clone() if what.in_place else x, rule)
    if what.bound is not None:
        result = result.clamp_max(what.bound)
    return x.copy_(result) if what.in_place else result


class ReluMode(TorchFunctionMode):
    """Within its context every ReLU that Python code asks for follows a rule, in modules and between them."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Put a ruled ReLU in the place of a ReLU."""
        keywords = dict(kwargs or {})
        x = args[0] if args else keywords.get("input", keywords.get("self"))
        what = as_rectifier(getattr(func, "__name__", ""), args[1:], keywords)
        if what is None or not isinstance(x, torch.Tensor) or not x.is_floating_point() or "out" in keywords:
            return func(*args, **keywords)
        return _rectify(x, self._rule, what)


class _RuledReLU(nn.Module):
    """A ReLU by a rule, as a part of a graph."""

    def __init__(self, rule: Rule, what: Rectifier) -> None:
        super().__init__()
        self._rule = rule
        self._what = what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to x (any shape)."""
        return _rectify(x, self._rule, self._what)


_MODULES: dict[type[nn.Module], Callable[[Any], tuple[str, tuple[Any, ...]]]] = {
    nn.ReLU: lambda _: ("relu", ()),
    nn.ReLU6: lambda _: ("relu6", ()),
    nn.Hardtanh: lambda m: ("hardtanh", (m.min_val, m.max_val)),
    nn.Threshold: lambda m: ("threshold", (m.threshold, m.value)),
}


def replace_relus(module: fx.GraphModule, rule: Rule) -> None:
    """Let every ReLU of a graph, and of graphs within it, follow a rule; nodes keep their names."""
    for graph_module in [m for m in module.modules() if isinstance(m, fx.GraphModule)]:
        for node in list(graph_module.graph.nodes):
            if node.op == "call_module":
                _replace_module(graph_module, node, rule)
            elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                _replace_operator(graph_module, node, rule)
        graph_module.graph.lint()
        graph_module.recompile()


def _replace_module(module: fx.GraphModule, node: fx.Node, rule: Rule) -> None:
    held = module.get_submodule(str(node.target))
    if type(held) in _MODULES:
        name, limits = _MODULES[type(held)](held)
        what = as_rectifier(name, limits, {"inplace": getattr(held, "inplace", False)})
        if what is not None:
            module.set_submodule(str(node.target), _RuledReLU(rule, what))


def _replace_operator(module: fx.GraphModule, node: fx.Node, rule: Rule) -> None:
    """Put a module in an operator's place; one that writes to memory becomes a copy to there, which others can see."""
    namespace, _, name = node.target._schema.name.partition("::")  # type: ignore[union-attr]
    what = as_rectifier(name, node.args[1:], node.kwargs) if namespace == "aten" else None
    if what is None:
        return
    x = node.args[0]
    target = f"relu_rule_{node.name}"
    module.add_module(target, _RuledReLU(rule, Rectifier(what.bound)))
    if what.in_place:
        with module.graph.inserting_before(node):
            ruled = module.graph.call_module(target, (module.graph.call_function(_ATEN.clone.default, (x,)),))
        node.target, node.args, node.kwargs = _ATEN.copy_.default, (x, ruled), {}
    else:
        node.op, node.target, node.args, node.kwargs = "call_module", target, (x,), {}
