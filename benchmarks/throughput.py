"""How fast extraction is, beside the bare model in the same run, and how much memory it takes.

    python benchmarks/throughput.py                 images a second, ResNet-18 layer1 to layer4
    python benchmarks/throughput.py --memory        peak memory at 500 and 2000 images

Machines are noisy and differ: read the ratios, which are taken round by round. Contenders run in turn within a round.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

LAYERS = "layer1,layer2,layer3,layer4"
SHAPE = (3, 224, 224)


def export_onnx(file: Path) -> None:
    """Write torchvision's ResNet-18 (random weights, seed 0) as ONNX with a free batch axis."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.rand(2, *SHAPE),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )


def make_pictures(folder: Path, count: int) -> None:
    """Write JPEG pictures of smooth noise, 256×256."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        small.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)


def bare_eager(data: np.ndarray, batch: int) -> Callable[[], None]:
    """Give the plain ``model(x)`` loop."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, len(data), batch):
                net(torch.from_numpy(data[start : start + batch]))

    return run


def bare_onnx(file: Path, data: np.ndarray, batch: int) -> Callable[[], None]:
    """Give the plain ``session.run`` loop, with the model's own output only."""
    import onnxruntime as ort

    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run() -> None:
        for start in range(0, len(data), batch):
            session.run(None, {"x": data[start : start + batch]})

    return run


def extraction(model: object, data: object, to: Path, batch: int) -> Callable[[], None]:
    """Give a whole extraction into a new store, model already open."""
    from fmx.extraction import Request, run, settle

    request = Request(model=model, data=data, to=to, layers=LAYERS, batch_size=batch, overwrite=True)
    return lambda: run(settle(request)) and None


def capture_only(model: object, data: np.ndarray, batch: int) -> Callable[[], None]:
    """Give the capture of the layers without a store."""
    from fmx.layers import select_layers

    session = model.session(select_layers(model.layers, LAYERS), engine="auto").__enter__()
    session.run(data[:batch])  # settles the engine

    def run() -> None:
        for start in range(0, len(data), batch):
            session.run(data[start : start + batch])

    return run


def throughput(images: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """Time all contenders in turn, round after round."""
    import fmx

    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        export_onnx(place / "resnet18.onnx")
        make_pictures(place / "jpeg", images)
        data = np.random.default_rng(0).random((images, *SHAPE), dtype=np.float32)
        torch_model, onnx_model = fmx.load("torchvision:resnet18"), fmx.load(place / "resnet18.onnx")
        contenders = {
            "bare eager model(x)": bare_eager(data, batch),
            "bare ONNX Runtime": bare_onnx(place / "resnet18.onnx", data, batch),
            "fmx capture only, PyTorch": capture_only(torch_model, data, batch),
            "fmx capture only, ONNX": capture_only(onnx_model, data, batch),
            "fmx extract arrays, PyTorch": extraction(torch_model, data, place / "a.zarr", batch),
            "fmx extract arrays, ONNX": extraction(onnx_model, data, place / "b.zarr", batch),
            "fmx extract JPEG, PyTorch": extraction(torch_model, place / "jpeg", place / "c.zarr", batch),
            "fmx extract JPEG, ONNX": extraction(onnx_model, place / "jpeg", place / "d.zarr", batch),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, run in contenders.items():
                start = time.perf_counter()
                run()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - start)
    eager, onnx = seconds["bare eager model(x)"], seconds["bare ONNX Runtime"]
    return [
        {
            "contender": name,
            "images_per_s": images / median(times),
            "to_bare_eager": median(e / t for e, t in zip(eager, times, strict=True)),
            "to_bare_onnx": median(o / t for o, t in zip(onnx, times, strict=True)),
        }
        for name, times in seconds.items()
    ]


def peak_memory(images: int, batch: int) -> None:
    """Extract so many pictures in this process and print its peak memory in MB."""
    from fmx.extraction import extract

    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        make_pictures(place / "jpeg", images)
        extract("torchvision:resnet18", place / "jpeg", to=place / "a.zarr", layers=LAYERS, batch_size=batch)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def memory(batch: int, counts: tuple[int, ...] = (500, 2000)) -> list[dict[str, object]]:
    """Measure peak memory, each count in a process of its own."""
    rows = []
    for count in counts:
        command = [sys.executable, __file__, "--one-peak", str(count), "--batch-size", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"images": count, "peak_mb": float(done.stdout.split()[-1])})
    return rows


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one-peak", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_peak:
        peak_memory(asked.one_peak, asked.batch_size)
        return
    rows = memory(asked.batch_size) if asked.memory else throughput(asked.images, asked.batch_size, asked.rounds)
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    print("  ".join(f"{key:>28}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{v:>28.2f}" if isinstance(v, float) else f"{v:>28}" for v in row.values()))


if __name__ == "__main__":
    main()
