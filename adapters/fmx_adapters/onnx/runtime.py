"""Starting ONNX Runtime: devices, optimisation levels, and errors as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import EncodeError

from fmx.errors import ModelError

__all__ = ["LEVELS", "run_values", "start"]

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def start(
    model: onnx.ModelProto, source: str, folder: Path, device: str = "cpu", level: str = "basic"
) -> ort.InferenceSession:
    """Start ONNX Runtime with just the provider that was asked for, so that it has nothing to complain about.

    Parameters
    ----------
    model : onnx.ModelProto
    source : str
        The model in words, for errors.
    folder : Path
        Where external data lies.
    device : str
    level : str
        A key of `LEVELS`; from the level after basic on, values may differ in the last bits.

    Raises
    ------
    ModelError
        The device is not there, or ONNX Runtime can't run the graph.
    """
    options = ort.SessionOptions()
    # Errors reach the caller as exceptions; printed besides, they would only be noise.
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    try:
        return ort.InferenceSession(_serialised(model, source), options, providers=[_provider(device)])
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        raise ModelError(f"ONNX Runtime can't run {source}: {_first_line(error)}") from error


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


def _provider(device: str) -> Any:
    kind, _, index = device.partition(":")
    if device == "cpu":
        return "CPUExecutionProvider"
    if kind != "cuda" or not (index.isdigit() or not index):
        raise ModelError(f"ONNX Runtime has no device '{device}': use cpu, cuda or cuda:1.")
    if not _cuda_loads(int(index or 0)):
        raise ModelError(f"There is no {device} for ONNX Runtime here: use --device cpu.")
    return "CUDAExecutionProvider", {"device_id": int(index or 0)}


def _cuda_loads(index: int) -> bool:
    """Say whether the CUDA provider is built in and finds a driver; its libraries are those that torch brings."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    import torch

    if index >= torch.cuda.device_count():
        return False
    ort.preload_dlls()
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
