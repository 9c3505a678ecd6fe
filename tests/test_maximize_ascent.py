"""Whole ascents: against a plain loop, in every format, in any batch, and where nothing can be gained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import FORMATS
from networks import cifar10_cnn, tiny_resnet
from torch import Tensor, nn

import fmx
from fmx.data import Preprocess
from fmx.errors import FmxError, LayerError, ModelError
from fmx.maximize import Transforms, channel, direction, diversity, logit, maximize, neuron
from fmx.maximize.draw import Draw
from fmx.maximize.images import Fourier, Pixels

SHAPE = (3, 32, 32)
RAW = Preprocess(crop=(32, 32), channels=3)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return tiny_resnet().eval()


@pytest.fixture(scope="module")
def model(net: nn.Module) -> Any:
    return fmx.load(net, input_shape=SHAPE)


def plain_loop(net: nn.Module, image: Any, key: str, steps: int, rate: float, measure: Callable[..., Tensor]) -> Tensor:
    """Optimise one picture with torch's own Adam and hooks, as a tutorial would."""
    numbers = image.begin([Draw(0, key)]).requires_grad_()
    optimiser = torch.optim.Adam([numbers], lr=rate, maximize=True)
    for _ in range(steps):
        optimiser.zero_grad()
        measure(net, image.picture(numbers)).backward()
        optimiser.step()
    return image.picture(numbers.detach())


def layer1_mean(net: Any, picture: Tensor) -> Tensor:
    taken = {}
    handle = net.layer1.register_forward_hook(lambda _m, _i, out: taken.update(value=out.clone()))
    net(picture)
    handle.remove()
    return taken["value"][0, 5].mean()


@pytest.mark.parametrize("method", ["pixels", "fourier"])
def test_the_ascent_is_that_of_a_plain_loop(method: str, net: nn.Module, model: Any) -> None:
    found = maximize(
        model, "layer1", [5], method=method, size=16, steps=6, transforms=False, preprocess=RAW, restarts=0
    )["layer1"]
    image = Pixels(3, 16, 16) if method == "pixels" else Fourier(3, 16, 16)
    expected = plain_loop(net, image, "layer1:5#0", 6, 0.05, layer1_mean)
    pixels = (expected * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(found["picture"].values - pixels).max() <= 1
    reached = layer1_mean(net, torch.tensor(found["picture"].values).permute(0, 3, 1, 2) / 255)
    assert found["activation"].item() == pytest.approx(reached.item(), rel=1e-4)
    assert found["activation"].item() > found["start"].item()
    assert found["curve"].values[0, 0] == pytest.approx(found["start"].item(), rel=0.05)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_pictures(form: str, net: nn.Module, model: Any, export: Any) -> None:
    settings: dict[str, Any] = {"steps": 8, "size": 32, "seed": 3, "preprocess": RAW}
    wanted = [2 * channel("layer1", 2), logit(1) - 0.5 * channel("stem.2", 0)]
    opened = fmx.load(export(net, SHAPE, form), input_shape=SHAPE)
    expected, found = (maximize(m, wanted, **settings)["objectives"] for m in (model, opened))
    np.testing.assert_allclose(found["curve"], expected["curve"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["activation"], expected["activation"], rtol=1e-3, atol=1e-3)
    assert np.abs(found["picture"].values.astype(int) - expected["picture"].values).max() <= 2


@pytest.mark.parametrize("method", ["fourier", "pixels", "maco", "multi-scale"])
def test_neither_the_batch_nor_its_company_matter(method: str, model: Any) -> None:
    settings: dict[str, Any] = {"method": method, "steps": 6, "preprocess": RAW, "size": 16}
    settings |= {"scales": 3} if method == "multi-scale" else {}
    whole = maximize(model, "layer1", [0, 1, 2, 3, 4], batch_size=5, **settings)["layer1"]
    single = maximize(model, "layer1", [4, 2], batch_size=1, **settings)["layer1"]
    assert single["channel"].values.tolist() == [4, 2]
    same = whole.sel(channel=[4, 2])
    np.testing.assert_allclose(single["curve"], same["curve"], rtol=1e-3, atol=1e-5)
    assert np.abs(single["picture"].values.astype(int) - same["picture"].values).max() <= 1
    again = maximize(model, "layer1", [4, 2], batch_size=1, **settings)["layer1"]
    assert again.identical(single)
    other = maximize(model, "layer1", [4, 2], batch_size=1, **settings | {"seed": 1})["layer1"]
    assert not np.array_equal(other["picture"], single["picture"])


def test_multi_scale_ends_at_its_last_size(model: Any) -> None:
    found = maximize(model, "layer1", [5], method="multi-scale", steps=2, scales=4, size=10, every=2, preprocess=RAW)
    picture, frames = found["layer1"]["picture"], found["layer1"]["frame"]
    assert picture.shape == (1, 17, 17, 3)  # 10, 12, 14, 17
    assert frames["frame_step"].values.tolist() == [2, 4, 6, 8]
    assert frames.shape == (1, 4, 17, 17, 3)
    assert np.array_equal(frames.values[:, -1], picture.values)
    assert found["layer1"].sizes["step"] == 8


def test_each_step_and_the_picture_after_some(model: Any) -> None:
    found = maximize(model, "layer1", [6, 5], steps=7, every=3, size=16)["layer1"]
    assert found["curve"].shape == (2, 7)
    assert found["frame_step"].values.tolist() == [3, 6, 7]
    assert np.array_equal(found["frame"].sel(frame_step=7), found["picture"])
    assert "frame" not in maximize(model, "layer1", [5], steps=2, size=16)["layer1"]


def test_objectives_of_all_sorts_rise(model: Any) -> None:
    objectives = [
        logit(2),
        neuron("layer1", 1),
        -channel("layer1", 0),
        direction("layer1", np.arange(8) - 3.5),
        "layer1:1 + 0.5*stem.0:2 - logit:0",
    ]
    found = maximize(model, objectives, steps=40, size=32, transforms=False)["objectives"]
    assert found["target"].values.tolist() == [
        "logit:2",
        "layer1:1@",
        "-layer1:0",
        "direction(layer1)",
        "layer1:1 + 0.5*stem.0:2 - logit:0",
    ]
    assert (found["activation"] > found["start"]).all()
    assert (found["status"] == "ok").all()


def test_diverse_pictures_differ_more(model: Any) -> None:
    settings: dict[str, Any] = {"pictures": 3, "steps": 60, "size": 16, "transforms": False}
    plain = maximize(model, [channel("layer1", 2)], **settings)["layer1"]
    diverse = maximize(model, [channel("layer1", 2) + 5 * diversity("layer1")], **settings)["objectives"]
    assert plain["variant"].values.tolist() == diverse["variant"].values.tolist() == [0, 1, 2]

    def alike(results: Any) -> float:
        pictures = torch.tensor(results["picture"].values).permute(0, 3, 1, 2) / 255
        maps = model.torch_module().capture(pictures, ["layer1"])["layer1"]
        return -float(diversity("layer1")({"layer1": maps.detach()}).mean())

    assert alike(diverse) < alike(plain)


def test_penalties_make_pictures_smoother(model: Any) -> None:
    def roughness(**settings: Any) -> float:
        found = maximize(model, "layer1", [5], steps=30, size=16, method="pixels", rate=0.2, **settings)["layer1"]
        return float(np.abs(np.diff(found["picture"].values.astype(int), axis=1)).mean())

    plain = roughness()
    assert roughness(tv=100.0) < plain
    assert roughness(blur=100.0) < plain
    assert roughness(l2=100.0) < plain


class Shy(nn.Module):
    """Channels: 0 answers to red above 0.75 only, 1 never, 2 always, 3 above 0.55 with no ReLU to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, 0] = torch.tensor([10.0, 10.0, 1.0, 10.0])[:, None, None]
            self.conv.bias.copy_(torch.tensor([-7.5, -1e4, 0.0, -5.5]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([self.relu(y[:, :3]), y[:, 3:] * (y[:, 3:] > 0)], 1)


def test_what_stays_at_0_is_pushed_or_begun_anew_and_what_never_moves_is_said_to() -> None:
    model = fmx.load(Shy().eval(), input_shape=(3, 16, 16))
    settings: dict[str, Any] = {"steps": 60, "rate": 0.2, "preprocess": RAW}
    found = maximize(model, "cat", [0, 1, 2, 3], **settings)["cat"]
    # What leaky ReLUs push needs no other noise; what hides its ReLU does.
    assert found["status"].values.tolist() == ["ok", "flat", "ok", "ok"]
    assert found["restarts"].values[:3].tolist() == [0, 3, 0]
    assert 1 <= found["restarts"].values[3] <= 3
    assert (found["activation"].values > 0).tolist() == [True, False, True, True]
    assert found["curve"].values[0, 0] == 0
    assert np.isfinite(found["curve"].values[[0, 2, 3]]).all()
    assert np.isnan(found["curve"].values[1, -1])
    alone = maximize(model, "cat", [3], **settings)["cat"]
    assert alone["restarts"].values[0] == found["restarts"].values[3]
    np.testing.assert_allclose(alone["activation"].values, found["activation"].values[3:], rtol=1e-3)
    none = maximize(model, "cat", [3], **settings, restarts=0)["cat"]
    assert none["status"].values.tolist() == ["flat"]


class Edge(nn.Module):
    """Rises with red, and is NaN from 0.6 on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-torch.sqrt(0.6 - x[:, :1]), x[:, 1:]], 1)


def test_what_becomes_nan_stops_where_it_was_and_stops_no_other() -> None:
    model = fmx.load(Edge().eval(), input_shape=(3, 8, 8))
    found = maximize(model, "cat", [0, 1], method="pixels", steps=60, rate=0.2, preprocess=RAW)["cat"]
    assert found["status"].values.tolist() == ["not finite", "ok"]
    assert np.isfinite(found["activation"].values).all()
    assert found["activation"].values[0] > found["start"].values[0]
    assert np.isnan(found["curve"].values[0, -1])
    assert found["activation"].values[1] > 0.9


@pytest.mark.parametrize(("bands", "layout"), [(1, "NCHW"), (2, "NCHW"), (6, "NCHW"), (3, "NHWC"), (1, "NHWC")])
def test_any_number_of_channels_and_both_layouts(bands: int, layout: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(bands, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2) if layout == "NHWC" else x)

    shape = (bands, 16, 20) if layout == "NCHW" else (16, 20, bands)
    model = fmx.load(Net().eval(), input_shape=shape, layout=layout)
    found = maximize(model, "conv", [1], steps=10, transforms=False)["conv"]
    assert found["picture"].shape == (1, 16, 20, bands)
    assert found["activation"].item() > found["start"].item()


def test_pixels_are_scaled_as_the_model_wants_them() -> None:
    model = fmx.load(Shy().eval(), input_shape=(3, 16, 16))
    settings = Preprocess(crop=(16, 16), range=(0.0, 255.0), mean=(10.0, 20.0, 30.0), std=(2.0, 3.0, 4.0))
    found = maximize(model, "conv", [2], steps=5, preprocess=settings)["conv"]
    red = found["picture"].values[..., 0].mean()
    assert found["activation"].item() == pytest.approx((red - 10) / 2, rel=1e-4)


@pytest.mark.parametrize("form", ["module", "traced", "dynamo onnx one"])
def test_networks_of_one_size_get_pictures_resized_to_it(form: str, export: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = cifar10_cnn().eval()
    model = fmx.load(export(net, SHAPE, form), input_shape=SHAPE)
    found = maximize(model, [logit(1), 2 * channel("12", 3)], size=48, steps=4)["objectives"]
    assert found["picture"].shape == (2, 48, 48, 3)
    assert np.isfinite(found["activation"].values).all()


class Viewed(nn.Module):
    """Sees its maps as one row, as tutorials do: that takes the usual order of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 14 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x.view(-1, 4 * 14 * 14))


@pytest.mark.parametrize("form", ["module", "traced", "exported", "dynamo onnx"])
def test_maps_that_are_seen_as_one_row(form: str, export: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Viewed().eval()
    model = fmx.load(export(net, (3, 16, 16), form), input_shape=(3, 16, 16))
    settings: dict[str, Any] = {"steps": 4, "preprocess": Preprocess(crop=(16, 16), channels=3), "transforms": False}
    found = maximize(model, [logit(1)], **settings)["objectives"]
    assert found["picture"].shape == (1, 16, 16, 3)
    reached = net(torch.tensor(found["picture"].values).permute(0, 3, 1, 2).contiguous() / 255)[0, 1]
    assert found["activation"].item() == pytest.approx(reached.item(), rel=1e-4, abs=1e-5)
    assert found["activation"].item() > found["start"].item()


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second((self.first(x) > 0).float())


def test_where_no_gradient_gets_through_is_named() -> None:
    model = fmx.load(Steps().eval(), input_shape=(3, 16, 16))
    with pytest.raises(ModelError, match=r"second .* can't be maximized: no gradient gets through \w+.*layers before"):
        maximize(model, "second", [0], steps=2)
    assert maximize(model, "first", [0], steps=2)["first"]["status"].values.tolist() == ["ok"]


def test_a_quantized_model_is_refused_by_the_name_of_its_operator() -> None:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 4, 8, 8])
    weights = {
        "w": np.ones((4, 3, 1, 1), np.uint8),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(0, np.uint8),
    }
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["small"]),
        onnx.helper.make_node(
            "QLinearConv", ["small", "scale", "zero", "w", "scale", "zero", "scale", "zero"], ["conv"], name="conv"
        ),
        onnx.helper.make_node("DequantizeLinear", ["conv", "scale", "zero"], ["scores"], name="back"),
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "net", [image], [scores], tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    model = fmx.load(proto)
    said = r"gets through small \(QuantizeLinear\); what needs no gradients still works, such as fmx top-samples"
    with pytest.raises(ModelError, match=said):
        maximize(model, model.layers[-1].name, [0], steps=1)


def test_what_cannot_be_asked_for(model: Any) -> None:
    with pytest.raises(LayerError, match=r"Layer layer1 has no channel 8: it has 8, 0 to 7\."):
        maximize(model, "layer1", [2, 8])
    with pytest.raises(LayerError, match="No layer is called layer9: did you mean layer1"):
        maximize(model, "layer9", [2])
    with pytest.raises(LayerError, match=r"The output has no channel 5: it has 5, 0 to 4\."):
        maximize(model, [logit(5)], steps=1)
    with pytest.raises(FmxError, match="Channels belong to a layer"):
        maximize(model, [logit(1)], [2])
    with pytest.raises(FmxError, match="--pictures takes a number of at least 1"):
        maximize(model, "layer1", [2], pictures=0)
    with pytest.raises(FmxError, match="not 'some'"):
        maximize(model, "layer1", "some")
    with pytest.raises(ModelError, match="There is no device"):
        maximize(model, "layer1", [2], device="cuda:77", steps=1)
    words = fmx.load(nn.Linear(8, 4), input_shape=(8,))
    with pytest.raises(ModelError, match="only models that take single pictures"):
        maximize(words, [logit(1)])


class Widths(nn.Module):
    """Channels: how wide the picture is, which nothing moves; and how red."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1] * 0 + x.shape[3], x[:, 1:]], 1)


def test_the_network_sees_pictures_at_the_sizes_asked_for_by_turns() -> None:
    model = fmx.load(Widths().eval(), input_shape=(3, 64, 64))
    settings: dict[str, Any] = {"size": 32, "preprocess": Preprocess(crop=(64, 64), channels=3)}
    settings |= {"rate": 0.2, "restarts": 1}
    found = maximize(model, "cat", [0, 1], transforms=Transforms(views=(32, 48, 20)), steps=40, **settings)["cat"]
    assert found["curve"].values[0, :7].tolist() == [32, 48, 20, 32, 48, 20, 32]
    # It differs from step to step and never moves all the same.
    assert found["status"].values.tolist() == ["flat", "ok"]
    assert found["restarts"].values.tolist() == [1, 0]
    assert found["activation"].values[0] == 32
    assert json.loads(found.attrs["settings"])["transforms"]["views"] == [32, 48, 20]

    def seen(wanted: Any = "cat", channels: Any = (0,), **more: Any) -> list[int]:
        made = maximize(model, wanted, channels, steps=2, **settings | more)
        return json.loads(next(iter(made.values())).attrs["settings"])["transforms"]["views"]

    assert seen(size=40) == [40, 64]
    assert seen(size=64) == seen(transforms=False, size=40) == []
    # Positions that are given by their numbers would be other places at another size; the middle stays the middle.
    assert seen([neuron("cat", 1, 3, 4)], None, size=40) == []
    assert seen([neuron("cat", 1)], None, size=40) == [40, 64]
    assert seen(size=40, method="multi-scale", scales=1) == []
    with pytest.raises(FmxError, match="--views takes up to 8 sides of at least 4 pixels"):
        seen(transforms=Transforms(views=(3,)))


def test_networks_of_one_size_see_pictures_at_that() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    model = fmx.load(net.eval(), input_shape=(3, 64, 64))
    found = maximize(model, [logit(1)], steps=2, size=40)["objectives"]
    assert json.loads(found.attrs["settings"])["transforms"]["views"] == []


def test_transforms_of_ones_own(model: Any) -> None:
    calm = maximize(model, "layer1", [5], steps=3, size=32, transforms=Transforms(jitter=2, rotate=0))["layer1"]
    usual = maximize(model, "layer1", [5], steps=3, size=32)["layer1"]
    assert not np.array_equal(calm["curve"], usual["curve"])
