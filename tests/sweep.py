"""Every torchvision classification model in every format: the same names, the same values.

python tests/sweep.py                      the table of docs/formats.md, in an hour or so
python tests/sweep.py resnet18 vit_b_16    some models only
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.models as zoo

import fmx
from fmx.adapter import Model

FORMS = ("exported", "dynamo ONNX", "traced")
# Modules that hand their input on at inference, which exporters and tracers may drop.
IDLE = {"Dropout", "Identity", "StochasticDepth"}
TOLERANCE = 1e-4


@dataclass
class Comparison:
    """How a format differs from the PyTorch module itself.

    `missing` counts, by kind, the layers that the format does not list; `extra` holds those that only it lists;
    `other_axes` those whose axes have other names.
    """

    layers: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    extra: list[str] = field(default_factory=list)
    other_axes: list[str] = field(default_factory=list)
    worst: float = 0.0
    failed: str = ""

    def words(self) -> str:
        """Say it in a cell of the table."""
        if self.failed:
            return self.failed
        parts = [f"−{count} {kind}" for kind, count in sorted(self.missing.items())]
        if self.extra:
            parts.append("+" + ", ".join(sorted({name.rpartition(".")[2] for name in self.extra})))
        if self.other_axes:
            parts.append(f"other axes: {', '.join(self.other_axes[:3])}")
        return ("; ".join(parts) or "same") + f" ({self.worst:.0e})"


def build(name: str) -> tuple[torch.nn.Module, int]:
    """Build a model with random weights, and the side of a small picture that it takes."""
    if name.startswith("vit_"):
        size = 56 if name == "vit_h_14" else 64
        return zoo.get_model(name, weights=None, image_size=size), size
    extra = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    size = {"inception_v3": 96, "maxvit_t": 224}.get(name, 64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return zoo.get_model(name, weights=None, **extra), size


def export(net: torch.nn.Module, form: str, batch: torch.Tensor, folder: Path) -> Path:
    """Write a network in a format."""
    if form == "traced":
        torch.jit.save(torch.jit.trace(net, batch, check_trace=False), folder / "net.pt")
        return folder / "net.pt"
    free = ({0: torch.export.Dim("n", min=1, max=64)},)
    if form == "exported":
        torch.export.save(torch.export.export(net, (batch,), dynamic_shapes=free), folder / "net.pt2")
        return folder / "net.pt2"
    torch.onnx.export(
        net, (batch,), folder / "net.onnx", dynamo=True, dynamic_shapes=free, verbose=False, external_data=False
    )
    return folder / "net.onnx"


def compare(reference: Model, other: Model, batch: np.ndarray[Any, Any]) -> Comparison:
    """Compare the layers of two models by name, and the values of those that both have."""
    kinds = {layer.name: layer.kind for layer in reference.layers}
    listed = [layer.name for layer in other.layers]
    common = [name for name in listed if name in kinds]
    found = Comparison(len(kinds), Counter(kind for name, kind in kinds.items() if name not in listed))
    found.extra = [name for name in listed if name not in kinds]
    axes = {layer.name: layer.dims for layer in reference.layers}
    found.other_axes = [layer.name for layer in other.layers if axes.get(layer.name, layer.dims) != layer.dims]
    for start in range(0, len(common), 100):
        some = common[start : start + 100]
        with reference.session(some) as one, other.session(some) as two:
            expected, got = one.run(batch), two.run(batch)
        for name in some:
            if expected[name].shape != got[name].shape:
                found.worst = float("inf")
                continue
            scale = float(np.abs(expected[name]).max()) or 1.0
            found.worst = max(found.worst, float(np.abs(got[name] - expected[name]).max()) / scale)
    return found


def sweep(name: str) -> dict[str, Comparison]:
    """Compare all formats of a model with the module itself."""
    results = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        net, size = build(name)
        net.eval()
        batch = np.random.default_rng(0).random((2, 3, size, size), dtype=np.float32)
        reference = fmx.load(net, input_shape=(3, size, size))
        for form in FORMS:
            try:
                file = export(net, form, torch.from_numpy(batch), Path(folder))
                results[form] = compare(reference, fmx.load(file, input_shape=(3, size, size)), batch)
            except Exception as error:  # the table says what failed
                results[form] = Comparison(failed=f"{type(error).__name__}: {str(error).splitlines()[0][:80]}")
    return results


def main() -> None:
    """Print the table, a row as soon as it is known."""
    names = sys.argv[1:] or zoo.list_models(module=zoo)
    sys.stdout.write(f"| model | layers | {' | '.join(FORMS)} |\n|---|---|{'---|' * len(FORMS)}\n")
    for name in names:
        results = sweep(name)
        layers = max(result.layers for result in results.values())
        cells = " | ".join(results[form].words() for form in FORMS)
        sys.stdout.write(f"| {name} | {layers} | {cells} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
