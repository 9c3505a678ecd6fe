"""Branches and loops: modules that hold their subgraphs as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.constants import DTYPES, ValueType, value_type
from fmx_adapters.onnx.importer.registry import operator


@operator("If")
def _if(call: Call) -> Sequence[Value]:
    graphs = call.graph("then_branch"), call.graph("else_branch")
    known = call.constant(0)
    if known is not None:
        return call.builder.inline(graphs[0 if known.item() else 1])
    captured = call.builder.captured(*graphs)
    module = If(*(call.builder.subgraph(graph, list(captured)) for graph in graphs))
    return call.split(call.subgraphs(module, [call[0], *captured.values()]))


@operator("Loop")
def _loop(call: Call) -> Sequence[Value]:
    body = call.graph("body")
    captured = call.builder.captured(body)
    states = [call.get(i) for i in range(2, len(call.inputs))]
    kinds = [value_type(output) for output in body.output[1 + len(states) :]]
    module = Loop(call.builder.subgraph(body, list(captured)), len(states), kinds)
    return call.split(call.subgraphs(module, [call.get(0), call.get(1), *states, *captured.values()]))


@operator("Scan")
def _scan(call: Call) -> Sequence[Value]:
    if call.version < 9:
        call.unsupported("Scan before operator set 9")
    body, count = call.graph("body"), call.integer("num_scan_inputs")
    captured = call.builder.captured(body)
    states = len(call.inputs) - count
    outputs = len(body.output) - states
    module = Scan(
        call.builder.subgraph(body, list(captured)),
        states,
        axes=(call.integers("scan_input_axes") or (0,) * count, call.integers("scan_output_axes") or (0,) * outputs),
        backward=(
            call.integers("scan_input_directions") or (0,) * count,
            call.integers("scan_output_directions") or (0,) * outputs,
        ),
    )
    return call.split(call.subgraphs(module, [*call.inputs, *captured.values()]))


@operator("SequenceMap")
def _sequence_map(call: Call) -> Sequence[Value]:
    body = call.graph("body")
    captured = call.builder.captured(body)
    module = SequenceMap(call.builder.subgraph(body, list(captured)), len(call.inputs))
    return call.split(call.subgraphs(module, [*call.inputs, *captured.values()]))


class If(nn.Module):
    """Runs one of two modules, on the same values."""

    def __init__(self, then_branch: fx.GraphModule, else_branch: fx.GraphModule) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch

    def forward(self, condition: Tensor, *values: Any) -> Any:
        """Give the outputs of the branch."""
        return self.then_branch(*values) if bool(condition) else self.else_branch(*values)


class Loop(nn.Module):
    """Runs a module again and again, as often as is said or while it says so."""

    def __init__(self, body: fx.GraphModule, states: int, kinds: Sequence[ValueType]) -> None:
        super().__init__()
        self.body = body
        self.states = states
        self.kinds = list(kinds)

    def forward(self, count: Tensor | None, going: Tensor | None, *values: Any) -> tuple[Any, ...]:
        """Give the last states, then what each round put out, stacked."""
        states, captured = list(values[: self.states]), values[self.states :]
        device = next((v.device for v in (count, going) if v is not None), torch.device("cpu"))
        alive = torch.tensor(True, device=device) if going is None else going
        collected: list[list[Tensor]] = [[] for _ in self.kinds]
        rounds = 0
        while bool(alive) and (count is None or rounds < int(count)):
            alive, *made = self.body(torch.tensor(rounds, device=device), alive, *states, *captured)
            states = made[: self.states]
            for parts, value in zip(collected, made[self.states :], strict=True):
                parts.append(value)
            rounds += 1
        stacked = [torch.stack(p) if p else _nothing(k) for p, k in zip(collected, self.kinds, strict=True)]
        return (*states, *stacked)


def _nothing(kind: ValueType) -> Tensor:
    """What a loop of no rounds has put out."""
    return torch.zeros(0, *(length or 0 for length in kind.shape or ()), dtype=DTYPES.get(kind.elem, torch.float32))


class Scan(nn.Module):
    """Runs a module along an axis of its inputs."""

    def __init__(
        self,
        body: fx.GraphModule,
        states: int,
        axes: tuple[Sequence[int], Sequence[int]],
        backward: tuple[Sequence[int], Sequence[int]],
    ) -> None:
        super().__init__()
        self.body = body
        self.states = states
        self.axes = axes
        self.backward = backward

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Give the last states, then what each step put out, stacked."""
        scanned = self.states + len(self.axes[0])
        states, captured = list(values[: self.states]), values[scanned:]
        inputs = zip(values[self.states : scanned], self.axes[0], self.backward[0], strict=True)
        sequences = [_turned(list(x.unbind(axis)), back) for x, axis, back in inputs]
        collected: list[list[Tensor]] = [[] for _ in self.axes[1]]
        for step in zip(*sequences, strict=True):
            made = self.body(*states, *step, *captured)
            states = list(made[: self.states])
            for parts, value in zip(collected, made[self.states :], strict=True):
                parts.append(value)
        outputs = zip(collected, self.axes[1], self.backward[1], strict=True)
        return (*states, *(torch.stack(_turned(parts, back), axis) for parts, axis, back in outputs))


def _turned(parts: list[Tensor], backward: int) -> list[Tensor]:
    return parts[::-1] if backward else parts


class SequenceMap(nn.Module):
    """Runs a module on each element of a sequence."""

    def __init__(self, body: fx.GraphModule, inputs: int) -> None:
        super().__init__()
        self.body = body
        self.inputs = inputs

    def forward(self, *values: Any) -> tuple[list[Any], ...]:
        """Give a list for each output; inputs that are no sequence are the same each time."""
        given, captured = values[: self.inputs], values[self.inputs :]
        rounds = [
            self.body(*(v[i] if isinstance(v, list) else v for v in given), *captured) for i in range(len(given[0]))
        ]
        return tuple([made[k] for made in rounds] for k in range(len(rounds[0]) if rounds else 1))
