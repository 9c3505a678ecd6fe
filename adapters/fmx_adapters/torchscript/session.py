"""Running a ScriptModule and taking values out on the way.

What a pass computes is recorded by nodes in a copy of its graph (see `record`). Values that are overwritten later are
known from the probe pass and copied where they arise; a pass on other data that overwrites others, or gives wanted
values in a place behind which nothing was to be computed any more, is noticed and run again with what it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch

from fmx.adapter import Batch, Capture, InputInfo, check_inputs
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._torch import Key, as_batch, input_dtype, name_outputs, pick_device, to_array
from fmx_adapters.torchscript.graph import assigns, evaluating
from fmx_adapters.torchscript.record import RecordedPass

__all__ = ["TorchScriptSession"]


class TorchScriptSession:
    """A ScriptModule prepared for chosen layers; see `fmx.adapter.Session`.

    Parameters
    ----------
    module : ScriptModule
    source : str
    inputs : sequence of InputInfo
    wanted : mapping of Key to LayerInfo
    overwritten : set of int
        Sites whose values the probe pass overwrote.
    last : set of int
        Sites at which the probe pass found the wanted values.
    device : str
    outputs : bool
        Give the model's outputs too.
    """

    engine = "torchscript"
    engine_notes: Sequence[str] = ()

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        source: str,
        inputs: Sequence[InputInfo],
        wanted: Mapping[Key, LayerInfo],
        overwritten: set[int],
        last: set[int],
        *,
        device: str,
        outputs: bool,
    ) -> None:
        self._source = source
        self._inputs = list(inputs)
        self._wanted = wanted
        self._copied = overwritten
        self._last: set[int] | None = last
        self._outputs = outputs
        self._device = pick_device(device)
        self._dtypes = {info.name: input_dtype(info, module) for info in inputs}
        on_device = all(t.device.type == self._device.type for t in module.state_dict().values())
        # The user's own module stays where it is and as it is, even where its forward pass counts something.
        keep = on_device and not assigns(module)
        self._module = module if keep else moved_copy(module, self._device)
        self._stack = ExitStack()
        self._pass: RecordedPass | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(evaluating(self._module))
            self._compile()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pass = None
        self._stack.close()

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        if self._pass is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        given = check_inputs(batch, self._inputs, self._source)
        tensors = {name: as_batch(array, self._dtypes[name], self._device) for name, array in given.items()}
        taken, result, late = self._forward(tensors)
        cut_early = self._last is not None and len(taken) < len(self._wanted)
        if late or cut_early:
            self._copied |= late
            self._last = None if cut_early else self._last
            self._compile()
            taken, result, _ = self._forward(tensors)
        missing = [layer.name for key, layer in self._wanted.items() if key not in taken]
        if missing:
            raise ModelError(
                f"{self._source} did not reach {', '.join(missing)} on this batch: "
                "its path depends on the data, so leave these layers out."
            )
        layers = {layer.name: to_array(taken[key]) for key, layer in self._wanted.items()}
        return Capture(layers, name_outputs(result) if self._outputs else None)

    def _compile(self) -> None:
        self._pass = RecordedPass(
            self._module, self._wanted.keys(), self._copied, self._last, keep_output=self._outputs
        )

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> tuple[dict[Key, torch.Tensor], Any, set[int]]:
        """Run once; returns the wanted values, the output, and the sites whose values were overwritten."""
        assert self._pass is not None
        try:
            with torch.no_grad():
                events, result = self._pass(inputs)
        except (RuntimeError, ValueError) as error:
            shape = " and ".join("×".join(map(str, tensor.shape[1:])) for tensor in inputs.values())
            raise ModelError(f"{self._source} failed on samples of shape {shape}: {_reason(error)}") from error
        taken: dict[Key, torch.Tensor] = {}
        late: set[int] = set()
        for event in events:
            found = {key: tensor for key, tensor in event.tensors() if key in self._wanted}
            taken.update(found)
            if found and event.changed and event.number not in self._copied:
                late.add(event.number)
        return taken, result, late


def _reason(error: Exception) -> str:
    """Find the sentence in what TorchScript says, which puts a traceback of its own in front."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ") if lines else type(error).__name__


def moved_copy(module: torch.jit.ScriptModule, device: torch.device) -> torch.jit.ScriptModule:
    """Copy a ScriptModule to a device."""
    # Copies made with gradients on are no leaves, which moving warns about.
    with torch.no_grad():
        return copy.deepcopy(module).to(device)
