"""Make the pictures of the documentation again, with the commands of its pages, real models and real pictures.

python tests/remake_pictures.py                    # all of them, in a quarter of an hour
python tests/remake_pictures.py 'plot-*' grid.png  # some of them
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from test_workflows import DOCS, steps

IMAGES = DOCS / "images"
REAL = Path(__file__).parents[2] / "shared" / "real"
# Bytes: pages open quickly, and a repository keeps every picture that it ever had.
MOST, MOST_OF_WORKFLOWS = 400_000, 60_000
# A colour of so many pixels is drawn; in photographs hardly any two are the same.
DRAWN = 12

SQUEEZENET = "torchvision:squeezenet1_1 --weights real/models/squeezenet1_1.pth"
MOBILENET = "torchvision:mobilenet_v2 --weights real/models/mobilenet_v2-b0353104.pth"
CIFAR = "real/models/cifar10_cnn_traced.pt --range 0,255 --input-shape 3,32,32 --layers 6,13,16,20,23,26,29 --outputs"
TESTED = "real/images/cifar10 --noise 0,0.05,0.1,0.2,0.4 --seed 7"
CAT = "real/images/photos/chelsea.png"

STORES = {
    "photos": f"{MOBILENET} real/images/photos --noise 0,0.2,0.4 --seed 7",
    "mobile": f"{MOBILENET} real/images/imagenet20 --layers kind:Conv2d,kind:Linear",
    "squeeze": f"{SQUEEZENET} real/images/photos --layers features.7",
    "films": f"{SQUEEZENET} real/video --frames 24 --layers features.3,features.6,features.9,features.12",
    "cifar": f"{CIFAR} {TESTED}",
    "half": f"{CIFAR} {TESTED} --dtype float16",
    "few": f"{CIFAR} 'real/images/cifar10/*/000*.png'",
}
DEMO = "fmx demo -o demo"
# Each picture of a page: the commands, those of stores and workflows before, and where the last one writes it.
COMMANDS = {
    "grid.png": (DEMO, "demo/*/pictures/grid*page001.png"),
    "overlay.png": (DEMO, "demo/*/pictures/overlay*chelsea*.png"),
    "multiples.png": (
        "fmx render multiples photos.zarr --rows noise --columns layer --sample chelsea.png --name multiples",
        "out/*/multiples/*.png",
    ),
    "deconv.png": (
        f"fmx deconv {SQUEEZENET} {CAT} --layers features.1,features.4,features.7,features.10 --name layers",
        "deconv/*/layers/*.png",
    ),
    "top-projections.png": (
        f"fmx deconv {SQUEEZENET} --store squeeze.zarr --layer features.7 --channels 208,60,249,128 --top 4 "
        "--name four",
        "deconv/*/four/*.png",
    ),
    "occlusion.png": (
        "fmx occlude fmx.cli.demo:efficientnet_lite0 real/images/photos/coffee.png --size 256 --crop 224 --patch 48 "
        "--stride 12 --fill grey --layer _bn1 --names imagenet --name espresso",
        "occluded/*/espresso/*.png",
    ),
    "maximized.png": (
        f"fmx maximize {SQUEEZENET} --layer features.9 --channels 0-7 --steps 160 --name eight",
        "maximized/*/eight/sheet*.png",
    ),
}
PLOTS = {
    "distribution": "cifar.zarr --layers 26",
    "channels": "cifar.zarr --layers 26",
    "spatial": "cifar.zarr --layers 6",
    "layers": "cifar.zarr",
    "robustness": "cifar.zarr",
    "temporal": "films.zarr",
    "class-sums": "cifar.zarr --layers 26",
    "health": "cifar.zarr",
    "similarity": "mobile.zarr",
    "rdm": "few.zarr --layers 26",
    "differences": "cifar.zarr --other half.zarr",
}
for _plot, _of in PLOTS.items():
    COMMANDS[f"plot-{_plot}.png"] = (f"fmx render plots {_of} --plots {_plot} --name {_plot}", f"out/*/{_plot}/*.png")
METHODS = "gradient gradient-x-input smoothgrad integrated-gradients guided deconvnet grad-cam grad-cam++ layer-cam"
# Each picture of a workflow, from the commands of its page.
WORKFLOWS = {
    "classes-best": "out/*/best/*.png",
    "classes-unique": "out/*/unique/*.png",
    "classes-sums": "out/*/sums/*.png",
    "classes-overlay": "out/*/top-maps/*.png",
    "classes-overlay-one": "out/*/one-map/*.png",
    "classes-top-samples": "out/*/top-samples/*.png",
    **{
        f"deconvnet-{name}": f"deconv/*/{name}/*.png"
        for name in ("one", "twentieth", "all", "strongest", "each", "top")
    },
    "deconvnet-film": "deconv/*/film/*.gif",
    **{f"frames-{name}": f"out/*/{name}/*.png" for name in ("filter", "layer", "clipped", "equalised")},
    "frames-overlay": "out/*/top/*.png",
    "frames-video": "out/*/film/*.avi",
    **{f"noise-grid-{level}": f"out/*/gray/*noise{level}_page001.png" for level in ("0", "0.2", "1")},
    "noise-multiples": "out/*/over-depth/*.png",
    "noise-distribution": "out/*/histograms/distribution*_blocks.11*.png",
    "noise-robustness": "out/*/histograms/robustness.png",
    "video-grid": "out/*/step5/*page001.png",
    "video-steps": "out/*/steps/*.png",
    **{f"video-{plot}": f"out/*/plots/{plot}*.png" for plot in ("distribution", "channels", "spatial", "temporal")},
    "video-differences": "out/*/half/differences*.png",
}
COMPOSED = ("attribution.png", "maximized-methods.png")


def known_pictures() -> set[Path]:
    """List the pictures that are made here."""
    return {IMAGES / name for name in (*COMMANDS, *COMPOSED)} | {IMAGES / "workflows" / f"{n}.png" for n in WORKFLOWS}


def remake(patterns: list[str]) -> None:
    """Make the pictures whose names fit a pattern, in a folder that is gone afterwards."""
    wanted = [path for path in sorted(known_pictures()) if any(fnmatch(path.stem, Path(p).stem) for p in patterns)]
    if not wanted:
        raise SystemExit(f"No picture of the documentation is called {' or '.join(patterns)}.")
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("real").symlink_to(REAL)
        for path in wanted:
            _save(_made(path), path, MOST if path.parent == IMAGES else MOST_OF_WORKFLOWS)
            sys.stdout.write(f"{path.relative_to(DOCS)}  {path.stat().st_size // 1000} kB\n")
            sys.stdout.flush()


def _made(path: Path) -> Image.Image:
    if path.name == "attribution.png":
        return _attribution()
    if path.name == "maximized-methods.png":
        return _methods()
    if path.parent == IMAGES:
        command, found = COMMANDS[path.name]
        for store in re.findall(r"(\w+)\.zarr", command):
            _run(f"fmx extract {STORES[store]} -o {store}.zarr")
        _run(command)
        return _only(Path(), found)
    page, _, _ = path.stem.partition("-")
    return _only(_workflow(page), WORKFLOWS[path.stem])


@cache
def _run(command: str) -> None:
    program = str(Path(sys.executable).with_name("fmx"))
    done = subprocess.run([program, *shlex.split(command)[1:]], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")


@cache
def _workflow(page: str) -> Path:
    """Run a page as it stands there, with the weights that there are, and give the folder."""
    here = Path(page).absolute()
    here.mkdir()
    (here / "real").symlink_to(REAL)
    _alexnet(here / "alexnet.pth")
    before = Path.cwd()
    os.chdir(here)
    names: dict[str, Any] = {}
    for source in ("index", page):
        for language, step in steps(DOCS / "workflows" / f"{source}.md"):
            if language == "python":
                exec(compile(step, source, "exec"), names)
            elif "resnet18" not in step and "r3d_18" not in step:
                weights = "alexnet.pth" if "alexnet" in step else "real/models/squeezenet1_1.pth"
                _run(step.replace("--weights DEFAULT", f"--weights {weights}"))
    os.chdir(before)
    return here


def _alexnet(path: Path) -> None:
    """Write weights whose convolutions are trained: nothing that follows them is shown."""
    import torch
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = alexnet()
    features = torch.load(REAL / "models" / "alexnet_features.pth", weights_only=True)
    network.features.load_state_dict(features)
    torch.save(network.state_dict(), path)


def _only(folder: Path, pattern: str) -> Image.Image:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{pattern} is {[path.name for path in found] or 'nowhere'}, not one picture.")
    if found[0].suffix == ".avi":
        import av

        with av.open(found[0]) as film:
            return next(film.decode(video=0)).to_image()
    picture = Image.open(found[0])
    picture.load()
    return picture


def _attribution() -> Image.Image:
    import fmx
    from fmx.cli.projection_figures import shown
    from fmx.render import overlay
    from fmx.render.sheet import picture_sheet

    model = fmx.load("torchvision:squeezenet1_1", weights=REAL / "models" / "squeezenet1_1.pth")
    drawn = []
    for method in METHODS.split():
        data = fmx.project.attribute(model, CAT, method=method, classes=[282])
        values, picture = data["attribution"].values[0, 0], data["picture"].values[0]
        drawn.append(overlay(picture, values) if values.ndim == 2 else shown(values))
    about = {"title": "class 282 (tiger cat)", "notes": ["SqueezeNet 1.1"]}
    return picture_sheet([picture, *drawn], ["input", *METHODS.split()], columns=5, **about).image()


def _methods() -> Image.Image:
    from fmx.render.sheet import picture_sheet

    pictures, captions = [], []
    methods = {"fourier": "--steps 256", "pixels": "--steps 256", "multi-scale": "--scales 8"}
    methods["maco"] = "--spectrum real/images/photos"
    for method, options in methods.items():
        # Results of one folder are of one method.
        run = f"fmx maximize {SQUEEZENET} --layer features.9 --channels 0-3 --method {method} {options} -o by-{method}"
        _run(run)
        (index,) = Path().glob(f"by-{method}/*/*/index.csv")
        rows = pd.read_csv(index).dropna(subset="activation")
        for channel, (file, activation) in enumerate(zip(rows["file"], rows["activation"], strict=True)):
            with Image.open(index.with_name(file)) as picture:
                pictures.append(np.asarray(picture.convert("RGB").resize((112, 112), Image.Resampling.LANCZOS)))
            captions.append(f"channel {channel}: {activation:.4g}")
    titles = [name if name != "maco" else "maco, spectrum of photographs" for name in methods]
    return picture_sheet(pictures, captions, columns=4, row_titles=titles).image()


def _save(picture: Image.Image, path: Path, most: int) -> None:
    """Write a picture in as many colours as its file may have, and smaller only where that is not enough."""
    if picture.mode != "P":
        picture = picture.convert("RGB")
    encoded = b""
    for share in (1, 0.85, 0.72, 0.61, 0.52):
        size = tuple(max(round(side * share), 1) for side in picture.size)
        for colours in (256, 128, 96):
            encoded = _encoded(picture, size, colours)
            if len(encoded) < most:
                path.write_bytes(encoded)
                return
    raise SystemExit(f"{path.name} has {len(encoded)} bytes: there may be {most}.")


def _encoded(picture: Image.Image, size: tuple[int, ...], colours: int) -> bytes:
    if size != picture.size:
        picture = picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if picture.mode != "P" or colours < 256:
        picture = _indexed(picture.convert("RGB"), colours)
    stream = BytesIO()
    picture.save(stream, format="png", optimize=True)
    return stream.getvalue()


def _indexed(picture: Image.Image, colours: int) -> Image.Image:
    """Choose colours: a quarter of them for what is drawn, such as the bar of a colormap, however narrow it is."""
    pixels = np.asarray(picture)
    found, places, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_index=True, return_counts=True)
    drawn = found[counts >= DRAWN]
    own = colours // 4 if len(drawn) else 0
    weighed = found.repeat(np.ceil(counts**0.5).astype(int), axis=0)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([_chosen(weighed, colours - own), _chosen(drawn, own)]).tobytes())
    indexed = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    # Paper stays white, and ink as dark as it is: what there is most of keeps its colour.
    table = np.asarray(indexed.getpalette(), np.uint8).reshape(-1, 3)
    for most in np.argsort(counts)[-8:]:
        table[np.asarray(indexed).ravel()[places[most]]] = found[most]
    indexed.putpalette(table.tobytes())
    return indexed


def _chosen(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Choose so many colours at most that are near to those of pixels."""
    if not count or not len(pixels):
        return np.zeros((0, 3), np.uint8)
    chosen = Image.fromarray(pixels[None]).quantize(count, Image.Quantize.MEDIANCUT, kmeans=2).getpalette()
    return np.asarray(chosen, np.uint8).reshape(-1, 3)[:count]


if __name__ == "__main__":
    remake(sys.argv[1:] or ["*"])
