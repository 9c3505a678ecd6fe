"""Activation maximization: pictures a minute beside torch-lucent's loop, and activations beside those of photographs.

    python benchmarks/maximization.py speed [--real ../shared/real] [--steps 128]
    python benchmarks/maximization.py photographs [--real ../shared/real] [--channels 16] [--network mobilenet_v2]

The contenders of `speed` run by turns, in one process, with the same layer, channels, steps and threads. Real weights
are used where the folder of real models is, random ones elsewhere. torch-lucent needs an old kornia: pip install
torch-lucent "kornia<=0.4.1". Networks of `photographs`: squeezenet1_1, mobilenet_v2, alexnet, cifar10_cnn,
efficientnet_lite0 (that of fmx demo).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LAYER = "features.9"


@dataclass(frozen=True)
class Case:
    """A network, what it is to be measured on, and at which size."""

    layers: tuple[str, ...]
    weights: str = ""
    side: int = 128
    build: Callable[[], Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def _cifar10_cnn() -> Any:
    from torch import nn

    parts: list[nn.Module] = []
    for number, (read, made) in enumerate(((3, 64), (64, 64), (64, 128), (128, 128), (128, 64), (64, 64)), start=1):
        parts += [nn.Conv2d(read, made, 3), nn.ReLU(), nn.BatchNorm2d(made, eps=0.001)]
        parts += [nn.MaxPool2d(2 if number < 6 else 1)] if number % 2 == 0 else []
    parts += [nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, 512), nn.ReLU()]
    return nn.Sequential(*parts, nn.Dropout(), nn.Linear(512, 10))


def _efficientnet_lite0() -> Any:
    from fmx.cli.demo import efficientnet_lite0

    return efficientnet_lite0()


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CASES = {
    "squeezenet1_1": Case(("features.3", "features.6", "features.9", "features.12"), settings=_IMAGENET),
    "mobilenet_v2": Case(
        ("features.1", "features.3", "features.6", "features.13", "features.18"),
        "mobilenet_v2-b0353104",
        settings=_IMAGENET,
    ),
    "alexnet": Case(
        ("features.1", "features.4", "features.7", "features.9", "features.11"), "alexnet_features", settings=_IMAGENET
    ),
    "cifar10_cnn": Case(
        ("1", "4", "8", "11", "15", "18"), side=32, build=_cifar10_cnn, settings={"range": (0.0, 255.0)}
    ),
    "efficientnet_lite0": Case(
        ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15"),
        build=_efficientnet_lite0,
        settings={"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3},
    ),
}


def network(real: Path, name: str = "squeezenet1_1") -> Any:
    """Build a network, with real weights if they are there."""
    import torch
    import torchvision

    torch.manual_seed(0)
    case = CASES[name]
    net = case.build() if case.build else getattr(torchvision.models, name)()
    weights = real / "models" / f"{case.weights or name}.pth"
    if weights.is_file():
        state = torch.load(weights, weights_only=True)
        (net.features if case.weights.endswith("_features") else net).load_state_dict(state)
    return net.eval()


def preprocess(name: str = "squeezenet1_1") -> Any:
    """Give what pixels are to a network: ImageNet's mean and std for most, as torch-lucent applies them."""
    from fmx.data import Preprocess

    side = 32 if CASES[name].side == 32 else 224
    return Preprocess(crop=(side, side), **CASES[name].settings)


def means(net: Any, layer: str, pictures: np.ndarray, prepare: Any = None) -> np.ndarray:
    """Measure the mean of each channel for pictures (picture, y, x, band) of 8 bits, (picture, channel)."""
    import torch

    how = prepare or preprocess()
    low, high = how.range
    taken: dict[str, Any] = {}
    handle = dict(net.named_modules())[layer].register_forward_hook(lambda _m, _i, out: taken.update(value=out.clone()))
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (how.mean, how.std))
    found = []
    with torch.no_grad():
        for start in range(0, len(pictures), 32):
            x = torch.tensor(pictures[start : start + 32]).permute(0, 3, 1, 2).float() / 255
            net((low + (high - low) * x - mean) / std)
            found.append(taken["value"].mean((2, 3)).numpy())
    handle.remove()
    return np.concatenate(found)


def by_lucent(net: Any, channels: range, steps: int, size: int | None) -> np.ndarray:
    """Maximize channels one by one as torch-lucent's documentation shows, at 128 pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lucent.optvis import render

    made = []
    for channel in channels:
        name = f"{LAYER.replace('.', '_')}:{channel}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            last = render.render_vis(
                net, name, thresholds=(steps,), show_image=False, progress=False, fixed_image_size=size
            )
        made.append(np.round(last[-1][0] * 255).astype(np.uint8))
    return np.stack(made)


def by_fmx(model: Any, channels: range, steps: int, views: tuple[int, ...] | None = None) -> np.ndarray:
    """Maximize channels together, seen at the usual sizes unless told."""
    import fmx

    look: dict[str, Any] = {"transforms": fmx.maximize.Transforms(views=views), "preprocess": preprocess()}
    found = fmx.maximize.maximize(model, LAYER, channels, steps=steps, size=128, **look)
    return found[LAYER]["picture"].values


def speed(real: Path, steps: int, rounds: int) -> None:
    """Print pictures a minute and mean final activations of 16 channels."""
    import torch
    import torch.nn.functional as F

    import fmx

    net, channels = network(real), range(16)
    model = fmx.load(network(real), input_shape=(3, 224, 224))
    contenders = {
        "fmx, 16 together": lambda: by_fmx(model, channels, steps),
        "the same, seen at 128 px": lambda: by_fmx(model, channels, steps, (128,)),
        "torch-lucent one by one": lambda: by_lucent(net, channels, steps, None),
        "torch-lucent at 128 px": lambda: by_lucent(net, channels, steps, 128),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    made: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, run in contenders.items():
            begun, used = time.perf_counter(), time.process_time()
            made[name] = run()
            times[name].append((time.perf_counter() - begun, time.process_time() - used))
    print(f"SqueezeNet 1.1 {LAYER}, 16 channels, 128 px, {steps} steps, {torch.get_num_threads()} threads")
    print(f"{'':30}{'pictures/min':>14}{'s of CPU each':>15}{'activation':>12}{'at 224 px':>12}{'higher':>8}")
    own = None
    for name, pictures in made.items():
        wall, used = (min(t[i] for t in times[name]) for i in (0, 1))
        at_224 = F.interpolate(torch.tensor(pictures).permute(0, 3, 1, 2).float(), size=224, mode="bilinear")
        enlarged = at_224.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        reached, large = (
            np.diagonal(means(net, LAYER, p)[:, channels.start : channels.stop]) for p in (pictures, enlarged)
        )
        own = reached if own is None else own
        print(
            f"{name:30}{16 / wall * 60:14.1f}{used / 16:15.2f}{reached.mean():12.1f}{large.mean():12.1f}"
            f"{int((own >= reached).sum()):5}/16"
        )
    print("activation: mean over the channels of the channel's own mean, of the finished 8-bit pictures, at 128 px and")
    print("enlarged to 224 px; higher: channels whose picture by fmx has at least the activation, at 128 px.")


def photographs(real: Path, name: str, count: int, steps: int, views: tuple[int, ...] | None = None) -> None:
    """Compare each channel's maximized picture with the best of the CIFAR pictures and of the photographs."""
    import fmx

    case, prepare = CASES[name], preprocess(name)
    net, model = network(real, name), fmx.load(network(real, name), input_shape=(3, *prepare.crop))
    groups = pictures(real, case.side)
    print(f"{name}, {steps} steps, {case.side} px; activation: mean of the channel over its map")
    headings = ("channels", "live", "beat CIFAR", "beat photos", "beat all", "median ratio")
    print(f"{'layer':12}" + "".join(f"{text:>13}" for text in headings))
    total = np.zeros(2, int)
    for layer in case.layers:
        best = {n: np.max([means(net, layer, p, prepare).max(0) for p in some], 0) for n, some in groups.items()}
        channels = np.linspace(0, len(best["cifar"]) - 1, count).round().astype(int)
        look = fmx.maximize.Transforms(views=views)
        settings: dict[str, Any] = {"steps": steps, "size": case.side, "preprocess": prepare, "transforms": look}
        found = fmx.maximize.maximize(model, layer, channels.tolist(), **settings)[layer]
        reached = found["activation"].values
        strongest = np.maximum(*(value[channels] for value in best.values()))
        live = strongest > 0
        wins = {n: (reached > value[channels])[live].sum() for n, value in best.items()}
        both = int((reached > strongest)[live].sum())
        ratio = float(np.median(reached[live] / strongest[live]))
        total += (live.sum(), both)
        counts = (count, live.sum(), wins["cifar"], wins["photographs"], both)
        print(f"{layer:12}" + "".join(f"{n:13}" for n in counts) + f"{ratio:13.2f}", flush=True)
        for c, own, other in zip(channels, reached, strongest, strict=True):
            if other > 0 and own <= other:
                print(f"    channel {c}: {own:.3g}, and a picture {other:.3g}")
    print(f"{total[1]} of {total[0]} live channels ({100 * total[1] / total[0]:.1f} %) beat every picture")


def pictures(real: Path, side: int = 128) -> dict[str, list[np.ndarray]]:
    """Read the CIFAR pictures at one size, and the photographs at that and, if it is no CIFAR network's, at 224 px."""
    from fmx.data import Preprocess, open_source

    found: dict[str, list[np.ndarray]] = {"cifar": [], "photographs": []}
    for name, folders, sides in (
        ("cifar", ["cifar10"], (side,)),
        ("photographs", ["photos", "imagenet20"], (side,) if side == 32 else (side, 224)),
    ):
        for folder in folders:
            source = open_source(str(real / "images" / folder))
            for edge in sides:
                prepare = Preprocess(resize=edge, crop=(edge, edge))
                read = [
                    prepare.picture(p) for i in range(len(source.samples)) for p in source.read_run(range(i, i + 1))
                ]
                found[name].append(np.stack(read))
    return found


def main() -> None:
    """Run the part that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "photographs"])
    parser.add_argument("--real", type=Path, default=Path(__file__).parents[2] / "shared" / "real")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--network", choices=list(CASES), default="squeezenet1_1")
    parser.add_argument("--views", help="of photographs: sides at which the network sees pictures, by turns: 128,224")
    options = parser.parse_args()
    if options.part == "speed":
        speed(options.real, options.steps, options.rounds)
    else:
        views = tuple(map(int, options.views.split(","))) if options.views else None
        photographs(options.real, options.network, options.channels, options.steps, views)


if __name__ == "__main__":
    main()
