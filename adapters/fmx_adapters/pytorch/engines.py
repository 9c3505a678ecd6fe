"""The engines that can run a torch module: the module itself, and copies of it in a faster form."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fmx.adapter import InputInfo, ModelSource, OpenOptions
from fmx.errors import ModelError
from fmx_adapters._devices import placed
from fmx_adapters._folding import can_be_folded
from fmx_adapters._graphs import Program
from fmx_adapters._runtime import FlatModule
from fmx_adapters._session import How
from fmx_adapters._torch import Key, evaluation_mode, input_dtype, probe_batch, reason_of
from fmx_adapters.pytorch.differentiable import WatchedModule
from fmx_adapters.pytorch.session import split_arguments

__all__ = ["FORMS", "channels_last", "exported_program", "flat_copy", "folded", "wanted_paths"]


def channels_last(module: nn.Module, _pairs: Mapping[str, str], _wanted: set[str]) -> nn.Module:
    """Copy a module with its weights in channels-last order, which CPUs and GPUs convolve faster.

    Raises
    ------
    ModelError
        The module has no two-dimensional convolutions.
    """
    if not any(isinstance(m, nn.Conv2d) for m in module.modules()):
        raise ModelError("there are no 2d convolutions")
    return copy.deepcopy(module).to(memory_format=torch.channels_last)


def folded(module: nn.Module, pairs: Mapping[str, str], wanted: set[str]) -> nn.Module:
    """Copy a module with batch norms folded into the convolutions before them, in channels-last order.

    Parameters
    ----------
    module : torch.nn.Module
    pairs : mapping of str to str
        Paths of the convolutions whose output only a batch norm reads, with the path of that norm.
    wanted : set of str
        Paths of the modules whose output is captured; these convolutions stay as they are.

    Raises
    ------
    ModelError
        There is nothing to fold.
    """
    modules = dict(module.named_modules())
    foldable = {
        conv: norm for conv, norm in pairs.items() if conv not in wanted and can_be_folded(modules[conv], modules[norm])
    }
    if not foldable:
        raise ModelError("no batch norm can be folded")
    fast = copy.deepcopy(module)
    with evaluation_mode(fast):
        for conv, norm in foldable.items():
            merged = fuse_conv_bn_eval(fast.get_submodule(conv), fast.get_submodule(norm))  # type: ignore[type-var,arg-type]
            fast.set_submodule(conv, merged)
            fast.set_submodule(norm, nn.Identity())
    return fast.to(memory_format=torch.channels_last)


FORMS: dict[str, Callable[[nn.Module, Mapping[str, str], set[str]], nn.Module]] = {
    "folded": folded,
    "channels-last": channels_last,
}


def flat_copy(
    module: nn.Module, inputs: Sequence[InputInfo], layers: Mapping[str, Key], overwritten: set[Key], how: How
) -> FlatModule:
    """Copy a module to the CPU in a form that returns the values of layers, to be exported."""
    cpu = torch.device("cpu")
    watched = WatchedModule(copy.deepcopy(placed(module, cpu)), layers, overwritten)
    names = list(layers)

    def run(*tensors: torch.Tensor) -> tuple[list[torch.Tensor], Any]:
        given = dict(zip((info.name for info in inputs), tensors, strict=True))
        arguments, keywords = split_arguments(watched.module, given)
        passed = keywords or arguments
        if how.outputs:
            output, values = watched.forward_with(passed, names)
        else:
            output, values = None, watched.capture(passed, names)
        return list(values.values()), output

    batch = [probe_batch(info.shape, input_dtype(info, watched.module), cpu) for info in inputs]
    return FlatModule(run, [watched], batch)


def exported_program(module: nn.Module, source: str, inputs: Sequence[InputInfo]) -> Program:
    """Export a module as a graph, with a free batch axis, that takes the module's inputs and has its layers' names.

    Raises
    ------
    ModelError
        The module does what export can't follow; says what export says.
    """
    from fmx_adapters.exported.model import open_exported

    cpu = torch.device("cpu")
    module = placed(module, cpu)
    batch = {i.name: probe_batch(i.shape, input_dtype(i, module), cpu) for i in inputs}
    arguments, keywords = split_arguments(module, batch)
    free = {0: torch.export.Dim.DYNAMIC}
    shapes: Any = dict.fromkeys(keywords, free) if keywords else tuple(free for _ in arguments)
    with warnings.catch_warnings(), evaluation_mode(module), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(module, tuple(arguments), keywords, dynamic_shapes=shapes)
        except Exception as error:  # export fails in many ways of its own
            raise ModelError(f"it can't be exported ({reason_of(error)})") from error
    program = open_exported(ModelSource(exported), OpenOptions()).program()
    by_name = {info.name: info for info in inputs}
    known = [by_name[info.name] for info in program.inputs] if keywords else list(inputs)
    return replace(program, source=source, inputs=known)


def wanted_paths(keys: Iterable[Key]) -> set[str]:
    """List the modules whose own output is captured."""
    return {key.path for key in keys if not key.op}
