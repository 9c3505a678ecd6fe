"""The ways to write a picture down that a user can name, each with its defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fmx.errors import FmxError, near_matches
from fmx.maximize.penalties import Penalties
from fmx.maximize.transforms import Transforms

__all__ = ["DEFAULTS", "Settings", "settings_for"]


@dataclass(frozen=True)
class Defaults:
    """What a method uses where nothing was said: steps (of each scale), learning rate, side in pixels."""

    steps: int
    rate: float
    side: int


# The first three are Lucid's; the last is what early tools for feature maps use.
DEFAULTS = {
    "fourier": Defaults(512, 0.05, 128),
    "pixels": Defaults(512, 0.05, 128),
    "maco": Defaults(256, 0.05, 128),
    "multi-scale": Defaults(20, 0.2, 33),
}

# Fewer than the steps after which a picture that does not move is given up.
_MOST_TURNS = 8


@dataclass(frozen=True)
class Settings:
    """Everything that the pictures depend on, beside the model, the objective and the layer.

    Attributes
    ----------
    method : str
        ``fourier``, ``pixels``, ``multi-scale`` or ``maco``.
    height, width : int
        Of the picture; with multi-scale, of the first one.
    steps : int
        Steps of ascent; with multi-scale, at each scale.
    rate : float
        Learning rate of Adam.
    seed : int
    transforms : Transforms
    penalties : Penalties
    decay : float
        Power of the frequency that Fourier numbers are divided by.
    decorrelate : bool
        Decorrelated colours, for three bands.
    factor : float
        With multi-scale, by which the picture grows.
    scales : int
        With multi-scale, how many.
    contrast : float
        With MACO, standard deviation of the waves before the sigmoid.
    spectrum : str
        With MACO, where its magnitudes come from.
    restarts : int
        How often a picture that does not move is begun anew.
    """

    method: str
    height: int
    width: int
    steps: int
    rate: float
    seed: int = 0
    transforms: Transforms = field(default_factory=Transforms)
    penalties: Penalties = field(default_factory=Penalties)
    decay: float = 1.0
    decorrelate: bool = True
    factor: float = 1.2
    scales: int = 20
    contrast: float = 1.0
    spectrum: str = ""
    restarts: int = 3

    @property
    def total_steps(self) -> int:
        """Steps of a picture over all scales."""
        return self.steps * (self.scales if self.method == "multi-scale" else 1)

    def sizes(self) -> list[tuple[int, int]]:
        """List the sizes (height, width) that a picture goes through, the last one its own."""
        if self.method != "multi-scale":
            return [(self.height, self.width)]
        return [(round(self.height * self.factor**k), round(self.width * self.factor**k)) for k in range(self.scales)]

    def plain(self) -> dict[str, Any]:
        """Give all of it as plain values that JSON holds."""
        made = asdict(self)
        made["transforms"]["scale"] = list(self.transforms.scale)
        made["transforms"]["views"] = list(self.transforms.views or ())
        return made


def settings_for(method: str, own_size: tuple[int, int], **given: Any) -> Settings:
    """Fill what was not said with the method's defaults.

    Parameters
    ----------
    method : str
    own_size : tuple of int
        (height, width) of the model's input; pictures are no larger unless asked for, except with multi-scale.
    **given
        Attributes of `Settings`, and `size` in place of height and width; None stands for the default.

    Raises
    ------
    FmxError
        A method or a number that can't be.
    """
    if method not in DEFAULTS:
        raise FmxError(f"There is no method '{method}': {near_matches(method, DEFAULTS)}")
    usual = DEFAULTS[method]
    said = {key: value for key, value in given.items() if value is not None}
    size = said.pop("size", None)
    sides = (size, size) if size is not None else (min(usual.side, own_size[0]), min(usual.side, own_size[1]))
    steps, rate = said.pop("steps", usual.steps), said.pop("rate", usual.rate)
    made = Settings(method, sides[0], sides[1], steps, rate, **said)
    for name, least in (("height", 4), ("steps", 1), ("scales", 1), ("restarts", 0)):
        if getattr(made, name) < least:
            what = "size" if name == "height" else name
            raise FmxError(f"--{what} takes a number of at least {least}, not {getattr(made, name)}.")
    views = made.transforms.views or ()
    if len(views) > _MOST_TURNS or any(side < 4 for side in views):
        raise FmxError(f"--views takes up to {_MOST_TURNS} sides of at least 4 pixels, such as 128,224.")
    for name in ("rate", "factor", "contrast"):
        if not 0 < getattr(made, name) < float("inf"):
            raise FmxError(f"--{name} takes a number greater than 0, not {getattr(made, name)}.")
    return made
