"""A model made ready to pull signals back to its input, many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.errors import LayerError, ModelError, near_matches
from fmx.project.adjoint import way_back
from fmx.project.rules import Rule, Unlimited, deconvnet

__all__ = ["OUTPUT", "PRECISIONS", "Network", "Pass", "Seeds"]

# Stands for the model's output where a layer is asked for.
OUTPUT = ""
# Memory grows with it, and a larger one is no faster on a processor.
DEFAULT_BATCH = 8
# What is computed in. Where a ReLU's input or two values of a pool are as near to 0 or each other as float32 rounds,
# float64 tells them apart, whatever the order of the sums.
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}

Seeds = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Pass:
    """One forward pass: the input and the values that hang on it.

    Attributes
    ----------
    inputs : tensor (copy, …)
    values : dict of str to tensor (copy, …native)
        By layer; the model's output as `OUTPUT`.
    """

    inputs: torch.Tensor
    values: dict[str, torch.Tensor]


class Network:
    """A differentiable copy of a model, its ReLUs by a rule.

    Parameters
    ----------
    model : Model
    rule : callable, optional
        See `fmx.project.rules`; the derivative where left out.
    device : str
    batch_size : int
        Signals that are pulled back at once, and copies of a picture in a pass.
    precision : {"float32", "float64"}
        What is computed in; what comes back is float32.

    Raises
    ------
    ModelError
        No such precision or device; the model can't be differentiated; says why, and what works without gradients.
    """

    def __init__(
        self,
        model: Model,
        rule: Rule | None = None,
        *,
        device: str = "cpu",
        batch_size: int = DEFAULT_BATCH,
        precision: str = "float32",
    ) -> None:
        if batch_size < 1:
            raise ModelError(f"A batch holds at least one signal, not {batch_size}: correct --batch-size.")
        if precision not in PRECISIONS:
            raise ModelError(f"Gradients can't be computed in {precision}: {near_matches(precision, PRECISIONS)}")
        self.model = model
        self.batch_size = batch_size
        self.precision = precision
        self._rule = rule
        try:
            self.device = torch.device(device)
            # The weights get no gradients.
            module = model.torch_module(relu=rule).requires_grad_(False)
            self._wide = PRECISIONS[precision] if precision != "float32" else None
            self.module = (module if self._wide is None else module.to(self._wide)).to(self.device)
        except ModelError as error:
            raise _not_differentiable(error) from error
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ModelError(f"The device {device} can't be used: {str(error).splitlines()[0]}.") from None
        # Convolutions are fastest in this order of memory.
        self._lay_out(torch.channels_last)

    def begin(self, values: NDArray[Any], names: Sequence[str], copies: int = 1) -> Pass:
        """Run copies of one sample forward, or as few as the model takes.

        Parameters
        ----------
        values : array (…native)
            One sample of model input.
        names : sequence of str
            Layers, or `OUTPUT`.
        copies : int

        Raises
        ------
        ModelError
            The model does not run on this input.
        """
        # A copy: arrays from files can't be written to, of which torch warns.
        single = torch.from_numpy(np.array(values, order="C"))[None].to(self.device)
        return self.run(single, names, copies)

    def run(self, single: torch.Tensor, names: Sequence[str], copies: int = 1) -> Pass:
        """Run copies of one sample (1, …) forward; see `begin`."""
        if copies > 1:
            tried = self._copies(single, names, copies)
            if tried is not None:
                return tried
            # Some exporters fix the batch to one sample.
            self.batch_size = 1
        return self.forward(single, names)

    def forward(self, inputs: torch.Tensor, names: Sequence[str]) -> Pass:
        """Run a batch (sample, …) forward, and keep what leads from layers to the input."""
        inputs = inputs.detach().to(self._wide or inputs.dtype).requires_grad_()
        try:
            found = self._values(inputs, names)
        except RuntimeError as error:
            usual = self._values_in_usual_order(inputs, names)
            if usual is None:
                reason = str(error).strip().splitlines()[-1].rstrip(".")
                raise ModelError(f"{self.model.source} does not run on this input: {reason}.") from error
            found = usual
        return Pass(inputs, found)

    def _values(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        # A copy, for models that write to their input. One channel is in either order as it is: told to be in the other
        # one it is convolved to something else by some versions of torch, with strides that differ.
        given = (inputs.contiguous(memory_format=self._order) if inputs.ndim == 4 else inputs).clone()
        layers = [name for name in names if name != OUTPUT]
        with torch.enable_grad(), Unlimited() if self._rule is deconvnet else nullcontext():
            if OUTPUT not in names:
                return dict(self.module.capture(given, layers))
            output, found = self.module.forward_with(given, layers)
            return {**found, OUTPUT: _first_tensor(output, self.model.source)}

    def _values_in_usual_order(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor] | None:
        """Run code that sees values as one long row, such as x.view(len(x), -1); else give None."""
        if self._order is not torch.channels_last:
            return None
        self._lay_out(torch.contiguous_format)
        try:
            return self._values(inputs, names)
        except RuntimeError:
            self._lay_out(torch.channels_last)
            return None

    def _lay_out(self, order: torch.memory_format) -> None:
        """Settle the order in memory of pictures and of the weights of convolutions; values stay as they are."""
        self._order = order
        for weights in (*self.module.parameters(), *self.module.buffers()):
            if weights.ndim == 4:
                weights.data = weights.data.contiguous(memory_format=order)

    def _copies(self, single: torch.Tensor, names: Sequence[str], copies: int) -> Pass | None:
        """Run copies; None where the model was made for a batch of one, which not every operation notices."""
        try:
            done = self.forward(single.repeat(copies, *[1] * (single.ndim - 1)), names)
        except ModelError:
            return None
        for value in done.values.values():
            if value.shape[0] != copies or not torch.allclose(value[0], value[-1], rtol=1e-3, atol=1e-4):
                return None
        return done

    def pull(
        self, values: NDArray[Any], layer: str, count: int, seeds: Seeds, begun: Pass | None = None
    ) -> NDArray[np.float32]:
        """Pull signals at a layer back to the input of one sample.

        The picture goes forward once; the signals follow in batches. Where the way back can't be told from the graph
        (`fmx.project.adjoint`), autograd goes it, for as many copies of the picture as signals go back at once.

        Parameters
        ----------
        values : array (…native)
            One sample of model input.
        layer : str
        count : int
            Number of signals.
        seeds : callable
            ``seeds(start, stop)`` gives some of them at the layer, tensor (signal, …native).
        begun : Pass, optional
            A pass of one copy of the sample that has the layer.

        Returns
        -------
        array of float32 (signal, …model input)

        Raises
        ------
        ModelError
            Nothing leads from the layer back to the input.
        """
        found = np.empty((count, *values.shape), np.float32)
        # Batches of one length, so that the last one is no smaller.
        copies = -(-count // -(-count // self.batch_size))
        done = begun or self.begin(values, [layer])
        way = way_back(done.values[layer], done.inputs, count)
        if way is not None:
            for start in range(0, count, copies):
                stop = min(start + copies, count)
                given = seeds(start, stop).to(done.values[layer])
                found[start:stop] = way(given).numpy(force=True)
            return found
        if copies > 1:
            done = self.begin(values, [layer], copies)
            copies = done.inputs.shape[0]
        for start in range(0, count, copies):
            stop = min(start + copies, count)
            given = seeds(start, stop).to(self.device)
            if stop - start < copies:
                given = torch.cat([given, given.new_zeros((copies - (stop - start), *given.shape[1:]))])
            pulled = self.gradient(done, layer, given, last=stop == count)
            found[start:stop] = pulled[: stop - start].numpy(force=True)
        return found

    def gradient(
        self, done: Pass, layer: str, seeds: torch.Tensor, *, last: bool, to: str | None = None
    ) -> torch.Tensor:
        """Pull one batch of signals back to the input, or to an earlier layer.

        Raises
        ------
        LayerError
            The layer does not depend on the other one.
        ModelError
            Nothing leads from the layer back to the input.
        """
        value = done.values[layer]
        target = done.inputs if to is None else done.values[to]
        found, blocking = None, ""
        if value.requires_grad:
            try:
                (found,) = torch.autograd.grad(
                    value, target, seeds.to(value.dtype), retain_graph=not last, allow_unused=True
                )
            except RuntimeError as error:
                if "inplace operation" not in str(error):
                    raise
                blocking = "an operation in place overwrites what the derivative of another is made of"
        if found is not None:
            return found
        name = layer or "the output"
        blocking = blocking or _what_blocks(self.model)
        if to is not None and not blocking:
            raise LayerError(f"{name} does not depend on {to}: choose an earlier layer with maps.")
        why = blocking or "an operation between them, such as rounding, has none"
        raise ModelError(
            f"No gradient gets from {name} back to {to or 'the input'}, because {why}: "
            "choose another layer, or use fmx occlude, which needs no gradients."
        )


def _what_blocks(model: Model) -> str:
    """Name the first operation that gives whole numbers, where the layers tell; else give nothing."""
    for info in model.layers:
        if not np.issubdtype(np.dtype(info.dtype) if info.dtype in np.sctypeDict else np.float32, np.floating):
            return f"{info.name} ({info.kind}, {info.dtype}) has none"
    return ""


def _not_differentiable(error: ModelError) -> ModelError:
    reason = str(error).rstrip(".")
    return ModelError(f"{reason}; without gradients fmx occlude, fmx extract and all that reads stores still work.")


def _first_tensor(output: Any, source: str) -> torch.Tensor:
    while isinstance(output, tuple | list | dict) and output:
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if not isinstance(output, torch.Tensor):
        raise ModelError(f"{source} puts out no array: give --layer and --channels.")
    return output
