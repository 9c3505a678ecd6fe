"""A torch module as a model: probed once with a small batch, and run with hooks that go away again."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from numpy.typing import NDArray

from fmx.adapter import InputInfo, Model, Session, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx.naming import PassTrace
from fmx_adapters._engines import Candidate, pick_engine
from fmx_adapters._graphs import compiled_session
from fmx_adapters._model import ProbedModel, layout_option
from fmx_adapters._relu import Rule
from fmx_adapters._runtime import RuntimeSession
from fmx_adapters._session import How
from fmx_adapters._torch import (
    Key,
    evaluation_mode,
    fingerprint,
    first_working,
    input_dtype,
    is_layer_value,
    layer_info,
    output_tensors,
    own_dtype,
    picture_input,
    probe_batch,
    tensors_in,
)
from fmx_adapters._torch_axes import AxisTracker
from fmx_adapters.pytorch.differentiable import WatchedModule
from fmx_adapters.pytorch.engines import FORMS, exported_program, flat_copy, wanted_paths
from fmx_adapters.pytorch.norms import NormPairs
from fmx_adapters.pytorch.recording import PassRecorder, inputs_of
from fmx_adapters.pytorch.session import PyTorchSession, split_arguments
from fmx_adapters.pytorch.watch import Watcher


@dataclass(frozen=True)
class _Probed:
    """What one pass over a small batch showed.

    `normed` maps convolutions to the batch norms that alone read them; `outputs` names what the model returns;
    `reads_values` says whether Python code asked for the value of a tensor.
    """

    inputs: tuple[InputInfo, ...]
    layers: list[LayerInfo]
    keys: dict[str, Key]
    overwritten: set[Key]
    normed: dict[str, str]
    outputs: list[str]
    reads_values: bool


class PyTorchModel(ProbedModel):
    """A torch module; see `fmx.adapter.Model`."""

    adapter = "pytorch"

    def __init__(
        self,
        module: torch.nn.Module,
        source: str,
        inputs: Sequence[tuple[InputInfo, ...]],
        preprocessing: Mapping[str, Any] | None,
        notes: str = "",
    ) -> None:
        self.module = module
        self.source = source
        self.notes = notes
        self._candidates = list(inputs)
        self.preprocessing = preprocessing

    @property
    def inputs(self) -> list[InputInfo]:
        """The inputs that the model was looked at with."""
        return list(self._probed.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over weights, structure and layers."""
        graph = f"{self.module}\n" + "\n".join(f"{layer.name} {layer.kind}" for layer in self.layers)
        return fingerprint(self.module.state_dict().items(), graph)

    def with_input(self, shape: Sequence[int]) -> PyTorchModel:
        """Return the same model for samples of another shape."""
        layout = layout_option(self._candidates[0][0])
        taken = (picture_input(shape, layout),)
        return PyTorchModel(self.module, self.source, [taken], self.preprocessing, self.notes)

    def session(
        self,
        layers: Iterable[LayerInfo | str],
        *,
        device: str = "cpu",
        engine: str = "eager",
        outputs: bool = False,
        precision: str | None = None,
        expected_batches: int | None = None,
    ) -> Session:
        """Prepare to capture `layers`; see `fmx.adapter.Model`.

        The engines are eager, auto, folded, channels-last, onnxruntime and compiled.
        """
        wanted = resolve(self._probed.layers, layers)
        how = How(device, outputs, precision, expected_batches)
        candidates = [
            *(Candidate(name, partial(self._in_form, name, wanted, how)) for name in FORMS),
            Candidate("onnxruntime", partial(self._in_onnx, wanted, how)),
            Candidate("compiled", partial(self._compiled, wanted, how)),
        ]
        reference = partial(self._running, self.module, wanted, how)
        return pick_engine(engine, reference, candidates, how.terms(own_dtype(self.module)))

    def torch_module(self, relu: Rule | None = None, *, layers: Sequence[str] | None = None) -> WatchedModule:
        """Return a differentiable copy of the network, for `layers` only with batch norms folded."""
        probed = self._probed
        if layers is None:
            return WatchedModule(copy.deepcopy(self.module), probed.keys, probed.overwritten, relu)
        keys = {info.name: probed.keys[info.name] for info in resolve(probed.layers, layers)}
        return WatchedModule(self._with_folded(keys.values()), keys, probed.overwritten, relu)

    def _with_folded(self, keys: Iterable[Key]) -> torch.nn.Module:
        """Copy the module, with batch norms folded where that can be done and these values don't show it."""
        if not self._probed.reads_values:
            with suppress(ModelError):
                return FORMS["folded"](self.module, self._probed.normed, wanted_paths(keys))
        return copy.deepcopy(self.module)

    def recording(
        self,
        wanted: Callable[[], bool],
        choose: Callable[[Model], Sequence[LayerInfo]],
        take: Callable[[dict[str, NDArray[Any]]], None],
    ) -> PassRecorder:
        """Take values out of passes that somebody else runs, inside a context.

        Parameters
        ----------
        wanted : callable
            Asked before each pass whether to record it.
        choose : callable
            Given this model for the input of the pass, says which layers; asked once for each shape of the input.
        take : callable
            Given the values (sample, …native) by layer, once the pass is over.
        """
        known: dict[Any, dict[Key, str]] = {}

        def layers(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[Key, str]:
            inputs = inputs_of(self.module, arguments, keywords, self.source)
            if inputs not in known:
                model = PyTorchModel(self.module, self.source, [inputs], self.preprocessing, self.notes)
                known[inputs] = {model._probed.keys[layer.name]: layer.name for layer in choose(model)}
            return known[inputs]

        return PassRecorder(self.module, wanted, layers, take)

    def _running(
        self,
        module: torch.nn.Module,
        wanted: Sequence[LayerInfo],
        how: How,
        *,
        engine: str = "eager",
        own: bool = False,
    ) -> Session:
        probed = self._probed
        keys = {probed.keys[layer.name]: layer for layer in wanted}
        return PyTorchSession(module, self.source, probed.inputs, keys, probed.overwritten, how, engine=engine, own=own)

    def _in_form(self, form: str, wanted: Sequence[LayerInfo], how: How) -> Session:
        paths = wanted_paths([self._probed.keys[layer.name] for layer in wanted])
        if form == "folded":
            self._demand_one_path()
        formed = FORMS[form](self.module, self._probed.normed, paths)
        return self._running(formed, wanted, how, engine=form, own=True)

    def _in_onnx(self, wanted: Sequence[LayerInfo], how: How) -> Session:
        probed = self._probed
        self._demand_one_path()
        keys = {layer.name: probed.keys[layer.name] for layer in wanted}
        export = partial(flat_copy, self.module, probed.inputs, keys, probed.overwritten, how)
        return RuntimeSession(self.source, probed.inputs, wanted, how, export)

    def _compiled(self, wanted: Sequence[LayerInfo], how: How) -> Session:
        self._demand_one_path()
        program = exported_program(self.module, self.source, self._probed.inputs)
        unknown = [layer.name for layer in wanted if layer.name not in program.values]
        if unknown:
            raise ModelError(f"its export has no {', '.join(unknown)}")
        return compiled_session(program, wanted, how)

    def _demand_one_path(self) -> None:
        """Refuse to write down the path of one pass where another input may take another."""
        if self._probed.reads_values:
            raise ModelError("its Python code looks at values, so that its path may depend on the data")

    @cached_property
    def _probed(self) -> _Probed:
        return first_working(self._candidates, self._probe, self.source)

    def _probe(self, inputs: tuple[InputInfo, ...]) -> _Probed:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        batch = {i.name: probe_batch(i.shape, input_dtype(i, self.module), device) for i in inputs}
        arguments, keywords = split_arguments(self.module, batch)
        trace: PassTrace[tuple[Key, torch.Tensor]] = PassTrace()
        versions: dict[Key, tuple[torch.Tensor, int]] = {}

        def seen(key: Key, output: Any) -> Iterator[tuple[str, tuple[Key, torch.Tensor]]]:
            for place, value in tensors_in(output):
                if is_layer_value(value):
                    exact = key._replace(place=place)
                    versions[exact] = (value, value._version)
                    yield place, (exact, value)

        def on_op(key: Key, op: str, output: Any) -> None:
            for _, pair in itertools.islice(seen(key, output), 1):
                trace.op(op, pair)

        normed = NormPairs(self.module)

        def on_enter(path: str, module: torch.nn.Module, read: tuple[Any, ...]) -> None:
            trace.enter(path, type(module).__name__)
            normed.entered(path, read)

        def on_exit(key: Key, output: Any) -> None:
            normed.left(key.path, output)
            trace.exit(*seen(key, output))

        watcher = Watcher(self.module)
        watcher.on_enter = on_enter
        watcher.on_exit = on_exit
        watcher.on_op = on_op
        watcher.on_call = normed.called
        axes = AxisTracker(inputs, batch)
        with evaluation_mode(self.module), torch.no_grad(), axes, watcher, watcher.watch():
            result = self.module(*arguments, **keywords)
        normed.left("", result)
        named = trace.named()
        layers = [layer_info(n.name, n.kind, n.value[1], axes.roles(n.value[1])) for n in named]
        keys = {n.name: n.value[0] for n in named}
        overwritten = {key for key, (value, version) in versions.items() if value._version != version}
        outputs = list(output_tensors(result))
        return _Probed(inputs, layers, keys, overwritten, normed.pairs(), outputs, watcher.reads_values)
