"""Rewriting torch.fx graphs of ATen operations, or of modules, so that they run faster and give the same values."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from fmx_adapters._fx import Aliases

__all__ = ["can_be_folded", "fold_batch_norms", "follow_sizes", "relax_views"]

_ATEN = torch.ops.aten
# Tracing follows sizes through methods of tensors; through operators they are numbers to it.
_FOLLOWED: dict[Any, str] = {
    _ATEN.sym_size.int: "size",
    _ATEN.size.int: "size",
    _ATEN.size.default: "size",
    _ATEN.view.default: "view",
    _ATEN.reshape.default: "reshape",
    _ATEN.expand.default: "expand",
    _ATEN.repeat.default: "repeat",
}
# Between numbers and tensors, which sizes are both in a trace.
_CONVERSIONS = {torch.ops.prim.NumToTensor.Scalar, _ATEN.Int.Tensor, _ATEN.Int.Scalar}

# By their name, and where their weight and bias are among their arguments.
__CONVOLUTION_MODULES = {"conv1d", "conv2d", "conv3d", "convolution", "_convolution"}
_NORMS = {"batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
_TRANSPOSED = 6
_CONVOLUTION_MODULES = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM_MODULES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold batch norms into the convolutions that only they read, in place.

    A convolution whose value is wanted has another reader, the graph's output, and stays as it is.

    Returns
    -------
    int
        How many were folded.
    """
    aliases = Aliases(module.graph)
    folded = 0
    for norm in list(module.graph.nodes):
        if _name(norm) in _NORMS and _can_fold(module, aliases, norm):
            _fold(module, norm, folded)
        elif _modules_fold(module, norm):
            _fold_modules(module, norm, folded)
        else:
            continue
        folded += 1
    if folded:
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
        module.delete_all_unused_submodules()
    return folded


def _name(node: Any) -> str:
    is_operator = isinstance(node, fx.Node) and isinstance(node.target, torch._ops.OpOverload)
    return node.target._schema.name.rpartition("::")[2] if is_operator else ""


def _can_fold(module: fx.GraphModule, aliases: Aliases, norm: fx.Node) -> bool:
    conv = norm.args[0]
    if not isinstance(conv, fx.Node) or _name(conv) not in __CONVOLUTION_MODULES or set(conv.users) != {norm}:
        return False
    if len(conv.args) > _TRANSPOSED and conv.args[_TRANSPOSED] is True and "convolution" in _name(conv):
        return False
    if _argument(norm, "training") is True or aliases.written_after(conv, aliases.order[conv]):
        # What is written to the norm's own value later does not reach the convolution: its value is new memory.
        return False
    given = [_argument(conv, "weight"), _argument(conv, "bias"), *_statistics(norm)]
    needed = [given[0], *given[4:]]
    is_state = all(value is None or _state(module, value) is not None for value in given)
    return is_state and all(value is not None for value in needed)


def can_be_folded(conv: nn.Module, norm: nn.Module) -> bool:
    """Say whether one module can be folded into the other, provided that nothing else reads what lies between them."""
    if type(conv) not in _CONVOLUTION_MODULES or type(norm) not in _NORM_MODULES or norm._forward_hooks:
        return False
    return norm.running_mean is not None and not (conv._forward_hooks or norm._forward_pre_hooks)


def _modules_fold(module: fx.GraphModule, norm: fx.Node) -> bool:
    conv = norm.args[0] if norm.op == "call_module" and len(norm.args) == 1 else None
    if not isinstance(conv, fx.Node) or conv.op != "call_module" or set(conv.users) != {norm}:
        return False
    first, second = (module.get_submodule(str(node.target)) for node in (conv, norm))
    return can_be_folded(first, second) and not second.training


def _fold_modules(module: fx.GraphModule, norm: fx.Node, number: int) -> None:
    conv = norm.args[0]
    assert isinstance(conv, fx.Node)
    first, second = (module.get_submodule(str(node.target)) for node in (conv, norm))
    merged = fuse_conv_bn_eval(first.eval(), second)  # type: ignore[type-var,arg-type]
    conv.target = f"folded_{number}"
    module.add_submodule(conv.target, merged.requires_grad_(False))
    norm.replace_all_uses_with(conv)
    norm.graph.erase_node(norm)


def _statistics(norm: fx.Node) -> list[Any]:
    return [_argument(norm, name) for name in ("weight", "bias", "running_mean", "running_var")]


def _argument(node: fx.Node, name: str) -> Any:
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            return node.args[i] if i < len(node.args) else node.kwargs.get(name, argument.default_value)
    return None


def _state(module: fx.GraphModule, node: Any) -> torch.Tensor | None:
    """Give the weight or buffer that a node is, None if it is something else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, torch.Tensor) else None


def _fold(module: fx.GraphModule, norm: fx.Node, number: int) -> None:
    conv = norm.args[0]
    assert isinstance(conv, fx.Node)
    gamma, beta, mean, var = (_state(module, value) for value in _statistics(norm))
    weight, bias = (_state(module, _argument(conv, name)) for name in ("weight", "bias"))
    assert weight is not None
    assert mean is not None
    assert var is not None
    epsilon = _argument(norm, "eps" if _argument(norm, "eps") is not None else "epsilon")
    merged = fuse_conv_bn_weights(weight, bias, mean, var, epsilon, gamma, beta)
    for name, value in zip(("weight", "bias"), merged, strict=True):
        key = f"folded_{number}_{name}"
        module.register_parameter(key, torch.nn.Parameter(value.detach().clone(), requires_grad=False))
        with module.graph.inserting_before(conv):
            attribute = module.graph.get_attr(key)
        _set_argument(conv, name, attribute)
    _replace(norm, conv)


def _set_argument(node: fx.Node, name: str, value: fx.Node) -> None:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    position = names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _replace(norm: fx.Node, conv: fx.Node) -> None:
    """Let all that reads the norm read the convolution; a norm that gives several values is read by its first."""
    if norm.target._schema.name.endswith("::batch_norm"):  # type: ignore[union-attr]
        norm.replace_all_uses_with(conv)
        norm.graph.erase_node(norm)
        return
    for user in list(norm.users):
        if user.args[1:] == (0,):
            user.replace_all_uses_with(conv)
            norm.graph.erase_node(user)


def relax_views(module: fx.GraphModule) -> None:
    """Let views be copied where they must, as values in channels-last order can't all be seen in another shape.

    A view that is written to stays one.
    """
    aliases = Aliases(module.graph)
    for node in module.graph.nodes:
        if node.target is _ATEN.view.default and not aliases.written_after(node, -1):
            node.target = _ATEN.reshape.default
    module.recompile()


def follow_sizes(module: fx.GraphModule) -> None:
    """Let a trace of the module follow the sizes of tensors, so that they are not those of the traced batch."""
    for node in list(module.graph.nodes):
        if node.target in _CONVERSIONS:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target in _FOLLOWED and len(node.args) == len(node.target._schema.arguments[:2]):
            node.op, node.target, node.kwargs = "call_method", _FOLLOWED[node.target], {}
    module.recompile()
