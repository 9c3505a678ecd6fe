"""A ScriptModule as a model: layers from one recorded pass, sessions from copies of its graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from fmx.adapter import InputInfo, ModelSource, OpenOptions, Session, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._differentiable import LayeredModule
from fmx_adapters._engines import Candidate, pick_engine
from fmx_adapters._graphs import Program, graph_candidates
from fmx_adapters._model import ProbedModel, layout_option
from fmx_adapters._operators import load_torch_operators
from fmx_adapters._relu import Rule
from fmx_adapters._session import How
from fmx_adapters._torch import (
    Key,
    candidate_inputs,
    fingerprint,
    first_working,
    input_dtype,
    layer_info,
    own_dtype,
    picture_input,
)
from fmx_adapters._torch_axes import AxisTracker
from fmx_adapters.torchscript.archive import load_archive
from fmx_adapters.torchscript.differentiable import differentiable, small_batch
from fmx_adapters.torchscript.graph import assigns, evaluating
from fmx_adapters.torchscript.naming import name_events
from fmx_adapters.torchscript.operators import check_path
from fmx_adapters.torchscript.record import Event, RecordedPass, forward_arguments
from fmx_adapters.torchscript.session import Found, TorchScriptSession

__all__ = ["TorchScriptModel", "open_torchscript"]

Inputs = tuple[InputInfo, ...]


def open_torchscript(source: ModelSource, options: OpenOptions) -> TorchScriptModel:
    """Open an archive or take a ScriptModule.

    Raises
    ------
    ModelError
        The archive is damaged or not to be trusted, weights were given beside it, or its inputs are not those given.
    """
    if options.weights is not None:
        raise ModelError(f"{source.text} holds its own weights: leave --weights out.")
    load_torch_operators(options)
    module = source.spec if source.path is None else load_archive(source.path, trust=options.trust)
    return TorchScriptModel(module, source.text, _inputs(module, options, source.text))


def _inputs(module: torch.jit.ScriptModule, options: OpenOptions, source: str) -> list[Inputs]:
    """List the sets of inputs to try, under the names that forward gives them."""
    arguments = forward_arguments(module)
    required = [a.name for a in arguments if not a.has_default_value()]
    for argument in arguments:
        if argument.name in required and str(argument.type) not in {"Tensor", "Optional[Tensor]"}:
            raise ModelError(f"{source} takes {argument.name} of type {argument.type}: fmx runs models on tensors.")
    if options.inputs:
        known, given = {a.name for a in arguments}, {info.name for info in options.inputs}
        if not set(required) <= given <= known:
            raise ModelError(f"{source} takes the inputs {', '.join(required)}: give a shape for each of them.")
        return [options.inputs]
    if len(required) > 1:
        example = " ".join(f"--input-shape {name}=3,32,32" for name in required)
        raise ModelError(f"{source} takes {len(required)} inputs: give the shape of each, for example {example}.")
    if options.input_shape is not None:
        candidates = [picture_input(options.input_shape, options.layout)]
    else:
        candidates = candidate_inputs(module)
    name = next(iter([*required, *(a.name for a in arguments)]), "input")
    return [(replace(info, name=name),) for info in candidates]


@dataclass(frozen=True)
class _Probed:
    """What one pass over a small batch showed; `sites` says where in the graph the layers were found."""

    inputs: Inputs
    layers: list[LayerInfo]
    keys: dict[str, Key]
    sites: dict[Key, int]
    overwritten: set[int]


class TorchScriptModel(ProbedModel):
    """A ScriptModule; see `fmx.adapter.Model`."""

    adapter = "torchscript"

    def __init__(self, module: torch.jit.ScriptModule, source: str, inputs: Sequence[Inputs]) -> None:
        self.module = module
        self.source = source
        self._candidates = list(inputs)

    @property
    def inputs(self) -> list[InputInfo]:
        """The inputs that the model was looked at with."""
        return list(self._probed.inputs)

    @cached_property
    def fingerprint(self) -> str:
        """Hash over weights, graph and layers."""
        graph = "\n".join(f"{layer.name} {layer.kind}" for layer in self.layers)
        return fingerprint(self.module.state_dict().items(), graph)

    def with_input(self, shape: Sequence[int]) -> TorchScriptModel:
        """Return the same model for samples of another shape; of several inputs, the first one's shape changes."""
        first, *others = self._candidates[0]
        layout = layout_option(first)
        changed = replace(picture_input(shape, layout), name=first.name, dtype=first.dtype)
        return TorchScriptModel(self.module, self.source, [(changed, *others)])

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

        The engines are eager, which is TorchScript's own, auto, frozen, folded, channels-last, onnxruntime and
        compiled.
        """
        probed = self._probed
        how = How(device, outputs, precision, expected_batches)
        layers = resolve(probed.layers, layers)
        wanted = {probed.keys[layer.name]: layer for layer in layers}
        last = frozenset(probed.sites[key] for key in wanted)
        found = Found(wanted, last & probed.overwritten, last)
        eager = partial(TorchScriptSession, self.module, self.source, probed.inputs, found, how)
        frozen = Candidate("frozen", partial(eager, engine="frozen", frozen=True))
        candidates = [frozen, *graph_candidates(self._program, layers, how)]
        return pick_engine(engine, eager, candidates, how.terms(own_dtype(self.module)))

    def _program(self) -> Program:
        """Translate the module into a graph of tensor operations.

        Raises
        ------
        ModelError
            It has none, or its path depends on the data.
        """
        layered = differentiable(self.module, self._probed.inputs, self.source, None)
        if any(node.target is check_path for node in layered.module.graph.nodes):
            raise ModelError("its path depends on the data")
        by_name = {info.name: info for info in self._probed.inputs}
        inputs = [by_name[str(node.target)] for node in layered.module.graph.nodes if node.op == "placeholder"]
        dtypes = [input_dtype(info, self.module) for info in inputs]
        overwritten = frozenset(layered._overwritten)
        return Program(self.source, layered.module, inputs, dtypes, layered._layers, overwritten)

    def torch_module(self, relu: Rule | None = None, *, layers: Sequence[str] | None = None) -> LayeredModule:
        """Return the network as a differentiable module with weights of its own; see `LayeredModule`.

        Raises
        ------
        ModelError
            The network does something that has no counterpart in PyTorch.
        """
        return differentiable(self.module, self._probed.inputs, self.source, relu, layers)

    @cached_property
    def _probed(self) -> _Probed:
        module = copy.deepcopy(self.module) if assigns(self.module) else self.module
        with evaluating(module), torch.no_grad():
            recorded = RecordedPass(module)

            def attempt(inputs: Inputs) -> _Probed:
                batch = small_batch(module, inputs)
                with AxisTracker(inputs, batch) as axes:
                    events, _ = recorded(batch)
                return _describe(inputs, events, axes)

            return first_working(self._candidates, attempt, self.source)


def _describe(inputs: Inputs, events: Iterable[Event], axes: AxisTracker) -> _Probed:
    named = name_events(events)
    found = [n.value for n in named]
    return _Probed(
        inputs,
        layers=[layer_info(n.name, n.kind, n.value.value, axes.roles(n.value.value)) for n in named],
        keys={n.name: n.value.key for n in named},
        sites={f.key: f.event.number for f in found},
        overwritten={f.event.number for f in found if f.event.changed},
    )
