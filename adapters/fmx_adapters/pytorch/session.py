"""Running a torch module and taking values out on the way.

A value is captured without a copy where nothing overwrites it later. Which values are overwritten (by an in-place
ReLU, a residual ``+=``) the probe pass has seen from torch's version counters; those are copied at once. The counters
are checked again after every batch, so that a model that behaves otherwise on other data is noticed and run again with
copies, rather than giving a wrong value.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._devices import placed
from fmx_adapters._session import How, Tensors, TorchSession
from fmx_adapters._torch import Key, evaluation_mode, input_dtype, output_tensors, tensors_in
from fmx_adapters.pytorch.watch import Watcher


class _Enough(BaseException):
    """Ends the forward pass once the last wanted value is there; no model code catches it by accident."""


class PyTorchSession(TorchSession):
    """A torch module prepared for chosen layers; see `fmx.adapter.Session`.

    Parameters
    ----------
    module : torch.nn.Module
    source : str
    inputs : sequence of InputInfo
    wanted : mapping of Key to LayerInfo
    overwritten : set of Key
        Values that the probe pass overwrote.
    how : How
    engine : str
    own : bool
        The module is the session's own, so that it may be moved.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        source: str,
        inputs: Sequence[InputInfo],
        wanted: Mapping[Key, LayerInfo],
        overwritten: set[Key],
        how: How,
        *,
        engine: str = "eager",
        own: bool = False,
    ) -> None:
        super().__init__(source, inputs, list(wanted.values()), how, engine)
        self._wanted = wanted
        self._copy = {key for key in wanted if key in overwritten}
        # The user's own module stays where it is.
        self._module = placed(module, self.device, self.precision, own=own)
        self._dtypes = {info.name: input_dtype(info, self._module) for info in inputs}
        ops_wanted = any(key.op for key in wanted)
        self._watcher = Watcher(self._module, None if ops_wanted else {key.path for key in wanted})
        self._watcher.on_exit = self._take
        self._watcher.on_op = lambda key, _, output: self._take(key, output)
        self._places = {key._replace(place="") for key in wanted}
        self._taken: dict[Key, tuple[torch.Tensor, int]] = {}

    def _open(self, stack: ExitStack) -> None:
        stack.callback(self._taken.clear)
        stack.enter_context(evaluation_mode(self._module))
        stack.enter_context(self._watcher)

    def _dtype(self, info: InputInfo) -> torch.dtype:
        return self._dtypes[info.name]

    def _compute(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        result = self._forward(tensors)
        late = {key for key, (value, version) in self._taken.items() if value._version != version}
        if late - self._copy:
            self._copy |= late
            result = self._forward(tensors)
        missing = [layer.name for key, layer in self._wanted.items() if key not in self._taken]
        if missing:
            raise ModelError(
                f"{self._source} did not reach {', '.join(missing)} on this batch: "
                "its path depends on the data, so leave these layers out."
            )
        layers = {layer.name: self._taken[key][0] for key, layer in self._wanted.items()}
        self._taken.clear()
        return layers, {} if result is None else output_tensors(result)

    def _forward(self, batch: Tensors) -> Any:
        arguments, keywords = split_arguments(self._module, batch)
        self._taken.clear()
        try:
            with self._watcher.watch():
                return self._module(*arguments, **keywords)
        except _Enough:
            return None

    def _take(self, key: Key, output: Any) -> None:
        if key not in self._places:
            return
        for place, value in tensors_in(output):
            exact = key._replace(place=place)
            if exact in self._wanted:
                kept = value.clone() if exact in self._copy else value
                self._taken[exact] = (kept, kept._version)
        if not self._outputs and len(self._taken) == len(self._wanted):
            raise _Enough


def split_arguments(
    module: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Pass several inputs by keyword where forward has parameters of these names, and all others in their order."""
    parameters = inspect.signature(module.forward).parameters
    if len(batch) == 1 or not set(batch) <= set(parameters):
        return list(batch.values()), {}
    return [], dict(batch)
