"""ONNX Runtime as an engine for torch models: the captured values exported as outputs of their own."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from fmx.adapter import Batch, Capture, InputInfo, check_inputs
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._devices import parse_precision
from fmx_adapters._session import How
from fmx_adapters._torch import output_tensors, reason_of

__all__ = ["FlatModule", "RuntimeSession"]

Export = Callable[[], "FlatModule"]


class FlatModule(torch.nn.Module):
    """Runs something that gives ``(values, output)`` and returns all tensors in one row, each of them once.

    Parameters
    ----------
    run : callable
        Takes the inputs by position.
    modules : sequence of torch.nn.Module
        What it runs, so that an exporter finds the weights.
    inputs : sequence of tensor
        Small ones, on which it is looked at.

    Attributes
    ----------
    places : list of int
        For each value, and each output behind them, its place in the row.
    outputs : list of str
        Names of the outputs.
    """

    def __init__(self, run: Callable[..., Any], modules: Sequence[torch.nn.Module], inputs: Sequence[torch.Tensor]):
        super().__init__()
        self.inner = torch.nn.ModuleList(modules)
        self.inputs = tuple(inputs)
        self.places: list[int] = []
        self.outputs: list[str] = []
        self._run = run

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the row of tensors."""
        values, output = self._run(*inputs)
        named = output_tensors(output)
        row: dict[int, torch.Tensor] = {}
        self.places, self.outputs = [], list(named)
        for tensor in [*values, *named.values()]:
            row.setdefault(id(tensor), tensor)
            self.places.append(list(row).index(id(tensor)))
        return tuple(row.values())


class RuntimeSession:
    """A torch model exported for ONNX Runtime, prepared for chosen layers; see `fmx.adapter.Session`.

    Parameters
    ----------
    source : str
    inputs : sequence of InputInfo
    layers : sequence of LayerInfo
    how : How
    export : callable
        Gives the module to export, on the CPU and in evaluation mode.

    Raises
    ------
    ModelError
        The model can't be exported or ONNX Runtime can't run it.
    """

    engine_notes: tuple[str, ...] = ()

    def __init__(
        self, source: str, inputs: Sequence[InputInfo], layers: Sequence[LayerInfo], how: How, export: Export
    ) -> None:
        import onnxruntime

        if parse_precision(how.precision) not in {None, torch.float32}:
            raise ModelError("it computes in the model's own precision only")
        self.engine = f"onnxruntime {onnxruntime.__version__} ORT_ENABLE_ALL"
        self._source = source
        self._inputs = list(inputs)
        self._layers = list(layers)
        self._device = how.device
        self._export = export
        self._runner: Any = None

    def __enter__(self) -> Self:
        from fmx_adapters.onnx.runtime import start

        flat = self._export()
        proto = _to_onnx(flat)
        self._places, self._outputs = flat.places, flat.outputs
        self._types = [given.numpy().dtype for given in flat.inputs]
        self._runner = start(proto, self._source, Path(), self._device, "all")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner = None

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        from fmx_adapters.onnx.runtime import run_values

        if self._runner is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        given = check_inputs(batch, self._inputs, self._source)
        typed = enumerate(zip(given.values(), self._types, strict=True))
        feed = {f"input_{i}": np.ascontiguousarray(array, dtype=dtype) for i, (array, dtype) in typed}
        found = run_values(self._runner, feed, self._source)
        row = [found[f"value_{place}"] for place in self._places]
        count = len(self._layers)
        layers = {layer.name: value for layer, value in zip(self._layers, row[:count], strict=True)}
        return Capture(layers, dict(zip(self._outputs, row[count:], strict=True)))

    def run_all(self, batches: Iterable[Batch]) -> Iterator[Capture]:
        """Run batches one after the other."""
        yield from map(self.run, batches)


def _to_onnx(flat: FlatModule) -> Any:
    """Export with a free batch axis; inputs and outputs are numbered, as ONNX does not take every name."""
    import onnx

    names = [f"input_{i}" for i in range(len(flat.inputs))]
    buffer = io.BytesIO()
    # The exporter speaks of its own future and of shapes that it takes for constant; values are compared later.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            count = len(flat(*flat.inputs))
            torch.onnx.export(
                flat,
                flat.inputs,
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                input_names=names,
                output_names=[f"value_{i}" for i in range(count)],
                dynamic_axes={name: {0: "batch"} for name in names},
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise ModelError(f"it can't be exported to ONNX ({reason_of(error)})") from error
    return onnx.load_model_from_string(buffer.getvalue())
