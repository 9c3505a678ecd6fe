"""The way back as a list of steps: against autograd, signal by signal, in every network and at every splitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import net_and_picture, torchvision_net
from torch import Tensor, nn

import fmx
from fmx.project import adjoint
from fmx.project.network import Network
from fmx.project.rules import Rule, deconvnet, guided


class Branches(nn.Module):
    """Sums, concatenations and pools of both kinds, strides, groups, dilation, transposition, a value used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.wider = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.uneven = nn.Conv2d(4, 6, (3, 1), padding=(0, 1))
        self.last = nn.Conv2d(12, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = x + F.relu(self.grouped(x))
        x = F.relu(self.norm(self.wider(F.max_pool2d(x, 3, 2, 1))))
        x = F.relu(self.uneven(x), inplace=True)
        return F.relu(self.last(torch.cat([F.avg_pool2d(x, 3, 2), F.max_pool2d(x, 3, 2)], 1)))


def small() -> nn.Module:
    return Branches()


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "small": (small, "relu_4", 24),
    "vgg11": (torchvision_net("vgg11"), "features.12", 48),
    "squeezenet1_1": (torchvision_net("squeezenet1_1"), "features.7", 64),
    "resnet18": (torchvision_net("resnet18"), "layer3", 64),
    "densenet121": (torchvision_net("densenet121"), "features.denseblock1", 48),
}


def prepared(name: str, rule: Rule | None, wider: int = 1) -> tuple[Network, str, Tensor]:
    make, layer, size = NETS[name]
    size *= wider
    net, x = net_and_picture(make, (size, size))
    return Network(fmx.load(net, input_shape=(3, size, size)), rule), layer, x


@pytest.mark.parametrize("rule", [deconvnet, guided, None], ids=["deconvnet", "guided", "derivative"])
@pytest.mark.parametrize("name", NETS)
def test_equals_autograd_signal_by_signal(name: str, rule: Rule | None) -> None:
    network, layer, x = prepared(name, rule)
    done = network.forward(x, [layer])
    value = done.values[layer]
    signals = torch.zeros(5, *value.shape[1:])
    signals[:3, :3] = torch.eye(3)[:, :, None, None] * value[0, :3].detach()
    signals[3, 5:7] = value[0, 5:7].detach()
    signals[4] = value[0].detach()
    kept = signals.clone()
    expected = torch.cat([torch.autograd.grad(value, done.inputs, s[None], retain_graph=True)[0] for s in signals])
    way = adjoint.way_back(value, done.inputs)
    assert way is not None
    largest = float(expected.abs().max())
    assert largest > 0
    # Whole, in halves somewhere on the way, and one by one; the way can be gone again and again, with other numbers.
    for most in (2**30, 2**18, 2**15, 1):
        way._most = most
        for part in (signals, signals[1:3], signals):
            torch.testing.assert_close(
                way(part), expected[1:3] if len(part) == 2 else expected, rtol=0, atol=1e-5 * largest
            )
    assert torch.equal(signals, kept)


@pytest.mark.parametrize("rule", [deconvnet, guided, None], ids=["deconvnet", "guided", "derivative"])
@pytest.mark.parametrize("name", NETS)
def test_a_few_neurons_at_edges_and_within_equal_autograd(name: str, rule: Rule | None) -> None:
    network, layer, x = prepared(name, rule, 2)
    done = network.forward(x, [layer])
    value = done.values[layer]
    low, right = (n - 1 for n in value.shape[2:])
    places = [(0, 0), (0, right), (low, right), (low // 2, right // 2), (low, right // 2)]
    signals = torch.zeros(len(places), *value.shape[1:])
    for i, (y, column) in enumerate(places):
        signals[i, i : i + 3, y, column] = 1 + i
    signals[3, :, low // 2 + 1, right // 2] = -1
    expected = torch.cat([torch.autograd.grad(value, done.inputs, s[None], retain_graph=True)[0] for s in signals])
    way = adjoint.way_back(value, done.inputs)
    assert way is not None
    assert adjoint._parts(signals) is not None
    largest = float(expected.abs().max())
    assert largest > 0
    torch.testing.assert_close(way(signals), expected, rtol=0, atol=1e-5 * largest)
    # Nothing at all, and whole maps among them.
    signals[1], signals[2] = 0, 1
    expected[2] = torch.autograd.grad(value, done.inputs, signals[2:3], retain_graph=True)[0][0]
    expected[1] = 0
    torch.testing.assert_close(way(signals), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not way(signals[1:2]).any()


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 1), (3, 1, 3), (3, 2, 4), (1, 2, 1)])
def test_neurons_that_see_nothing_but_padding(kernel: int, stride: int, padding: int) -> None:
    """At any of the edges, alone and with others: nothing comes back from there."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, kernel, stride, padding)).eval()
    x = torch.randn((1, 3, 12, 11), generator=torch.Generator().manual_seed(0))
    done = Network(fmx.load(net, input_shape=(3, 12, 11)), deconvnet).forward(x, ["2"])
    value = done.values["2"]
    way = adjoint.way_back(value, done.inputs)
    assert way is not None
    low, right = (n - 1 for n in value.shape[2:])
    signals = torch.zeros(5, *value.shape[1:])
    for i, (y, column) in enumerate([(0, 0), (0, right), (low, 0), (low, right), (low // 2, 0)]):
        signals[i, :, y, column] = 1.0
    assert adjoint._parts(signals) is not None
    expected = torch.cat([torch.autograd.grad(value, done.inputs, s[None], retain_graph=True)[0] for s in signals])
    assert not expected[0].any()
    torch.testing.assert_close(way(signals), expected, rtol=0, atol=1e-6)


def test_threads_take_a_signal_each_and_leave_their_number_as_it_was() -> None:
    network, layer, x = prepared("small", deconvnet, 2)
    done = network.forward(x, [layer])
    way = adjoint.way_back(done.values[layer], done.inputs)
    assert way is not None
    signals = torch.zeros(7, *done.values[layer].shape[1:])
    signals[range(7), range(7), 3, range(7)] = 1
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(way(signals))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0].any()
    torch.testing.assert_close(found[0], found[1])


class Smooth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.gelu(x))


class Weighing(nn.Module):
    """A convolution whose weights hang on the picture: not linear in the signal by its own input alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(F.conv2d(x, x.clone()[:, :, :3, :3], padding=1))


def test_weights_that_hang_on_the_picture_are_no_constants() -> None:
    network = Network(fmx.load(Weighing(), input_shape=(3, 8, 8)), deconvnet)
    done = network.forward(torch.ones(1, 3, 8, 8), ["relu"])
    assert adjoint.way_back(done.values["relu"], done.inputs) is None


def test_what_no_step_is_for_goes_back_by_autograd() -> None:
    x = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    network = Network(fmx.load(Smooth(), input_shape=(3, 8, 8)), deconvnet)
    done = network.forward(x, ["relu"])
    assert adjoint.way_back(done.values["relu"], done.inputs) is None
    seeds = done.values["relu"].detach().expand(3, -1, -1, -1)
    (expected,) = torch.autograd.grad(done.values["relu"], done.inputs, seeds[:1])
    pulled = network.pull(x[0].numpy(), "relu", 3, lambda start, stop: seeds[start:stop])
    torch.testing.assert_close(torch.from_numpy(pulled), expected.expand(3, -1, -1, -1))


def test_the_picture_goes_forward_once_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network, layer, x = prepared("vgg11", deconvnet)
    passes: list[int] = []
    forward = network.forward

    def counted(inputs: Tensor, names: Any) -> Any:
        passes.append(len(inputs))
        return forward(inputs, names)

    monkeypatch.setattr(network, "forward", counted)
    shape = network.forward(x, [layer]).values[layer].shape[1:]
    network.pull(x[0].numpy(), layer, 20, lambda start, stop: torch.ones(stop - start, *shape))
    assert passes == [1, 1]


def test_no_tensor_on_the_way_is_larger_than_allowed() -> None:
    network, layer, x = prepared("vgg11", deconvnet)
    done = network.forward(x, [layer])
    way = adjoint.way_back(done.values[layer], done.inputs)
    assert way is not None
    # One signal has 48 x 48 x 64 numbers behind the first convolution: of 8 signals 2 go there at a time.
    way._most = 2 * 48 * 48 * 64 * 4
    found: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            found.extend(t.nbytes for t in (made if isinstance(made, tuple) else (made,)) if isinstance(t, Tensor))
            return made

    with Watch():
        way(torch.ones(8, *done.values[layer].shape[1:]))
    assert max(found) == way._most
