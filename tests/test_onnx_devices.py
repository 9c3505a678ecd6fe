"""Where ONNX Runtime computes: on what was asked for, or nowhere."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import fmx
from fmx.errors import ModelError
from fmx_adapters.onnx import runtime
from fmx_adapters.onnx.runtime import runtime_devices


@pytest.fixture(scope="module")
def model() -> fmx.adapter.Model:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["relu"]), helper.make_node("Neg", ["relu"], ["end"])]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 4])], [value("end", TensorProto.FLOAT, None)]
    )
    return fmx.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_devices_are_those_that_compute() -> None:
    found = runtime_devices()
    assert found[0] == "cpu"
    built_in = ort.get_available_providers()
    assert all(runtime._PROVIDERS[device] in built_in for device in found)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:97", "tensorrt", "coreml", "directml", "openvino"])
def test_each_device_computes_or_is_an_error(device: str, model: fmx.adapter.Model) -> None:
    """Never on the CPU unasked, which is what ONNX Runtime does with a provider that does not load."""
    batch = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    if device in runtime_devices():
        with model.session(["relu"], device=device) as session:
            np.testing.assert_allclose(session.run(batch)["relu"], np.maximum(batch, 0), rtol=1e-3)
        return
    if device == "cuda:0" and "cuda" in runtime_devices():
        pytest.skip("is the same as cuda")
    with pytest.raises(ModelError, match=f"There is no {device} for ONNX Runtime here: use cpu") as error:
        model.session(["relu"], device=device).__enter__()
    assert "\n" not in str(error.value)


def test_nothing_is_printed_about_a_device(model: fmx.adapter.Model, capfd: pytest.CaptureFixture[str]) -> None:
    for device in ("cuda:97", "tensorrt:97"):
        with pytest.raises(ModelError):
            model.session(["relu"], device=device).__enter__()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", "coreml:1", "mps"])
def test_names_that_are_no_device(device: str, model: fmx.adapter.Model) -> None:
    with pytest.raises(ModelError, match=rf"ONNX Runtime has no device '{device}': use cpu"):
        model.session(["relu"], device=device).__enter__()
