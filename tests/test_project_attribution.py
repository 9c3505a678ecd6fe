"""Attributions: against Captum where it has them, against plain loops elsewhere, and what has to add up."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import FORMATS
from networks import tiny_resnet
from torch import Tensor, nn

import fmx
from fmx.errors import FmxError, LayerError
from fmx.project.attribution import ATTRIBUTIONS, attribute
from fmx.project.network import Network

SHAPE = (3, 20, 20)


class Small(nn.Module):
    """Convolutions, ReLUs as modules of their own, a pool and a head: what Captum's hooks can deal with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2, self.relu2 = nn.Conv2d(8, 6, 3), nn.ReLU()
        self.flat, self.fc = nn.Flatten(), nn.Linear(6 * 7 * 7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        return self.fc(self.flat(self.relu2(self.conv2(x))))


@pytest.fixture(scope="module")
def net() -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Small().eval()


def noise(count: int = 2, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)


def close(found: Any, expected: Any, share: float = 1e-5) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    largest = float(np.abs(expected).max())
    assert largest > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * largest)


def captum(name: str, *given: Any) -> Any:
    module = pytest.importorskip("captum.attr")
    return getattr(module, name)(*given)


def of_captum(tool: Any, x: np.ndarray, target: Any, **more: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tool.attribute(torch.from_numpy(x), target=target, **more)
    return found.detach().numpy()


@pytest.mark.parametrize(
    ("method", "tool", "more"),
    [
        ("gradient", "Saliency", {"abs": False}),
        ("gradient-x-input", "InputXGradient", {}),
        ("guided", "GuidedBackprop", {}),
        ("deconvnet", "Deconvolution", {}),
        ("integrated-gradients", "IntegratedGradients", {"n_steps": 64, "method": "gausslegendre"}),
    ],
)
def test_classes_as_captum_attributes_them(method: str, tool: str, more: dict[str, Any], net: Small) -> None:
    x = noise()
    found = attribute(fmx.load(net, input_shape=SHAPE), x, method=method, classes=[0, 3])
    assert found["attribution"].dims == ("sample", "target", "colour", "y", "x")
    assert found["class"].values.tolist() == [[0, 3], [0, 3]]
    for i, target in enumerate((0, 3)):
        close(found["attribution"][:, i], of_captum(captum(tool, net), x, target, **more))
    with torch.no_grad():
        close(found["value"], net(torch.from_numpy(x))[:, [0, 3]])


@pytest.mark.parametrize(
    ("method", "tool"),
    [
        ("guided", "NeuronGuidedBackprop"),
        ("deconvnet", "NeuronDeconvolution"),
        ("gradient", "NeuronGradient"),
        ("integrated-gradients", "NeuronIntegratedGradients"),
    ],
)
def test_neurons_as_captum_attributes_them(method: str, tool: str, net: Small) -> None:
    x = noise()
    model = fmx.load(net, input_shape=SHAPE)
    found = attribute(model, x, method=method, layer="conv2", channels=[1, 4], neuron=(2, 3))
    more = {"n_steps": 64} if method == "integrated-gradients" else {}
    for i, channel in enumerate((1, 4)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = captum(tool, net, net.conv2).attribute(torch.from_numpy(x), (channel, 2, 3), **more)
        close(found["attribution"][:, i], expected.detach())


@pytest.mark.parametrize("method", ["guided", "deconvnet"])
def test_relus_that_captum_misses_follow_the_rule_too(method: str, net: Small) -> None:
    """A ReLU called as a function has no module to hook: the same network has to give the same."""

    class Functional(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv1(x), inplace=True)
            x = self.conv2(F.max_pool2d(x, 2)).relu_()
            return self.fc(x.flatten(1))

    other = Functional().eval()
    other.load_state_dict(net.state_dict())
    x = noise()
    found = attribute(fmx.load(other, input_shape=SHAPE), x, method=method, classes=[2])
    tool = {"guided": "GuidedBackprop", "deconvnet": "Deconvolution"}[method]
    close(found["attribution"][:, 0], of_captum(captum(tool, net), x, 2))


def test_channels_are_attributed_by_their_mean_sum_or_strongest_neuron(net: Small) -> None:
    x = noise(1)
    model = fmx.load(net, input_shape=SHAPE)
    for over in ("mean", "sum", "max"):
        found = attribute(model, x, method="gradient", layer="relu2", channels=[4, 1], over=over)
        assert found["channel"].values.tolist() == [4, 1]
        for i, channel in enumerate((4, 1)):
            given = torch.from_numpy(x).requires_grad_()
            value = F.relu(net.conv2(net.pool(F.relu(net.conv1(given)))))[0, channel]
            target = {"mean": value.mean(), "sum": value.sum(), "max": value.max()}[over]
            close(found["attribution"][:, i], torch.autograd.grad(target, given)[0])
            assert float(found["value"][0, i]) == pytest.approx(target.item(), rel=1e-4)
        assert ("at_y" in found) == (over == "max")


def test_all_channels_at_once_are_the_same_as_one_by_one(net: Small) -> None:
    x = noise()
    model = fmx.load(net, input_shape=SHAPE)
    for method in ATTRIBUTIONS:
        more = {"copies": 5, "steps": 7} | ({"maps_of": "conv1"} if "cam" in method else {})
        together = attribute(model, x, method=method, layer="conv2", batch_size=4, **more)
        for channel in range(6):
            alone = attribute(model, x, method=method, layer="conv2", channels=[channel], batch_size=1, **more)
            np.testing.assert_allclose(
                together["attribution"].sel(channel=[channel]), alone["attribution"], rtol=1e-3, atol=1e-6
            )


def test_integrated_gradients_add_up_to_the_change(net: Small) -> None:
    x = noise()
    model = fmx.load(net, input_shape=SHAPE)
    for baseline in (0.0, -1.5):
        found = attribute(model, x, method="integrated-gradients", classes=[1, 4], steps=500, baseline=baseline)
        with torch.no_grad():
            change = (net(torch.from_numpy(x)) - net(torch.full((1, *SHAPE), baseline)))[:, [1, 4]].numpy()
        total = found["attribution"].sum(("colour", "y", "x")).values
        np.testing.assert_allclose(total, change, atol=0.02 * np.abs(change).max())
        np.testing.assert_allclose(found["completeness_gap"], total - change, atol=1e-4)
    channel = attribute(model, x, method="integrated-gradients", layer="relu2", channels=[2], over="max", steps=500)
    assert (np.abs(channel["completeness_gap"]) < 0.02 * np.abs(channel["value"])).all()


def test_smoothgrad_is_the_mean_over_noisy_copies(net: Small) -> None:
    import zlib

    x = noise(1)
    model = fmx.load(net, input_shape=SHAPE)
    found = attribute(model, x, method="smoothgrad", classes=[1], copies=11, noise=0.2, seed=3, batch_size=4)
    rng = np.random.default_rng((3, zlib.crc32(str(found["sample"].values[0]).encode())))
    total = np.zeros(SHAPE)
    for _ in range(11):
        noisy = x[0] + np.float32(0.2 * (x.max() - x.min())) * rng.standard_normal(SHAPE, dtype=np.float32)
        given = torch.from_numpy(noisy)[None].requires_grad_()
        total += torch.autograd.grad(net(given)[0, 1], given)[0][0].numpy() / 11
    close(found["attribution"][0, 0], total)
    other = attribute(model, x, method="smoothgrad", classes=[1], copies=11, noise=0.2, seed=4)
    assert not np.allclose(found["attribution"], other["attribution"], rtol=1e-2)
    still = attribute(model, x, method="smoothgrad", classes=[1], copies=2, noise=0.0)
    close(still["attribution"], attribute(model, x, method="gradient", classes=[1])["attribution"])


def plain_cam(method: str, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Weigh maps (channel, y, x) in loops, by the definitions of the papers."""
    channels, height, width = value.shape
    total = np.zeros((height, width))
    for k in range(channels):
        if method == "grad-cam":
            weight = np.full((height, width), gradient[k].sum() / (height * width))
        elif method == "layer-cam":
            weight = np.maximum(gradient[k], 0)
        else:
            alpha = np.zeros((height, width))
            for i in range(height):
                for j in range(width):
                    g = gradient[k, i, j]
                    bottom = 2 * g**2 + sum(value[k, a, b] for a in range(height) for b in range(width)) * g**3
                    alpha[i, j] = g**2 / bottom if bottom else 0
            weight = np.full((height, width), (alpha * np.maximum(gradient[k], 0)).sum())
        total += weight * value[k]
    return np.maximum(total, 0)


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "layer-cam"])
def test_weighed_maps_are_those_of_plain_loops(method: str, net: Small) -> None:
    x = noise()
    model = fmx.load(net, input_shape=SHAPE)
    found = attribute(model, x, method=method, layer="conv1", classes=[1, 2])
    assert found["attribution"].dims == ("sample", "target", "y", "x")
    assert found.attrs["maps_of"] == "conv1"
    of_channel = attribute(model, x, method=method, maps_of="conv1", layer="conv2", channels=[3], neuron=(1, 1))
    for sample in range(2):
        given = torch.from_numpy(x[sample : sample + 1])
        value = net.conv1(given).detach().requires_grad_()
        deeper = net.conv2(net.pool(F.relu(value)))
        output = net.fc(net.flat(F.relu(deeper)))
        goals = [*((output[0, k], found["attribution"][sample, i]) for i, k in enumerate((1, 2)))]
        goals.append((deeper[0, 3, 1, 1], of_channel["attribution"][sample, 0]))
        for target, made in goals:
            (gradient,) = torch.autograd.grad(target, value, retain_graph=True)
            expected = plain_cam(method, value[0].detach().double().numpy(), gradient[0].double().numpy())
            close(made, expected)


def test_grad_cam_as_captum_makes_it(net: Small) -> None:
    x = noise()
    found = attribute(fmx.load(net, input_shape=SHAPE), x, method="grad-cam", layer="conv2", classes=[2])
    expected = of_captum(captum("LayerGradCam", net, net.conv2), x, 2, relu_attributions=True)
    close(found["attribution"][:, 0], expected[:, 0])


def test_the_last_layer_with_maps_is_weighed_where_none_is_named(net: Small) -> None:
    found = attribute(fmx.load(net, input_shape=SHAPE), noise(), method="grad-cam")
    assert found.attrs["maps_of"] == "relu2"
    best = net(torch.from_numpy(noise())).argmax(1).tolist()
    assert found["class"].values[:, 0].tolist() == best


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", ["guided", "integrated-gradients", "smoothgrad", "layer-cam"])
def test_every_format_gives_the_same(method: str, form: str, export: Any) -> None:
    net = FORMAT_NET
    x = noise(1, (3, 32, 32))
    more = {"classes": [2], "copies": 3, "steps": 5} | ({"layer": "layer1"} if method == "layer-cam" else {})
    expected = attribute(fmx.load(net, input_shape=(3, 32, 32)), x, method=method, **more)
    model = fmx.load(export(net, (3, 32, 32), form), input_shape=(3, 32, 32))
    found = attribute(model, x, method=method, **more)
    close(found["attribution"], expected["attribution"], 1e-3)


FORMAT_NET = tiny_resnet().eval()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", ["gradient", "guided", "integrated-gradients", "smoothgrad", "grad-cam++"])
def test_in_float64_formats_differ_by_their_weights_rounding_alone(method: str, form: str, export: Any) -> None:
    """Exporters to ONNX fold batch norms into convolutions, whose weights are rounded once more; others keep them."""
    x = noise(1, (3, 32, 32))
    more = {"classes": [2], "copies": 3, "steps": 5, "method": method}
    more |= {"layer": "layer1"} if "cam" in method else {}
    truth = attribute(fmx.load(FORMAT_NET, input_shape=(3, 32, 32)), x, precision="float64", **more)
    assert truth.attrs["precision"] == "float64"
    model = fmx.load(export(FORMAT_NET, (3, 32, 32), form), input_shape=(3, 32, 32))
    found = attribute(model, x, precision="float64", **more)
    close(found["attribution"], truth["attribution"], 1e-6 if "onnx" in form else 1e-7)


def test_float64_is_the_gradient_of_the_network_in_double_precision(net: Small) -> None:
    x = noise(1)
    given = torch.from_numpy(x).double().requires_grad_()
    (expected,) = torch.autograd.grad(copy.deepcopy(net).double()(given)[0, 3], given)
    found = attribute(fmx.load(net, input_shape=SHAPE), x, method="gradient", classes=[3], precision="float64")
    np.testing.assert_array_equal(found["attribution"][0, 0], expected[0].float())
    assert next(net.parameters()).dtype == torch.float32


class NearZero(nn.Module):
    """ReLUs of values that float32 can't tell from 0."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + 1.0 - 1.0).flatten(1)


@pytest.mark.parametrize("form", ["module", "traced", "legacy onnx", "dynamo onnx", "exported"])
@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "integrated-gradients"])
def test_float64_tells_what_float32_rounds_away(method: str, form: str, export: Any) -> None:
    x = np.full((1, 3, 4, 4), 1e-9, np.float32)
    model = fmx.load(export(NEAR_ZERO, (3, 4, 4), form), input_shape=(3, 4, 4))
    for precision, expected in (("float32", 0.0), ("float64", 1e-9 if method == "integrated-gradients" else 1.0)):
        found = attribute(model, x, method=method, classes=[0], copies=2, steps=3, noise=0, precision=precision)
        assert float(found["attribution"][0, 0, 0, 0, 0]) == pytest.approx(expected, rel=1e-5)


NEAR_ZERO = NearZero().eval()


@pytest.mark.real
@pytest.mark.parametrize("form", ["traced.pt", "legacy.onnx", "dynamo.onnx"])
def test_a_trained_network_gives_the_same_in_every_format(form: str, real: Any) -> None:
    weights = real / "models" / "squeezenet1_1.pth"
    pictures = [real / "images" / "photos" / "chelsea.png"]
    plain = fmx.load("torchvision:squeezenet1_1", weights=weights)
    options = fmx.PictureOptions(size=256, crop=224)
    other = fmx.load(real / "models" / f"squeezenet1_1_{form}")
    for method in ("guided", "grad-cam"):
        expected = attribute(plain, pictures, method=method, classes=[285], pictures=options)
        found = attribute(other, pictures, method=method, classes=[285], pictures=options)
        close(found["attribution"], expected["attribution"], 1e-3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "grad-cams"}, "No attribution is called grad-cams: did you mean grad-cam"),
        ({"layer": "conv3"}, "No layer is called conv3"),
        ({"layer": "conv2", "channels": [6]}, "conv2 has no channel 6: there are 0 to 5"),
        ({"layer": "conv2", "neuron": (7, 0)}, r"no neuron at \(7, 0\): there is y 0 to 6, x 0 to 6"),
        ({"layer": "conv2", "neuron": (1,)}, "no neuron at"),
        ({"layer": "conv2", "over": "median"}, "mean, max or sum"),
        ({"channels": [1]}, "belong to a layer"),
        ({"classes": [5]}, "no class 5: there are 0 to 4"),
        ({"classes": []}, "of which none was asked for"),
        ({"classes": "cat"}, "a number or auto"),
        ({"method": "grad-cam", "layer": "fc"}, "fc has no maps"),
        ({"method": "grad-cam", "layer": "conv2", "channels": [1]}, "--maps-of"),
        ({"method": "grad-cam", "layer": "conv1", "channels": [1], "maps_of": "conv2"}, "does not depend on conv2"),
        ({"precision": "float46"}, "can't be computed in float46: did you mean float64"),
        ({"precision": "double"}, "there are float32, float64"),
        ({"method": "smoothgrad", "copies": 0}, "at least one copy"),
        ({"method": "integrated-gradients", "steps": 0}, "at least one step"),
    ],
)
def test_bad_input_gets_one_sentence(more: dict[str, Any], said: str, net: Small) -> None:
    with pytest.raises(FmxError, match=said) as error:
        attribute(fmx.load(net, input_shape=SHAPE), noise(1), **more)
    assert "\n" not in str(error.value)


def test_a_model_without_classes_says_so(net: Small) -> None:
    features = nn.Sequential(net.conv1, net.relu1)
    with pytest.raises(FmxError, match="puts out 8×18×18 for a sample, and no classes"):
        attribute(fmx.load(features, input_shape=SHAPE), noise(1))
    with pytest.raises(LayerError, match="no layer with maps"):
        attribute(
            fmx.load(nn.Sequential(nn.Flatten(), nn.Linear(1200, 2)), input_shape=SHAPE), noise(1), method="grad-cam"
        )


class Viewing(Small):
    """The same with a view of its values as one long row, as many small networks have it."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.relu2(self.conv2(x))
        return self.fc(x.view(x.shape[0], -1))


@pytest.mark.parametrize("name", ["gradient", "grad-cam", "integrated-gradients"])
def test_views_of_values_in_their_usual_order(net: Small, name: str) -> None:
    viewing = Viewing().eval()
    viewing.load_state_dict(net.state_dict())
    more = {"layer": "relu2"} if name == "grad-cam" else {}
    found, expected = (attribute(fmx.load(n, input_shape=SHAPE), noise(), method=name, **more) for n in (viewing, net))
    close(found["attribution"], expected["attribution"])
    close(found["value"], expected["value"])


def test_deconvnet_through_a_view(net: Small) -> None:
    viewing, plain = Viewing().eval(), copy.deepcopy(net)
    torch.nn.init.constant_(plain.fc.bias, 2.0)
    viewing.load_state_dict(plain.state_dict())
    models = [fmx.load(n, input_shape=SHAPE) for n in (viewing, plain)]
    found, expected = (fmx.project.deconv(model, noise(), layer="fc") for model in models)
    close(found["projection"], expected["projection"])


def test_one_channel_whose_last_axis_is_folded_away() -> None:
    """As spectrograms are taken: torch told that one channel comes last convolves several of them to something else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, (2, 5), (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    x = noise(2, (1, 5, 5))
    given = torch.from_numpy(x).requires_grad_()
    (expected,) = torch.autograd.grad(net(given)[:, 1].sum(), given)
    model = fmx.load(net, input_shape=(1, 5, 5))
    for more in ({"method": "gradient"}, {"method": "smoothgrad", "copies": 3, "noise": 0.0}):
        close(attribute(model, x, classes=[1], **more)["attribution"][:, 0], expected)


def test_what_runs_in_no_order_leaves_the_fastest(net: Small) -> None:
    network = Network(fmx.load(net, input_shape=SHAPE))
    with pytest.raises(FmxError, match="does not run on this input"):
        network.begin(noise()[0][:, :9], ["fc"])
    assert network.module.module.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not network.module.module.conv1.weight.is_contiguous()
