"""Running a ScriptModule and taking values out on the way.

What a pass computes is recorded by nodes in a copy of its graph (see `record`). Values that are overwritten later are
known from the probe pass and copied where they arise; a pass on other data that overwrites others, or gives wanted
values in a place behind which nothing was to be computed any more, is noticed and run again with what it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fmx.adapter import InputInfo
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._devices import placed
from fmx_adapters._engines import cant_run
from fmx_adapters._session import How, Tensors, TorchSession
from fmx_adapters._torch import Key, input_dtype, output_tensors
from fmx_adapters.torchscript.freezing import freeze
from fmx_adapters.torchscript.graph import assigns, evaluating
from fmx_adapters.torchscript.record import RecordedPass

__all__ = ["Found", "TorchScriptSession"]


@dataclass(frozen=True)
class Found:
    """Where the probe pass found the wanted values.

    Attributes
    ----------
    wanted : mapping of Key to LayerInfo
    overwritten : frozenset of int
        Sites whose values the pass overwrote.
    last : frozenset of int
        Sites at which the values were found.
    """

    wanted: Mapping[Key, LayerInfo]
    overwritten: frozenset[int]
    last: frozenset[int]


class TorchScriptSession(TorchSession):
    """A ScriptModule prepared for chosen layers; see `fmx.adapter.Session`.

    Parameters
    ----------
    module : ScriptModule
    source : str
    inputs : sequence of InputInfo
    found : Found
    how : How
    engine : str
    frozen : bool
        Optimise the graph with its weights as constants.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        source: str,
        inputs: Sequence[InputInfo],
        found: Found,
        how: How,
        *,
        engine: str = "torchscript",
        frozen: bool = False,
    ) -> None:
        super().__init__(source, inputs, list(found.wanted.values()), how, engine)
        self._wanted = found.wanted
        self._copied = set(found.overwritten)
        self._last: set[int] | None = set(found.last)
        # The user's own module stays where it is and as it is, even where its forward pass counts something.
        moved = placed(module, self.device, self.precision)
        self._module = copy.deepcopy(module) if moved is module and assigns(module) else moved
        self._dtypes = {info.name: input_dtype(info, self._module) for info in inputs}
        self._frozen = frozen
        self._pass: RecordedPass | None = None

    def _open(self, stack: ExitStack) -> None:
        stack.enter_context(evaluating(self._module))
        self._compile()
        stack.callback(self._forget)

    def _forget(self) -> None:
        self._pass = None

    def _dtype(self, info: InputInfo) -> torch.dtype:
        return self._dtypes[info.name]

    def _compute(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
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
        layers = {layer.name: taken[key] for key, layer in self._wanted.items()}
        return layers, output_tensors(result) if self._outputs else {}

    def _compile(self) -> None:
        prepare = partial(freeze, module=self._module) if self._frozen else None
        try:
            self._pass = RecordedPass(
                self._module, self._wanted.keys(), self._copied, self._last, self._outputs, prepare
            )
        except ModelError as error:
            raise cant_run(self.engine, error) from None

    def _forward(self, inputs: Mapping[str, torch.Tensor]) -> tuple[dict[Key, torch.Tensor], Any, set[int]]:
        """Run once; returns the wanted values, the output, and the sites whose values were overwritten."""
        assert self._pass is not None
        events, result = self._pass(inputs)
        taken: dict[Key, torch.Tensor] = {}
        late: set[int] = set()
        for event in events:
            found = {key: tensor for key, tensor in event.tensors() if key in self._wanted}
            taken.update(found)
            if found and event.changed and event.number not in self._copied:
                late.add(event.number)
        return taken, result, late
