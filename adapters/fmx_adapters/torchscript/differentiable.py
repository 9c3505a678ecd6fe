"""A ScriptModule as a differentiable module with the same layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx_adapters._differentiable import LayeredModule
from fmx_adapters._fx import protect_state
from fmx_adapters._relu import Rule, replace_relus
from fmx_adapters._torch import input_dtype, probe_batch
from fmx_adapters.torchscript.graph import assigns, evaluating
from fmx_adapters.torchscript.naming import name_events
from fmx_adapters.torchscript.translate import Translation

__all__ = ["differentiable", "small_batch"]


def differentiable(
    module: torch.jit.ScriptModule,
    inputs: Sequence[InputInfo],
    source: str,
    relu: Rule | None,
    only: Sequence[str] | None = None,
) -> LayeredModule:
    """Translate a module, for layers that it is asked for `only` if these are given.

    Raises
    ------
    ModelError
        It does something that has no counterpart in PyTorch.
    """
    if assigns(module):
        module = copy.deepcopy(module)
    with evaluating(module):
        try:
            translation = Translation(module, small_batch(module, inputs))
        except (ModelError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"{source} can't be differentiated through: {reason.rstrip('.')}.") from error
    layers, overwritten = {}, set()
    for named in name_events(translation.events):
        key = translation.key_of(named.value.value)
        layers[named.name] = key
        if named.value.event.changed and "@" not in key:
            overwritten.add(key)
    protect_state(translation.module.graph)
    translation.module.recompile()
    if relu is not None:
        replace_relus(translation.module, relu)
    return LayeredModule(translation.module.eval(), layers, overwritten, only=only)


def small_batch(module: torch.jit.ScriptModule, inputs: Sequence[InputInfo]) -> dict[str, torch.Tensor]:
    """Make the batch on which a module is looked at, by the names of its inputs."""
    device = next(iter(module.parameters()), torch.zeros(())).device
    return {info.name: probe_batch(info.shape, input_dtype(info, module), device) for info in inputs}
