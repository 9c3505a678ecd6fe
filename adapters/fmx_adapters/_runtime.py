"""ONNX Runtime as an engine for torch models: the captured values exported as outputs of their own."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from fmx.adapter import Batch, Capture, InputInfo, check_inputs
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._devices import parse_precision
from fmx_adapters._engines import cant_run, largest_difference
from fmx_adapters._session import How
from fmx_adapters._torch import output_tensors, reason_of

__all__ = ["FlatModule", "RuntimeSession"]

Export = Callable[[], "FlatModule"]

# An export that is right may be this far off on noise, which is not what a network is made for.
_EXPORT_TOLERANCE = 1e-3


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
        self.eval()

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

        try:
            flat = self._export()
            self._runner = start(_to_onnx(flat), self._source, Path(), self._device, "all")
            self._places, self._outputs = flat.places, flat.outputs
            self._types = [given.numpy().dtype for given in flat.inputs]
            self._compare(flat)
        except ModelError as error:
            raise cant_run("onnxruntime", error) from None
        return self

    def _compare(self, flat: FlatModule) -> None:
        """Run three samples, as an exporter may take something for constant that only holds for the two it saw."""
        batch = [torch.cat([given, given[1:]]) for given in flat.inputs]
        with torch.no_grad():
            row = [tensor.numpy() for tensor in flat(*batch)]
        wanted = {str(i): row[place] for i, place in enumerate(flat.places)}
        got = {str(i): value for i, value in enumerate(self._run([given.numpy() for given in batch]))}
        difference, _ = largest_difference(got, wanted)
        if difference > _EXPORT_TOLERANCE:
            raise ModelError(f"its export to ONNX gives values that differ by {difference:.1e}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner = None

    def run(self, batch: Batch) -> Capture:
        """Run one batch and return the wanted values; see `fmx.adapter.Session`."""
        if self._runner is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        row = self._run(list(check_inputs(batch, self._inputs, self._source).values()))
        count = len(self._layers)
        layers = {layer.name: value for layer, value in zip(self._layers, row[:count], strict=True)}
        return Capture(layers, dict(zip(self._outputs, row[count:], strict=True)))

    def _run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Give the values, and the outputs behind them."""
        from fmx_adapters.onnx.runtime import run_values

        typed = enumerate(zip(arrays, self._types, strict=True))
        feed = {f"input_{i}": np.ascontiguousarray(array, dtype=dtype) for i, (array, dtype) in typed}
        found = run_values(self._runner, feed, self._source)
        return [found[f"value_{place}"] for place in self._places]

    def run_all(self, batches: Iterable[Batch]) -> Iterator[Capture]:
        """Run batches one after the other."""
        yield from map(self.run, batches)


def _to_onnx(flat: FlatModule) -> Any:
    """Export with a free batch axis; inputs and outputs are numbered, as ONNX does not take every name."""
    import onnx

    names = [f"input_{i}" for i in range(len(flat.inputs))]
    buffer = io.BytesIO()
    # The exporter speaks of its own future and of shapes that it takes for constant; values are compared later.
    with warnings.catch_warnings(), torch.no_grad(), _slow_attention(), _unlogged(flat):
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


@contextmanager
def _unlogged(flat: FlatModule) -> Iterator[None]:
    """Keep torch from printing graphs that it can't export: its exporter switches that on, and never off again."""

    def switch_off(*_: Any) -> None:
        torch._C._jit_set_onnx_log_enabled(False)

    # The module is called when the exporter has switched it on, and before there is anything to print.
    hook = flat.register_forward_pre_hook(switch_off)
    try:
        yield
    finally:
        hook.remove()
        switch_off()


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Let attention be made of operations inside, as the one that torch has for inference is unknown elsewhere."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
