"""What the commands that draw a store share: their options, and which samples, levels, timesteps and channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.errors import FmxError

if TYPE_CHECKING:
    from pathlib import Path

    from fmx.render import PictureFolder
    from fmx.render.ranges import Ranging
    from fmx.render.tone import Tone
    from fmx.store import Store

Layer = Annotated[str, typer.Option(help="Layers to draw: a name or any selection, as for fmx layers.")]
SampleId = Annotated[str, typer.Option(help="Sample: its id, the end of it, or its position.")]
SampleIds = Annotated[
    str, typer.Option("--sample", help="Samples: ids, ends of ids or positions, separated by commas; or all.")
]
Noise = Annotated[float, typer.Option(help="Noise level, one that the store has.")]
Noises = Annotated[str, typer.Option("--noise", help="Noise levels, separated by commas; or all.")]
Timestep = Annotated[int, typer.Option(help="Timestep.")]
Timesteps = Annotated[str, typer.Option("--timestep", help="Timesteps such as 0,4 or 0-15; or all.")]
ChannelNumbers = Annotated[str | None, typer.Option("--channels", help="Channels such as 0-15,31 (default: all).")]
Order = Annotated[
    str,
    typer.Option(
        help="Order of the channels: index; max, mean, variance, sum or sparsity of their maps; or a ranking that was "
        "saved (fmx rank --save NAME)."
    ),
]
Out = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the folder MODEL/NAME is made.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the folder of pictures (default: the time).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder of this name.")]
Cmap = Annotated[
    str | None, typer.Option(help="Any matplotlib colormap, gray too (default: viridis, or RdBu_r where symmetric).")
]
Normalisation = Annotated[
    str,
    typer.Option(
        help="Range of the colours: filter (each map its own), sample, time (a channel of a sample over time and "
        "noise), channel (over all samples), layer, global (all chosen layers)."
    ),
]
Percentiles = Annotated[str, typer.Option(metavar="LOW,HIGH", help="Ends of the range in percent, such as 1,99.")]
Symmetric = Annotated[bool, typer.Option("--symmetric", help="Range about 0, for values of both signs.")]
Equalise = Annotated[str, typer.Option(help="histogram: all colours as often; clahe: contrast within each map.")]
Gamma = Annotated[float, typer.Option(help="Below 1 brings out small values, above 1 large ones.")]
Interpolation = Annotated[str, typer.Option(help="How maps are enlarged: nearest, bilinear, bicubic or lanczos.")]

# Of longer lists only the folder is told.
MOST_TOLD = 16


def tone(percentiles: str, symmetric: bool, equalise: str, gamma: float) -> Tone:
    """Gather what is done to values."""
    from fmx.render.tone import Tone

    ends = opt.numbers("--percentiles", percentiles) or []
    return Tone(tuple(ends), symmetric, equalise, gamma)  # type: ignore[arg-type]  # their number is checked there


def colormap(cmap: str | None, symmetric: bool) -> str:
    """Choose the usual colormap where none is given."""
    return cmap or ("RdBu_r" if symmetric else "viridis")


def ranging(store: Store, layers: Sequence[str], normalisation: str, how: Tone) -> Ranging:
    """Settle whose range of values colours span."""
    from fmx.render.ranges import Ranging

    return Ranging(store, list(layers), normalisation, how)


def samples(store: Store, text: str) -> list[str]:
    """Find the samples that a text names."""
    if text == "all":
        return [name for name, done in zip(store.samples, store.complete, strict=True) if done]
    if text in store.samples:
        return [text]
    return [store.find_sample(part) for part in opt.words(text)]


def noises(store: Store, text: str) -> list[float]:
    """Read noise levels; whether the store has them is checked where they are read."""
    if text == "all":
        return [float(v) for v in store.tree.to_dataset()["noise"].values]
    return opt.numbers("--noise", text) or [0.0]


def timesteps(store: Store, text: str) -> list[int]:
    """Read timesteps."""
    if text == "all":
        return list(range(store.frames))
    return numbers("--timestep", text)


def numbers(option: str, text: str) -> list[int]:
    """Read whole numbers and runs of them, such as 0-15,31."""
    found: list[int] = []
    for part in opt.words(text):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not (last.isdigit() and int(last) >= int(first))):
            raise FmxError(f"{option} takes numbers and runs of them, such as 0-15,31, not '{part}'.")
        found += range(int(first), int(last if dash else first) + 1)
    return found


def channel_list(text: str) -> list[int | str]:
    """Read channels: numbers, mean and max."""
    found: list[int | str] = []
    for part in opt.words(text):
        found += [part] if part in {"mean", "max"} else numbers("--channel", part)
    return found


def folder(store: Store, output: str, name: str | None, overwrite: bool) -> PictureFolder:
    """Make the folder of a command's pictures."""
    from fmx.render import PictureFolder

    return PictureFolder(output, str(store.attributes.get("model", "model")), name, overwrite=overwrite)


def tell(paths: Sequence[Path], made: PictureFolder) -> None:
    """Print what was written: every file, or of many their folder."""
    from fmx.cli.output import say

    if len(paths) <= MOST_TOLD:
        for path in paths:
            say(str(path))
    else:
        say(f"{made.place}: {len(paths)} pictures, listed in index.csv")


def place_parts(store: Store, labels: Any) -> list[str]:
    """Name the noise level and, where there are several, the timestep, for the name of a file."""
    parts = [f"noise{labels['noise']}"]
    return parts + ([f"t{labels['timestep']}"] if "timestep" in labels and store.frames > 1 else [])
