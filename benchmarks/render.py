"""How fast pages of maps and single maps are drawn and written, beside matplotlib.

    python benchmarks/render.py            both, each pair in turns within a round
    python benchmarks/render.py --rounds 9 --json

*Pages*: the 64 maps of a ResNet's layer1 (56×56) as a page of 8×8 with header and channel numbers, to a PNG file; in
matplotlib as 8×8 subplots of ``imshow`` with the channel above each, saved at the resolution that shows every value as
at least one pixel. *Frames*: one map with a colormap at 600×600 pixels to a PNG file; in matplotlib a figure of this
size without margins, ``imshow`` and ``savefig``, and as the quicker way ``imsave`` of the enlarged map. Both start from
the same float32 array, with matplotlib imported and warm. Machines are noisy and differ: read the ratios, which are
medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.float32]


def make_maps(count: int = 64, side: int = 56) -> Maps:
    """Make maps as behind a ReLU, smooth as those of pictures are."""
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((count, side // 4, side // 4)).repeat(4, 1).repeat(4, 2)
    return np.maximum(coarse + 0.5 * rng.standard_normal((count, side, side)), 0).astype(np.float32)


def fmx_page(maps: Maps, path: Path) -> None:
    """Write a page of 8×8."""
    from fmx.render import grid_pages, save_png

    (page,) = grid_pages(maps, layer="layer1", sample="chelsea.png")
    save_png(page, path)


def matplotlib_page(maps: Maps, path: Path) -> None:
    """Write the same maps as subplots."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(8, 8, figsize=(8, 8.6), dpi=80)
    for i, (axis, one) in enumerate(zip(axes.flat, maps, strict=True)):
        axis.imshow(one, cmap="viridis", interpolation="nearest")
        axis.set_title(str(i), fontsize=6)
        axis.axis("off")
    figure.suptitle("layer1 · chelsea.png")
    figure.savefig(path)
    plt.close(figure)


def fmx_frame(maps: Maps, path: Path) -> None:
    """Write one map at 600×600."""
    from fmx.render import Frame, save_png
    from fmx.render.normalise import quantise, value_ranges
    from fmx.render.palette import colours

    one = maps[:1]
    pixels = quantise(one, value_ranges(one), size=(600, 600))[0]
    save_png(Frame(pixels, colours("viridis")), path)


def matplotlib_frame(maps: Maps, path: Path) -> None:
    """Write the same with ``savefig``."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(6, 6), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(maps[0], cmap="viridis", interpolation="nearest")
    axis.axis("off")
    figure.savefig(path)
    plt.close(figure)


def matplotlib_imsave(maps: Maps, path: Path) -> None:
    """Write the same with ``imsave``."""
    import matplotlib.pyplot as plt

    from fmx.render.resize import nearest

    plt.imsave(path, nearest(maps[0], (600, 600)), cmap="viridis")


def timed(draw: Callable[[Maps, Path], None], maps: Maps, path: Path, least: float) -> float:
    """Give the seconds that one call takes, from as many as fill some time."""
    calls, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < least or not calls:
        draw(maps, path)
        calls += 1
    return (time.perf_counter() - begun) / calls


def measure(rounds: int, least: float = 0.5) -> dict[str, float]:
    """Time all contenders in turns; milliseconds, ratios and bytes."""
    import matplotlib as mpl

    mpl.use("agg")
    maps = make_maps()
    contenders = {
        "page, fmx": fmx_page,
        "page, subplots": matplotlib_page,
        "frame, fmx": fmx_frame,
        "frame, savefig": matplotlib_frame,
        "frame, imsave": matplotlib_imsave,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{i}.png" for i, name in enumerate(contenders)}
        for name, draw in contenders.items():
            draw(maps, paths[name])
        times = [
            {name: timed(draw, maps, paths[name], least) for name, draw in contenders.items()} for _ in range(rounds)
        ]
        found = {f"{name} ms": 1000 * median(t[name] for t in times) for name in contenders}
        found |= {f"{name} kB": paths[name].stat().st_size / 1000 for name in contenders}
    for mine, other in (
        ("page, fmx", "page, subplots"),
        ("frame, fmx", "frame, savefig"),
        ("frame, fmx", "frame, imsave"),
    ):
        found[f"{mine} × {other.partition(', ')[2]}"] = median(t[other] / t[mine] for t in times)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:32} {value:10.1f}")


if __name__ == "__main__":
    main()
