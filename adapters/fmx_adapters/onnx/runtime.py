"""Starting ONNX Runtime: devices, optimisation levels, custom operators, and errors as sentences."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper

from fmx.errors import ModelError
from fmx_adapters._operators import missing_operator

__all__ = ["LEVELS", "run_values", "runtime_devices", "start"]

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# What computes on a device, by the name that a user gives the device. All of them leave to the CPU what they can't do.
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_COUNTED = {"cuda", "tensorrt", "rocm", "migraphx", "directml"}
_UNKNOWN_OPERATOR = re.compile(r"(?:No Op registered for|No opset import for domain|is not a registered function/op)")


def start(
    model: onnx.ModelProto,
    source: str,
    folder: Path,
    device: str = "cpu",
    level: str = "basic",
    libraries: Sequence[str] = (),
) -> ort.InferenceSession:
    """Start ONNX Runtime on the device that was asked for, and on no other.

    Parameters
    ----------
    model : onnx.ModelProto
    source : str
        The model in words, for errors.
    folder : Path
        Where external data lies.
    device : str
        ``cpu``, ``cuda``, ``cuda:1`` and so on; see `runtime_devices`.
    level : str
        A key of `LEVELS`; from the level after basic on, values may differ in the last bits.
    libraries : sequence of str
        Shared libraries with custom operators, whose code is run.

    Raises
    ------
    ModelError
        The device is not there, an operator is missing, or ONNX Runtime can't run the graph.
    """
    options = _options(folder, LEVELS[level])
    for library in libraries:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # ONNX Runtime raises classes of its own that share no base
            raise ModelError(f"{library} holds no operators for ONNX Runtime: {_first_line(error)}") from error
    kind, provider = _provider(device)
    serialised = _serialised(model, source)
    try:
        with _quiet(kind):
            session = ort.InferenceSession(serialised, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # as above
        if kind != "cpu" and not _loads(device):
            raise _no_device(device) from error
        foreign = _foreign_operators(model)
        if foreign and _UNKNOWN_OPERATOR.search(str(error)):
            raise missing_operator(source, foreign, trust=bool(libraries)) from error
        raise ModelError(f"ONNX Runtime can't run {source}: {_first_line(error)}") from error
    # Where a provider can't be loaded, ONNX Runtime says nothing and computes on the CPU.
    if session.get_providers()[0] != _PROVIDERS[kind]:
        raise _no_device(device)
    return session


def _options(folder: Path, level: Any) -> Any:
    options = ort.SessionOptions()
    # Errors reach the caller as exceptions; printed besides, they would only be noise.
    options.log_severity_level = 4
    options.graph_optimization_level = level
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads):
        # What limits torch and NumPy limits ONNX Runtime too, which would take all cores: several may share a machine.
        options.intra_op_num_threads = int(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    return options


# -- devices ---------------------------------------------------------------------------------------


def runtime_devices() -> list[str]:
    """List what ONNX Runtime can compute on here, by trying it: a provider that is built in need not load."""
    built_in = ort.get_available_providers()
    return [kind for kind, provider in _PROVIDERS.items() if provider in built_in and _loads(kind)]


def _provider(device: str) -> tuple[str, Any]:
    """Give the kind of a device, and what ONNX Runtime wants to hear of it."""
    kind, colon, index = device.partition(":")
    if kind not in _PROVIDERS or (colon and (kind not in _COUNTED or not index.isdigit())):
        raise ModelError(f"ONNX Runtime has no device '{device}': use {', '.join(runtime_devices())}.")
    if _PROVIDERS[kind] not in ort.get_available_providers():
        raise _no_device(device)
    options = {"device_id": index or "0"} if kind in _COUNTED else {}
    if kind == "cuda":
        options["use_tf32"] = "0"  # which would round to 10 bits
    return kind, (_PROVIDERS[kind], options)


def _no_device(device: str) -> ModelError:
    return ModelError(f"There is no {device} for ONNX Runtime here: use {', '.join(runtime_devices())}.")


@cache
def _loads(device: str) -> bool:
    """Say whether ONNX Runtime computes on a device when it is asked to."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kind, provider = _provider(device)
    try:
        with _quiet(kind):
            options = _options(Path(), LEVELS["basic"])
            session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider], enable_fallback=0)
    except Exception:  # whatever the provider has to say
        return False
    return bool(session.get_providers()[0] == _PROVIDERS[kind])


@contextlib.contextmanager
def _quiet(kind: str) -> Iterator[None]:
    """Find the libraries of a device, and let nothing be printed about those that are not there."""
    if kind == "cpu":
        yield
        return
    # Whatever is on standard output belongs to results.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.set_default_logger_severity(4)
        if kind in {"cuda", "tensorrt"}:
            ort.preload_dlls()
        try:
            yield
        finally:
            ort.set_default_logger_severity(2)


# -- operators -------------------------------------------------------------------------------------


def _foreign_operators(model: onnx.ModelProto) -> list[str]:
    """List the operators of other domains than those that ONNX and ONNX Runtime have, and the model itself."""
    own = {(function.domain, function.name) for function in model.functions}
    found: dict[str, None] = {}
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop(0)
        for attribute in node.attribute:
            pending += [inner for graph in [attribute.g, *attribute.graphs] for inner in graph.node]
        is_known = node.domain in {"", "ai.onnx", "ai.onnx.ml"} or node.domain.startswith("com.microsoft")
        if not is_known and (node.domain, node.op_type) not in own:
            found[f"{node.domain}::{node.op_type}"] = None
    return list(found)


def run_values(runner: ort.InferenceSession, feed: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Run a session and give its outputs by name.

    Raises
    ------
    ModelError
        ONNX Runtime fails; says what it says.
    """
    names = [output.name for output in runner.get_outputs()]
    try:
        return dict(zip(names, runner.run(names, dict(feed)), strict=True))
    except Exception as error:  # as in start
        raise ModelError(f"{source} failed: {_first_line(error)}") from error


def _serialised(model: onnx.ModelProto, source: str) -> bytes:
    try:
        serialised: bytes = model.SerializeToString()
    except (ValueError, EncodeError):
        raise ModelError(
            f"{source} is larger than 2 GB in one piece: save it with external data (onnx.save, "
            "save_as_external_data=True)."
        ) from None
    return serialised


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
