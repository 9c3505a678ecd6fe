"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.extraction import PictureOptions

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A TorchScript, .pt2 or ONNX file, torchvision:NAME, timm:NAME, or package.module:factory.",
        show_default=False,
    ),
]


class Stopped(Exception):  # noqa: N818 - what the user asked for is no error
    """Ended early because the user asked for it; says how to go on."""


StorePath = Annotated[str, typer.Argument(metavar="STORE", help="A store made by fmx extract.", show_default=False)]


def option(group: str, text: str, *names: str, **more: Any) -> Any:
    """Declare an option that ``--help`` lists in a group."""
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


_MODEL, _RUN = "Model and pictures", "Running"

Weights = Annotated[
    str | None, option(_MODEL, "State dict for a model that is named, or DEFAULT to download torchvision's.")
]
AllowPartial = Annotated[
    bool, option(_MODEL, "Load weights that fit in part only, and say what did not.", "--allow-partial")
]
Trust = Annotated[bool, option(_MODEL, "Run code that comes with the model, such as --operators.", "--trust")]
Operators = Annotated[
    list[str] | None,
    option(_MODEL, "Shared library with operators that the model needs. May be given again.", metavar="LIBRARY"),
]
InputShape = Annotated[
    str | None, option(_MODEL, "Shape of one sample where the model doesn't say, e.g. 3,32,32.", metavar="C,H,W")
]
Size = Annotated[int | None, option(_MODEL, "Resize pictures so that the shorter side has this many pixels.")]
Crop = Annotated[int | None, option(_MODEL, "Cut a square of this side from the centre (default: --size).")]
Mean = Annotated[str | None, option(_MODEL, "Subtracted from each channel, e.g. 0.485,0.456,0.406.")]
Std = Annotated[str | None, option(_MODEL, "Each channel is divided by it, e.g. 0.229,0.224,0.225.")]
Range = Annotated[
    str | None, option(_MODEL, "Where black and white come to lie, e.g. 0,255 for raw pixels.", "--range")
]
Channels = Annotated[int | None, option(_MODEL, "Channels of the pictures: 1 grey, 3 RGB, 4 RGBA.")]
Layout = Annotated[str | None, option(_MODEL, "Axes of the model's picture: NCHW or NHWC.")]
Layers = Annotated[
    str,
    typer.Option(
        help="Layers: auto (last output at each resolution), all, names, globs (layer1.*, **.conv1), kind:Conv2d, "
        "re:REGEX, !PATTERN to exclude; separated by commas."
    ),
]
Engine = Annotated[
    str, option(_RUN, "auto: the fastest that agrees with the reference; eager: the reference; or a name.")
]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")]


def numbers(option: str, text: str | None) -> list[float] | None:
    """Read numbers that are separated by commas.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise FmxError(f"{option} takes numbers separated by commas, not '{text}'.") from None


def words(text: str) -> tuple[str, ...]:
    """Read words that are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def channels(option: str, text: str | None) -> list[int] | None:
    """Read channels such as 3,17 or 0-15; None for all of them.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    from fmx.errors import DataError
    from fmx.extraction.keep import parse_channels

    if text is None or text == "all":
        return None
    try:
        return list(parse_channels(text))
    except DataError:
        raise FmxError(f"{option} takes numbers such as 3,17 or 0-15, not '{text}'.") from None


def memory(text: str | None) -> int | None:
    """Read an amount of memory in bytes, such as 2GB or 500 MB.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise FmxError(f"--memory takes an amount such as 2GB or 500MB, not '{text}'.")
    unit = (match[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(match[1]) * base ** " kmgt".index(unit[:1] or " "))


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Read key=value pairs.

    Raises
    ------
    FmxError
        One has no key.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise FmxError(f"{option} takes key=value, such as {option} experiment=gaze-3, not '{text}'.")
        found[key.strip()] = value.strip()
    return found


def shape(text: str | None) -> tuple[int, ...] | None:
    """Read the shape of a sample, such as 3,32,32.

    Raises
    ------
    FmxError
        Something else stands there.
    """
    if text is None:
        return None
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise FmxError(f"--input-shape takes lengths separated by commas, such as 3,32,32, not '{text}'.")
    return tuple(int(part) for part in parts)


def pictures(
    size: int | None,
    crop: int | None,
    mean: str | None,
    std: str | None,
    value_range: str | None,
    channels: int | None,
    layout: str | None,
) -> PictureOptions:
    """Gather what was said about preparing pictures."""
    from fmx.extraction import PictureOptions

    return PictureOptions(
        size=size,
        crop=crop,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        range=numbers("--range", value_range),
        channels=channels,
        layout=layout,
    )
