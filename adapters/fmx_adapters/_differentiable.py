"""A torch module that gives a model's output and, by layer name, the values inside it, all of them differentiable."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fmx.errors import LayerError, ModelError, near_matches
from fmx_adapters._folding import fold_batch_norms, relax_views
from fmx_adapters._fx import cut_graph, move_graph

__all__ = ["LayeredModule"]

Inputs = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


class LayeredModule(torch.nn.Module):
    """A graph as a module: ``m(x)`` is the model's output, ``m.capture(x, names)`` are values of its layers.

    Parameters
    ----------
    module : GraphModule
        Takes tensors only, each by position.
    layers : mapping of str to str
        Canonical layer names, in the order of computation, and the values that they stand for: names of nodes, or
        ``node@writer`` for what a node holds after the node `writer` wrote into its memory.
    overwritten : collection of str
        Values known to be overwritten later where the operators' schemas don't tell.
    only : sequence of str, optional
        The only layers that will be asked for: batch norms are folded into convolutions where none of them shows it.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        layers: Mapping[str, str],
        overwritten: Collection[str] = (),
        *,
        only: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self._layers = dict(layers)
        if only is not None:
            self._layers = {name: self._value_of(name) for name in only}
        self._folding = only is not None
        self._overwritten = frozenset(overwritten)
        self._inputs = [node.name for node in module.graph.nodes if node.op == "placeholder"]
        self._cuts: dict[tuple[str, ...], tuple[fx.GraphModule, fx.Graph]] = {}
        self._device: torch.device | None = None

    @property
    def layer_names(self) -> list[str]:
        """The layers, in the order of computation."""
        return list(self._layers)

    @property
    def input_names(self) -> list[str]:
        """The inputs, in the order in which the module takes them."""
        return list(self._inputs)

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run the model; inputs by position or by name."""
        return self.module(*self._arguments({**dict(zip(self._inputs, inputs, strict=False)), **named}))

    def capture(self, inputs: Inputs, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Give the values of layers; nothing past the last of them is computed.

        Parameters
        ----------
        inputs : tensor (sample, …), sequence of tensors, or mapping of input names to tensors
        names : sequence of str
            Canonical layer names.

        Returns
        -------
        dict of str to tensor (sample, …native)

        Raises
        ------
        LayerError
            A name that is no layer.
        """
        return self._run(inputs, names, keep_output=False)[1]

    def forward_with(self, inputs: Inputs, names: Sequence[str]) -> tuple[Any, dict[str, torch.Tensor]]:
        """Give the model's output and the values of layers from one pass.

        The output depends on the values, so that ``torch.autograd.grad(output[:, k].sum(), value)`` is the gradient
        at a layer.
        """
        return self._run(inputs, names, keep_output=True)

    def _run(self, inputs: Inputs, names: Sequence[str], *, keep_output: bool) -> tuple[Any, dict[str, torch.Tensor]]:
        arguments = self._arguments(self._named(inputs))
        key = (str(keep_output), *names)
        if key not in self._cuts:
            self._cuts[key] = self._cut([self._value_of(name) for name in names], keep_output=keep_output)
        module, graph = self._cuts[key]
        # The interpreter looks weights up when it runs, so that the module may have moved since.
        values, output = fx.Interpreter(module, graph=graph).run(*arguments)
        return output, dict(zip(names, values, strict=True))

    def _cut(self, values: Sequence[str], *, keep_output: bool) -> tuple[fx.GraphModule, fx.Graph]:
        graph = cut_graph(self.module.graph, values, keep_output=keep_output, overwritten=self._overwritten)
        if not self._folding:
            return self.module, graph
        cut = fx.GraphModule(self.module, graph)
        fold_batch_norms(cut)
        relax_views(cut)
        return cut, cut.graph

    def _value_of(self, name: str) -> str:
        if name not in self._layers:
            raise LayerError(f"No layer is called {name}: {near_matches(name, self._layers)}")
        return self._layers[name]

    def _named(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        given = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        return dict(zip(self._inputs, given, strict=False))

    def _arguments(self, given: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        if sorted(given) != sorted(self._inputs):
            raise ModelError(f"The model takes the inputs {', '.join(self._inputs)}: give a tensor for each.")
        arguments = [given[name] for name in self._inputs]
        if arguments:
            self._follow(arguments[0].device)
        return arguments

    def _follow(self, device: torch.device) -> None:
        """Let tensors that the graph makes arise where the input is."""
        if self._device == device:
            return
        for inner in self.module.modules():
            if isinstance(inner, fx.GraphModule):
                move_graph(inner.graph, device)
                inner.recompile()
        self._cuts.clear()
        self._device = device
