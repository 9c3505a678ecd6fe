"""What the commands that draw a store share: their options, and which samples, levels, timesteps and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli.groups import Target
from fmx.errors import FmxError

if TYPE_CHECKING:
    from pathlib import Path

    from fmx.cli.draw import Places
    from fmx.render import PictureFolder
    from fmx.render.ranges import Ranging
    from fmx.render.tone import Tone
    from fmx.store import Store

Layer = Annotated[str, typer.Option(help="Layers to draw: a name or any selection, as for fmx layers.")]
SampleIds = Annotated[
    str, typer.Option("--sample", help="Samples: ids, ends of ids or positions, separated by commas; or all.")
]
Noise = Annotated[float, typer.Option(help="Noise level, one that the store has.")]
Timestep = Annotated[int, typer.Option(help="Timestep.")]
Normalisation = Annotated[
    str,
    typer.Option(
        help="Range of the colours: filter (each map its own), sample, time (a channel of a sample over time and "
        "noise), channel (over all samples), layer, global (all chosen layers)."
    ),
]

# Of longer lists only the folder is told.
MOST_TOLD = 16


@dataclass(frozen=True)
class Which:
    """Which parts of a store are drawn."""

    layer: Layer = "auto"
    sample: SampleIds = "0"
    noise: Annotated[str, typer.Option("--noise", help="Noise levels, separated by commas; or all.")] = "0"
    timestep: Annotated[str, typer.Option("--timestep", help="Timesteps such as 0,4 or 0-15; or all.")] = "0"

    def places(self, store: Store) -> Places:
        """Find them in a store."""
        from fmx.cli.draw import Places

        layers = [info.name for info in store.select(self.layer)]
        return Places(
            store, layers, samples(store, self.sample), noises(store, self.noise), timesteps(store, self.timestep)
        )


@dataclass(frozen=True)
class Channels:
    """Which channels are drawn, in which order."""

    channels: Annotated[str | None, typer.Option("--channels", help="Channels such as 0-15,31 (default: all).")] = None
    order: Annotated[
        str,
        typer.Option(
            help="Order of the channels: index; max, mean, variance, sum or sparsity of their maps; or a ranking that "
            "was saved (fmx rank --save NAME)."
        ),
    ] = "index"

    @property
    def look(self) -> dict[str, Any]:
        """What functions that draw take."""
        chosen = None if self.channels is None else numbers("--channels", self.channels)
        return {"channels": chosen, "order": self.order}


@dataclass(frozen=True)
class Colours:
    """How values become colours."""

    interpolation: Annotated[
        str, typer.Option(help="How maps are enlarged: nearest, bilinear, bicubic or lanczos.")
    ] = "nearest"
    cmap: Annotated[
        str | None,
        typer.Option(help="Any matplotlib colormap, gray too (default: viridis, or RdBu_r where symmetric)."),
    ] = None
    percentiles: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Ends of the range in percent, such as 1,99.")
    ] = "0,100"
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Range about 0, for values of both signs.")] = False
    equalise: Annotated[str, typer.Option(help="histogram: all colours as often; clahe: contrast within each map.")] = (
        "none"
    )
    gamma: Annotated[float, typer.Option(help="Below 1 brings out small values, above 1 large ones.")] = 1.0

    @property
    def tone(self) -> Tone:
        """What is done to values."""
        from fmx.render.tone import Tone

        ends = tuple(opt.numbers("--percentiles", self.percentiles) or [])
        return Tone(ends, self.symmetric, self.equalise, self.gamma)  # type: ignore[arg-type]  # see there

    @property
    def look(self) -> dict[str, Any]:
        """What functions that draw take: interpolation and colormap."""
        return {
            "interpolation": self.interpolation,
            "cmap": self.cmap or ("RdBu_r" if self.symmetric else "viridis"),
        }


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


def folder(store: Store, target: Target) -> PictureFolder:
    """Make the folder of a command's pictures of a store."""
    return target.folder(str(store.attributes.get("model") or "model"))


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
