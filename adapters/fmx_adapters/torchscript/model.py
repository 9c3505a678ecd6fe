"""A ScriptModule as a model: layers from one recorded pass, sessions from copies of its graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from fmx.adapter import InputInfo, ModelSource, OpenOptions, Session, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx.naming import PassTrace
from fmx_adapters._engines import pick_engine
from fmx_adapters._torch import (
    candidate_inputs,
    evaluation_mode,
    fingerprint,
    first_working,
    input_dtype,
    is_layer_value,
    layer_info,
    picture_input,
    probe_batch,
)
from fmx_adapters.pytorch.watch import Key
from fmx_adapters.torchscript.archive import load_archive
from fmx_adapters.torchscript.graph import assigns
from fmx_adapters.torchscript.record import Event, RecordedPass
from fmx_adapters.torchscript.session import TorchScriptSession

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
    module = source.spec if source.path is None else load_archive(source.path)
    return TorchScriptModel(module, source.text, _inputs(module, options, source.text))


def _inputs(module: torch.jit.ScriptModule, options: OpenOptions, source: str) -> list[Inputs]:
    """List the sets of inputs to try."""
    arguments = module._c._get_method("forward").schema.arguments[1:]
    required = [a.name for a in arguments if not a.has_default_value()]
    if options.inputs:
        given = {info.name: info for info in options.inputs}
        if not set(required) <= set(given) <= {a.name for a in arguments}:
            raise ModelError(f"{source} takes the inputs {', '.join(required)}: give a shape for each of them.")
        # Arguments go by their order, so that none may be left out before the last one that is given.
        taken = [a.name for a in arguments if a.name in given]
        if taken != [a.name for a in arguments[: len(taken)]]:
            raise ModelError(f"{source} takes its inputs in the order {', '.join(a.name for a in arguments)}.")
        return [tuple(given[name] for name in taken)]
    if len(required) > 1:
        example = " ".join(f"--input-shape {name}=3,32,32" for name in required)
        raise ModelError(f"{source} takes {len(required)} inputs: give the shape of each, for example {example}.")
    if options.input_shape is not None:
        candidates = [picture_input(options.input_shape, options.layout)]
    else:
        candidates = candidate_inputs(module)
    return [(info,) for info in candidates]


@dataclass(frozen=True)
class _Probed:
    """What one pass over a small batch showed; `sites` says where in the graph the layers were found."""

    inputs: Inputs
    layers: list[LayerInfo]
    keys: dict[str, Key]
    sites: dict[Key, int]
    overwritten: set[int]


class _Found(NamedTuple):
    """A value of the probe pass."""

    key: Key
    event: Event
    value: torch.Tensor


class TorchScriptModel:
    """A ScriptModule; see `fmx.adapter.Model`."""

    adapter = "torchscript"
    preprocessing = None
    notes = ""

    def __init__(self, module: torch.jit.ScriptModule, source: str, inputs: Sequence[Inputs]) -> None:
        self.module = module
        self.source = source
        self._candidates = list(inputs)

    def __repr__(self) -> str:
        return f"<fmx model {self.source}: {len(self.layers)} layers>"

    @property
    def layers(self) -> list[LayerInfo]:
        """Every layer, in the order of computation."""
        return self._probed.layers

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
        layout = {"CHW": "NCHW", "HWC": "NHWC"}.get(first.layout)
        changed = replace(picture_input(shape, layout), name=first.name, dtype=first.dtype)
        return TorchScriptModel(self.module, self.source, [(changed, *others)])

    def session(
        self,
        layers: Iterable[LayerInfo | str],
        *,
        device: str = "cpu",
        engine: str = "eager",
        outputs: bool = False,
    ) -> Session:
        """Prepare to capture `layers`; TorchScript has one engine, its own."""
        probed = self._probed
        wanted = {probed.keys[layer.name]: layer for layer in resolve(probed.layers, layers)}
        last = {probed.sites[key] for key in wanted}

        def own() -> TorchScriptSession:
            return TorchScriptSession(
                self.module,
                self.source,
                probed.inputs,
                wanted,
                probed.overwritten & last,
                last,
                device=device,
                outputs=outputs,
            )

        return pick_engine(engine, own, [])

    @cached_property
    def _probed(self) -> _Probed:
        module = copy.deepcopy(self.module) if assigns(self.module) else self.module
        with evaluation_mode(module), torch.no_grad():
            recorded = RecordedPass(module)

            def attempt(inputs: Inputs) -> _Probed:
                weights = next(iter(module.parameters()), torch.zeros(()))
                batch = [probe_batch(info.shape, input_dtype(info, module), weights.device) for info in inputs]
                events, _ = recorded(*batch)
                return _describe(inputs, events)

            return first_working(self._candidates, attempt, self.source)


def _describe(inputs: Inputs, events: Iterable[Event]) -> _Probed:
    """Name what was recorded."""
    trace: PassTrace[_Found] = PassTrace()
    for event in events:
        if event.site.event == "enter":
            trace.enter(event.site.path, event.site.name)
        elif event.site.event == "exit":
            trace.exit(*_layer_values(event))
        else:
            for _, found in _layer_values(event):
                trace.op(event.site.name, found)
    named = trace.named()
    found = [n.value for n in named]
    return _Probed(
        inputs,
        layers=[layer_info(n.name, n.kind, n.value.value) for n in named],
        keys={n.name: n.value.key for n in named},
        sites={f.key: f.event.number for f in found},
        overwritten={f.event.number for f in found if f.event.changed},
    )


def _layer_values(event: Event) -> Iterator[tuple[str, _Found]]:
    for key, value in event.tensors():
        if is_layer_value(value):
            yield key.place, _Found(key, event, value)
