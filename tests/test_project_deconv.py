"""Deconvnets: against one written from the paper, against ReLUs put in by hand, in every format and network."""

from __future__ import annotations

import copy
from typing import Any

import deconvnet_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from conftest import FORMATS
from networks import cifar10_cnn, tiny_resnet
from torch import Tensor, nn

import fmx
from fmx.errors import FmxError, LayerError, ModelError
from fmx.project.attribution import attribute
from fmx.project.deconvnet import Deconvnet, deconv
from fmx.project.inputs import open_pictures
from fmx.project.rules import rectifies, smooth_kinds


def close(found: Any, expected: Any, share: float = 1e-5) -> None:
    """Compare within a share of the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    largest = float(np.abs(expected).max())
    assert largest > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * largest)


def random_net(kind: str) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        nets = {
            "plain": [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()],
            "in place": [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True)],
            "overlapping": [nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3), nn.ReLU()],
            "ceil": [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(6, 8, 3), nn.ReLU()],
            "average": [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU()],
            "batch norm": [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)],
            "relu6": [nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 8, 3, dilation=2), nn.ReLU6()],
            "linear": [nn.Conv2d(3, 4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 9), nn.ReLU(), nn.Linear(9, 5)],
        }
        net = nn.Sequential(*nets[kind]).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.2, 3)
                module.weight.data.uniform_(-2, 2)
                module.bias.data.normal_()
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=1.5 if kind == "relu6" else 0.3)
        return net


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


KINDS = ["plain", "in place", "overlapping", "ceil", "average", "batch norm", "relu6", "linear"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_deconvnet_of_the_paper(kind: str) -> None:
    net, x = random_net(kind), noise((1, 3, 17, 17))
    last = len(net) - 1
    shape = reference.forward(list(net), torch.from_numpy(x))[-1]["after"].shape
    positions = int(np.prod(shape[2:]))
    for layer in {last, last - 1}:
        found = deconv(net, x, str(layer), activations=min(2, positions))
        assert found["projection"].dims == ("sample", "channel", "colour", "y", "x")
        expected = [
            reference.deconv(net, torch.from_numpy(x), layer, [channel], 2) for channel in range(found.sizes["channel"])
        ]
        close(found["projection"][0], torch.cat(expected))
    together = deconv(net, x, str(last), channels=[0, 2, 4], group="together")
    close(together["projection"], reference.deconv(net, torch.from_numpy(x), last, [0, 2, 4], positions))


@pytest.mark.parametrize("kind", KINDS)
def test_in_float64_equals_the_deconvnet_of_the_paper_to_the_last_digit(kind: str) -> None:
    net, x = random_net(kind), noise((1, 3, 17, 17))
    last = len(net) - 1
    found = deconv(net, x, str(last), activations=0.5, precision="float64")
    assert found.attrs["precision"] == "float64"
    assert found["projection"].dtype == np.float32
    wide, values = copy.deepcopy(net).double(), torch.from_numpy(x).double()
    after = reference.forward(list(wide), values)[-1]["after"][0]
    after = after.reshape(len(after), -1)
    np.testing.assert_allclose(found["value"][0], after.max(1).values.detach(), rtol=1e-12)
    count = -(-after.shape[1] // 2)
    expected = [reference.deconv(wide, values, last, [channel], count) for channel in range(len(after))]
    close(found["projection"][0], torch.cat(expected), 2**-24 + 1e-12)
    assert next(net.parameters()).dtype == torch.float32


class NearTie(nn.Module):
    """Pools values that float32 can't tell apart."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x + 1.0, 2)


NEAR_TIE = NearTie().eval()


@pytest.mark.parametrize("form", ["module", "traced", "legacy onnx", "dynamo onnx", "exported"])
def test_float64_finds_the_largest_value_where_float32_rounds(form: str, export: Any) -> None:
    x = np.zeros((1, 3, 4, 4), np.float32)
    x[..., 1::2, 1::2] = 1e-9
    model = fmx.load(export(NEAR_TIE, (3, 4, 4), form), input_shape=(3, 4, 4))
    for precision, place in (("float32", 0), ("float64", 1)):
        found = deconv(model, x, model.layers[-1].name, channels=[1], precision=precision)
        expected = np.zeros((3, 4, 4))
        expected[1, place::2, place::2] = 1
        np.testing.assert_array_equal(found["projection"][0, 0], expected)


@pytest.mark.real
def test_equals_the_deconvnet_of_the_paper_on_trained_networks(real: Any) -> None:
    from torchvision.models import alexnet

    cases = [
        (cifar10_cnn(), "cifar10_cnn.pth", (3, 32, 32), 255.0, [3, 9, 17]),
        (alexnet().features, "alexnet_features.pth", (3, 95, 95), 1.0, [5, 12]),
    ]
    for net, file, shape, scale, layers in cases:
        net.load_state_dict(torch.load(real / "models" / file, weights_only=True))
        net.eval()
        x = np.abs(noise((1, *shape))) * np.float32(scale)
        for layer in layers:
            found = deconv(net, x, str(layer), maps=3, activations=2)
            for projection, channel in zip(found["projection"][0], found["channel"].values[0], strict=True):
                expected = reference.deconv(net, torch.from_numpy(x), layer, [int(channel)], 2)
                close(projection, expected[0])


def ruled_relu(x: Tensor, inplace: bool = False, limit: float | None = None) -> Tensor:
    """A ReLU whose gradient a hook rectifies, another way than that of fmx."""
    passed = x + (x.detach().clamp(0, limit) - x.detach())
    if passed.requires_grad:
        passed.register_hook(lambda grad: grad.clamp(min=0))
    return passed * 1


NETWORKS = {
    "vgg11": ("features.12", 64),
    "alexnet": ("features.9", 95),
    "squeezenet1_1": ("features.7", 64),
    "resnet18": ("layer3", 64),
    "mobilenet_v2": ("features.7", 64),
    "mobilenet_v3_small": ("features.6", 64),
    "densenet121": ("features.denseblock2", 64),
    "inception_v3": ("Mixed_5d", 96),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_follows_the_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    layer, size = NETWORKS[name]
    more = {"init_weights": True, "aux_logits": False} if name == "inception_v3" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=None, **more).eval()
    x = noise((1, 3, size, size))
    found = deconv(fmx.load(net, input_shape=x.shape[1:]), x, layer, maps=2, activations=3)

    taken: list[Tensor] = []
    net.get_submodule(layer).register_forward_hook(lambda _m, _i, output: taken.append(output))
    monkeypatch.setattr(F, "relu", ruled_relu)
    monkeypatch.setattr(F, "hardtanh", lambda x, low, high, inplace: ruled_relu(x, limit=high))
    given = torch.from_numpy(x).requires_grad_()
    net(given)
    value = taken[0]
    for rank in range(2):
        channel = int(found["channel"][0, rank])
        flat = value[0, channel].detach().flatten()
        signal = torch.zeros_like(value)
        for position in flat.argsort(descending=True)[:3]:
            signal[0, channel].view(-1)[position] = flat[position].clamp(min=0)
        (expected,) = torch.autograd.grad(value, given, signal, retain_graph=True)
        close(found["projection"][0, rank], expected[0])


class Mixed(nn.Module):
    """Residual and concatenated branches, a gate, pools of both kinds, smooth activations, one ReLU used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(4))
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.squeeze = nn.Linear(8, 8)
        self.last = nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.convs[0](x)))
        y = self.relu(self.convs[1](F.max_pool2d(x, 3, 2, 1)))
        y = F.silu(self.convs[2](y)) + y
        y = F.gelu(self.convs[3](y)) + F.leaky_relu(y - 0.2, 0.1)
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3))))[:, :, None, None]
        return F.relu6(self.last(torch.cat([y, F.avg_pool2d(x, 2)], 1)))


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Mixed().eval()


@pytest.fixture(scope="module")
def expected(mixed: Mixed) -> xr.Dataset:
    return deconv(mixed, noise((1, 3, 16, 16)), "last", activations=3)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same(form: str, mixed: Mixed, expected: xr.Dataset, export: Any) -> None:
    model = fmx.load(export(mixed, (3, 16, 16), form), input_shape=(3, 16, 16))
    found = deconv(model, noise((1, 3, 16, 16)), "last", activations=3)
    close(found["projection"], expected["projection"], 1e-3)
    close(found["value"], expected["value"], 1e-3)
    xr.testing.assert_equal(found["at_y"].drop_vars("sample"), expected["at_y"].drop_vars("sample"))


def test_smooth_activations_are_listed_up_to_the_layer(mixed: Mixed) -> None:
    layers = fmx.load(mixed, input_shape=(3, 16, 16)).layers
    assert {kind.replace("_", "").lower() for kind in smooth_kinds(layers)} == {"silu", "gelu", "leakyrelu"}
    assert smooth_kinds(layers, "convs.1") == []
    assert rectifies(layers, "relu")
    assert not rectifies(layers, "convs.0")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_make_no_difference(batch_size: int) -> None:
    net, x = random_net("overlapping"), noise((2, 3, 17, 17))
    found = deconv(net, x, "4", batch_size=batch_size)
    for sample in range(2):
        one = Deconvnet(open_pictures(net, x), batch_size=1)
        for channel in range(8):
            alone = one.project(sample, "4", channels=[channel])
            np.testing.assert_allclose(found["projection"][sample, channel], alone["projection"][0], rtol=0, atol=1e-5)


def test_maps_are_ranked_for_each_sample_by_any_metric() -> None:
    net, x = random_net("plain"), noise((2, 3, 17, 17))
    with torch.no_grad():
        value = net(torch.from_numpy(x)).numpy()
    scores = {
        "max": value.max((2, 3)),
        "mean": value.mean((2, 3)),
        "sum": value.sum((2, 3)),
        "variance": value.var((2, 3)),
    }
    for metric, score in scores.items():
        found = deconv(net, x, "4", maps=3, metric=metric)
        for sample in range(2):
            best = sorted(range(8), key=lambda c: -score[sample, c])[:3]
            assert found["channel"].values[sample].tolist() == best
            whole = deconv(net, x[sample : sample + 1], "4", channels=best)
            np.testing.assert_allclose(found["projection"][sample], whole["projection"][0], atol=1e-6)
            np.testing.assert_allclose(found["value"][sample], value[sample].max((1, 2))[best], rtol=1e-5)
    share = deconv(net, x, "4", maps=0.25, activations=0.1)
    assert share.sizes["rank"] == 2
    given = deconv(net, x, "4", maps=2, scores=np.arange(8.0), channels=[1, 5, 6])
    assert given["channel"].values.tolist() == [[6, 5], [6, 5]]


def test_maps_grow_from_one_to_all() -> None:
    net, x = random_net("plain"), noise((1, 3, 17, 17))
    found = deconv(net, x, "4", group="growing")
    assert found["step"].values.tolist() == list(range(1, 9))
    order = found["channel"].values[0].tolist()
    for count in (1, 3, 8):
        together = deconv(net, x, "4", channels=order[:count], group="together")
        close(found["projection"].sel(step=count), together["projection"])
    few = deconv(net, x, "4", group="growing", steps=3)
    assert few["step"].values.tolist() == [1, 3, 8]


def test_places_and_labels(tmp_path: Any) -> None:
    net = random_net("plain")
    x = noise((1, 3, 17, 17))
    found = deconv(net, x, "4")
    value = net(torch.from_numpy(x)).detach().numpy()[0]
    for channel in range(8):
        y, column = int(found["at_y"][0, channel]), int(found["at_x"][0, channel])
        assert value[channel, y, column] == value[channel].max() == pytest.approx(float(found["value"][0, channel]))
    assert found.attrs["method"] == "deconvnet"
    assert "Zeiler" in found.attrs["source"]
    assert found.attrs["layer"] == "4"
    assert found["sample"].values.tolist() == ["0"] or found.sizes["sample"] == 1


def test_pictures_are_prepared_as_by_an_extraction(tmp_path: Any) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    (tmp_path / "cats").mkdir()
    for i in range(2):
        Image.fromarray(pixels // (i + 1)).save(tmp_path / "cats" / f"{i}.png")
    model = fmx.load(random_net("plain"), input_shape=(3, 17, 17))
    found = deconv(model, tmp_path, "4", channels=[1])
    assert found["colour"].values.tolist() == ["red", "green", "blue"]
    assert found["label"].values.tolist() == ["cats", "cats"]
    store = fmx.extract(model, tmp_path, to=tmp_path / "a.zarr", layers="4", engine="eager")
    stored = store.activation("4").values[:, 0, 0, 1].max((1, 2))
    np.testing.assert_allclose(found["value"][:, 0], stored, rtol=1e-5)
    np.testing.assert_array_equal(found["picture"], store.pictures[:, 0])


def test_a_model_with_colours_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x.permute(0, 3, 1, 2)))

    net, x = Last().eval(), noise((1, 9, 9, 3))
    found = deconv(fmx.load(net, input_shape=(9, 9, 3), layout="NHWC"), x, "conv", activations=2)
    assert found["projection"].shape == (1, 4, 3, 9, 9)
    plain = nn.Sequential(net.conv)
    close(
        found["projection"][0, 1],
        reference.deconv(plain, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), 0, [1], 2)[0],
    )


def quantized(tmp_path: Any, form: str = "QOperator") -> Any:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Random(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": noise((1, 3, 17, 17), i)} for i in range(2)]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            random_net("plain"), (torch.rand(1, 3, 17, 17),), tmp_path / "n.onnx", dynamo=False, input_names=["x"]
        )
        quantize_static(tmp_path / "n.onnx", tmp_path / "q.onnx", Random(), quant_format=QuantFormat[form])
    return fmx.load(tmp_path / "q.onnx")


def test_a_model_without_gradients_says_which_operator_and_what_works(tmp_path: Any) -> None:
    model = quantized(tmp_path)
    with pytest.raises(ModelError, match=r"No gradient .* \(QuantizeLinear, int8\).*fmx occlude"):
        deconv(model, noise((1, 3, 17, 17)), model.layers[-1].name)


def test_weighing_maps_needs_gradients_too(tmp_path: Any) -> None:
    model = quantized(tmp_path, "QDQ")
    maps = [info.name for info in model.layers if "y" in info.dims]
    with pytest.raises(ModelError, match=rf"No gradient gets from {maps[-1]} back to {maps[2]}, because .*fmx occlude"):
        attribute(model, noise((1, 3, 17, 17)), method="grad-cam", layer=maps[-1], channels=[0], maps_of=maps[2])


def test_rounding_lets_nothing_through() -> None:
    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv((x * 10).int().float())

    with pytest.raises(ModelError, match="No gradient gets from conv back to the input"):
        deconv(fmx.load(Rounds().eval(), input_shape=(3, 9, 9)), noise((1, 3, 9, 9)), "conv")


def test_what_is_overwritten_has_no_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).eval()
    with pytest.raises(ModelError, match="from 3 back to the input, because an operation in place overwrites"):
        deconv(fmx.load(net, input_shape=(3, 9, 9)), noise((1, 3, 9, 9)), "3")


class Dead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.conv.bias.data[2] = -1000

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"channels": [8]}, "4 has no channel 8: there are 0 to 7"),
        ({"channels": [-1]}, "no channel -1"),
        ({"channels": []}, "No channels of 4"),
        ({"layer": "5"}, "No layer is called 5"),
        ({"maps": 0}, "At least one of the maps"),
        ({"maps": 1.5}, "share of maps lies above 0"),
        ({"activations": 0.0}, "share of activations"),
        ({"maps": 2, "metric": "median"}, "not ranked by median"),
        ({"maps": 2, "scores": np.ones(3)}, "8 channels, and scores for 3"),
        ({"group": "alone"}, "each, together or growing"),
        ({"group": "growing", "steps": 0}, "At least one step"),
        ({"batch_size": 0}, "at least one signal"),
        ({"precision": "float16"}, "can't be computed in float16: .*float64"),
        ({"data": noise((1, 3, 17))}, "shape|input"),
        ({"device": "cuda:99"}, "cuda:99 can't be used"),
    ],
)
def test_bad_input_gets_one_sentence(more: dict[str, Any], said: str) -> None:
    given = {"data": noise((1, 3, 17, 17)), "layer": "4"} | more
    with pytest.raises(FmxError, match=said) as error:
        deconv(fmx.load(random_net("plain"), input_shape=(3, 17, 17)), given.pop("data"), given.pop("layer"), **given)
    assert "\n" not in str(error.value)


def test_a_dead_channel_is_said_and_one_among_others_is_0() -> None:
    net = Dead().eval()
    x = noise((1, 3, 9, 9))
    with pytest.raises(FmxError, match=r"Channel 2 of relu has no activation above 0 for these pictures"):
        deconv(fmx.load(net, input_shape=(3, 9, 9)), x, "relu", channels=[2])
    found = deconv(fmx.load(net, input_shape=(3, 9, 9)), x, "relu", channels=[1, 2])
    assert (found["projection"].sel(channel=2) == 0).all()
    assert (found["projection"].sel(channel=1) != 0).any()


def test_a_layer_without_channels_and_clips_are_refused() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.relu(x + y)

    model = fmx.load(Many(), input_shape={"x": (3, 4, 4), "y": (3, 4, 4)})
    with pytest.raises(ModelError, match="several inputs"):
        open_pictures(model, noise((1, 3, 4, 4)))
    with pytest.raises(LayerError):
        Deconvnet(open_pictures(tiny_resnet(), noise((1, 3, 32, 32)))).project(0, "nothing")


def test_the_benchmark_runs_and_its_contenders_agree(capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util
    from pathlib import Path

    file = Path(__file__).parents[1] / "benchmarks" / "projection.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_projection", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.main("--size 32 --layer 7 --channels 5 --loop 2 --least 4 --rounds 1 --batch-size 2".split())
    printed = capsys.readouterr().out
    assert "all 5 channels" in printed
    assert float(printed.split("largest difference ")[1].split()[0]) < 1e-5
