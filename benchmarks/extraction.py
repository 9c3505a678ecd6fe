"""Extraction beside the bare model, the disk and other tools, in the same run.

    python benchmarks/extraction.py rates        ResNet-18, layer1 to layer4 into a store, with peers beside it
    python benchmarks/extraction.py all-layers   every layer, against the slower of the model and the disk
    python benchmarks/extraction.py reduce       summaries on the fly, against capture alone
    python benchmarks/extraction.py memory       peak memory at 1000, 4000 and 16000 small pictures
    python benchmarks/extraction.py again        a second run over a finished store
    python benchmarks/extraction.py workers      two processes against one

Machines are noisy and differ: read the ratios, which are taken round by round. Contenders run in turn within a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import peers

BATCH = 32
LAYERS = "layer1,layer2,layer3,layer4"
SHAPE = (3, 224, 224)
NUMBERS = itertools.count()
Row = dict[str, object]
# Runs once; an extraction says how many seconds an image took once it was running.
Contender = Callable[[], float | None]


def export_onnx(file: Path) -> None:
    """Write torchvision's ResNet-18 (random weights, seed 0) as ONNX with a free batch axis."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            peers.resnet18(),
            (torch.rand(2, *SHAPE),),
            file,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )


def make_pictures(folder: Path, count: int, side: int = 256) -> None:
    """Write JPEG pictures of smooth noise."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)


def extraction(model: object, data: object, to: Path, batch: int, **more: object) -> Contender:
    """Give a whole extraction into a new store, choice of the engine included; the model is open already.

    It runs once a quarter of the samples are done, and is over when the last one is on the disk; what is done in one
    piece runs from the start. Each time the store is another one. Deleting one first would be measured too: for a
    minute, ext4 passes over the places of deleted files one by one whenever it makes a file.
    """
    from fmx.extraction import Request, Status, run, settle

    request = {"model": model, "data": data, "layers": LAYERS, "batch_size": batch} | more

    def once() -> float:
        marks = [(0, time.perf_counter())]

        def progress(status: Status) -> None:
            marks.append((status.done, time.perf_counter()))

        run(settle(Request(**request, to=to.with_name(f"{to.stem}-{next(NUMBERS)}.zarr"))), progress)
        # On a cluster the last mark says that all is written, and its workers have yet to end.
        total, end = marks[-1][0], marks[-1][1] if more.get("workers") else time.perf_counter()
        done, begun = next((mark for mark in marks if total / 4 <= mark[0] < total), marks[0])
        return (end - begun) / (total - done)

    return once


def capture_only(model: object, data: np.ndarray, batch: int, layers: str = LAYERS) -> Callable[[], None]:
    """Give the capture of the layers without a store."""
    from fmx.layers import select_layers

    session = model.session(select_layers(model.layers, layers), engine="auto").__enter__()
    session.run(data[:batch])  # settles the engine

    def run() -> None:
        for start in range(0, len(data), batch):
            session.run(data[start : start + batch])

    return run


def write_disk(file: Path, nbytes: int) -> Callable[[], None]:
    """Write so many bytes in a row and wait until the disk has them."""
    block = np.random.default_rng(0).integers(0, 256, 8 * 2**20, dtype=np.uint8).tobytes()

    def run() -> None:
        with file.open("wb", buffering=0) as out:
            for _ in range(max(nbytes // len(block), 1)):
                out.write(block)
            os.fsync(out.fileno())

    return run


def in_turn(
    contenders: Mapping[str, Contender], rounds: int, *, warm: bool = False
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time contenders in turn, round after round, after one that warms up where they are not warm.

    Gives the seconds of all, and the seconds an image of those that say how fast they were once running.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    running: dict[str, list[float]] = {}
    for number in range(warm, rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            each = run()
            if number:
                seconds[name].append(time.perf_counter() - start)
                if each is not None:
                    running.setdefault(name, []).append(each)
    return seconds, running


def ratio(base: list[float], taken: list[float]) -> float:
    """Give how many times faster than a base something was, the median over the rounds."""
    return median(b / t for b, t in zip(base, taken, strict=True))


class Apart:
    """A contender in a process of its own, so that none changes how memory or threads behave for the others."""

    def __init__(self, build: Callable[..., Contender], file: Path, count: int, *more: object) -> None:
        self.count = count
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, file, count, more), daemon=True)
        self._process.start()
        theirs.close()  # so that a process that failed is noticed
        self._pipe.recv()

    def __call__(self) -> float | None:
        """Run once and wait until it is done."""
        self._pipe.send("run")
        each: float | None = self._pipe.recv()
        return each

    def close(self) -> None:
        """End the process."""
        self._pipe.send("end")
        self._process.join()


def _serve(pipe: Any, build: Callable[..., Contender], file: Path, count: int, more: tuple[Any, ...]) -> None:
    few, data = (np.load(file, mmap_mode="r")[:n] for n in (2 * BATCH, count))
    build(few, *more)()  # warms up
    run = build(data, *more)
    pipe.send("ready")
    while pipe.recv() == "run":
        pipe.send(run())


def _eager(data: np.ndarray) -> Callable[[], None]:
    return peers.bare_eager(np.array(data), BATCH)


def _onnx(data: np.ndarray, file: Path) -> Callable[[], None]:
    return peers.bare_onnx(file, np.array(data), BATCH)


def _capture(data: np.ndarray, source: str) -> Callable[[], None]:
    import fmx

    return capture_only(fmx.load(source), np.array(data), BATCH)


def _extract(data: np.ndarray, source: str, to: Path, pictures: Path | None = None) -> Callable[[], None]:
    import fmx

    given = data if pictures is None else sorted(pictures.iterdir())[: len(data)]
    return extraction(fmx.load(source), given, to, BATCH)


def _peer(data: np.ndarray, name: str, to: Path) -> Callable[[], None]:
    made: Callable[[], None] = getattr(peers, name)(np.array(data), to, BATCH)
    return made


def rates(place: Path, images: int, _batch: int, rounds: int) -> list[Row]:
    """Extraction of layer1 to layer4, beside the bare model and other tools.

    fmx extracts four times as many images, choice of the engine included. Stores are deleted at the end only: have
    30 GB free.
    """
    export_onnx(place / "resnet18.onnx")
    many = 4 * images
    make_pictures(place / "jpeg", many)
    file = place / "data.npy"
    data = np.lib.format.open_memmap(file, "w+", np.float32, (many, *SHAPE))
    for start in range(0, many, 64):
        data[start : start + 64] = np.random.default_rng(start).random(
            (min(64, many - start), *SHAPE), dtype=np.float32
        )
    del data
    torch, onnx = "torchvision:resnet18", str(place / "resnet18.onnx")
    jpeg = place / "jpeg"
    extractions = {
        f"fmx extract {data}, {model}": (source, place / f"{data}-{model}.zarr", *pictures)
        for data, pictures in (("arrays", ()), ("JPEG", (jpeg,)))
        for model, source in (("PyTorch", torch), ("ONNX", onnx))
    }
    contenders: dict[str, Callable[[], None]] = {
        "bare eager model(x)": Apart(_eager, file, images),
        "bare ONNX Runtime": Apart(_onnx, file, images, place / "resnet18.onnx"),
        "fmx capture only, PyTorch": Apart(_capture, file, images, torch),
        "fmx capture only, ONNX": Apart(_capture, file, images, onnx),
        **{name: Apart(_extract, file, many, *more) for name, more in extractions.items()},
        "torchvision extractor + memmap": Apart(_peer, file, images, "torchvision_memmap", place / "memmap"),
        "torchvision extractor + h5py": Apart(_peer, file, images, "torchvision_h5py", place / "tv.h5"),
    }
    if find_spec("torchextractor"):
        contenders["torchextractor + h5py"] = Apart(_peer, file, images, "torchextractor_h5py", place / "te.h5")
    if find_spec("torchlens"):
        # It refuses to run in a child process; this one does nothing else.
        few, data = (np.array(np.load(file, mmap_mode="r")[:n]) for n in (2 * BATCH, images))
        peers.torchlens_dataset(few, place / "lens", BATCH)()
        contenders["TorchLens extract_dataset"] = peers.torchlens_dataset(data, place / "lens", BATCH)
    seconds, running = in_turn(contenders, rounds, warm=True)
    counts = {name: getattr(contender, "count", images) for name, contender in contenders.items()}
    each = {name: [t / counts[name] for t in taken] for name, taken in seconds.items()}
    each |= {f"{name}, once running": taken for name, taken in running.items()}
    for contender in contenders.values():
        if isinstance(contender, Apart):
            contender.close()
    eager, bare_onnx = each["bare eager model(x)"], each["bare ONNX Runtime"]
    return [
        {
            "contender": name,
            "images_per_s": 1 / median(taken),
            "to_bare_eager": ratio(eager, taken),
            "to_bare_onnx": ratio(bare_onnx, taken),
        }
        for name, taken in each.items()
    ]


def all_layers(place: Path, images: int, batch: int, rounds: int) -> list[Row]:
    """All layers of ResNet-18, against the slower of the model and the disk; 40 MB an image stay until the end."""
    import fmx

    data = np.random.default_rng(0).random((images, *SHAPE), dtype=np.float32)
    model = fmx.load("torchvision:resnet18")
    nbytes = sum(layer.nbytes for layer in model.layers) * images
    contenders: dict[str, Contender] = {
        "bare eager model(x)": peers.bare_eager(data, batch),
        "sequential write": write_disk(place / "raw", nbytes),
        "fmx extract all layers": extraction(model, data, place / "a.zarr", batch, layers="all"),
    }
    seconds, running = in_turn(contenders, rounds)
    each = {name: [t / images for t in taken] for name, taken in seconds.items()}
    each |= {f"{name}, once running": taken for name, taken in running.items()}
    slower = [max(pair) for pair in zip(each["bare eager model(x)"], each["sequential write"], strict=True)]
    return [
        {
            "contender": name,
            "images_per_s": 1 / median(taken),
            "mb_per_s": nbytes / images / 1e6 / median(taken),
            "to_slower_of_model_and_disk": ratio(slower, taken),
        }
        for name, taken in each.items()
    ]


def reduce(place: Path, images: int, batch: int, rounds: int) -> list[Row]:
    """Summaries of layer1 to layer4 with nothing kept, against capture alone."""
    import fmx

    data = np.random.default_rng(0).random((images, *SHAPE), dtype=np.float32)
    model = fmx.load("torchvision:resnet18")
    with model.session(LAYERS.split(","), engine="auto") as session:
        session.run(data[:batch])
        engine = session.engine
    contenders: dict[str, Contender] = {"fmx capture only": capture_only(model, data, batch)}
    for names in ("stats", "stats,hist", "stats,hist,quantiles,top-samples"):
        more = {"reduce": names.split(","), "engine": engine}
        contenders[f"fmx extract --reduce {names}"] = extraction(model, data, place / "a.zarr", batch, **more)
    seconds, running = in_turn(contenders, rounds)
    whole = {name: [t / images for t in taken] for name, taken in seconds.items()}
    base = whole["fmx capture only"]
    return [
        {
            "contender": name,
            "images_per_s": 1 / median(taken),
            "to_capture_only": ratio(base, taken),
            "with_set_up": ratio(base, whole[name]),
        }
        for name, taken in (whole | running).items()
    ]


def one_peak(images: int, batch: int, budget: int) -> None:
    """Extract so many small pictures in this process and print its peak memory in MB."""
    import fmx

    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        make_pictures(place / "jpeg", images, 64)
        fmx.extract(
            "torchvision:mobilenet_v3_small",
            place / "jpeg",
            to=place / "a.zarr",
            batch_size=batch,
            pictures=fmx.PictureOptions(size=64),
            memory=budget,
        )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def memory(_place: Path, _images: int, batch: int, _rounds: int) -> list[Row]:
    """Measure peak memory, each number of pictures in a process of its own."""
    rows: list[Row] = []
    for count in (1000, 4000, 16000):
        command = [sys.executable, __file__, "one-peak", "--images", str(count), "--batch-size", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"pictures": count, "peak_mb": float(done.stdout.split()[-1]), "budget_mb": BUDGET / 1e6})
    return rows


BUDGET = 2_000_000_000


def again(place: Path, images: int, batch: int, rounds: int) -> list[Row]:
    """Run the same command over a finished store, beside the imports that it needs."""
    make_pictures(place / "jpeg", images)
    words = ["torchvision:resnet18", str(place / "jpeg"), "-o", str(place / "a.zarr"), "--batch-size", str(batch)]
    command = [sys.executable, "-c", "from fmx.cli import main; main()", "extract", *words, "--layers", LAYERS]
    imports = "import fmx.cli.app, fmx.extraction, fmx_adapters.pytorch, torchvision, xarray, dask.array"

    def quietly(*line: str) -> Callable[[], None]:
        return lambda: subprocess.run(line, capture_output=True, check=True) and None

    quietly(*command)()
    seconds, _ = in_turn(
        {"imports alone": quietly(sys.executable, "-c", imports), "second run": quietly(*command)}, rounds
    )
    more = median(b - a for a, b in zip(seconds["imports alone"], seconds["second run"], strict=True))
    return [{"what": name, "seconds": median(taken)} for name, taken in seconds.items()] + [
        {"what": "second run beyond its imports", "seconds": more}
    ]


def workers(place: Path, images: int, batch: int, rounds: int) -> list[Row]:
    """Compare two worker processes with one process, once both run."""
    data = place / "data.npy"
    np.save(data, np.random.default_rng(0).random((images, *SHAPE), dtype=np.float32))
    contenders = {
        what: extraction("torchvision:resnet18", data, place / "a.zarr", batch, workers=number, engine="folded")
        for what, number in (("one process", 0), ("two workers", 2))
    }
    _, running = in_turn(contenders, rounds)
    return [
        {"what": name, "images_per_s": 1 / median(taken), "to_one_process": ratio(running["one process"], taken)}
        for name, taken in running.items()
    ]


PARTS = {
    "rates": rates,
    "all-layers": all_layers,
    "reduce": reduce,
    "memory": memory,
    "again": again,
    "workers": workers,
}


def main() -> None:
    """Run what was asked for and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "one-peak"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.part == "one-peak":
        one_peak(asked.images, asked.batch_size, BUDGET)
        return
    with tempfile.TemporaryDirectory(dir=".") as folder:
        rows = PARTS[asked.part](Path(folder).resolve(), asked.images, asked.batch_size, asked.rounds)
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    print("  ".join(f"{key:>32}" for key in rows[0]))
    for row in rows:
        print("  ".join(f"{v:>32.2f}" if isinstance(v, float) else f"{v!s:>32}" for v in row.values()))


if __name__ == "__main__":
    main()
