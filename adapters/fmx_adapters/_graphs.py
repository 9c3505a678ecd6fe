"""Running a torch.fx graph of tensor operations and taking values out of it, as it is or in a faster form.

The graph is cut behind the last wanted value and returns all of them, so that it can be rewritten, compiled or
exported as a whole: nothing has to look in from outside.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

from fmx.adapter import InputInfo, Session
from fmx.errors import ModelError
from fmx.layers import LayerInfo
from fmx_adapters._compiling import SMALLEST_BATCH, compiled
from fmx_adapters._devices import placed
from fmx_adapters._engines import Candidate, cant_run
from fmx_adapters._folding import fold_batch_norms, follow_sizes, relax_views
from fmx_adapters._fx import cut_graph, move_graph
from fmx_adapters._runtime import FlatModule, RuntimeSession
from fmx_adapters._session import How, Tensors, TorchSession
from fmx_adapters._torch import output_tensors, probe_batch

__all__ = ["GraphSession", "Program", "compiled_session", "graph_candidates"]

Form = Callable[[fx.GraphModule], Callable[..., Any]]


@dataclass(frozen=True)
class Program:
    """A graph with what there is to know about it.

    Attributes
    ----------
    source : str
        The model in words, for errors.
    module : GraphModule
        Takes its inputs by position. Only read.
    inputs : sequence of InputInfo
        In the order in which the graph takes them.
    dtypes : sequence of torch.dtype
        The element types that it takes.
    values : mapping of str to str
        What the layers are in the graph: ``node`` or ``node@writer``.
    overwritten : frozenset of str
        Values known to be overwritten where the operators' schemas don't tell.
    least, most : int
        Bounds of the batch; `most` None where there is none.
    """

    source: str
    module: fx.GraphModule
    inputs: Sequence[InputInfo]
    dtypes: Sequence[torch.dtype]
    values: Mapping[str, str]
    overwritten: frozenset[str] = frozenset()
    least: int = 1
    most: int | None = None

    def cut(self, layers: Sequence[LayerInfo], *, outputs: bool) -> fx.GraphModule:
        """Give a module that returns ``(values of the layers, output or None)``; its weights are the program's."""
        wanted = [self.values[layer.name] for layer in layers]
        graph = cut_graph(self.module.graph, wanted, keep_output=outputs, overwritten=self.overwritten)
        return fx.GraphModule(self.module, graph)


class GraphSession(TorchSession):
    """A graph prepared for chosen layers; see `fmx.adapter.Session`.

    Parameters
    ----------
    program : Program
    layers : sequence of LayerInfo
    how : How
    engine : str
    form : callable, optional
        Given the cut graph, on its device and the session's own, gives what is run in its place.
    least : int
        The smallest batch that the form takes.
    """

    def __init__(
        self,
        program: Program,
        layers: Sequence[LayerInfo],
        how: How,
        *,
        engine: str,
        form: Form | None = None,
        least: int = 1,
    ) -> None:
        super().__init__(program.source, program.inputs, layers, how, engine)
        self.most = program.most
        self.least = max(program.least, min(least, program.most or least))
        self._program = program
        self._form = form
        self._module: Callable[..., Any] | None = None

    def _open(self, stack: ExitStack) -> None:
        cut = self._program.cut(self._layers, outputs=self._outputs)
        own = copy.deepcopy(cut) if self._form else cut
        module = placed(own, self.device, self.precision, own=self._form is not None)
        for inner in [m for m in module.modules() if isinstance(m, fx.GraphModule)]:
            move_graph(inner.graph, self.device)
            if self.precision is not None:
                _drop_type_checks(inner.graph)
            inner.recompile()
        try:
            self._module = self._form(module) if self._form else module
        except ModelError as error:
            raise cant_run(self.engine, error) from None
        stack.callback(self._forget)

    def _forget(self) -> None:
        self._module = None

    def _dtype(self, info: InputInfo) -> torch.dtype:
        dtypes = dict(zip((i.name for i in self._inputs), self._program.dtypes, strict=True))
        own = dtypes[info.name]
        return self.precision if self.precision is not None and own.is_floating_point else own

    def _compute(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        assert self._module is not None
        values, output = self._module(*(tensors[info.name] for info in self._inputs))
        return dict(zip((layer.name for layer in self._layers), values, strict=True)), output_tensors(output)


def _drop_type_checks(graph: fx.Graph) -> None:
    """Drop what export put in to check that values have the types that they had then."""
    for node in [n for n in graph.nodes if n.target is torch.ops.aten._assert_tensor_metadata.default]:
        graph.erase_node(node)


# -- forms -----------------------------------------------------------------------------------------


def graph_candidates(program: Callable[[], Program], layers: Sequence[LayerInfo], how: How) -> list[Candidate]:
    """List the engines that can run a graph; `program` is asked for only when one is tried.

    A program may raise ModelError to say that there is none.
    """
    program = cache(program)
    return [
        Candidate("folded", lambda: GraphSession(program(), layers, how, engine="folded", form=_folded)),
        Candidate(
            "channels-last", lambda: GraphSession(program(), layers, how, engine="channels-last", form=_channels_last)
        ),
        Candidate("onnxruntime", lambda: _in_onnx(program(), layers, how)),
        Candidate("compiled", lambda: compiled_session(program(), layers, how)),
    ]


def compiled_session(program: Program, layers: Sequence[LayerInfo], how: How) -> GraphSession:
    """Give the session that compiles a graph, with batch norms folded."""
    return GraphSession(program, layers, how, engine="compiled", form=_compiled, least=SMALLEST_BATCH)


def _channels_last(module: fx.GraphModule) -> fx.GraphModule:
    if not any(tensor.dim() == 4 for tensor in module.parameters()):
        raise ModelError("there are no 2d convolutions")
    relax_views(module)
    return module.to(memory_format=torch.channels_last)


def _folded(module: fx.GraphModule) -> fx.GraphModule:
    if not fold_batch_norms(module):
        raise ModelError("no batch norm can be folded")
    relax_views(module)
    return module.to(memory_format=torch.channels_last)


def _compiled(module: fx.GraphModule) -> Callable[..., Any]:
    fold_batch_norms(module)
    relax_views(module)
    return compiled(module.to(memory_format=torch.channels_last))


def _in_onnx(program: Program, layers: Sequence[LayerInfo], how: How) -> Session:
    if program.most is not None:
        raise ModelError("it takes one size of batch only")

    def export() -> FlatModule:
        cpu = torch.device("cpu")
        cut = placed(copy.deepcopy(program.cut(layers, outputs=how.outputs)), cpu, own=True)
        follow_sizes(cut)
        pairs = zip(program.inputs, program.dtypes, strict=True)
        return FlatModule(cut, [cut], [probe_batch(info.shape, dtype, cpu) for info, dtype in pairs])

    return RuntimeSession(program.source, program.inputs, layers, how, export)
