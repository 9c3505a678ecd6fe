"""A torch module with its layers' values taken out in a way that gradients pass through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from fmx.errors import LayerError, ModelError, near_matches
from fmx_adapters._relu import ReluMode, Rule
from fmx_adapters._torch import Key, tensors_in
from fmx_adapters.pytorch.watch import Watcher

__all__ = ["WatchedModule"]

Inputs = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


class _Enough(BaseException):
    """Ends the forward pass once the last wanted value is there."""


class WatchedModule(torch.nn.Module):
    """A module in evaluation mode; used like `fmx_adapters._differentiable.LayeredModule`.

    Parameters
    ----------
    module : torch.nn.Module
        Its own: it is put into evaluation mode.
    layers : mapping of str to Key
        Where each layer's value arises, by its canonical name.
    overwritten : set of Key
        Values that later operations write to; the pass goes on with copies of these.
    relu : callable, optional
        Backward rule of every ReLU, see `fmx_adapters._relu`.
    """

    def __init__(
        self, module: torch.nn.Module, layers: Mapping[str, Key], overwritten: set[Key], relu: Rule | None = None
    ) -> None:
        super().__init__()
        self.module = module.eval()
        self._layers = dict(layers)
        self._overwritten = set(overwritten)
        self._relu = relu

    @property
    def layer_names(self) -> list[str]:
        """The layers, in the order of computation."""
        return list(self._layers)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run the model; inputs by position or by name."""
        with self._rules():
            return self.module(*inputs, **named)

    def capture(self, inputs: Inputs, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Give the values of layers; nothing past the last of them is computed.

        Raises
        ------
        LayerError
            A name that is no layer.
        ModelError
            A layer was not reached on this input.
        """
        return self._run(inputs, names, stop=True)[1]

    def forward_with(self, inputs: Inputs, names: Sequence[str]) -> tuple[Any, dict[str, torch.Tensor]]:
        """Give the model's output and the values of layers from one pass; the output depends on the values."""
        return self._run(inputs, names, stop=False)

    def _run(self, inputs: Inputs, names: Sequence[str], *, stop: bool) -> tuple[Any, dict[str, torch.Tensor]]:
        unknown = [name for name in names if name not in self._layers]
        if unknown:
            raise LayerError(f"No layer is called {unknown[0]}: {near_matches(unknown[0], self._layers)}")
        wanted = {self._layers[name]: name for name in names}
        taken: dict[str, torch.Tensor] = {}

        def take(key: Key, output: Any) -> Any:
            for place, value in tensors_in(output):
                exact = key._replace(place=place)
                if exact in wanted:
                    taken[wanted[exact]] = value
            if stop and len(taken) == len(wanted):
                raise _Enough
            # The pass goes on with a copy, so that the value stays what it is and the output depends on it.
            is_spoilt = isinstance(output, torch.Tensor) and key in self._overwritten and key in wanted
            return output.clone() if is_spoilt else None

        watcher = Watcher(self.module, None if any(key.op for key in wanted) else {key.path for key in wanted})
        watcher.on_exit = take
        watcher.on_op = lambda key, _, output: take(key, output)
        output = None
        try:
            # The rules lie behind the watcher, which sees the ReLUs that the model asks for.
            with self._rules(), watcher, watcher.watch():
                output = self._call(inputs)
        except _Enough:
            pass
        missing = [name for name in names if name not in taken]
        if missing:
            raise ModelError(f"The model did not reach {', '.join(missing)} on this input: leave these layers out.")
        return output, {name: taken[name] for name in names}

    def _rules(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._relu is None else ReluMode(self._relu)

    def _call(self, inputs: Inputs) -> Any:
        if isinstance(inputs, Mapping):
            return self.module(**inputs)
        return self.module(*([inputs] if isinstance(inputs, torch.Tensor) else inputs))
