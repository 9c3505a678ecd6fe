"""What a backward signal meets at a ReLU: the rules of the deconvnet, of guided backpropagation, and the derivative.

A rule is ``rule(grad_output, input) -> grad_input``, as `fmx.adapter.Model.torch_module` takes it. It holds for every
ReLU, however it is written: module, function, in-place, used several times, or as a threshold at 0. ReLU6 is a ReLU
behind which a limit lies. The deconvnet, which leaves the forward mask of a ReLU out, leaves that of the limit out, too
(`Unlimited`): else the strongest activations, those at the limit, would come from nowhere. Elsewhere the limit passes
its derivative.

Everything else passes its own derivative, or adjoint: convolutions their transpose, max-pooling the switches of the
pass (overlapping windows add up), average-pooling and batch norms their scale, sums and concatenations the signal
itself, and so do LeakyReLU, GELU, SiLU, Hardswish and the gates of squeeze-and-excitation. No paper defines another
rule for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fmx.layers import LayerInfo

__all__ = ["RULES", "Rule", "Unlimited", "deconvnet", "guided", "rectifies", "smooth_kinds"]

Rule = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SMOOTH = {
    "celu",
    "elu",
    "gelu",
    "hardswish",
    "leakyrelu",
    "mish",
    "prelu",
    "rrelu",
    "selu",
    "silu",
    "softplus",
    "tanh",
}
# A limit is one only where it begins at 0, which its kind doesn't tell.
_RECTIFYING = {"clamp", "clampmin", "clip", "hardtanh", "relu", "relu6", "threshold"}


def deconvnet(grad: torch.Tensor, _input: torch.Tensor) -> torch.Tensor:
    """Rectify the signal itself, whatever the ReLU let through on its way forward (Zeiler & Fergus 2014)."""
    return grad.clamp(min=0)


def guided(grad: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Rectify the signal and apply the ReLU's own mask, too (Springenberg et al. 2015)."""
    return grad.clamp(min=0) * (values > 0)


RULES: dict[Rule | None, str] = {
    deconvnet: "ReLUs rectify the signal",
    guided: "ReLUs rectify the signal and apply their mask",
    None: "ReLUs apply their mask: the derivative",
}


class _Limited(torch.autograd.Function):
    """A limit from above that hands the signal on."""

    @staticmethod
    def forward(_ctx: Any, x: torch.Tensor, bound: float) -> torch.Tensor:
        """Give min(x, bound)."""
        return torch.clamp(x, max=bound)

    @staticmethod
    def backward(_ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Hand the signal on as it is."""
        return grad_output, None


class Unlimited(TorchFunctionMode):
    """Within its context limits from above, such as that of a ReLU6, hand the signal on as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Put a limit that hands the signal on in the place of one that doesn't."""
        limited = getattr(func, "__name__", "") == "clamp_max" and len(args) == 2 and not kwargs
        if limited and isinstance(args[1], int | float):
            return _Limited.apply(*args)
        return func(*args, **dict(kwargs or {}))


def smooth_kinds(layers: Sequence[LayerInfo], until: str | None = None) -> list[str]:
    """List the kinds of activation up to a layer that no rule is for, as they are called in the model."""
    return list(dict.fromkeys(kind for kind in _kinds(layers, until) if _plain(kind) in _SMOOTH))


def rectifies(layers: Sequence[LayerInfo], until: str | None = None) -> bool:
    """Tell whether there is a ReLU up to a layer, or what may be one: without them the rules are the derivative."""
    return any(_plain(kind) in _RECTIFYING for kind in _kinds(layers, until))


def _kinds(layers: Sequence[LayerInfo], until: str | None) -> Iterator[str]:
    for layer in layers:
        yield layer.kind
        if layer.name == until:
            return


def _plain(kind: str) -> str:
    return kind.replace("_", "").lower()
