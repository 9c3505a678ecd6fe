"""How long the report of a ResNet-18 store takes, where the time goes, and how large the page is.

    python benchmarks/report.py                     1000 pictures at 224 px, layer1 to layer4
    python benchmarks/report.py --samples 100 --noise 0,0.2 --model --json

The store is made first, of smooth random pictures in ten classes and a network with random weights; its time does not
count. *reading* is a bare pass over the same values (the sum of each chunk), to compare the parts with: the first row
is read from wherever the system has it. *layers* is one read of each for all that is said of it; *layers one by one*
the same analyses by themselves. Machines are noisy and differ: read the ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from printed import print_rows

LAYERS = ("layer1", "layer2", "layer3", "layer4")
CLASSES = 10


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Write smooth random pictures into a folder for each class."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
        place = folder / f"class{i % CLASSES}" / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(place, quality=90)


def make_store(folder: Path, samples: int, side: int, noise: list[float]) -> Path:
    """Extract layer1 to layer4 of a ResNet-18."""
    import fmx

    make_pictures(folder / "pictures", samples, side)
    store = folder / "acts.zarr"
    options = fmx.PictureOptions(size=side)
    fmx.extract(
        "torchvision:resnet18", folder / "pictures", to=store, layers=list(LAYERS), noise=noise, pictures=options
    )
    return store


def one_by_one(store: object) -> float:
    """Give the seconds of the analyses that the report makes in one read of each layer."""
    from fmx import analyze
    from fmx.analyze.parts import noise_levels

    began = time.perf_counter()
    for name in LAYERS:
        one: dict[str, object] = {"layers": [name]}
        analyze.stats(store, by=["channel"], **one)
        analyze.hist(store, **one)
        analyze.top_samples(store, k=6, **one)
        analyze.health(store, **one)
        analyze.rank(store, per="class", metric="precision", top=5, **one)
        if len(noise_levels(store)) > 1:
            analyze.robustness(store, **one)
    return time.perf_counter() - began


def measure(path: Path, folder: Path, *, model: bool) -> list[dict[str, object]]:
    """Write the report, and give the seconds of its parts."""
    import fmx
    from fmx.report import gather, write_report
    from fmx.report.album import Album
    from fmx.report.page import PageSettings, page_of, render_page

    store = fmx.open_store(path)
    began = time.perf_counter()
    store.compute(*(store.activation(name).data.sum() for name in LAYERS))
    reading = time.perf_counter() - began
    size = sum(store.activation(name).nbytes for name in LAYERS)
    opened = fmx.load("torchvision:resnet18", input_shape=tuple(store.attributes["input_shape"])) if model else None
    began = time.perf_counter()
    found = gather(store)
    page = render_page(page_of(found, Album(), PageSettings(), opened), embedded=True)
    whole = time.perf_counter() - began
    apart = one_by_one(store)
    began = time.perf_counter()
    written = write_report(store, folder / "report.html")
    again = time.perf_counter() - began
    rows: list[dict[str, object]] = [{"part": "reading", "seconds": reading, "share": reading / whole}]
    rows += [{"part": name, "seconds": s, "share": s / whole} for name, s in found.seconds.items()]
    rows += [{"part": "whole report", "seconds": whole, "share": 1.0}]
    rows += [{"part": "layers one by one", "seconds": apart, "share": apart / whole}]
    rows += [{"part": "written again", "seconds": again, "share": again / whole}]
    print(f"{size / 1e9:.2f} GB of values; page {len(page) / 1e6:.1f} MB, file {written.stat().st_size / 1e6:.1f} MB")
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--noise", default="0")
    parser.add_argument("--model", action="store_true", help="with deconvnet and maximization")
    parser.add_argument("--store", type=Path, help="measure on this store, and make none")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        noise = [float(v) for v in given.noise.split(",")]
        path = given.store or make_store(Path(folder), given.samples, given.side, noise)
        print_rows(measure(path, Path(folder), model=given.model), as_json=given.json, width=16)


if __name__ == "__main__":
    main()
