"""ONNX graphs of every kind: external data, other layouts, fixed batches, subgraphs, quantized, several inputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from networks import tiny_resnet
from onnx import TensorProto, helper, numpy_helper

import fmx
from fmx.errors import ModelError
from fmx_adapters.onnx.widen import same_values, widened

RNG = np.random.default_rng(0)


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RNG.normal(size=shape).astype(np.float32), name)


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    weights: list[onnx.TensorProto],
    opset: int = 17,
) -> onnx.ModelProto:
    outs = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "net", inputs, outs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def plain(batch: Any = "n", opset: int = 17, channels: int = 3) -> onnx.ModelProto:
    """Conv, Relu, flattening by a constant shape, Gemm: names as some other tool would give them."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="second"),
        helper.make_node("Reshape", ["r", "shape"], ["flat"], name="third"),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["scores"], name="fourth"),
    ]
    shape = numpy_helper.from_array(np.array([batch if isinstance(batch, int) else -1, 144]), "shape")
    weights = [tensor("w1", 4, channels, 3, 3), tensor("w2", 144, 5), tensor("b2", 5), shape]
    return model(nodes, [value("image", [batch, channels, 8, 8])], ["scores"], weights, opset)


def run(source: Any, names: list[str], batch: Any, **how: Any) -> Any:
    with fmx.load(source).session(names, **how) as session:
        return session.run(batch)


def images(count: int = 3, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((count, *(shape or (3, 8, 8))), dtype=np.float32)


# -- names and opsets ------------------------------------------------------------------------------


def test_graph_from_elsewhere_keeps_the_names_of_its_values() -> None:
    opened = fmx.load(plain())
    assert [(layer.name, layer.kind) for layer in opened.layers] == [
        ("c", "Conv2d"),
        ("r", "ReLU"),
        ("flat", "Reshape"),
        ("scores", "Linear"),
    ]


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_values_in_every_opset(opset: int) -> None:
    proto = plain(opset=opset)
    got = run(proto, ["c", "r", "scores"], images())
    net = torch.nn.functional.conv2d(
        torch.from_numpy(images()), torch.from_numpy(numpy_helper.to_array(proto.graph.initializer[0]).copy())
    )
    np.testing.assert_allclose(got["c"], net.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got["r"], np.maximum(net.numpy(), 0), rtol=1e-4, atol=1e-4)


def test_metadata_that_is_no_list_of_names_is_ignored() -> None:
    proto = plain()
    for key in ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"):
        entry = proto.graph.node[0].metadata_props.add()
        entry.key, entry.value = key, "__import__('os').system('true')"
    assert [layer.name for layer in fmx.load(proto).layers] == ["c", "r", "flat", "scores"]


# -- batch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_is_widened_where_that_changes_nothing(batch: int) -> None:
    proto = plain(batch)
    opened = fmx.load(proto)
    assert opened._probed.batch is None
    expected = run(plain_with_weights_of(proto), ["c", "scores"], images(7))
    got = run(proto, ["c", "scores"], images(7))
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)


def plain_with_weights_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with an open batch axis, made by hand."""
    free = plain("n")
    del free.graph.initializer[:3]
    free.graph.initializer.extend(proto.graph.initializer[:3])
    return free


def test_fixed_batch_stays_where_the_samples_depend_on_each_other() -> None:
    """A mean over the batch axis: of one sample it is the sample itself, of two it is something else."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    proto = model(nodes, [value("x", [1, 6])], ["y"], [])
    opened = fmx.load(proto)
    assert opened._probed.batch == 1
    batch = images(5, 6)
    np.testing.assert_allclose(run(proto, ["y"], batch)["y"], batch * 2, rtol=1e-6)


def test_widening_is_refused_when_values_differ() -> None:
    first, second = {"a": np.ones((1, 2), np.float32)}, {"a": np.zeros((1, 2), np.float32)}
    assert same_values({"a": np.array([[1, 1], [0, 0]], np.float32)}, [first, second], 1)
    assert not same_values({"a": np.array([[1, 1], [0, 1]], np.float32)}, [first, second], 1)
    assert not same_values({"a": np.ones((1, 2), np.float32)}, [first, second], 1)
    assert not same_values({}, [first, second], 1)


def test_widening_leaves_the_original_alone() -> None:
    proto = plain(1)
    before = proto.SerializeToString()
    widened(proto, ["image"], 1)
    assert proto.SerializeToString() == before


# -- layouts and open sizes ------------------------------------------------------------------------


def test_pictures_with_channels_last() -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"]),
    ]
    proto = model(nodes, [value("image", ["n", 8, 8, 3])], ["c"], [tensor("w", 4, 3, 3, 3)])
    (info,) = fmx.load(proto).inputs
    assert (info.shape, info.layout) == ((8, 8, 3), "HWC")
    assert run(proto, ["c"], images(2, 8, 8, 3))["c"].shape == (2, 4, 6, 6)


def test_channels_last_pictures_are_prepared_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["image"], ["m"], axes=[1, 2], keepdims=0)]
    proto = model(nodes, [value("image", ["n", 8, 8, 3])], ["m"], [])
    from PIL import Image

    Image.new("RGB", (8, 8), (255, 0, 51)).save(tmp_path / "a.png")
    options = fmx.PictureOptions(size=8, range=(0, 1))
    store = fmx.extract(proto, tmp_path / "a.png", to=tmp_path / "a.zarr", layers="m", pictures=options)
    np.testing.assert_allclose(store.activation("m").values.reshape(-1), [1, 0, 0.2], atol=1e-6)


def test_layout_overrules_what_the_shape_suggests() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    proto = model(nodes, [value("x", ["n", 3, 5, 3])], ["y"], [])
    assert fmx.load(proto).inputs[0].layout == "CHW"
    assert fmx.load(proto, layout="NHWC").inputs[0].layout == "HWC"


def test_open_height_and_width_are_assumed_and_can_be_given() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])]
    proto = model(nodes, [value("x", ["n", 3, "h", "w"])], ["c"], [tensor("w", 2, 3, 3, 3)])
    assert fmx.load(proto).inputs[0].assumed == "3×224×224"
    given = fmx.load(proto, input_shape=(3, 20, 30))
    assert given.layers[0].shape == (2, 20, 30)
    assert given.with_input((3, 10, 10)).layers[0].shape == (2, 10, 10)
    with pytest.raises(ModelError, match="3×any×any, not 1×20×30"):
        fmx.load(proto, input_shape=(1, 20, 30))


# -- several inputs, subgraphs, quantized ----------------------------------------------------------


def test_several_inputs_by_name() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Mul", ["e", "scale"], ["y"]),
    ]
    inputs = [value("ids", ["n", 4], TensorProto.INT64), value("scale", ["n", 1, 1])]
    proto = model(nodes, inputs, ["y"], [tensor("table", 10, 3)])
    opened = fmx.load(proto)
    assert [(i.name, i.dtype, i.shape) for i in opened.inputs] == [("ids", "int64", (4,)), ("scale", "float32", (1, 1))]
    ids, scale = np.array([[1, 2, 3, 4]] * 2), np.array([[[2.0]], [[3.0]]], np.float32)
    with opened.session(["y"]) as session:
        got = session.run({"ids": ids, "scale": scale})["y"]
        with pytest.raises(ModelError, match="ids, scale"):
            session.run(ids)
    table = numpy_helper.to_array(proto.graph.initializer[0])
    np.testing.assert_allclose(got, table[ids] * scale)


def test_branch_that_reads_values_from_outside() -> None:
    """Cutting keeps what only a branch reads, and what a branch hands on as it is."""
    then = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["t"])], "then", [], [onnx.helper.make_empty_tensor_value_info("t")]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["b"], ["o"])], "else", [], [onnx.helper.make_empty_tensor_value_info("o")]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Sigmoid", ["x"], ["b"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "limit"], ["cond"]),
        helper.make_node("If", ["cond"], ["y"], then_branch=then, else_branch=other),
        helper.make_node("Tanh", ["y"], ["z"]),
    ]
    limit = numpy_helper.from_array(np.array(5, np.float32), "limit")
    proto = model(nodes, [value("x", ["n", 4])], ["z"], [limit])
    batch = images(2, 4)
    np.testing.assert_allclose(run(proto, ["y"], batch)["y"], 1 / (1 + np.exp(-batch)), rtol=1e-5)
    np.testing.assert_allclose(run(proto, ["z"], batch + 10)["z"], np.tanh(-(batch + 10)), rtol=1e-5)


def test_quantized_layers_are_listed_with_their_type(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": images(4)}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    proto = plain()
    onnx.save(onnx.shape_inference.infer_shapes(proto), tmp_path / "plain.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            str(tmp_path / "plain.onnx"), str(tmp_path / "q.onnx"), Reader(), quant_format=QuantFormat.QOperator
        )
    opened = fmx.load(tmp_path / "q.onnx")
    types = {layer.dtype for layer in opened.layers}
    assert types & {"uint8", "int8"}
    assert "float32" in types
    quantized = next(layer for layer in opened.layers if layer.dtype in {"uint8", "int8"} and len(layer.shape) == 3)
    store = fmx.extract(opened, images(3), to=tmp_path / "a.zarr", layers=[quantized.name])
    assert str(store.activation(quantized.name).dtype) == quantized.dtype
    full = run(proto, ["scores"], images())["scores"]
    name = opened.layers[-1].name
    np.testing.assert_allclose(run(tmp_path / "q.onnx", [name], images())[name], full, atol=0.1 * np.abs(full).max())


# -- external data ---------------------------------------------------------------------------------


def save_external(folder: Path, location: str = "weights.bin") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        plain(), folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64,
        all_tensors_to_one_file=True, convert_attribute=False,
    )  # fmt: skip
    if location != "weights.bin":
        proto = onnx.load(folder / "net.onnx", load_external_data=False)
        for initializer in proto.graph.initializer:
            for entry in initializer.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder / "net.onnx").write_bytes(proto.SerializeToString())
    return folder / "net.onnx"


def test_external_data_beside_the_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_external(tmp_path / "model")
    expected = ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"image": images()})[0]
    np.testing.assert_allclose(run(file, ["scores"], images())["scores"], expected, rtol=1e-5, atol=1e-5)
    monkeypatch.chdir(tmp_path / "model")
    np.testing.assert_allclose(run("net.onnx", ["scores"], images())["scores"], expected, rtol=1e-5, atol=1e-5)


def test_fingerprint_covers_external_data(tmp_path: Path) -> None:
    file = save_external(tmp_path)
    before = fmx.load(file).fingerprint
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(data))
    assert fmx.load(file).fingerprint != before


@pytest.mark.parametrize("way", ["up", "absolute", "link", "folder link", "empty"])
def test_external_data_elsewhere_is_refused(way: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "model", tmp_path / "secret.bin"
    save_external(folder)
    (folder / "weights.bin").replace(outside)
    location = {
        "up": "../secret.bin",
        "absolute": str(outside),
        "link": "inside.bin",
        "folder link": "sub/secret.bin",
        "empty": "",
    }[way]
    file = save_external(folder, location)
    (folder / "weights.bin").unlink()
    if way == "link":
        (folder / "inside.bin").symlink_to(outside)
    if way == "folder link":
        (folder / "sub").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="outside its own folder"):
        fmx.load(file)


def test_external_data_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    file = save_external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-10])
    with pytest.raises(ModelError, match=r"weights\.bin is truncated"):
        fmx.load(file)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin, which is not beside it"):
        fmx.load(file)


@pytest.mark.slow
def test_model_of_more_than_2_gb(tmp_path: Path) -> None:
    """Weights of 2.4 GB, zeros but for a few, kept in a sparse file."""
    rows, columns = 24_000, 25_000
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, columns])
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", "w.bin"), ("offset", "0"), ("length", str(rows * columns * 4))):
        weight.external_data.add(key=key, value=text)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * columns * 4)
        file.seek(4 * (7 * columns + 11))
        file.write(np.float32(3).tobytes())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    proto = model(nodes, [value("x", ["n", rows])], ["z"], [weight])
    (tmp_path / "big.onnx").write_bytes(proto.SerializeToString())
    batch = np.zeros((2, rows), np.float32)
    batch[1, 7] = 2
    got = run(tmp_path / "big.onnx", ["y"], batch)["y"]
    assert got.shape == (2, columns)
    assert got[1, 11] == 6
    assert np.count_nonzero(got) == 1


def test_tiny_resnet_saved_with_external_data_is_named_as_ever(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tiny_resnet().eval(),
            (torch.rand(1, 3, 32, 32),),
            tmp_path / "net.onnx",
            dynamo=True,
            external_data=True,
            verbose=False,
        )
    assert {"layer1.0.add", "layer1.1.relu:2", "fc"} <= {layer.name for layer in fmx.load(tmp_path / "net.onnx").layers}
