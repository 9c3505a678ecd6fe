"""Deconvnets of random networks, sequences and branches, against one that is written from the paper's definition."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import deconvnet_reference as reference
import numpy as np
import pytest
import torch
from deconvnet_reference import Branches, Gate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import fmx
from fmx.project.deconvnet import deconv

SMOOTH = (nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Tanh, nn.Sigmoid)
# What a layer may be; some more often than others.
KINDS = ("conv", "conv", "relu", "relu", "one relu", "relu6", "max", "average", "adaptive", "norm", "shuffle", "wider")
KINDS += ("added", "concatenated", "gate", "layer norm", "smooth")


class Drawn:
    """Draws layers one after the other; knows the shape that comes out of each."""

    def __init__(self, draw: Any, colours: int, sides: tuple[int, int]) -> None:
        self.draw = draw
        self.shape = (colours, *sides)
        # One module at several places, as many networks have it.
        self.relu = nn.ReLU(inplace=True)

    def one_of(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def sequence(self, kinds: Sequence[str]) -> list[nn.Module]:
        """Draw layers of these kinds, and leave out what doesn't fit."""
        found = []
        for kind in kinds:
            made = self.layer(kind)
            if found and isinstance(found[-1], SMOOTH) and isinstance(made, nn.ReLU):
                # In place it would overwrite what a derivative is made of.
                made = nn.ReLU()
            after = None if made is None else self._after(made)
            if made is not None and after is not None:
                found.append(made)
                self.shape = after
        return found

    def _after(self, layer: nn.Module) -> tuple[int, ...] | None:
        """Give the shape behind a layer; None where it doesn't fit."""
        try:
            shape = tuple(layer.eval()(torch.zeros(1, *self.shape)).shape[1:])
        except RuntimeError:
            return None
        return shape if min(shape) > 0 and max(shape[1:]) < 24 else None

    def layer(self, kind: str) -> nn.Module | None:
        channels = self.shape[0]
        if kind == "conv":
            return self.conv()
        if kind in {"max", "average"}:
            kernel = (self.one_of(1, 2, 3), self.one_of(2, 3))
            padding = tuple(self.draw(st.integers(0, k // 2)) for k in kernel)
            stride, ceil = self.one_of(None, 1, 2, 3), self.one_of(False, True)
            if kind == "max":
                # Padding and dilation together make windows of nothing but padding.
                dilation = self.one_of(1, 1, 2) if not any(padding) else 1
                return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
            more = {"count_include_pad": self.one_of(False, True), "divisor_override": self.one_of(None, None, 3)}
            return nn.AvgPool2d(kernel, stride, padding, ceil, **more)
        if kind == "wider":
            stride, dilation = self.one_of(1, 2, 3), self.one_of(1, 2)
            extra = self.draw(st.integers(0, max(stride, dilation) - 1))
            return nn.ConvTranspose2d(channels, 4, 3, stride, self.one_of(0, 1), extra, dilation=dilation)
        if kind in {"added", "concatenated"}:
            return self.branches(added=kind == "added")
        simple = {
            "relu": lambda: nn.ReLU(inplace=self.one_of(False, True)),
            "one relu": lambda: self.relu,
            "relu6": nn.ReLU6,
            "adaptive": lambda: nn.AdaptiveAvgPool2d((self.one_of(1, 3, 4), self.one_of(2, 5))),
            "norm": lambda: nn.BatchNorm2d(channels, affine=self.one_of(True, False)),
            "shuffle": lambda: nn.ChannelShuffle(2) if channels % 2 == 0 else None,
            "gate": lambda: Gate(channels),
            "layer norm": lambda: nn.LayerNorm(self.shape),
            "smooth": self.one_of(*SMOOTH),
        }
        return simple[kind]()

    def conv(self) -> nn.Module:
        channels = self.shape[0]
        groups = self.one_of(*(n for n in (1, 1, 2, channels) if channels % n == 0))
        made = groups * self.draw(st.integers(1, max(1, 6 // groups)))
        kernel = (self.one_of(1, 2, 3), self.one_of(1, 3, 5))
        stride, dilation = (self.one_of(1, 1, 2, 3), self.one_of(1, 1, 2)), (self.one_of(1, 1, 2), self.one_of(1, 2))
        padding = (self.one_of(0, 1, 2, 4), self.one_of(0, 1, 3))
        return nn.Conv2d(channels, made, kernel, stride, padding, dilation, groups, bias=self.one_of(False, True))

    def branches(self, *, added: bool) -> nn.Module:
        before, found = self.shape, []
        for i in range(self.draw(st.integers(2, 3))):
            self.shape = before
            # One may be what went in, as in a residual network.
            keeps = ("relu", "norm", "smooth") if added else ("relu", "norm", "same conv")
            branch = [] if i == 1 and self.draw(st.booleans()) else self._keeping(keeps)
            found.append(nn.Sequential(*branch))
        self.shape = before
        return Branches(found, added=added)

    def _keeping(self, kinds: tuple[str, ...]) -> list[nn.Module]:
        channels = self.shape[0]
        found = []
        for _ in range(self.draw(st.integers(1, 3))):
            kind = self.one_of(*kinds)
            # What a branch overwrote would be another's input.
            made = {"same conv": nn.Conv2d(channels, channels, 3, padding=1), "relu": nn.ReLU()}
            found.append(made.get(kind) or self.layer(kind))
        return [*found, nn.Conv2d(channels, channels, 3, padding=1)]


def settle(net: nn.Module, seed: int) -> None:
    """Give weights, and batch norms that do something, from a seed."""
    rng = torch.Generator().manual_seed(seed)
    for module in net.modules():
        for name, values in module.named_parameters(recurse=False):
            fan = values[0].numel() if values.ndim > 1 else 1
            values.data.normal_(0.2 if name == "bias" else 0.0, 1.4 / fan**0.5, generator=rng)
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.2, 3, generator=rng)
            module.running_mean.normal_(generator=rng)


@st.composite
def networks(draw: Any) -> tuple[nn.Sequential, np.ndarray]:
    """Draw a network whose last layer is a convolution, and a picture."""
    colours, sides = draw(st.sampled_from([1, 3, 4])), (draw(st.integers(5, 14)), draw(st.integers(5, 14)))
    drawn = Drawn(draw, colours, sides)
    layers = drawn.sequence(["conv", *draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))])
    net = nn.Sequential(*layers, nn.Conv2d(drawn.shape[0], 3, 1)).eval()
    seed = draw(st.integers(0, 2**20))
    settle(net, seed)
    return net, np.random.default_rng(seed).standard_normal((1, colours, *sides)).astype(np.float32)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@given(networks(), st.sampled_from([1, 0.3, 1.0]), st.sampled_from([1, 2, 8]))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_any_network_as_the_paper_has_it(
    precision: str, drawn: tuple[nn.Sequential, np.ndarray], activations: float, batch_size: int
) -> None:
    """In float64 to the last digit of what comes out. Examples are the same each time, and none has a near tie."""
    net, x = drawn
    layer = len(net) - 1
    wide, values = copy.deepcopy(net).double(), torch.from_numpy(x).double()
    with torch.no_grad():
        after = reference.forward(list(wide), values)[-1]["after"][0]
    assume(bool((after > 0).any()))
    positions = after[0].numel()
    count = activations if isinstance(activations, int) else max(1, math.ceil(activations * positions - 1e-9))
    expected = torch.cat([reference.deconv(wide, values, layer, [channel], count) for channel in range(3)])[None]
    how = {"activations": activations, "batch_size": batch_size, "precision": precision}
    found = deconv(fmx.load(net, input_shape=x.shape[1:]), x, str(layer), **how)
    allowed = 1e-4 if precision == "float32" else 2**-24 + 1e-12
    np.testing.assert_allclose(found["projection"], expected, rtol=0, atol=allowed * float(expected.abs().max()))
