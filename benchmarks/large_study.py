"""A study of ten thousand pictures that is killed three times, continued, verified and analysed.

    python benchmarks/large_study.py MODEL PICTURES [--samples 10000] [--kills 3]

MODEL is a file of a network for small pictures, PICTURES a folder of class folders. The pictures are multiplied by
flips, shifts and changes of brightness, extracted with the process killed (SIGKILL) at random moments, and compared bit
by bit with an extraction that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

FMX = [sys.executable, "-c", "from fmx.cli import main; main()"]


def multiply(pictures: Path, to: Path, samples: int) -> None:
    """Make so many pictures of a folder's by flips, shifts and changes of brightness."""
    files = sorted(f for f in pictures.rglob("*") if f.suffix.lower() in {".png", ".jpg"})
    rng = np.random.default_rng(0)
    for number in range(samples):
        source = files[number % len(files)]
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        pixels = np.roll(pixels, tuple(rng.integers(-3, 4, 2)), axis=(0, 1)) + rng.integers(-20, 21)
        target = to / source.parent.name / f"{number:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target)


def content(store: Path) -> str:
    """Digest everything in a store."""
    digest = hashlib.sha256()
    for file in sorted(f for f in store.rglob("*") if f.is_file()):
        if file != store / "zarr.json":  # holds nothing but when and by what the store was made
            digest.update(file.relative_to(store).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def run(words: list[str], kill_after: float | None = None) -> int:
    """Run a command of fmx, killed after so many seconds if told."""
    process = subprocess.Popen([*FMX, *words])
    try:
        return process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return -signal.SIGKILL


def main() -> None:
    """Do all of it and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        multiply(asked.pictures, place / "pictures", asked.samples)
        # The engine is named, as which one is the fastest may differ between the two runs that are compared.
        words = [
            "extract",
            asked.model,
            str(place / "pictures"),
            "--layers",
            "auto",
            "--size",
            "32",
            "--engine",
            "eager",
        ]
        start = time.perf_counter()
        if run([*words, "-o", str(place / "whole.zarr")]):
            sys.exit("the undisturbed run failed")
        seconds = time.perf_counter() - start
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        chance, kills = random.Random(0), 0
        while kills < asked.kills:
            if (
                run([*words, "-o", str(place / "killed.zarr")], (0.3 + 0.6 * chance.random()) * seconds / asked.kills)
                == 0
            ):
                break
            kills += 1
        print(f"killed {kills} times", flush=True)
        if run([*words, "-o", str(place / "killed.zarr")]):
            sys.exit("the last run failed")
        same = content(place / "whole.zarr") == content(place / "killed.zarr")
        print(f"the same, bit by bit: {same}", flush=True)
        verified = run(["verify", str(place / "killed.zarr")])
        run(["stats", str(place / "killed.zarr")])
        sys.exit(0 if same and not verified and kills == asked.kills else 1)


if __name__ == "__main__":
    main()
