"""Losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fmx_adapters.onnx.importer.call import Call, Value
from fmx_adapters.onnx.importer.registry import operator

_NOTHING_IGNORED = -(2**31)


def _options(call: Call) -> tuple[int, str]:
    ignored = call.integer("ignore_index", _NOTHING_IGNORED)
    return ignored, call.one_of("reduction", "mean", ("none", "mean", "sum"))


@operator("NegativeLogLikelihoodLoss")
def _nll(call: Call) -> Value:
    return call.call(nll_loss, call[0], call[1], call.get(2), *_options(call))


@operator("SoftmaxCrossEntropyLoss")
def _cross_entropy(call: Call) -> list[Value]:
    return call.several(cross_entropy, call[0], call[1], call.get(2), *_options(call))


def nll_loss(x: Tensor, target: Tensor, weight: Tensor | None, ignored: int, reduction: str) -> Tensor:
    """Negative log-likelihood of the target classes, (batch, class, …) and (batch, …)."""
    weight = None if weight is None else weight.detach()  # PyTorch has no gradient for it
    return F.nll_loss(x, target.to(torch.int64), weight, ignore_index=ignored, reduction=reduction)


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, ignored: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """Cross entropy with the target classes; gives the log-probabilities too."""
    logs = F.log_softmax(x, 1)
    return nll_loss(logs, target, weight, ignored, reduction), logs
