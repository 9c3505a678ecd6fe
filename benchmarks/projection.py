"""How long the deconvnet of every channel of a layer takes, beside projecting one channel after the other.

    python benchmarks/projection.py                    all 512 channels of layer 22 (conv4_3) of VGG-16, 224 px
    python benchmarks/projection.py --activations 1    the strongest neuron of each instead of whole maps
    python benchmarks/projection.py --loop 16          so many channels in the loops
    python benchmarks/projection.py --network resnet18 --layer layer4 --least 512
    python benchmarks/projection.py --device cuda

*One by one* is what tools do that project a channel at a call: a pass forward and one back for each, by the same
differentiable module with the same rule and no gradients of weights. *Forward once* keeps the pass and goes back once a
channel, which is the least that a loop can do. All three start from the same activations, and what they make is
compared. The loops take turns with as many channels by fmx, and the ratio is the median of the rounds' ratios of
processor time, which other work on the machine disturbs least; on a GPU of wall time. Of many whole maps fmx compiles
the convolutions, once, and keeps the code on disk: that is warmed up if `--least` channels are that many, and what it
prepares for each call counts. Weights are random unless a state dict is given: time does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import fmx
from fmx.project import Deconvnet, open_pictures
from fmx.project.rules import deconvnet


def timed(what: Callable[[], Any], device: str) -> tuple[Any, float]:
    """Run something; give its result, and seconds: of the processors, or by the clock where a GPU does the work."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    found = what()
    if device != "cpu":
        torch.cuda.synchronize()
    return found, clock() - start


def strongest(value: torch.Tensor, channel: int, count: int | None) -> torch.Tensor:
    """Give the signal of one channel: the largest values of its map, or all of it; everything else 0."""
    signal = torch.zeros_like(value)
    kept = value[0, channel].clamp(min=0)
    if count is not None:
        kept = torch.where(kept >= kept.flatten().topk(count).values[-1], kept, 0)
    signal[0, channel] = kept
    return signal


def one_by_one(
    module: Any, picture: torch.Tensor, layer: str, channels: range, count: int | None
) -> Iterator[torch.Tensor]:
    """Go forward and back for each channel."""
    for channel in channels:
        given = picture.clone().requires_grad_()
        value = module.capture(given, [layer])[layer]
        yield torch.autograd.grad(value, given, strongest(value.detach(), channel, count))[0]


def forward_once(
    module: Any, picture: torch.Tensor, layer: str, channels: range, count: int | None
) -> Iterator[torch.Tensor]:
    """Go forward once, and back for each channel."""
    given = picture.clone().requires_grad_()
    value = module.capture(given, [layer])[layer]
    for channel in channels:
        yield torch.autograd.grad(value, given, strongest(value.detach(), channel, count), retain_graph=True)[0]


def compare(args: argparse.Namespace) -> dict[str, float]:
    """Time the three, print a line each, and give seconds a channel."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    name, _, part = args.network.partition(".")
    net = get_model(name).get_submodule(part).eval()
    if args.weights:
        net.load_state_dict(torch.load(args.weights, weights_only=True))
    model = fmx.load(net, input_shape=(3, args.size, args.size))
    x = np.random.default_rng(0).standard_normal((1, 3, args.size, args.size)).astype(np.float32)
    count = dict(zip(("channel", "y", "x"), next(i for i in model.layers if i.name == args.layer).shape, strict=True))
    channels = range(min(args.channels or count["channel"], count["channel"]))
    few = channels[: args.loop]
    module = model.torch_module(relu=deconvnet).requires_grad_(False).to(args.device)
    picture = torch.from_numpy(x).to(args.device)
    network = Deconvnet(open_pictures(model, x), device=args.device, batch_size=args.batch_size)
    for loop in (one_by_one, forward_once):  # warm up
        list(loop(module, picture, args.layer, channels[:1], args.activations))

    def fmx_does(channels: range) -> Any:
        return network.project(0, args.layer, channels=list(channels), activations=args.activations or 1.0)

    fmx_does(channels[: args.least])
    whole, spent = timed(lambda: fmx_does(channels), args.device)
    each = {"fmx": [spent / len(channels)]}
    for _ in range(args.rounds):
        for name, loop in (("one by one", one_by_one), ("forward once", forward_once)):
            made, spent = timed(
                lambda loop=loop: torch.cat(list(loop(module, picture, args.layer, few, args.activations))), args.device
            )
            each.setdefault(name, []).append(spent / len(few))
        part = channels[: max(len(few), min(args.least, len(channels)))]
        _, spent = timed(lambda part=part: fmx_does(part), args.device)
        each["fmx"].append(spent / len(part))
    print(f"fmx, all {len(channels)} channels: {1000 * each['fmx'].pop(0):.1f} ms a channel")
    for name, seconds in each.items():
        ratio = median(s / f for s, f in zip(seconds, each["fmx"], strict=True))
        print(f"{name:14} {1000 * median(seconds):8.1f} ms a channel   {ratio:5.2f} × fmx")
    same = torch.from_numpy(whole["projection"].values[: len(few)])
    apart = float((same - made.cpu()).abs().max() / made.abs().max())
    print(f"largest difference {apart:.1e} of the largest value")
    return {name: median(seconds) for name, seconds in each.items()}


def main(words: list[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="vgg16.features", help="of torchvision, or a part of one")
    parser.add_argument("--layer", default="22")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--channels", type=int, help="first so many channels (default: all)")
    parser.add_argument("--activations", type=int, help="largest values of each map (default: all)")
    parser.add_argument("--loop", type=int, default=8, help="channels in each loop")
    parser.add_argument("--least", type=int, default=64, help="channels by fmx beside each loop, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path)
    compare(parser.parse_args(words))


if __name__ == "__main__":
    main()
