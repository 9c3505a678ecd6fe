"""What the commands that draw a store share: their options, and which samples, levels, timesteps and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.groups import Target

if TYPE_CHECKING:
    from pathlib import Path

    from fmx.cli.draw import Places
    from fmx.render import PictureFolder
    from fmx.render.ranges import Ranging
    from fmx.render.tone import Tone
    from fmx.store import Store

Normalisation = Annotated[
    str,
    opt.normalisation(
        "filter (each map its own), sample, time (a channel of a sample over time and noise), channel (over all "
        "samples), layer, global (all chosen layers)"
    ),
]
Legend = Annotated[bool, opt.option(opt.OUT, "Say on the picture what it shows.", "--legend/--no-legend")]

# Of longer lists only the folder is told.
MOST_TOLD = 16


@dataclass(frozen=True)
class Which:
    """Which parts of a store are drawn."""

    layer: opt.Layers = "auto"
    sample: opt.Samples = "0"
    noise: opt.AllLevels = "0"
    timestep: opt.Timesteps = "0"

    def places(self, store: Store) -> Places:
        """Find them in a store."""
        from fmx.cli.draw import Places

        layers = [info.name for info in store.select(self.layer)]
        return Places(
            store, layers, texts.samples(store, self.sample), noises(store, self.noise), timesteps(store, self.timestep)
        )


@dataclass(frozen=True)
class Channels:
    """Which channels are drawn, in which order."""

    channels: opt.Channels = None
    order: Annotated[str, opt.order()] = "index"

    @property
    def look(self) -> dict[str, Any]:
        """What functions that draw take."""
        return {"channels": texts.channels("--channels", self.channels), "order": self.order}


@dataclass(frozen=True)
class Colours:
    """How values become colours."""

    interpolation: Annotated[
        str,
        opt.option(opt.HOW, "How maps are enlarged: nearest, bilinear, bicubic or lanczos.", metavar="HOW"),
    ] = "nearest"
    cmap: Annotated[
        str | None,
        opt.colormap(", gray too (default: viridis, or RdBu_r where symmetric)"),
    ] = None
    percentiles: Annotated[
        str, opt.option(opt.HOW, "Ends of the range in percent, such as 1,99.", metavar="LOW,HIGH")
    ] = "0,100"
    symmetric: Annotated[bool, opt.option(opt.HOW, "Range about 0, for values of both signs.", "--symmetric")] = False
    equalise: Annotated[
        str,
        opt.option(
            opt.HOW,
            "Equalisation: none; histogram, all colours as often; or clahe, contrast within each map.",
            metavar="HOW",
        ),
    ] = "none"
    gamma: Annotated[
        float, opt.option(opt.HOW, "Below 1 brings out small values, above 1 large ones.", metavar="X")
    ] = 1.0

    @property
    def tone(self) -> Tone:
        """What is done to values."""
        from fmx.render.tone import Tone

        ends = texts.ends("--percentiles", self.percentiles, "1,99")
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


def noises(store: Store, text: str) -> list[float]:
    """Read noise levels; whether the store has them is checked where they are read."""
    if text == "all":
        return [float(v) for v in store.tree.to_dataset()["noise"].values]
    return texts.numbers("--noise", text) or [0.0]


def timesteps(store: Store, text: str) -> list[int]:
    """Read timesteps."""
    if text == "all":
        return list(range(store.frames))
    return texts.whole_numbers("--timestep", text)


def channel_list(text: str) -> list[int | str]:
    """Read channels: numbers, mean and max."""
    found: list[int | str] = []
    for part in texts.words(text):
        found += [part] if part in {"mean", "max"} else texts.whole_numbers("--channels", part)
    return found


def filmed_channels(text: str | None, *, each: bool) -> dict[str, Any]:
    """Read the channels of a film: those that it goes through or shows in a grid, or what is taken of all."""
    from fmx.cli.draw import channel_choice

    return {"channels": texts.channels("--channels", text)} if each else {"channel": channel_choice(text or "mean")}


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
