"""An exported program as a model: layers from its graph, sessions from copies of the graph that stop early."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from fmx.adapter import InputInfo, ModelSource, OpenOptions, Session, resolve
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._differentiable import LayeredModule
from fmx_adapters._engines import pick_engine
from fmx_adapters._graphs import GraphSession, Program, graph_candidates
from fmx_adapters._model import ProbedModel, layout_option
from fmx_adapters._operators import load_torch_operators
from fmx_adapters._relu import Rule, replace_relus
from fmx_adapters._session import How
from fmx_adapters._torch import dtype_name, fingerprint, first_working, layer_info, own_dtype, picture_input
from fmx_adapters._torch_axes import AxisTracker
from fmx_adapters.exported.archive import read_program
from fmx_adapters.exported.names import named_values
from fmx_adapters.exported.program import Declared, plain_module

__all__ = ["ExportedModel", "open_exported"]

_PROBE_BATCH = 2
_TRAINING = "exported in training mode; dropout and batch norm run as in evaluation"
_NESTED = "layers in blocks of another mode (no_grad, autocast) or behind a condition are not listed"


def open_exported(source: ModelSource, options: OpenOptions) -> ExportedModel:
    """Open a ``.pt2`` file or take an exported program.

    Raises
    ------
    ModelError
        The file is damaged or holds more than a graph and weights, or weights were given beside it.
    """
    if options.weights is not None:
        raise ModelError(f"{source.text} holds its own weights: leave --weights out.")
    load_torch_operators(options)
    program = source.spec if source.path is None else read_program(source.path, trust=options.trust)
    module, declared, was_training = plain_module(program, source.text)
    parts = _Parts(program, module, declared)
    given = {info.name: info.shape for info in options.inputs}
    if options.input_shape is not None:
        given = {declared[0].name: options.input_shape}
    inputs = [_input_info(d, given.get(d.name), options.layout, source.text) for d in declared]
    notes = [_TRAINING] if was_training else []
    if any(isinstance(inner, fx.GraphModule) for inner in module.children()):
        notes.append(_NESTED)
    return ExportedModel(parts, source.text, inputs, notes="; ".join(notes))


@dataclass(frozen=True)
class _Parts:
    program: ExportedProgram
    module: fx.GraphModule
    declared: list[Declared]

    @property
    def least(self) -> int:
        return max(declared.least for declared in self.declared)

    @property
    def most(self) -> int | None:
        return min((d.most for d in self.declared if d.most is not None), default=None)


def _input_info(declared: Declared, given: Sequence[int] | None, layout: str | None, source: str) -> InputInfo:
    """Settle the shape of a sample; where the program leaves it open and the user too, it is that of the export."""
    free = declared.sizes[1:]
    shape = tuple(given) if given is not None else declared.hints[1:]
    if len(shape) != len(free) or any(want not in {None, size} for want, size in zip(free, shape, strict=True)):
        takes = "×".join("any" if size is None else str(size) for size in free)
        raise ModelError(
            f"{source} takes samples of shape {takes}, not {'×'.join(map(str, shape))}: prepare the data for it."
        )
    assumed = "×".join(map(str, shape)) if given is None and None in free else ""
    info = picture_input(shape, layout)
    return replace(info, name=declared.name, dtype=dtype_name(declared.dtype), assumed=assumed)


@dataclass(frozen=True)
class _Probed:
    """What one pass over a small batch showed; `values` are what the layers' names stand for in the graph."""

    layers: list[LayerInfo]
    values: dict[str, str]
    overwritten: frozenset[str]


class _Probe(fx.Interpreter):
    """Runs a graph and keeps every tensor with the number of writes to it so far."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, tuple[torch.Tensor, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.seen[n.name] = value, value._version
        return value


class ExportedModel(ProbedModel):
    """An exported program; see `fmx.adapter.Model`."""

    adapter = "exported"

    def __init__(self, parts: _Parts, source: str, inputs: Sequence[InputInfo], notes: str = "") -> None:
        self.source = source
        self.notes = notes
        self._parts = parts
        self._inputs = list(inputs)

    @property
    def inputs(self) -> list[InputInfo]:
        """The inputs, by the names of the network's arguments."""
        return self._inputs

    @cached_property
    def fingerprint(self) -> str:
        """Hash over weights and graph."""
        program = self._parts.program
        graphs = [str(m.graph) for m in self._parts.module.modules() if isinstance(m, fx.GraphModule)]
        constants = {n: value for n, value in program.constants.items() if isinstance(value, torch.Tensor)}
        return fingerprint([*program.state_dict.items(), *constants.items()], "\n".join(graphs))

    def with_input(self, shape: Sequence[int]) -> ExportedModel:
        """Return the same model for samples of another shape; of several inputs, the first one's shape changes."""
        first, *others = self._inputs
        layout = layout_option(first)
        changed = _input_info(self._parts.declared[0], shape, layout, self.source)
        return ExportedModel(self._parts, self.source, [changed, *others], self.notes)

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
        how = How(device, outputs, precision, expected_batches)
        wanted = resolve(self._probed.layers, layers)
        program = self.program()
        eager = partial(GraphSession, program, wanted, how, engine="torch.export eager")
        candidates = graph_candidates(lambda: program, wanted, how)
        return pick_engine(engine, eager, candidates, how.terms(own_dtype(program.module)))

    def program(self) -> Program:
        """Give the graph with what there is to know about it."""
        parts, probed = self._parts, self._probed
        dtypes = [declared.dtype for declared in parts.declared]
        return Program(
            self.source,
            parts.module,
            self._inputs,
            dtypes,
            probed.values,
            probed.overwritten,
            parts.least,
            parts.most,
        )

    def torch_module(self, relu: Rule | None = None, *, layers: Sequence[str] | None = None) -> LayeredModule:
        """Return the network as a differentiable module with weights of its own; see `LayeredModule`."""
        probed = self._probed
        module = copy.deepcopy(self._parts.module)
        if relu is not None:
            replace_relus(module, relu)
        return LayeredModule(module, probed.values, probed.overwritten, only=layers)

    @cached_property
    def _probed(self) -> _Probed:
        return first_working([tuple(self._inputs)], self._probe, self.source)

    def _probe(self, inputs: Sequence[InputInfo]) -> _Probed:
        parts = self._parts
        size = max(parts.least, min(_PROBE_BATCH, parts.most or _PROBE_BATCH))
        generator = torch.Generator().manual_seed(0)
        device = _device_of(parts.module)
        batch = [
            torch.rand(size, *info.shape, generator=generator).to(device, declared.dtype)
            for info, declared in zip(inputs, parts.declared, strict=True)
        ]
        probe = _Probe(parts.module)
        axes = AxisTracker(inputs, {info.name: tensor for info, tensor in zip(inputs, batch, strict=True)})
        with torch.no_grad(), axes:
            probe.run(*batch)

        def is_layer(node: str) -> bool:
            value, _ = probe.seen.get(node, (torch.zeros(()), 0))
            return value.is_floating_point() and value.shape[:1] == (size,)

        layers, values = [], {}
        for named in named_values(parts.module.graph, is_layer):
            node = named.value.partition("@")[0]
            if is_layer(node):
                value = probe.seen[node][0]
                layers.append(layer_info(named.name, named.kind, value, axes.roles(value)))
                values[named.name] = named.value
        overwritten = {node for node, (value, version) in probe.seen.items() if value._version != version}
        return _Probed(layers, values, frozenset(overwritten))


def _device_of(module: fx.GraphModule) -> torch.device:
    state = next(iter(module.state_dict().values()), torch.zeros(()))
    return state.device
