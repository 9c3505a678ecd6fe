"""How fast lossless films are written, beside encoding frames that are ready with PyAV alone, and in how much memory.

    python benchmarks/video.py                   512×512, 1000 frames, FFV1 in AVI
    python benchmarks/video.py --frames 200      shorter
    python benchmarks/video.py --memory          peak memory at a quarter of the frames and at all of them

*Bare* is PyAV with its defaults, given RGB (or gray) arrays that are in memory already, and nothing else in the loop.
fmx gets the same arrays, and once more palette indices with a palette, as its own pictures are. Times are processor
time, which other work on the machine disturbs least; contenders run in turn within a round, and the ratio is the median
of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import av
import numpy as np

from fmx.render import Frame, write_video
from fmx.render.palette import colours

SIDE, DIFFERENT = 512, 20


def maps() -> list[np.ndarray]:
    """Draw smooth pictures with a little noise, as enlarged activations are."""
    rng = np.random.default_rng(0)
    base = np.cumsum(np.cumsum(rng.normal(size=(SIDE, SIDE)), 0), 1)
    base = (base - base.min()) / np.ptp(base) * 225
    noise = rng.integers(0, 30, (SIDE, SIDE))
    return [(np.roll(base, 5 * i, 1) + np.roll(noise, 3 * i, 0)).astype(np.uint8) for i in range(DIFFERENT)]


def bare(path: Path, frames: Iterable[np.ndarray], pixels: str, codec_pixels: str) -> None:
    """Encode ready arrays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, codec_pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=pixels)))
        container.mux(stream.encode())


def contenders(folder: Path, count: int) -> dict[str, Callable[[], object]]:
    """Name what is timed."""
    gray, table = maps(), colours("viridis")
    rgb = [table[one] for one in gray]
    indexed = [Frame(one, palette=table) for one in gray]
    path = folder / "film.avi"

    def of(frames: list) -> Iterator:
        return itertools.islice(itertools.cycle(frames), count)

    return {
        "bare PyAV, RGB": lambda: bare(path, of(rgb), "rgb24", "bgr0"),
        "write_video, RGB": lambda: write_video(path, of(rgb), overwrite=True),
        "write_video, palette": lambda: write_video(path, of(indexed), overwrite=True),
        "bare PyAV, gray": lambda: bare(path, of(gray), "gray", "gray"),
        "write_video, gray": lambda: write_video(path, of(gray), overwrite=True),
    }


def rates(count: int, rounds: int) -> None:
    """Time all contenders and print frames a second and ratios of processor time."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        timed = contenders(Path(folder), count)
        taken: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(rounds):
            for name, write in timed.items():
                start = time.process_time()
                write()
                taken[name].append(time.process_time() - start)
    for name, seconds in taken.items():
        base = taken["bare PyAV, gray" if name.endswith("gray") else "bare PyAV, RGB"]
        ratio = median(own / other for own, other in zip(seconds, base, strict=True))
        print(f"{name:22} {count / median(seconds):7.0f} frames/s of processor time   {ratio:5.2f} × bare")


def memory(count: int) -> None:
    """Print the peak memory of processes that write some and all of the frames."""
    for some in (count // 4, count):
        command = [sys.executable, __file__, "--frames", str(some), "--peak"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def peak(count: int) -> None:
    """Write a film and print this process's peak memory above that of its frames."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        timed = contenders(Path(folder), count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timed["write_video, RGB"]()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count} frames: {grown:.0f} MB above what the frames themselves take")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        peak(asked.frames)
    elif asked.memory:
        memory(asked.frames)
    else:
        rates(asked.frames, asked.rounds)


if __name__ == "__main__":
    main()
