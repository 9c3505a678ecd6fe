"""Running a torch module and taking values out on the way.

A value is captured without a copy where nothing overwrites it later. Which values are overwritten (by an in-place
ReLU, a residual ``+=``) the probe pass has seen from torch's version counters; those are copied at once. The counters
are checked again after every batch, so that a model that behaves otherwise on other data is noticed and run again with
copies, rather than giving a wrong value.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch

from fmx.adapter import Batch, Capture, InputInfo, check_inputs
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._torch import (
    Key,
    as_batch,
    evaluation_mode,
    input_dtype,
    name_outputs,
    pick_device,
    tensors_in,
    to_array,
)
from fmx_adapters.pytorch.watch import Watcher


class _Enough(BaseException):
    """Ends the forward pass once the last wanted value is there; no model code catches it by accident."""


class PyTorchSession:
    """A torch module prepared for chosen layers; see `fmx.adapter.Session`."""

    def __init__(
        self,
        module: torch.nn.Module,
        source: str,
        inputs: Sequence[InputInfo],
        wanted: Mapping[Key, LayerInfo],
        overwritten: set[Key],
        *,
        device: str,
        outputs: bool,
        engine: str = "eager",
    ) -> None:
        self.engine = engine
        self.engine_notes: list[str] = []
        self._source = source
        self._inputs = list(inputs)
        self._wanted = wanted
        self._copy = {key for key in wanted if key in overwritten}
        self._outputs = outputs
        self._device = pick_device(device)
        self._dtypes = {info.name: input_dtype(info, module) for info in inputs}
        on_device = all(t.device.type == self._device.type for t in module.state_dict().values())
        # The user's own module stays where it is.
        self._module = module if on_device else copy.deepcopy(module).to(self._device)
        ops_wanted = any(key.op for key in wanted)
        self._watcher = Watcher(self._module, None if ops_wanted else {key.path for key in wanted})
        self._watcher.on_exit = self._take
        self._watcher.on_op = lambda key, _, output: self._take(key, output)
        self._places = {key._replace(place="") for key in wanted}
        self._stack = ExitStack()
        self._taken: dict[Key, tuple[torch.Tensor, int]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self._module))
            stack.enter_context(self._watcher)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._taken.clear()

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        given = check_inputs(batch, self._inputs, self._source)
        tensors = {name: as_batch(array, self._dtypes[name], self._device) for name, array in given.items()}
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
        layers = {layer.name: to_array(self._taken[key][0]) for key, layer in self._wanted.items()}
        self._taken.clear()
        return Capture(layers, {} if result is None else name_outputs(result))

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        arguments, keywords = split_arguments(self._module, batch)
        self._taken.clear()
        try:
            with torch.no_grad(), self._watcher.watch():
                return self._module(*arguments, **keywords)
        except _Enough:
            return None
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            shape = " and ".join("×".join(map(str, tensor.shape[1:])) for tensor in batch.values())
            raise ModelError(f"{self._source} failed on samples of shape {shape}: {reason}") from error

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
