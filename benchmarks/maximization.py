"""Activation maximization: pictures a minute beside torch-lucent's loop, and activations beside those of photographs.

    python benchmarks/maximization.py speed [--real ../shared/real] [--steps 128]
    python benchmarks/maximization.py photographs [--real ../shared/real] [--channels 16]

The contenders of `speed` run by turns, in one process, with the same layer, channels, steps and threads. Real weights
are used where the folder of real models is, random ones elsewhere. torch-lucent needs an old kornia: pip install
torch-lucent "kornia<=0.4.1".
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

LAYER = "features.9"


def network(real: Path) -> Any:
    """Build SqueezeNet 1.1, with real weights if they are there."""
    import torch
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1()
    weights = real / "models" / "squeezenet1_1.pth"
    if weights.is_file():
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


def preprocess() -> Any:
    """Give ImageNet's mean and std, as torch-lucent applies them."""
    from fmx.data import Preprocess

    return Preprocess(crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def means(net: Any, layer: str, pictures: np.ndarray) -> np.ndarray:
    """Measure the mean of each channel for pictures (picture, y, x, band) of 8 bits, (picture, channel)."""
    import torch

    taken: dict[str, Any] = {}
    handle = dict(net.named_modules())[layer].register_forward_hook(lambda _m, _i, out: taken.update(value=out))
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (preprocess().mean, preprocess().std))
    found = []
    with torch.no_grad():
        for start in range(0, len(pictures), 32):
            x = torch.tensor(pictures[start : start + 32]).permute(0, 3, 1, 2).float() / 255
            net((x - mean) / std)
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


def by_fmx(model: Any, channels: range, steps: int) -> np.ndarray:
    """Maximize channels together."""
    import fmx

    found = fmx.maximize.maximize(model, LAYER, channels, steps=steps, size=128, preprocess=preprocess())
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
        "torch-lucent one by one": lambda: by_lucent(net, channels, steps, None),
        "the same, network at 128 px": lambda: by_lucent(net, channels, steps, 128),
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


def photographs(real: Path, count: int, steps: int) -> None:
    """Compare each channel's maximized picture with the best of the CIFAR pictures and of the photographs."""
    import fmx

    net = network(real)
    model = fmx.load(network(real), input_shape=(3, 224, 224))
    groups = pictures(real)
    print(f"SqueezeNet 1.1, {steps} steps, 128 px; activation: mean of the channel over its map")
    headings = ("channels", "live", "beat CIFAR", "beat photos", "beat all", "median ratio")
    print(f"{'layer':12}" + "".join(f"{text:>13}" for text in headings))
    total = np.zeros(2, int)
    for layer in ("features.3", "features.6", "features.9", "features.12"):
        best = {name: np.max([means(net, layer, p).max(0) for p in some], 0) for name, some in groups.items()}
        channels = np.linspace(0, len(best["cifar"]) - 1, count).round().astype(int)
        found = fmx.maximize.maximize(model, layer, channels.tolist(), steps=steps, size=128, preprocess=preprocess())[
            layer
        ]
        reached = found["activation"].values
        strongest = np.maximum(*(value[channels] for value in best.values()))
        live = strongest > 0
        wins = {name: (reached > value[channels])[live].sum() for name, value in best.items()}
        both = int((reached > strongest)[live].sum())
        ratio = float(np.median(reached[live] / strongest[live]))
        total += (live.sum(), both)
        counts = (count, live.sum(), wins["cifar"], wins["photographs"], both)
        print(f"{layer:12}" + "".join(f"{n:13}" for n in counts) + f"{ratio:13.2f}")
        for c, own, other in zip(channels, reached, strongest, strict=True):
            if other > 0 and own <= other:
                print(f"    channel {c}: {own:.3g}, and a picture {other:.3g}")
    print(f"{total[1]} of {total[0]} live channels ({100 * total[1] / total[0]:.1f} %) beat every picture")


def pictures(real: Path) -> dict[str, list[np.ndarray]]:
    """Read the CIFAR pictures, enlarged to 128 px, and the photographs, cut to 224 px and as small as 128 px."""
    from fmx.data import Preprocess, open_source

    found: dict[str, list[np.ndarray]] = {"cifar": [], "photographs": []}
    for name, folders, sides in (
        ("cifar", ["cifar10"], (128,)),
        ("photographs", ["photos", "imagenet20"], (128, 224)),
    ):
        for folder in folders:
            source = open_source(str(real / "images" / folder))
            for side in sides:
                prepare = Preprocess(resize=side, crop=(side, side))
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
    options = parser.parse_args()
    if options.part == "speed":
        speed(options.real, options.steps, options.rounds)
    else:
        photographs(options.real, options.channels, options.steps)


if __name__ == "__main__":
    main()
