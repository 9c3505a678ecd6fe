"""What the sessions of all torch-based formats have in common: devices, precision, and batches that overlap."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, InputInfo, check_inputs
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._batches import join_slices, slices
from fmx_adapters._devices import exact_arithmetic, parse_precision, pick_device
from fmx_adapters._engines import TOLERANCE, Terms
from fmx_adapters._sharing import waiting_asleep
from fmx_adapters._torch import dtype_name, reason_of
from fmx_adapters._transfer import open_link

__all__ = ["How", "TorchSession"]

Arrays = dict[str, NDArray[Any]]
Tensors = dict[str, torch.Tensor]

_HALF = {torch.float16, torch.bfloat16}
_EXACT = "TF32 is off: float32 is computed as float32"


@dataclass(frozen=True)
class How:
    """How a session runs, as `fmx.adapter.Model.session` was asked.

    Attributes
    ----------
    device : str
    outputs : bool
    precision : str or None
    expected_batches : int or None
    """

    device: str = "cpu"
    outputs: bool = False
    precision: str | None = None
    expected_batches: int | None = None

    def terms(self, own: torch.dtype) -> Terms:
        """Give the terms on which engines are chosen, for a model whose own precision is `own`.

        In half precision the values of two exact computations differ by more than the usual tolerance: a few units of
        rounding are allowed there.
        """
        dtype = parse_precision(self.precision) or own
        tolerance = max(TOLERANCE, 4 * torch.finfo(dtype).eps) if dtype in _HALF else TOLERANCE
        if self.device == "cpu":
            return Terms(tolerance, self.expected_batches, on_cpu=True)
        # A few samples don't fill a GPU, and say little about many.
        return Terms(tolerance, self.expected_batches, timed_samples=None)


class TorchSession(ABC):
    """A torch model prepared for chosen layers; see `fmx.adapter.Session`.

    A subclass enters what it needs on `stack` in `_open`, and computes on tensors in `_compute`.

    Parameters
    ----------
    source : str
        The model in words, for errors.
    inputs : sequence of InputInfo
    layers : sequence of LayerInfo
        What is captured, in the order in which it is given back.
    how : How
    engine : str
    """

    # Bounds of the batches that the model takes.
    least = 1
    most: int | None = None

    def __init__(
        self, source: str, inputs: Sequence[InputInfo], layers: Sequence[LayerInfo], how: How, engine: str
    ) -> None:
        self.engine = engine
        self.device = pick_device(how.device)
        self.precision = parse_precision(how.precision)
        self.engine_notes: list[str] = [_EXACT] if self.device.type == "cuda" else []
        self._source = source
        self._inputs = list(inputs)
        self._layers = list(layers)
        self._outputs = how.outputs
        self._link = open_link(self.device)
        self._stack: ExitStack | None = None
        # Whatever precision the model runs at, a layer's values have the type that the layer says.
        self._types = {} if self.precision is None else {f"layer {v.name}": getattr(torch, v.dtype) for v in layers}

    @abstractmethod
    def _open(self, stack: ExitStack) -> None:
        """Get ready to compute, with everything to be undone on the stack."""

    @abstractmethod
    def _dtype(self, info: InputInfo) -> torch.dtype:
        """Give the element type that the model takes for an input."""

    @abstractmethod
    def _compute(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """Run the model on inputs by name; give the wanted values by layer name, and the outputs by theirs."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        return self._submit(batch)()

    def run_all(self, batches: Iterable[Batch]) -> Iterator[Capture]:
        """Run batches one after the other; on CUDA the next one is computed while the values of one come back.

        Yields
        ------
        Capture
            What `run` gives for each batch, in their order.
        """
        if not self._link.overlaps:
            yield from map(self.run, batches)
            return
        waiting: Callable[[], Capture] | None = None
        for batch in batches:
            submitted = self._submit(batch)
            if waiting is not None:
                yield waiting()
            waiting = submitted
        if waiting is not None:
            yield waiting()

    def sharing(self) -> AbstractContextManager[None]:
        """Share the processor with others inside the context; see `fmx.adapter.sharing`."""
        return waiting_asleep() if self.device.type == "cpu" else nullcontext()

    def _submit(self, batch: Batch) -> Callable[[], Capture]:
        """Start a batch; what is returned waits for its values."""
        if self._stack is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        arrays = check_inputs(batch, self._inputs, self._source)
        if len({len(array) for array in arrays.values()}) > 1:
            counts = ", ".join(f"{len(array)} of {name}" for name, array in arrays.items())
            raise ModelError(f"{self._source} was given {counts}: give as many samples of each input.")
        started = [
            (taken, size, self._start(part)) for taken, size, part in slices(arrays, least=self.least, most=self.most)
        ]
        return lambda: self._capture(join_slices([(taken, size, arrived()) for taken, size, arrived in started]))

    def _start(self, arrays: Mapping[str, NDArray[Any]]) -> Callable[[], Arrays]:
        tensors = {info.name: self._link.send(arrays[info.name], self._dtype(info)) for info in self._inputs}
        try:
            with torch.no_grad(), exact_arithmetic(self.device):
                layers, outputs = self._compute(tensors)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            shape = " and ".join("×".join(map(str, tensor.shape[1:])) for tensor in tensors.values())
            how = "" if self.precision is None else f" at {dtype_name(self.precision)} on {self.device}"
            raise ModelError(f"{self._source} failed on samples of shape {shape}{how}: {reason_of(error)}") from error
        found = {f"layer {name}": value for name, value in layers.items()}
        return self._link.fetch(found | outputs, self._types | self._output_types(outputs))

    def _output_types(self, outputs: Tensors) -> dict[str, torch.dtype]:
        if self.precision is None:
            return {}
        return {name: torch.float32 for name, value in outputs.items() if value.dtype in _HALF}

    def _capture(self, found: Arrays) -> Capture:
        layers = {layer.name: found[f"layer {layer.name}"] for layer in self._layers}
        return Capture(layers, {name: value for name, value in found.items() if not name.startswith("layer ")})
