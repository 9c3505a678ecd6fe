"""Backward rules of ReLUs, in every format against the same network with its ReLUs written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import FORMATS
from torch import Tensor, nn

import fmx
from fmx.errors import ModelError
from fmx_adapters._relu import Rectifier, as_rectifier

SHAPE = (3, 12, 12)
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "deconvnet": lambda grad, _: grad.clamp(min=0),
    "guided": lambda grad, x: grad.clamp(min=0) * (x > 0),
    "plain": lambda grad, x: grad * (x > 0),
    "odd": lambda grad, x: 2 * grad + torch.tanh(x),
}


class Net(nn.Module):
    """ReLUs of all sorts, and what looks like one and is none."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(8))
        self.relu = nn.ReLU(inplace=True)
        self.capped = nn.ReLU6()
        self.tight = nn.Hardtanh(0.0, 0.5)
        self.both = nn.Hardtanh(-0.5, 0.5)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.convs[0](x))
        x = self.relu(self.convs[1](x))  # the same module again
        x = F.relu(self.convs[2](x)) + F.leaky_relu(self.convs[2](x), 0.1)
        y = self.convs[3](x)
        y += x
        x = torch.relu_(y)
        x = self.capped(3 * self.convs[4](x))
        x = self.tight(self.convs[5](x)) + self.both(x)
        x = self.convs[6](x).clamp(min=0)
        x = F.relu6(self.convs[7](x), inplace=True)
        return self.fc(x.mean((2, 3)))


class Written(Net):
    """The same, with a ReLU of its own in each place."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        r = self.rectify
        x = r(self.convs[0](x))
        x = r(self.convs[1](x))
        x = r(self.convs[2](x)) + F.leaky_relu(self.convs[2](x), 0.1)
        x = r(self.convs[3](x) + x)
        x = torch.minimum(r(3 * self.convs[4](x)), torch.tensor(6.0))
        x = torch.minimum(r(self.convs[5](x)), torch.tensor(0.5)) + self.both(x)
        x = r(self.convs[6](x))
        x = torch.minimum(r(self.convs[7](x)), torch.tensor(6.0))
        return self.fc(x.mean((2, 3)))


def by_rule(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Give a ReLU whose gradient is put in by a hook, another way than that of fmx."""

    def rectify(x: Tensor) -> Tensor:
        seen = x.detach().clone()
        # A sum through which the gradient passes unchanged, with the value of a ReLU.
        y = x + (seen.clamp(min=0) - seen)
        out = y * 1
        y.register_hook(lambda grad: rule(grad, seen))
        return out

    return rectify


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = Net().eval()
        for conv in made.convs:
            nn.init.normal_(conv.weight, std=0.25)
        return made


def gradient(module: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    output = module(x)
    (found,) = torch.autograd.grad(output[:, 1].sum(), x)
    return output.detach(), found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rule", RULES)
def test_gradients_follow_the_rule(rule: str, form: str, net: Net, export: Callable[..., Any]) -> None:
    module = fmx.load(export(net, SHAPE, form), input_shape=SHAPE).torch_module(relu=RULES[rule])
    # One sample for all formats, as some of them were exported for a single one.
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) - 0.3
    written = Written(by_rule(RULES[rule])).eval()
    written.load_state_dict(net.state_dict())
    expected_output, expected = gradient(written, x)
    output, found = gradient(module, x)
    torch.testing.assert_close(output, expected_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output, net(x).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    same_as_plain = torch.allclose(found, gradient(net, x)[1], rtol=1e-3)
    assert same_as_plain == (rule == "plain")


@pytest.mark.parametrize("form", ["module", "scripted", "exported", "dynamo onnx"])
def test_layers_are_the_same_with_a_rule(form: str, net: Net, export: Callable[..., Any]) -> None:
    model = fmx.load(export(net, SHAPE, form), input_shape=SHAPE)
    plain, ruled = model.torch_module(), model.torch_module(relu=RULES["guided"])
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert plain.layer_names == ruled.layer_names
    names = plain.layer_names
    for name, value in plain.capture(x, names).items():
        torch.testing.assert_close(ruled.capture(x, [name])[name], value, rtol=1e-4, atol=1e-5)
    _, values = ruled.forward_with(x, names)
    for name, value in plain.capture(x, names).items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-5)


def test_a_rule_changes_neither_model_nor_other_modules(net: Net) -> None:
    model = fmx.load(net, input_shape=SHAPE)
    x = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    before = gradient(net, x)[1]
    gradient(model.torch_module(relu=RULES["odd"]), x)
    torch.testing.assert_close(gradient(net, x)[1], before)
    torch.testing.assert_close(gradient(model.torch_module(), x)[1], before)


@pytest.mark.parametrize("form", ["module", "exported"])
def test_a_rule_that_gives_something_else_is_an_error(form: str, net: Net, export: Callable[..., Any]) -> None:
    module = fmx.load(export(net, SHAPE, form), input_shape=SHAPE).torch_module(relu=lambda grad, _: grad.sum())
    with pytest.raises(ModelError, match="gradient of the input's shape"):
        gradient(module, torch.rand(1, *SHAPE))


@pytest.mark.parametrize(
    ("name", "arguments", "keywords", "expected"),
    [
        ("relu", (), {}, Rectifier()),
        ("relu_", (), {}, Rectifier(in_place=True)),
        ("relu", (True,), {}, Rectifier(in_place=True)),
        ("relu", (), {"inplace": True}, Rectifier(in_place=True)),
        ("relu6", (), {}, Rectifier(6.0)),
        ("hardtanh", (), {}, None),
        ("hardtanh", (0.0, 6.0), {}, Rectifier(6.0)),
        ("hardtanh_", (0.0,), {"max_val": 2.0}, Rectifier(2.0, True)),
        ("hardtanh", (-1.0, 6.0), {}, None),
        ("threshold", (0, 0), {}, Rectifier()),
        ("threshold", (0.5, 0), {}, None),
        ("threshold", (0, 1), {}, None),
        ("clamp", (), {"min": 0}, Rectifier()),
        ("clamp", (0, 6), {}, Rectifier(6)),
        ("clamp", (None, 6), {}, None),
        ("clamp", (0, -1), {}, None),
        ("clamp_min", (0,), {}, Rectifier()),
        ("clamp_min", (1e-12,), {}, None),
        ("leaky_relu", (0.0,), {}, None),
        ("prelu", (), {}, None),
        ("gelu", (), {}, None),
    ],
)
def test_what_counts_as_a_relu(name: str, arguments: Any, keywords: Any, expected: Rectifier | None) -> None:
    assert as_rectifier(name, arguments, keywords) == expected
