"""How others take activations out of a network and put them on disk, each written as its documentation suggests.

Every function gives a callable that stores layer1 to layer4 of torchvision's ResNet-18 for all of `data`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("layer1", "layer2", "layer3", "layer4")
SHAPES = {"layer1": (64, 56, 56), "layer2": (128, 28, 28), "layer3": (256, 14, 14), "layer4": (512, 7, 7)}


def resnet18() -> Any:
    """Build torchvision's ResNet-18 with random weights, always the same."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def bare_eager(data: np.ndarray, batch: int) -> Callable[[], None]:
    """The plain ``model(x)`` loop, nothing taken out."""
    import torch

    net = resnet18()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(data), batch):
                net(torch.from_numpy(data[start : start + batch]))

    return run


def bare_onnx(file: Path, data: np.ndarray, batch: int) -> Callable[[], None]:
    """The plain ``session.run`` loop, with the model's own output only."""
    import onnxruntime as ort

    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run() -> None:
        for start in range(0, len(data), batch):
            session.run(None, {"x": data[start : start + batch]})

    return run


def _torchvision_batches(data: np.ndarray, batch: int) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(resnet18(), list(NAMES))
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            rows = slice(start, min(start + batch, len(data)))
            yield rows, {k: v.numpy() for k, v in extractor(torch.from_numpy(data[rows])).items()}


def torchvision_memmap(data: np.ndarray, to: Path, batch: int) -> Callable[[], None]:
    """Torchvision's feature extractor into one ``.npy`` memory map a layer."""

    def run() -> None:
        to.mkdir(exist_ok=True)
        maps = {
            name: np.lib.format.open_memmap(to / f"{name}.npy", "w+", np.float32, (len(data), *shape))
            for name, shape in SHAPES.items()
        }
        for rows, values in _torchvision_batches(data, batch):
            for name, value in values.items():
                maps[name][rows] = value
        for each in maps.values():
            each.flush()

    return run


def torchvision_h5py(data: np.ndarray, to: Path, batch: int) -> Callable[[], None]:
    """Torchvision's feature extractor into HDF5 datasets."""
    import h5py

    def run() -> None:
        with h5py.File(to, "w") as file:
            sets = {name: file.create_dataset(name, (len(data), *shape), "f4") for name, shape in SHAPES.items()}
            for rows, values in _torchvision_batches(data, batch):
                for name, value in values.items():
                    sets[name][rows] = value

    return run


def torchextractor_h5py(data: np.ndarray, to: Path, batch: int) -> Callable[[], None]:
    """Torchextractor's hooks into HDF5 datasets."""
    import h5py
    import torch
    import torchextractor

    def run() -> None:
        extractor = torchextractor.Extractor(resnet18(), list(NAMES))
        with h5py.File(to, "w") as file, torch.inference_mode():
            sets = {name: file.create_dataset(name, (len(data), *shape), "f4") for name, shape in SHAPES.items()}
            for start in range(0, len(data), batch):
                rows = slice(start, min(start + batch, len(data)))
                _, values = extractor(torch.from_numpy(data[rows]))
                for name, value in values.items():
                    sets[name][rows] = value.numpy()

    return run


def torchlens_dataset(data: np.ndarray, to: Path, batch: int) -> Callable[[], None]:
    """TorchLens' extract_dataset, one safetensors file a batch."""
    import torch
    import torchlens

    def run() -> None:
        shutil.rmtree(to, ignore_errors=True)
        with torch.no_grad(), contextlib.redirect_stderr(None):
            torchlens.extract_dataset(
                resnet18(), torch.from_numpy(data), list(NAMES), batch_size=batch, output_dir=to, progress=False
            )

    return run
