"""The same network in every format: the same layer names and the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import FORMATS
from networks import cifar10_cnn, tiny_resnet
from numpy.typing import NDArray
from torch import nn

import fmx
from fmx.adapter import Model

# What exporters drop because it does nothing at inference, and what they merge into its neighbour.
VANISHING = {"Dropout", "Conv2d", "Identity"}


def reference(net: nn.Module, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Record what each leaf module returned, copied on the spot: slow, obvious, and safe from in-place operations."""
    seen: dict[str, NDArray[Any]] = {}
    calls: dict[str, int] = {}
    handles = []
    for name, module in net.named_modules():

        def hook(_: Any, __: Any, output: Any, name: str = name) -> None:
            output = output[0] if isinstance(output, tuple) else output
            calls[name] = calls.get(name, 0) + 1
            seen[name if calls[name] == 1 else f"{name}:{calls[name]}"] = output.detach().clone().numpy()

        handles.append(module.register_forward_hook(hook))
    training = net.training
    net.eval()
    with torch.no_grad():
        net(torch.from_numpy(batch))
    net.train(training)
    for handle in handles:
        handle.remove()
    seen.pop("")
    return seen


def assert_same(model: Model, expected: dict[str, NDArray[Any]], batch: NDArray[Any]) -> None:
    """Compare every layer that the model lists against the reference, within 1e-4 of the layer's largest value."""
    modules = [layer.name for layer in model.layers if layer.name in expected]
    with model.session(modules) as session:
        got = session.run(batch)
    assert list(got) == modules
    for name, values in got.items():
        assert values.shape == expected[name].shape, name
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-4 * largest, err_msg=name)


DENSENET = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)
NETWORKS = {
    "tiny_resnet": (tiny_resnet(), (3, 32, 32)),
    "cifar10_cnn": (cifar10_cnn(), (3, 32, 32)),
    "resnet18": (torchvision.models.resnet18(), (3, 64, 64)),
    "squeezenet1_1": (torchvision.models.squeezenet1_1(), (3, 64, 64)),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_values(name: str, form: str, export: Callable[..., Any]) -> None:
    net, shape = NETWORKS[name]
    batch = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    expected = reference(net, batch)
    kinds = {n: type(m).__name__ for n, m in net.named_modules()}
    model = fmx.load(export(net, shape, form), input_shape=shape)
    listed = [layer.name for layer in model.layers]
    assert len(listed) == len(set(listed))
    missing = [n for n in expected if n not in listed]
    assert {kinds[n.partition(":")[0]] for n in missing} <= (VANISHING if "onnx" in form else set())
    assert_same(model, expected, batch)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_lists_the_same_operations(name: str, export: Callable[..., Any]) -> None:
    net, shape = NETWORKS[name]
    modules = {n for n, _ in net.named_modules()}
    listed = {}
    for form in FORMATS:
        layers = fmx.load(export(net, shape, form), input_shape=shape).layers
        listed[form] = [layer.name for layer in layers if layer.name.partition(":")[0] not in modules]
    # An exported adaptive average pool to one position is a mean; everything else has one name.
    plain = {f: [n.replace("adaptive_avg_pool2d", "mean") for n in names] for f, names in listed.items()}
    folded = {f: [n for n in names if not n.endswith(".batch_norm")] for f, names in plain.items()}
    assert all(names == folded["module"] for names in folded.values()), folded


def test_kinds_are_the_module_classes(export: Callable[..., Any]) -> None:
    net, shape = NETWORKS["tiny_resnet"]
    for form in ("module", "traced file", "scripted file", "exported", "dynamo onnx"):
        kinds = {layer.name: layer.kind for layer in fmx.load(export(net, shape, form), input_shape=shape).layers}
        assert kinds["layer1"] == "Sequential"
        assert kinds["layer1.0"] == "Block"
        assert kinds["layer1.0.bn1"] == "BatchNorm2d"
        assert kinds["layer1.0.add"] == "add"
        assert kinds["fc"] == "Linear"


def test_folded_batch_norm_is_listed_under_its_own_name(export: Callable[..., Any]) -> None:
    net, shape = NETWORKS["tiny_resnet"]
    names = {layer.name for layer in fmx.load(export(net, shape, "legacy onnx")).layers}
    assert {"stem.1", "layer1.0.bn1", "layer1.0.bn2"} <= names
    assert not {"stem.0", "layer1.0.conv1", "layer1.0.conv2"} & names


def test_folded_batch_norm_of_unknown_name_takes_no_other_layers_name(export: Callable[..., Any]) -> None:
    shape = (3, 64, 64)
    batch = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    expected = reference(DENSENET, batch)
    model = fmx.load(export(DENSENET, shape, "legacy onnx"))
    assert_same(model, expected, batch)
    names = {layer.name for layer in model.layers}
    made_up = {n for n in names if n.endswith(".batch_norm")}
    assert made_up
    assert not any(n.removesuffix(".batch_norm") in names for n in made_up)
    assert not made_up & set(expected)


def test_auto_is_the_same_in_every_format(export: Callable[..., Any]) -> None:
    net, shape = NETWORKS["resnet18"]
    for form in FORMATS:
        model = fmx.load(export(net, shape, form), input_shape=shape)
        chosen = [layer.name for layer in fmx.layers.select_layers(model.layers)]
        assert chosen == ["relu", "layer1", "layer2", "layer3", "layer4"]


# -- real models -----------------------------------------------------------------------------------

REAL_FORMS = ("traced.pt", "scripted.pt", "legacy.onnx", "dynamo.onnx")


@pytest.mark.real
@pytest.mark.parametrize("name", ["cifar10_cnn", "squeezenet1_1"])
@pytest.mark.parametrize("form", REAL_FORMS)
def test_real_models_agree(name: str, form: str, real: Path) -> None:
    net = cifar10_cnn() if name == "cifar10_cnn" else torchvision.models.squeezenet1_1()
    opened = fmx.load(net, weights=real / "models" / f"{name}.pth")
    model = fmx.load(real / "models" / f"{name}_{form}")
    shape = model.inputs[0].shape
    scale = 255 if name == "cifar10_cnn" else 1
    batch = scale * np.random.default_rng(1).random((3, *shape), dtype=np.float32)
    expected = [layer for layer in opened.layers if "onnx" not in form or layer.kind != "Dropout"]
    assert [layer.name for layer in model.layers] == [layer.name for layer in expected]
    assert [layer.shape for layer in model.layers] == [layer.shape for layer in expected]
    assert_same(model, reference(net, batch), batch)


@pytest.mark.real
def test_real_mobilenet_with_folded_batch_norm_agrees(real: Path) -> None:
    net = torchvision.models.mobilenet_v2()
    fmx.load(net, weights=real / "models" / "mobilenet_v2-b0353104.pth")
    model = fmx.load(real / "models" / "mobilenet_v2_legacy.onnx")
    batch = np.random.default_rng(1).random((2, 3, 224, 224), dtype=np.float32)
    expected = reference(net, batch)
    kinds = {n: type(m).__name__ for n, m in net.named_modules()}
    listed = {layer.name for layer in model.layers}
    assert {kinds[n] for n in expected if n not in listed} == {"Conv2d", "Dropout"}
    assert_same(model, expected, batch)
