"""How long occlusion takes, beside the bare forward passes that it needs.

    python benchmarks/occlusion.py               ResNet-18, 224 px, patch 32, stride 16, batches of 32
    python benchmarks/occlusion.py --pictures 4 --model squeezenet1_1

*Bare* is a session that is open and has run before, on batches that are ready: as many as there are places and whole
pictures; by the reference (eager), and by the engine that occlusion ran. Occlusion is all of it, with opening the
session and choosing the engine. Processor time, which other work on the machine disturbs least, in turn within a round;
ratios are medians of the rounds' ratios. With a layer, the strongest and the total activation of its strongest feature
map are recorded too, and bare passes capture that layer.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fmx
from fmx.project.occlusion import occlude

PATCH, STRIDE, BATCH, SIDE = 32, 16, 32, 224


def seconds(what: object) -> float:
    """Run something and give its processor time."""
    start = time.process_time()
    what()  # type: ignore[operator]
    return time.process_time() - start


def compare(model: fmx.adapter.Model, inputs: np.ndarray, layers: list[str], engine: str, rounds: int) -> None:
    """Time both and print the ratios."""

    def whole() -> str:
        found = occlude(
            model, inputs, patch=PATCH, stride=STRIDE, layers=layers, engine=engine, batch_size=BATCH, fill="zero"
        )
        return str(found.attrs["engine"])

    passes = len(inputs) * (((SIDE - PATCH) // STRIDE + 1) ** 2 + 1)
    sizes = [min(BATCH, passes - start) for start in range(0, passes, BATCH)]
    ready = np.resize(inputs, (BATCH, *inputs.shape[1:]))
    used = whole()
    with (
        model.session(layers, engine="eager", outputs=True) as reference,
        model.session(layers, engine=used, outputs=True) as own,
    ):
        ratios = []
        for session in (reference, own):
            session.run(ready)
        for _ in range(rounds):
            times = [seconds(lambda s=s: [s.run(ready[:size]) for size in sizes]) for s in (reference, own)]
            ratios.append(seconds(whole) / np.array(times))
    to_reference, to_own = np.median(ratios, axis=0)
    what = f"class and {layers[0]}" if layers else "class"
    print(
        f"{what:18} asked for {engine:8} ran {used:36} {passes} passes   "
        f"{to_reference:.2f} × bare eager   {to_own:.2f} × bare of that engine"
    )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default="eager,folded,auto")
    asked = parser.parse_args()
    model = fmx.load(f"torchvision:{asked.model}")
    inputs = np.random.default_rng(0).normal(size=(asked.pictures, 3, SIDE, SIDE)).astype(np.float32)
    for engine in asked.engines.split(","):
        for layers in ([], [asked.layer]):
            compare(model, inputs, layers, engine, asked.rounds)


if __name__ == "__main__":
    main()
