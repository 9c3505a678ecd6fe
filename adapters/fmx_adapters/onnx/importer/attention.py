"""Attention in its forms, and rotary positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator


@operator("Attention")
def _attention(call: Call) -> list[Value]:
    past = [call.get(4), call.get(5)]
    if (past[0] is None) != (past[1] is None):
        call.unsupported("a past key without a past value")
    return call.several(
        attention, call[0], call[1], call[2], call.get(3), past, call.get(6),
        heads=(call.integer("q_num_heads"), call.integer("kv_num_heads")),
        scale=call.decimal("scale") if call.has("scale") else None,
        softcap=call.decimal("softcap"),
        causal=call.flag("is_causal"),
        window=(call.integer("left_window_size", -1), call.integer("right_window_size", -1)),
        mode=call.integer("qk_matmul_output_mode"),
        precision=call.dtype("softmax_precision"),
    )  # fmt: skip


@operator("RotaryEmbedding")
def _rotary(call: Call) -> Value:
    heads, part = call.integer("num_heads"), call.integer("rotary_embedding_dim")
    return call.call(rotary, call[0], call[1], call[2], call.get(3), heads, part, call.flag("interleaved"))


@operator("LinearAttention")
def _linear_attention(call: Call) -> list[Value]:
    call.ignore("chunk_size")
    call.one_of("update_rule", "gated_delta", ("linear", "gated", "delta", "gated_delta"))
    heads = (call.integer("q_num_heads"), call.integer("kv_num_heads"))
    inputs = [call.get(i) for i in range(3, 6)]
    return call.several(linear_attention, call[0], call[1], call[2], *inputs, heads, call.decimal("scale"))


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, token, head·channel) → (batch, head, token, channel)."""
    return x.reshape(*x.shape[:-1], count, -1).transpose(1, 2)


def _merged(x: Tensor) -> Tensor:
    """(batch, head, token, channel) → (batch, token, head·channel)."""
    return x.transpose(1, 2).flatten(2)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    past: list[Tensor | None],
    valid: Tensor | None,
    heads: tuple[int, int],
    scale: float | None,
    softcap: float,
    causal: bool,
    window: tuple[int, int],
    mode: int,
    precision: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled dot product attention; gives also the keys and values with the past ones, and the weights.

    ``q`` is (batch, head, token, channel) or (batch, token, head·channel), and ``k`` and ``v`` likewise. ``valid``
    counts the keys of each sample that are no padding. A query that may look at nothing gives zeros.
    """
    packed = q.ndim == 3
    if packed:
        q, k, v = _heads(q, heads[0]), _heads(k, heads[1]), _heads(v, heads[1])
    if past[0] is not None and past[1] is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    keys, values = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    # Each factor takes the root of the scale, so that products of half precision don't overflow.
    root = q.new_tensor(math.sqrt(scale if scale is not None else 1 / math.sqrt(q.shape[-1])))
    raw = (q * root) @ (keys * root).transpose(-1, -2)
    capped = softcap * torch.tanh(raw / softcap) if softcap > 0 else raw
    offset = valid - q.shape[2] if valid is not None else 0 if past[0] is None else past[0].shape[2]
    bias = _bias(capped, mask, valid, offset, causal, window)
    biased = capped + bias
    blind = torch.isneginf(bias).all(-1, keepdim=True)
    # Softmax of nothing is NaN, and so would its gradient be even where it is replaced.
    weights = torch.softmax(torch.where(blind, 0, biased).to(precision or q.dtype), -1)
    weights = torch.where(blind, 0, weights).to(q.dtype)
    result = weights @ values
    shown = (raw, capped, biased, weights)[mode]
    return (_merged(result) if packed else result), k, v, shown


def _bias(
    scores: Tensor,
    mask: Tensor | None,
    valid: Tensor | None,
    offset: Tensor | int,
    causal: bool,
    window: tuple[int, int],
) -> Tensor:
    """What is added to the scores: minus infinity where a query may not look."""
    queries, keys = scores.shape[-2:]
    bias = scores.new_zeros(queries, keys)
    if mask is not None:
        mask = F.pad(mask, (0, keys - mask.shape[-1]), value=False if mask.dtype == torch.bool else -math.inf)
        bias = bias.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else bias + mask
    key = torch.arange(keys, device=scores.device)
    if isinstance(offset, Tensor):
        offset = offset.reshape(-1, 1, 1, 1)
    ahead = key - (torch.arange(queries, device=scores.device).reshape(-1, 1) + offset)
    hidden = torch.zeros_like(ahead, dtype=torch.bool)
    if causal:
        hidden = hidden | (ahead > 0)
    if window[0] >= 0:
        hidden = hidden | (-ahead > window[0])
    if window[1] >= 0:
        hidden = hidden | (ahead > window[1])
    if valid is not None:
        hidden = hidden | (key >= valid.reshape(-1, 1, 1, 1))
    return torch.where(hidden, -math.inf, bias)


def rotary(
    x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor | None, heads: int, part: int, interleaved: bool
) -> Tensor:
    """Rotate pairs of channels by angles that grow with the position (Su et al. 2021, RoFormer)."""
    packed = x.ndim == 3
    tokens = x.reshape(*x.shape[:-1], heads, -1) if packed else x.transpose(1, 2)
    part = part or tokens.shape[-1]
    turned, rest = tokens[..., :part], tokens[..., part:]
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = [a * cosine - b * sine, a * sine + b * cosine]
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    result = torch.cat([turned, rest], -1)
    return result.flatten(2) if packed else result.transpose(1, 2)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: Tensor | None,
    decay: Tensor | None,
    beta: Tensor | None,
    heads: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention by a state, (batch, head, key channel, value channel), that each token updates.

    The state first decays, where there is a decay. The token then adds its key times its value or, where there is a
    ``beta``, times so much of what its value differs from what the state holds for the key.
    """
    dtype = q.dtype
    q, k, v = _heads(q, heads[0]).float(), _heads(k, heads[1]).float(), _heads(v, heads[1]).float()
    factor = scale or 1 / math.sqrt(q.shape[-1])
    state_type = dtype if past is None else past.dtype
    state = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if past is None else past.float()
    gates = None if decay is None else _heads(decay, heads[1]).float().exp()
    rates = None if beta is None else beta.float().transpose(1, 2).unsqueeze(-1)
    outputs = []
    for t in range(q.shape[2]):
        key, new = k[:, :, t].unsqueeze(-1), v[:, :, t].unsqueeze(-2)
        if gates is not None:
            state = state * gates[:, :, t].unsqueeze(-1)
        if rates is not None:
            new = rates[:, :, t].unsqueeze(-1) * (new - key.transpose(-1, -2) @ state)
        state = state + key * new
        read = state.repeat_interleave(heads[0] // heads[1], 1)
        outputs.append(factor * (q[:, :, t].unsqueeze(-2) @ read))
    return _merged(torch.cat(outputs, 2)).to(dtype), state.to(state_type)
