"""A ScriptModule as a model: layers from its graph, sessions from a rewritten copy of the graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import torch
from numpy.typing import NDArray

from fmx.adapter import Capture, InputInfo, ModelSource, OpenOptions, check_batch, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._torch import (
    as_batch,
    candidate_inputs,
    evaluation_mode,
    fingerprint,
    first_working,
    is_layer_value,
    layer_info,
    pick_device,
    picture_input,
    probe_batch,
    to_array,
)
from fmx_adapters.torchscript.graph import InlinedGraph, compile_graph


def open_torchscript(source: ModelSource, options: OpenOptions) -> TorchScriptModel:
    """Open an archive or take a ScriptModule.

    Raises
    ------
    ModelError
        The archive is damaged, or weights were given beside it.
    """
    if options.weights is not None:
        raise ModelError(f"{source.text} holds its own weights: leave --weights out.")
    module = source.spec if source.path is None else _load(source)
    given = options.input_shape
    inputs = [picture_input(given, options.layout)] if given is not None else candidate_inputs(module)
    return TorchScriptModel(module, source.text, inputs)


def _load(source: ModelSource) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # torch.jit is deprecated upstream; the files are there all the same.
        warnings.simplefilter("ignore")
        try:
            loaded: torch.jit.ScriptModule = torch.jit.load(str(source.path), map_location="cpu")  # type: ignore[no-untyped-call]
            return loaded
        except (RuntimeError, ValueError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "").rstrip(".")
            raise ModelError(f"{source.path} can't be read as TorchScript ({reason}): export it again.") from None


class TorchScriptModel:
    """A ScriptModule; see `fmx.adapter.Model`."""

    adapter = "torchscript"
    engine = "torchscript"
    preprocessing = None
    notes = ""

    def __init__(self, module: torch.jit.ScriptModule, source: str, inputs: Sequence[InputInfo]) -> None:
        self.module = module
        self.source = source
        self._candidates = list(inputs)

    def __repr__(self) -> str:
        return f"<fmx model {self.source}: {len(self.layers)} layers>"

    @property
    def layers(self) -> list[LayerInfo]:
        """Every layer, in the order of computation."""
        return self._probed[1]

    @property
    def inputs(self) -> list[InputInfo]:
        """The input that the model was looked at with."""
        return [self._probed[0]]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over weights, graph and layers."""
        graph = "\n".join(f"{layer.name} {layer.kind}" for layer in self.layers)
        return fingerprint(self.module.state_dict().items(), graph)

    def with_input(self, shape: Sequence[int]) -> TorchScriptModel:
        """Return the same model for samples of another shape."""
        layout = {"CHW": "NCHW", "HWC": "NHWC"}.get(self._candidates[0].layout)
        return TorchScriptModel(self.module, self.source, [picture_input(shape, layout)])

    def session(
        self, layers: Iterable[LayerInfo | str], *, device: str = "cpu", outputs: bool = False
    ) -> TorchScriptSession:
        """Prepare to capture `layers`."""
        info, known, numbers = self._probed
        wanted = resolve(known, layers)
        return TorchScriptSession(self, info, wanted, [numbers[w.name] for w in wanted], device, outputs)

    @cached_property
    def _probed(self) -> tuple[InputInfo, list[LayerInfo], dict[str, int]]:
        with evaluation_mode(self.module), torch.no_grad():
            inlined = InlinedGraph(self.module)
            top = inlined.values()
            named = [n for n in inlined.trace.named() if inlined.current(n.value) in top]
            run = compile_graph(self.module, [n.value for n in named], keep_output=False)

            def attempt(info: InputInfo) -> tuple[InputInfo, list[Any]]:
                weights = next(iter(self.module.parameters()), torch.zeros(()))
                batch = probe_batch(info.shape, weights.dtype, weights.device)
                return info, list(run(self.module._c, batch))

            info, values = first_working(self._candidates, attempt, self.source)
        pairs = [(n, v) for n, v in zip(named, values, strict=True) if is_layer_value(v)]
        layers = [layer_info(n.name, n.kind, v) for n, v in pairs]
        return info, layers, {n.name: n.value for n, _ in pairs}


class TorchScriptSession:
    """A ScriptModule prepared for chosen layers; see `fmx.adapter.Session`."""

    def __init__(
        self,
        model: TorchScriptModel,
        info: InputInfo,
        wanted: Sequence[LayerInfo],
        numbers: Sequence[int],
        device: str,
        outputs: bool,
    ) -> None:
        self._source = model.source
        self._input = info
        self._names = [layer.name for layer in wanted]
        self._numbers = list(numbers)
        self._device = pick_device(device)
        self._outputs = outputs
        on_device = all(t.device.type == self._device.type for t in model.module.state_dict().values())
        # The user's own module stays where it is.
        self._module = model.module if on_device else model.module.copy().to(self._device)
        weights = next(iter(self._module.parameters()), torch.zeros(()))
        self._dtype = weights.dtype
        self._stack = ExitStack()
        self._run: Callable[..., tuple[Any, ...]] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self._module))
            self._run = compile_graph(self._module, self._numbers, keep_output=self._outputs)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run = None
        self._stack.close()

    def run(self, batch: NDArray[Any]) -> Capture:
        """Run one batch (sample, …) and return the wanted values."""
        if self._run is None:
            raise ModelError("This session is closed: use it inside its with statement.")
        check_batch(batch, self._input.shape, self._source)
        tensor = as_batch(batch, self._dtype, self._device)
        try:
            with torch.no_grad():
                values = self._run(self._module._c, tensor)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{self._source} failed: {reason}") from error
        layers = {name: to_array(v) for name, v in zip(self._names, values, strict=False)}
        extra = values[len(self._names) :]
        return Capture(layers, {"output": to_array(extra[0])} if extra and _tensor(extra[0]) else None)


def _tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
