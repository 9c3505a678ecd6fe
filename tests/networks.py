"""Small networks for the tests, each with something that capturing values gets wrong easily."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Block(nn.Module):
    """A residual block as in ResNet: in-place ReLU behind batch norm, in-place add, one ReLU called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class TinyResNet(nn.Module):
    """Stem, two residual blocks, a concatenation, a head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer1(self.stem(x))
        x = torch.cat([self.pool(x), torch.relu(self.pool(-x))], 1)
        return self.fc(self.dropout(x.mean((2, 3))))


def tiny_resnet() -> TinyResNet:
    """Build a TinyResNet whose batch norms do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = TinyResNet()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_(0, 0.5)
    return net


def cifar10_cnn() -> nn.Sequential:
    """The plain CIFAR-10 network of the real models: layers "0" to "29"."""

    def conv(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3), nn.ReLU(), nn.BatchNorm2d(outside, eps=0.001)]

    return nn.Sequential(
        *conv(3, 64),
        *conv(64, 64),
        nn.MaxPool2d(2),
        *conv(64, 128),
        *conv(128, 128),
        nn.MaxPool2d(2),
        *conv(128, 64),
        *conv(64, 64),
        nn.MaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 1024),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(1024, 512),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(512, 10),
        nn.ReLU(),
    )


def torchvision_net(name: str) -> Callable[[], nn.Module]:
    """Give what makes a network of torchvision with random weights."""

    def make() -> nn.Module:
        import torchvision

        net: nn.Module = torchvision.models.get_model(name, weights=None)
        return net

    return make


def net_and_picture(make: Callable[[], nn.Module], sides: tuple[int, int]) -> tuple[nn.Module, torch.Tensor]:
    """Make a network whose batch norms do something, and a picture, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = make().eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
        return net, torch.randn(1, 3, *sides)
