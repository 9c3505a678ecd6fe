"""Recurrent layers: LSTM, GRU and the simple one, as loops over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.indexing import reverse_sequence
from fmx_adapters.onnx.importer.registry import operator

Activation = tuple[str, float, float]
State = tuple[Tensor, ...]

# Name: (function of the value, alpha and beta; alpha and beta if not given; how many of the two it takes)
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], tuple[float, float], int]] = {
    "affine": (lambda x, a, b: a * x + b, (1.0, 0.0), 2),
    "elu": (lambda x, a, _: F.elu(x, a), (1.0, 0.0), 1),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), (0.2, 0.5), 2),
    "leakyrelu": (lambda x, a, _: F.leaky_relu(x, a), (0.01, 0.0), 1),
    "relu": (lambda x, _a, _b: torch.relu(x), (0.0, 0.0), 0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (1.0, 1.0), 2),
    "sigmoid": (lambda x, _a, _b: torch.sigmoid(x), (0.0, 0.0), 0),
    "softplus": (lambda x, _a, _b: F.softplus(x), (0.0, 0.0), 0),
    "softsign": (lambda x, _a, _b: F.softsign(x), (0.0, 0.0), 0),
    "tanh": (lambda x, _a, _b: torch.tanh(x), (0.0, 0.0), 0),
    "thresholdedrelu": (lambda x, a, _: torch.where(x >= a, x, 0), (1.0, 0.0), 1),
}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


@operator("LSTM", "GRU", "RNN")
def _recurrent(call: Call) -> list[Value]:
    kind = call.node.op_type
    direction = call.one_of("direction", "forward", ("forward", "reverse", "bidirectional"))
    call.ignore("hidden_size", "output_sequence")  # the weights say it; no set from 9 on has the other
    peepholes = call.get(7) if kind == "LSTM" else None
    cell = call.get(6) if kind == "LSTM" else None
    return call.several(
        recurrent, kind, call[0], call[1], call[2], call.get(3), call.get(4), [call.get(5), cell], peepholes,
        direction=direction,
        activations=_activations(call, 2 if direction == "bidirectional" else 1),
        clip=call.decimal("clip") if call.has("clip") else None,
        batch_first=call.flag("layout"),
        coupled=call.flag("linear_before_reset" if kind == "GRU" else "input_forget"),
    )  # fmt: skip


def _activations(call: Call, directions: int) -> tuple[Activation, ...]:
    """Name the activations of all directions; each takes as many of the listed parameters as it has."""
    names = call.texts("activations") or _DEFAULTS[call.node.op_type] * directions
    alphas, betas = list(call.decimals("activation_alpha") or ()), list(call.decimals("activation_beta") or ())
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            call.unsupported(f"the activation {name}")
        _, (alpha, beta), count = _ACTIVATIONS[name.lower()]
        alpha = alphas.pop(0) if alphas and count > 0 else alpha
        beta = betas.pop(0) if betas and count > 1 else beta
        found.append((name.lower(), alpha, beta))
    return tuple(found)


class _Cell:
    """One direction of a layer: weights, activations, and how to take one step."""

    def __init__(
        self,
        weights: Tensor,
        bias: Tensor | None,
        peepholes: Tensor | None,
        activations: Sequence[Activation],
        clip: float | None,
        coupled: bool,
    ) -> None:
        self.weights = weights
        self.bias = bias
        self.peepholes = peepholes
        self._activations = activations
        self._clip = clip
        self.coupled = coupled

    def activate(self, index: int, x: Tensor) -> Tensor:
        """Apply the activation of a place, to limited values."""
        name, alpha, beta = self._activations[index]
        x = x if self._clip is None else x.clamp(-self._clip, self._clip)
        return _ACTIVATIONS[name][0](x, alpha, beta)


def _lstm_step(cell: _Cell, x: Tensor, state: State) -> State:
    hidden, memory = state
    gates = F.linear(hidden, cell.weights, cell.bias) + x
    entry, exit_, forget, new = gates.chunk(4, -1)
    see = cell.peepholes.chunk(3) if cell.peepholes is not None else None
    if see is not None:
        entry, forget = entry + see[0] * memory, forget + see[2] * memory
    entry = cell.activate(0, entry)
    forget = 1 - entry if cell.coupled else cell.activate(0, forget)
    memory = forget * memory + entry * cell.activate(1, new)
    if see is not None:
        exit_ = exit_ + see[1] * memory
    return cell.activate(0, exit_) * cell.activate(2, memory), memory


def _gru_step(cell: _Cell, x: Tensor, state: State) -> State:
    (hidden,) = state
    size = hidden.shape[-1]
    x_gates, x_new = torch.split(x, [2 * size, size], -1)
    w_gates, w_new = torch.split(cell.weights, [2 * size, size])
    b_gates, b_new = (None, None) if cell.bias is None else torch.split(cell.bias, [2 * size, size])
    update, reset = cell.activate(0, x_gates + F.linear(hidden, w_gates, b_gates)).chunk(2, -1)
    before = F.linear(reset * hidden, w_new, b_new) if not cell.coupled else reset * F.linear(hidden, w_new, b_new)
    return ((1 - update) * cell.activate(1, x_new + before) + update * hidden,)


def _rnn_step(cell: _Cell, x: Tensor, state: State) -> State:
    return (cell.activate(0, x + F.linear(state[0], cell.weights, cell.bias)),)


_STEPS: dict[str, Callable[[_Cell, Tensor, State], State]] = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}


def recurrent(
    kind: str,
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    bias: Tensor | None,
    lengths: Tensor | None,
    initial: Sequence[Tensor | None],
    peepholes: Tensor | None,
    direction: str,
    activations: Sequence[Activation],
    clip: float | None,
    batch_first: bool,
    coupled: bool,
) -> tuple[Tensor, ...]:
    """Run a recurrent layer; gives all hidden states and the last of each kind.

    ``x`` is (time, batch, channel), the states (direction, batch, channel); time and direction come after the batch
    where that is first. ``coupled`` is what GRU calls linear_before_reset, and LSTM input_forget.
    """
    if batch_first:
        x, initial = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in initial]
    count = 2 if kind == "LSTM" else 1
    parts = len(activations) // weights.shape[0]
    outputs, finals = [], []
    for d in range(weights.shape[0]):
        b_in, b_state = (None, None) if bias is None else bias[d].chunk(2)
        peep = None if peepholes is None else peepholes[d]
        cell = _Cell(recurrence[d], b_state, peep, activations[d * parts : (d + 1) * parts], clip, coupled)
        zeros = x.new_zeros(x.shape[1], recurrence.shape[-1])
        state = tuple(zeros if s is None else s[d] for s in initial[:count])
        gates = F.linear(x, weights[d], b_in)
        output, state = _run(_STEPS[kind], cell, gates, state, lengths, direction == "reverse" or d == 1)
        outputs.append(output)
        finals.append(state)
    stacked = [torch.stack(outputs, 1), *(torch.stack(states) for states in zip(*finals, strict=True))]
    if batch_first:
        stacked = [stacked[0].permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in stacked[1:])]
    return tuple(stacked)


def _run(
    step: Callable[[_Cell, Tensor, State], State],
    cell: _Cell,
    gates: Tensor,
    state: State,
    lengths: Tensor | None,
    backward: bool,
) -> tuple[Tensor, State]:
    """Go through time in one direction; where a sequence has ended, its state stays and it puts out zeros."""
    turn = (lambda t: t.flip(0)) if lengths is None else (lambda t: reverse_sequence(t, lengths, 0, 1))
    gates = turn(gates) if backward else gates
    outputs = []
    for t, x in enumerate(gates.unbind(0)):
        new = step(cell, x, state)
        if lengths is None:
            state, output = new, new[0]
        else:
            going = (t < lengths).unsqueeze(-1)
            state = tuple(torch.where(going, n, s) for n, s in zip(new, state, strict=True))
            output = torch.where(going, new[0], 0)
        outputs.append(output)
    whole = torch.stack(outputs)
    return turn(whole) if backward else whole, state
