"""The importer on whole networks, on older operator sets, and on what ONNX has no cases for."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fmx.errors import ModelError
from fmx_adapters.onnx.importer import to_torch

MODELS = torchvision.models


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.LeakyReLU(0.2))
        self.head = nn.Conv2d(8, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = self.head(self.stem(x))
        large = nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return large + nn.functional.interpolate(self.up(small), scale_factor=2.0, mode="nearest")


class Sequences(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x)[0][:, -1])


def small_swin() -> nn.Module:
    return MODELS.SwinTransformer([2, 2], 16, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (MODELS.resnet18, (3, 32, 32)),
    "mobilenet_v3_small": (MODELS.mobilenet_v3_small, (3, 32, 32)),
    "squeezenet1_1": (MODELS.squeezenet1_1, (3, 48, 48)),
    "vit": (lambda: MODELS.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5), (3, 32, 32)),
    "swin": (small_swin, (3, 32, 32)),
    "segmenter": (Segmenter, (3, 32, 32)),
    "lstm": (lambda: Sequences(nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), 10), (7, 6)),
    "gru": (lambda: Sequences(nn.GRU(6, 5, batch_first=True), 5), (7, 6)),
}
EXPORTERS = ("legacy", "dynamo")
EXPORTED: dict[tuple[str, str], tuple[nn.Module, onnx.ModelProto]] = {}


def export(net: nn.Module, shape: tuple[int, ...], exporter: str) -> onnx.ModelProto:
    batch = torch.rand(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            free = ({0: torch.export.Dim("n")},)
            return torch.onnx.export(net, (batch,), dynamo=True, dynamic_shapes=free, verbose=False).model_proto
        file = io.BytesIO()
        torch.onnx.export(net, (batch,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
        return onnx.load_from_string(file.getvalue())


def exported(name: str, exporter: str) -> tuple[nn.Module, onnx.ModelProto]:
    if (name, exporter) not in EXPORTED:
        make, shape = NETWORKS[name]
        torch.manual_seed(0)
        net = make().eval()
        with torch.no_grad():
            for parameter in net.parameters():  # some heads begin as zeros
                if not parameter.any():
                    parameter.normal_(std=0.1)
        EXPORTED[name, exporter] = net, export(net, shape, exporter)
    return EXPORTED[name, exporter]


def run_ort(model: onnx.ModelProto, *inputs: Any, outputs: list[str] | None = None) -> list[Any]:
    if outputs is not None:
        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        del extended.graph.output[:]
        extended.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
        model = extended
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))


def assert_near(got: torch.Tensor, expected: Any, relative: float = 1e-4) -> None:
    wanted = torch.as_tensor(expected)
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    largest = wanted.double().abs().max().item() if wanted.numel() else 0.0
    assert (got.detach().double() - wanted.double()).abs().max().item() <= relative * largest if largest else True


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[Any, ...]],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


# -- whole networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_values_are_those_of_onnx_runtime(self, name: str, exporter: str, batch: int) -> None:
        _, model = exported(name, exporter)
        x = torch.rand(batch, *NETWORKS[name][1])
        assert_near(to_torch(model)(x), run_ort(model, x)[0])

    def test_gradients_are_those_of_the_original(self, name: str, exporter: str) -> None:
        net, model = exported(name, exporter)
        x = torch.rand(3, *NETWORKS[name][1], requires_grad=True)
        expected = net(x)
        direction = torch.rand_like(expected)
        (wanted,) = torch.autograd.grad(expected, x, direction)
        (got,) = torch.autograd.grad(to_torch(model)(x), x, direction)
        assert wanted.any()
        assert_near(got, wanted)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_inner_values_are_those_of_onnx_runtime(exporter: str) -> None:
    _, model = exported("resnet18", exporter)
    names = [node.output[0] for node in model.graph.node if node.op_type in {"Relu", "Add", "MaxPool"}]
    x = torch.rand(2, 3, 32, 32)
    got = to_torch(model, outputs=names)(x)
    assert isinstance(got, tuple)
    for value, expected in zip(got, run_ort(model, x, outputs=names), strict=True):
        assert_near(value, expected)
    assert_near(to_torch(model, outputs=names[3:4])(x), got[3].detach())


def kinds(module: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for child in module.modules():
        found[type(child).__name__] = found.get(type(child).__name__, 0) + 1
    return found


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_layers_are_modules(exporter: str) -> None:
    found = kinds(to_torch(exported("resnet18", exporter)[1]))
    assert {kind: found[kind] for kind in ("Conv2d", "ReLU", "MaxPool2d", "Linear")} == {
        "Conv2d": 20,
        "ReLU": 17,
        "MaxPool2d": 1,
        "Linear": 1,
    }
    assert kinds(to_torch(exported("vit", exporter)[1]))["LayerNorm"] == 5
    assert kinds(to_torch(exported("segmenter", exporter)[1]))["LeakyReLU"] == 1
    assert kinds(to_torch(exported("segmenter", exporter)[1]))["ConvTranspose2d"] == 1
    assert "Hardswish" in kinds(to_torch(exported("mobilenet_v3_small", exporter)[1]))


def test_batch_norms_are_modules_where_the_exporter_left_them() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6())
    net(torch.rand(8, 3, 6, 6))
    net.eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.rand(2, 3, 6, 6),), file, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )  # fmt: skip
    module = to_torch(onnx.load_from_string(file.getvalue()))
    assert {"Conv2d", "BatchNorm2d", "ReLU6"} <= set(kinds(module))
    assert not any(child.training for child in module.modules())
    x = torch.rand(2, 3, 6, 6)
    assert_near(module(x), net(x).detach())
    assert {"0.weight", "0.bias", "1.weight", "1.bias"} == {name for name, _ in module.named_parameters()}
    assert "1.running_mean" in dict(module.named_buffers())


def test_every_value_is_found_by_its_name() -> None:
    _, model = exported("resnet18", "legacy")
    module = to_torch(model)
    by_name = {node.name: node for node in module.graph.nodes}
    for node in model.graph.node:
        made = by_name[module.onnx_values[node.output[0]]]
        assert (made.meta["onnx_value"], made.meta["onnx_node"]) == (node.output[0], node.name)
    assert next(iter(module.graph.nodes)).name == "x"
    copied = copy.deepcopy(module)
    assert copied.onnx_values == module.onnx_values
    assert [n.meta.get("onnx_value") for n in copied.graph.nodes] == [
        n.meta.get("onnx_value") for n in module.graph.nodes
    ]


@pytest.mark.parametrize("name", ["resnet18", "swin", "lstm"])
def test_modules_can_be_pickled(name: str) -> None:
    module = to_torch(exported(name, "legacy")[1])
    x = torch.rand(2, *NETWORKS[name][1])
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))


def test_weights_can_be_trained() -> None:
    module = to_torch(exported("squeezenet1_1", "dynamo")[1])
    names = [name for name, _ in module.named_parameters()]
    assert "features.0.weight" in names
    module(torch.rand(1, 3, 48, 48)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_model_is_left_as_it_was() -> None:
    _, model = exported("segmenter", "legacy")
    before = model.SerializeToString(deterministic=True)
    module = to_torch(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert model.SerializeToString(deterministic=True) == before


def test_shared_weights_stay_shared() -> None:
    weight = np.random.default_rng(0).random((4, 4, 3, 3), dtype=np.float32)
    attributes = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["y"], "first", **attributes),
        helper.make_node("Conv", ["y", "a.weight"], ["z"], "second", **attributes),
    ]
    module = to_torch(model_of(nodes, {"x": ("n", 4, 5, 5)}, ["z"], {"a.weight": weight}))
    assert len(list(module.parameters())) == 1
    assert kinds(module)["Conv2d"] == 2


def test_a_detector_finds_the_boxes_that_onnx_runtime_finds() -> None:
    torch.manual_seed(0)
    net = MODELS.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=128, box_score_thresh=0.01,
        rpn_pre_nms_top_n_test=100, rpn_post_nms_top_n_test=40,
    ).eval()  # fmt: skip
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, ([torch.rand(3, 100, 120)],), file, dynamo=False, opset_version=16)
    model = onnx.load_from_string(file.getvalue())
    picture = torch.rand(3, 100, 120)
    expected = run_ort(model, picture)
    assert len(expected[0])
    for got, wanted in zip(to_torch(model)(picture), expected, strict=True):
        assert_near(got, wanted)


@pytest.mark.real
def test_pretrained_models_give_the_values_of_onnx_runtime(real: Path) -> None:
    files = sorted((real / "models").glob("*.onnx"))
    assert files
    for file in files:
        model = onnx.load(file)
        shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        module = to_torch(model)
        with torch.no_grad():
            assert_near(module(x), run_ort(model, x)[0])


# -- older operator sets, compared with ONNX Runtime -----------------------------------------------

GEN = np.random.default_rng(0)
X = GEN.standard_normal((2, 3, 6, 7)).astype(np.float32)
I64 = np.int64


def ints(*values: int) -> Any:
    return np.array(values, I64)


# Operator, operator set, attributes, constant inputs (None where one is left out), input.
OLDER: list[tuple[str, int, dict[str, Any], list[Any], Any]] = [
    ("Clip", 9, {"min": -0.5, "max": 0.5}, [], X),
    ("Clip", 9, {"max": 0.5}, [], X),
    ("Clip", 9, {"min": 0.0, "max": 6.0}, [], X * 5),
    ("Clip", 11, {}, [np.float32(-0.2), None], X),
    ("Clip", 12, {}, [None, np.float32(0.1)], X),
    ("Squeeze", 9, {"axes": [1]}, [], X[:, :1]),
    ("Squeeze", 11, {}, [], X[:, :1]),
    ("Squeeze", 13, {}, [ints(-3)], X[:, :1]),
    ("Unsqueeze", 9, {"axes": [0, 3]}, [], X),
    ("Unsqueeze", 11, {"axes": [-1, 1]}, [], X),
    ("ReduceSum", 9, {"axes": [1, 2], "keepdims": 0}, [], X),
    ("ReduceSum", 11, {"axes": [-1]}, [], X),
    ("ReduceSum", 13, {"keepdims": 0}, [ints(0, -1)], X),
    ("ReduceMean", 11, {"axes": [2, 3]}, [], X),
    ("ReduceMean", 17, {"axes": [-1], "keepdims": 0}, [], X),
    ("ReduceMean", 18, {}, [ints(2, 3)], X),
    ("ReduceL2", 13, {}, [], X),
    ("ReduceMax", 11, {"axes": [1]}, [], X),
    ("ReduceLogSumExp", 13, {"axes": [1]}, [], X),
    ("Pad", 9, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, [], X),
    ("Pad", 9, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, [], X),
    ("Pad", 11, {"mode": "edge"}, [ints(0, 1, 1, 2, 0, 0, 3, 0)], X),
    ("Pad", 11, {}, [ints(0, 0, -1, 2, 0, 0, 3, -2), np.float32(2.0)], X),
    ("Pad", 18, {}, [ints(1, 2), np.float32(0.0), ints(-1)], X),
    ("Pad", 19, {"mode": "wrap"}, [ints(0, 0, 1, 2, 0, 0, 3, 0)], X),
    ("Slice", 9, {"starts": [1, -3], "ends": [2, 100], "axes": [1, 3]}, [], X),
    ("Slice", 9, {"starts": [0, 1], "ends": [1, 3]}, [], X),
    ("Slice", 10, {}, [ints(-1, 5), ints(-100, 0), ints(3, 2), ints(-2, -1)], X),
    ("Slice", 13, {}, [ints(1), ints(2**62), ints(-1), ints(3)], X),
    ("Softmax", 9, {"axis": 1}, [], X),
    ("Softmax", 11, {"axis": 3}, [], X),
    ("Softmax", 11, {"axis": -2}, [], X),
    ("Softmax", 11, {}, [], X),
    ("Softmax", 13, {"axis": 1}, [], X),
    ("LogSoftmax", 11, {"axis": 2}, [], X),
    ("Hardmax", 11, {"axis": 2}, [], X),
    ("Dropout", 9, {"ratio": 0.3}, [], X),
    ("Dropout", 10, {}, [], X),
    ("Dropout", 12, {}, [np.float32(0.3), np.bool_(False)], X),
    ("BatchNormalization", 9, {"epsilon": 1e-3}, [*GEN.random((4, 3), dtype=np.float32)], X),
    ("BatchNormalization", 14, {}, [*GEN.random((4, 3), dtype=np.float32)], X),
    ("GroupNormalization", 18, {"num_groups": 3}, [*GEN.random((2, 3), dtype=np.float32)], X),
    ("GroupNormalization", 21, {"num_groups": 1}, [*GEN.random((2, 3), dtype=np.float32)], X),
    ("InstanceNormalization", 9, {}, [*GEN.random((2, 3), dtype=np.float32)], X),
    ("LRN", 9, {"size": 3, "alpha": 0.1}, [], X),
    ("Split", 9, {"axis": 3, "split": [3, 4]}, [], X),
    ("Split", 11, {"axis": 2}, [], X),
    ("Split", 13, {"axis": 3}, [ints(5, 2)], X),
    ("Split", 18, {"axis": 3, "num_outputs": 2}, [], X),
    ("TopK", 9, {"k": 2, "axis": 3}, [], X),
    ("TopK", 10, {"axis": 1}, [ints(2)], X),
    ("TopK", 11, {"largest": 0}, [ints(3)], X),
    ("Upsample", 9, {"mode": "nearest"}, [np.float32([1, 1, 2, 3])], X),
    ("Upsample", 9, {"mode": "linear"}, [np.float32([1, 1, 2, 2])], X),
    ("Resize", 10, {"mode": "nearest"}, [np.float32([1, 1, 1.7, 2])], X),
    ("Resize", 10, {"mode": "nearest"}, [np.float32([1, 1, 0.6, 0.5])], X),
    ("Resize", 10, {"mode": "linear"}, [np.float32([1, 1, 1.5, 2])], X),
    ("Resize", 11, {"mode": "linear"}, [np.float32([]), np.float32([1, 1, 2, 1.5])], X),
    (
        "Resize",
        11,
        {"mode": "cubic", "coordinate_transformation_mode": "asymmetric", "cubic_coeff_a": -0.5},
        [np.float32([]), np.float32([1, 1, 2, 1.5])],
        X,
    ),
    (
        "Resize",
        11,
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        [np.float32([]), np.float32([]), ints(2, 3, 11, 9)],
        X,
    ),
    (
        "Resize",
        13,
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        [None, np.float32([1, 1, 1.3, 1.7])],
        X,
    ),
    (
        "Resize",
        11,
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        [np.float32([]), np.float32([1, 1, 1.5, 2])],
        X,
    ),
    ("Resize", 13, {"mode": "cubic"}, [None, np.float32([1, 1, 2, 2])], X),
    ("Resize", 18, {"mode": "linear", "axes": [2, 3]}, [None, None, ints(9, 4)], X),
    ("Flatten", 9, {"axis": 0}, [], X),
    ("Flatten", 11, {"axis": -2}, [], X),
    ("Concat", 11, {"axis": -1}, [X], X),
    ("Gather", 9, {"axis": 2}, [np.array([[0, 5], [2, 2]], I64)], X),
    ("Gather", 11, {"axis": -1}, [I64(-1)], X),
    ("Scatter", 9, {"axis": 1}, [np.zeros((2, 1, 6, 7), I64), np.ones((2, 1, 6, 7), np.float32)], X),
    ("ScatterElements", 11, {"axis": 1}, [np.zeros((2, 1, 6, 7), I64) - 1, np.ones((2, 1, 6, 7), np.float32)], X),
    ("Gemm", 9, {"transB": 1}, [*(np.float32(GEN.random(s)) for s in ((4, 7), (4,)))], X[0, 0]),
    ("Gemm", 11, {"alpha": 0.5}, [np.float32(GEN.random((7, 4)))], X[0, 0]),
    ("MatMul", 9, {}, [np.float32(GEN.random((7, 4)))], X),
    ("PRelu", 9, {}, [np.float32(GEN.random((3, 1, 1)))], X),
    ("PRelu", 9, {}, [np.float32(GEN.random((7,)))], X),
    ("PRelu", 9, {}, [np.float32([0.2])], X),
    ("Selu", 9, {"alpha": 1.5, "gamma": 1.1}, [], X),
    ("HardSigmoid", 9, {"alpha": 1 / 6}, [], X),
    ("MaxPool", 9, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [], X),
    ("MaxPool", 9, {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, [], X),
    ("MaxPool", 10, {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2], "pads": [0, 1, 1, 0]}, [], X),
    ("MaxPool", 11, {"kernel_shape": [2, 2], "dilations": [2, 3]}, [], X),
    ("AveragePool", 9, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [], X),
    ("AveragePool", 10, {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1], "count_include_pad": 1}, [], X),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}, [], X),
    ("LpPool", 11, {"kernel_shape": [2, 2], "p": 3}, [], X),
    ("GlobalLpPool", 9, {"p": 3}, [], X),
    ("GlobalAveragePool", 9, {}, [], X),
    ("Conv", 9, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [np.float32(GEN.random((4, 3, 3, 2)))], X),
    ("Conv", 11, {"group": 3, "dilations": [1, 2]}, [np.float32(GEN.random((6, 1, 2, 2)))], X),
    ("Conv", 11, {"pads": [0, 1, 2, 1]}, [*(np.float32(GEN.random(s)) for s in ((4, 3, 3, 3), (4,)))], X),
    (
        "ConvTranspose",
        9,
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        [*(np.float32(GEN.random(s)) for s in ((3, 4, 3, 3), (4,)))],
        X,
    ),
    ("ConvTranspose", 11, {"strides": [2, 3], "pads": [1, 0, 0, 2]}, [np.float32(GEN.random((3, 4, 3, 3)))], X),
    ("ConvTranspose", 11, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, [np.float32(GEN.random((3, 4, 3, 3)))], X),
    ("MaxRoiPool", 9, {"pooled_shape": [2, 2]}, [np.float32([[0, 0, 0, 3, 4], [1, 1, 2, 6, 5]])], X),
    (
        "RoiAlign",
        10,
        {"output_height": 2, "output_width": 3, "sampling_ratio": 2},
        [np.float32([[0, 0, 3, 4], [1, 2, 6, 5]]), ints(0, 1)],
        X,
    ),
    ("RoiAlign", 16, {"output_height": 2, "output_width": 3}, [np.float32([[0, 0, 3, 4]]), ints(1)], X),
    ("GridSample", 16, {"mode": "bilinear"}, [np.float32(GEN.uniform(-1.2, 1.2, (2, 4, 5, 2)))], X),
    ("LpNormalization", 9, {"axis": 1, "p": 1}, [], X),
    ("MeanVarianceNormalization", 9, {}, [], X),
    ("DepthToSpace", 9, {"blocksize": 2}, [], GEN.random((1, 8, 2, 3), dtype=np.float32)),
    ("DepthToSpace", 11, {"blocksize": 2, "mode": "CRD"}, [], GEN.random((1, 8, 2, 3), dtype=np.float32)),
    ("OneHot", 9, {"axis": 1}, [I64(4), np.float32([2, 3])], np.array([[0, 3], [-1, 1]], I64)),
    ("Tile", 9, {}, [ints(1, 2, 1, 2)], X),
    ("Expand", 9, {}, [ints(4, 1, 1, 6, 1)], X[:1, :1]),
    ("Trilu", 14, {"upper": 0}, [I64(1)], X),
    ("CumSum", 11, {"exclusive": 1, "reverse": 1}, [np.int32(2)], X),
    ("QuantizeLinear", 10, {}, [np.float32(0.02), np.uint8(128)], X),
    ("QuantizeLinear", 13, {"axis": 1}, [np.float32([0.02, 0.03, 0.01]), np.int8([1, -2, 0])], X),
    ("Mod", 10, {"fmod": 1}, [np.float32([[0.3]])], X),
    ("Einsum", 12, {"equation": "nchw, wk -> nhck"}, [np.float32(GEN.random((7, 4)))], X),
    ("Reshape", 9, {}, [ints(0, -1, 7)], X),
    ("Pow", 12, {}, [I64(2)], X),
]


VARIANTS = [(row, True) for row in OLDER] + [(row, False) for row in OLDER if row[3]]


@pytest.mark.parametrize(
    ("row", "known"),
    VARIANTS,
    ids=[f"{row[0]}-{row[1]}-{'constants' if known else 'inputs'}" for row, known in VARIANTS],
)
def test_operators_of_older_sets_are_those_of_onnx_runtime(row: tuple[Any, ...], known: bool) -> None:
    op, opset, attributes, constants, x = row
    names = ["x", *("" if c is None else f"c{i}" for i, c in enumerate(constants))]
    outputs = ["y", "z"] if op in {"Split", "TopK"} else ["y"]
    fixed = {name: c for name, c in zip(names[1:], constants, strict=True) if name}
    model = model_of([helper.make_node(op, names, outputs, "node", **attributes)], {}, outputs, fixed, opset)
    free = {"x": x} if known else {"x": x, **fixed}
    for name, value in free.items():
        elem = helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
        shape = [None] * np.ndim(value) if name == "x" else np.shape(value)
        model.graph.input.append(helper.make_tensor_value_info(name, elem, shape))
    if not known:
        del model.graph.initializer[:]
    expected = run_ort(model, *free.values())
    made = to_torch(model)(*(torch.from_numpy(np.asarray(v).copy()) for v in free.values()))
    for got, wanted in zip(made if isinstance(made, tuple) else [made], expected, strict=True):
        assert_near(got, wanted, 1e-5)


SMOOTH = [row for row in OLDER if row[4].dtype == np.float32 and row[0] not in {"Hardmax", "QuantizeLinear"}]


@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: f"{row[0]}-{row[1]}")
def test_gradients_are_those_of_differences(row: tuple[Any, ...]) -> None:
    op, opset, attributes, constants, x = row
    names = ["x", *("" if c is None else f"c{i}" for i, c in enumerate(constants))]
    outputs = ["y", "z"] if op in {"Split"} else ["y"]
    keep = op in {"Resize", "Upsample"}  # scales are of one type whatever the input's
    fixed = {
        name: np.asarray(c, np.float64 if np.asarray(c).dtype == np.float32 and not keep else None)
        for name, c in zip(names[1:], constants, strict=True)
        if name
    }
    node = helper.make_node(op, names, outputs, "node", **attributes)
    module = to_torch(model_of([node], {"x": x.shape}, outputs, fixed, opset, TensorProto.DOUBLE), outputs=["y"])
    point = torch.from_numpy(x).double().requires_grad_()
    made = module(point)
    weights = torch.randn(made.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((made * weights).sum(), point)
    step = 1e-6 * direction
    with torch.no_grad():
        difference = ((module(point + step) - module(point - step)) * weights).sum() / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-6)


def test_local_response_norm_of_an_even_number_of_channels() -> None:
    model = model_of([helper.make_node("LRN", ["x"], ["y"], size=4, alpha=0.5)], {"x": (2, 6, 3, 3)}, ["y"])
    x = GEN.standard_normal((2, 6, 3, 3)).astype(np.float32)
    expected = np.empty_like(x)
    for c in range(6):  # as the definition says: from floor((size - 1) / 2) before to ceil((size - 1) / 2) after
        sums = (x[:, max(0, c - 1) : c + 3] ** 2).sum(1)
        expected[:, c] = x[:, c] / (1 + 0.5 / 4 * sums) ** 0.75
    assert_near(to_torch(model)(torch.from_numpy(x)), expected, 1e-5)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 1, 2]])
@pytest.mark.parametrize("columns_first", [0, 1])
def test_positions_of_maxima_are_those_of_onnx_runtime(pads: list[int], columns_first: int) -> None:
    node = helper.make_node(
        "MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 3], strides=[2, 1], pads=pads, storage_order=columns_first
    )
    model = model_of([node], {"x": (2, 3, 6, 7)}, ["y", "i"])
    for got, wanted in zip(to_torch(model)(torch.from_numpy(X)), run_ort(model, X), strict=True):
        assert_near(got, wanted, 0.0)


# -- subgraphs -------------------------------------------------------------------------------------


def subgraph(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> onnx.GraphProto:
    def infos(values: dict[str, int]) -> list[onnx.ValueInfoProto]:
        # Numbers and conditions are scalars; ONNX Runtime wants to be told.
        return [helper.make_tensor_value_info(n, elem, None if elem == FLOAT else ()) for n, elem in values.items()]

    return helper.make_graph(nodes, "inner", infos(inputs), infos(outputs))


FLOAT, BOOL, INT = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def branching() -> onnx.ModelProto:
    """relu(w·x) where the sum of x is above 0, else -x, times 2."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("Mul", ["x", "w"], ["product"]),
        helper.make_node(
            "If", ["positive"], ["chosen"], "branch",
            then_branch=subgraph([helper.make_node("Relu", ["product"], ["t"], "inner_relu")], {}, {"t": FLOAT}),
            else_branch=subgraph([helper.make_node("Neg", ["x"], ["e"])], {}, {"e": FLOAT}),
        ),
        helper.make_node("Mul", ["chosen", "two"], ["y"]),
    ]  # fmt: skip
    constants = {"zero": np.float32(0), "w": np.float32([1, -2, 3]), "two": np.float32(2)}
    return model_of(nodes, {"x": ("n", 3)}, ["y"], constants)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_branches_take_values_from_outside(sign: float) -> None:
    module = to_torch(branching())
    x = torch.tensor([[1.0, 2.0, 3.0]]) * sign
    assert_near(module(x), run_ort(branching(), x)[0])
    x.requires_grad_()
    module(x).sum().backward()
    expected = torch.tensor([[2.0, 0.0, 6.0]]) if sign > 0 else torch.full((1, 3), -2.0)
    assert x.grad is not None
    assert torch.equal(x.grad, expected)
    assert "ReLU" in kinds(module)


def test_a_branch_that_is_known_is_taken() -> None:
    model = branching()
    del model.graph.node[:2]
    model.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "positive"))
    module = to_torch(model)
    assert "If" not in kinds(module)
    assert torch.equal(module(torch.ones(1, 3)), torch.tensor([[2.0, 0.0, 6.0]]))


def looping(rounds: int) -> onnx.ModelProto:
    """x ← x·w while its sum is below 100; puts out each x."""
    body = subgraph(
        [
            helper.make_node("Mul", ["state", "w"], ["next"]),
            helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "limit"], ["again"]),
            helper.make_node("Identity", ["next"], ["out"]),
        ],
        {"i": INT, "going": BOOL, "state": FLOAT},
        {"again": BOOL, "next": FLOAT, "out": FLOAT},
    )
    constants = {"w": np.float32([1, 2, 3]), "limit": np.float32(100), "m": np.int64(rounds), "c": np.bool_(True)}
    node = helper.make_node("Loop", ["m", "c", "x"], ["last", "all"], "loop", body=body)
    return model_of([node], {"x": (3,)}, ["last", "all"], constants)


@pytest.mark.parametrize("rounds", [1, 3, 20])
def test_loops_end_by_number_or_condition(rounds: int) -> None:
    model = looping(rounds)
    x = torch.tensor([1.0, 1.5, 2.0], requires_grad=True)
    module = to_torch(model)
    last, every = module(x)
    for got, wanted in zip((last, every), run_ort(model, x.detach()), strict=True):
        assert_near(got, wanted)
    last.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, (last / x).detach())


def test_loops_in_loops_see_values_of_both() -> None:
    inner = subgraph(
        [helper.make_node("Add", ["s", "outer_state"], ["t0"]), helper.make_node("Add", ["t0", "x"], ["t"]),
         helper.make_node("Identity", ["g"], ["h"])],
        {"j": INT, "g": BOOL, "s": FLOAT}, {"h": BOOL, "t": FLOAT},
    )  # fmt: skip
    outer = subgraph(
        [helper.make_node("Loop", ["m", "", "outer_state"], ["made"], body=inner),
         helper.make_node("Identity", ["going"], ["again"])],
        {"i": INT, "going": BOOL, "outer_state": FLOAT}, {"again": BOOL, "made": FLOAT},
    )  # fmt: skip
    node = helper.make_node("Loop", ["m", "", "x"], ["y"], body=outer)
    model = model_of([node], {"x": (2,)}, ["y"], {"m": np.int64(3)})
    x = torch.tensor([1.0, -2.0])
    assert_near(to_torch(model)(x), run_ort(model, x)[0])


def test_functions_of_the_model_are_written_out() -> None:
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = model_of([helper.make_node("Twice", ["x"], ["y"], domain="own")], {"x": ("n",)}, ["y"], functions=[twice])
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert to_torch(model)(torch.ones(2)).tolist() == [2.0, 2.0]


def test_sequences_are_lists() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x", "w"], ["s"]),
        helper.make_node("SequenceErase", ["s", "one"], ["shorter"]),
        helper.make_node("SequenceAt", ["shorter", "one"], ["last"]),
        helper.make_node("ConcatFromSequence", ["shorter"], ["joined"], axis=0),
        helper.make_node("ConcatFromSequence", ["shorter"], ["stacked"], axis=1, new_axis=1),
    ]
    constants = {"w": np.float32([3, 4]), "one": np.int64(1)}
    model = model_of(nodes, {"x": (2,)}, ["last", "joined", "stacked"], constants)
    x = torch.tensor([1.0, 2.0])
    for got, wanted in zip(to_torch(model)(x), run_ort(model, x), strict=True):
        assert_near(got, wanted, 0.0)


@pytest.mark.parametrize("op", ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"])
def test_random_values_have_the_distribution_that_is_asked_for(op: str) -> None:
    normal = "Normal" in op
    attributes: dict[str, Any] = {"mean": 3.0, "scale": 2.0} if normal else {"low": 2.0, "high": 8.0}
    mean, deviation = (3.0, 2.0) if normal else (5.0, 6 / 12**0.5)
    if op == "Bernoulli":
        attributes, mean, deviation = {}, 0.3, 0.21**0.5
    like = op in {"RandomNormalLike", "RandomUniformLike", "Bernoulli"}
    if not like:
        attributes["shape"] = [100, 100]
    node = helper.make_node(op, ["x"] if like else [], ["r"], seed=1.0, **attributes)
    model = model_of([node, helper.make_node("Add", ["x", "r"], ["y"])], {"x": (100, 100)}, ["r", "y"])
    module = to_torch(model)
    x = torch.full((100, 100), 0.3)
    values, _ = module(x)
    assert values.shape == (100, 100)
    assert values.dtype == torch.float32
    assert abs(values.mean().item() - mean) < 0.1
    assert abs(values.std().item() - deviation) < 0.1
    assert torch.equal(module(x)[0], values)  # a seed is given


def test_names_that_python_does_not_take_are_changed() -> None:
    node = helper.make_node("Sum", ["a.b", "a_b", "in", "0"], ["lambda"], "/a/b.c/Sum")
    module = to_torch(model_of([node], dict.fromkeys(node.input, (2,)), ["lambda"]))
    assert module(*(torch.full((2,), float(i)) for i in range(4))).tolist() == [6.0, 6.0]
    assert [n.meta["onnx_value"] for n in list(module.graph.nodes)[:4]] == list(node.input)


def test_weights_that_are_listed_among_the_inputs_are_weights() -> None:
    weight = np.ones((4, 600), np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], {"x": ("n", 4), "w": (4, 600)}, ["y"], {"w": weight})
    assert to_torch(model)(torch.ones(2, 4)).shape == (2, 600)


def test_a_query_that_may_look_at_nothing_has_no_gradient() -> None:
    node = helper.make_node("Attention", ["x", "x", "x", "mask"], ["y"])
    mask = np.array([[True, False], [False, False]])
    module = to_torch(model_of([node], {"x": (1, 1, 2, 4)}, ["y"], {"mask": mask}, opset=23))
    x = torch.rand(1, 1, 2, 4, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert x.grad is not None
    assert not y[0, 0, 1].any()
    assert x.grad[0, 0].tolist() == [[1.0] * 4, [0.0] * 4]


# -- what can't be done ----------------------------------------------------------------------------


def test_an_unknown_operator_is_named_with_its_node() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "first"),
        helper.make_node("StringNormalizer", ["r"], ["s"], "bad"),
        helper.make_node("Foo", ["s"], ["y"], "worse", domain="own"),
    ]
    model = model_of(nodes, {"x": (2,)}, ["y"])
    model.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match=r"StringNormalizer \(node 'bad'\), own\.Foo \(node 'worse'\)"):
        to_torch(model)
    assert to_torch(model, outputs=["r"])(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


def test_an_unknown_operator_in_a_subgraph_is_found() -> None:
    model = branching()
    model.graph.node[3].attribute[1].g.node[0].op_type = "TfIdfVectorizer"
    with pytest.raises(ModelError, match="TfIdfVectorizer"):
        to_torch(model)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("Relu", ["x"], ["y"], "n", slope=1.0), "Relu .*node 'n', opset 17.*slope"),
        (helper.make_node("Resize", ["x"], ["y"], "n", mode="area"), "Resize .*mode='area'"),
        (helper.make_node("Cast", ["x"], ["y"], "n", to=TensorProto.STRING), "Cast .*STRING"),
        (helper.make_node("Relu", ["x"], ["z", "y"], "n"), "Relu .*output 1"),
        (helper.make_node("Add", ["x"], ["y"], "n"), "Add .*leaving out input 1"),
        (helper.make_node("Add", ["x", "what"], ["y"], "n"), "'what', which nothing computes"),
        (helper.make_node("LSTM", ["x", "x", "x"], ["y"], "n", activations=["Sin"] * 3), "LSTM .*activation Sin"),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_what_is_not_supported_is_named(node: onnx.NodeProto, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        to_torch(model_of([node], {"x": (2, 3, 4, 4)}, ["y"]))


@pytest.mark.parametrize(("opset", "works"), [(7, False), (9, True), (17, True), (99, False)])
def test_operator_sets_that_are_too_old_or_too_new_are_refused(opset: int, works: bool) -> None:
    nodes = [helper.make_node("Upsample" if opset < 9 else "Relu", ["x"], ["y"], "n")]
    model = model_of(nodes, {"x": (2,)}, ["y"], opset=opset)
    if works:
        assert to_torch(model)(torch.ones(2)).tolist() == [1.0, 1.0]
    else:
        with pytest.raises(ModelError, match=f"operator set {opset}: sets 9 to"):
            to_torch(model)


def test_an_unknown_value_is_named_with_those_that_come_near() -> None:
    with pytest.raises(ModelError, match="no value 'choosen': did you mean chosen"):
        to_torch(branching(), outputs=["choosen"])


def test_weights_that_were_not_loaded_are_named() -> None:
    model = model_of([helper.make_node("Mul", ["x", "w"], ["y"])], {"x": (2,)}, ["y"], {"w": np.float32([1, 2])})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="external data of the ONNX tensor 'w'"):
        to_torch(model)


def test_training_is_refused_before_anything_is_run() -> None:
    names = ["x", "a", "b", "m", "v"]
    constants = {name: np.ones(3, np.float32) for name in names[1:]}
    node = helper.make_node("BatchNormalization", names, ["y", "c", "d", "e", "f"], "norm")
    with pytest.raises(ModelError, match=r"BatchNormalization .*norm.*training mode"):
        to_torch(model_of([node], {"x": (2, 3, 4)}, ["y", "c"], constants, opset=9))
