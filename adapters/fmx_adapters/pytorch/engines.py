"""The engines that can run a torch module: the module itself, and copies of it in a faster form."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx_adapters._torch import Key, evaluation_mode, input_dtype, probe_batch

__all__ = ["FORMS", "channels_last", "export_onnx", "folded", "wanted_paths"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        conv: norm
        for conv, norm in pairs.items()
        if conv not in wanted and type(modules[conv]) in _CONVOLUTIONS and type(modules[norm]) in _NORMS
    }
    foldable = {c: n for c, n in foldable.items() if modules[n].track_running_stats}
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
    "channels-last": channels_last,
    "folded": folded,
}


def export_onnx(module: nn.Module, inputs: Sequence[InputInfo], outputs: Sequence[str]) -> Any:
    """Export a module with a free batch axis for ONNX Runtime, its outputs named as the module's own session does.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    RuntimeError
        Whatever the exporter has to say.
    """
    import onnx

    batch = {i.name: probe_batch(i.shape, input_dtype(i, module), torch.device("cpu")) for i in inputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), evaluation_mode(module), torch.no_grad():
        # The exporter speaks of its own future and of shapes that it takes for constant; values are compared later.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(batch.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            input_names=list(batch),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in batch},
        )
    return onnx.load_model_from_string(buffer.getvalue())


def wanted_paths(keys: Sequence[Key]) -> set[str]:
    """List the modules whose own output is captured."""
    return {key.path for key in keys if not key.op}
