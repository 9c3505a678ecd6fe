"""The options of all commands: what has one name means one thing, and is said in the same words, wherever it is.

Options that choose something are spelt for one and for several, ``--layer`` and ``--layers``, and take either spelling;
the one that is listed first tells whether one or several can be given. Each help begins with what the option is, up
to the first colon or comma; what follows may be a command's own.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fmx.errors import FmxError

WHAT, HOW, MODEL, RUN, OUT = "What", "How", "Model and pictures", "Running", "Output"


class Stopped(Exception):  # noqa: N818 - what the user asked for is no error
    """Ended early because the user asked for it; says how to go on."""


def option(group: str, text: str, *names: str, **more: Any) -> Any:
    """Declare an option that ``--help`` lists in a group."""
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


# -- what a command is about -----------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A TorchScript, .pt2 or ONNX file, torchvision:NAME, timm:NAME, or package.module:factory.",
        show_default=False,
    ),
]
StorePath = Annotated[str, typer.Argument(metavar="STORE", help="A store made by fmx extract.", show_default=False)]
_OTHER = "Another store of the same samples."
Other = Annotated[str, typer.Argument(metavar="OTHER", help=_OTHER, show_default=False)]
OtherIfAny = Annotated[str | None, typer.Argument(metavar="[OTHER]", help=_OTHER, show_default=False)]

# -- what is chosen --------------------------------------------------------------------------------

_LAYERS = (
    "Layers: auto (last output at each resolution), all, names, globs (layer1.*, **.conv1), kind:Conv2d, re:REGEX, "
    "!PATTERN to exclude; separated by commas."
)


def layers(more: str = "") -> Any:
    """Declare the option that takes several layers."""
    return option(WHAT, f"{_LAYERS} {more}".strip(), "--layers", "--layer", metavar="LAYERS")


def layer(text: str) -> Any:
    """Declare the option that takes one layer."""
    return option(WHAT, f"Layer: {text}", "--layer", "--layers", metavar="LAYER")


def channel(text: str) -> Any:
    """Declare the option that takes channels."""
    return option(WHAT, f"Channels such as 0-15,31{text}", "--channels", "--channel", metavar="CHANNELS")


def sample(more: str = "") -> Any:
    """Declare the option that takes several samples."""
    text = f"Samples: ids, ends of ids or positions, separated by commas; or all{more}."
    return option(WHAT, text, "--samples", "--sample", metavar="SAMPLES")


def noise(text: str) -> Any:
    """Declare the option that takes several noise levels."""
    return option(WHAT, f"Noise levels such as 0,0.2{text}", "--noise", metavar="LEVELS")


def classes(text: str) -> Any:
    """Declare the option that takes classes."""
    return option(WHAT, f"Classes such as 281,285 or 0-9{text}", "--classes", "--class", metavar="CLASSES")


Layers = Annotated[str, layers()]
LayersIfAny = Annotated[str | None, layers()]
Channels = Annotated[str | None, channel(", or all.")]
Samples = Annotated[str, sample()]
Sample = Annotated[
    str,
    option(
        WHAT,
        "Sample: the one whose maps are drawn, by its id, the end of it, or a position.",
        "--sample",
        "--samples",
        metavar="SAMPLE",
    ),
]
Levels = Annotated[str | None, noise(", or all (default: the first).")]
AllLevels = Annotated[str, noise(", or all that are there.")]
Level = Annotated[
    str | None,
    option(
        WHAT,
        "Noise level: one that the store has; 0 is clean.",
        "--noise",
        metavar="LEVEL",
        show_default=False,
    ),
]
LevelOfAll = Annotated[
    str | None, option(WHAT, "Noise level: this one only (default: all).", "--noise", metavar="LEVEL")
]
Timesteps = Annotated[
    str, option(WHAT, "Timesteps such as 0,4 or 0-15; or all.", "--timesteps", "--timestep", metavar="TIMESTEPS")
]
Timestep = Annotated[
    str, option(WHAT, "Timestep: one that the store has.", "--timestep", "--timesteps", metavar="TIMESTEP")
]
ClassNames = Annotated[
    str | None,
    option(WHAT, "Names of the classes: imagenet, or a text file with one a line.", "--class-names", metavar="FILE"),
]

# -- the model, and the pictures that it is given --------------------------------------------------

Weights = Annotated[
    str | None,
    option(MODEL, "State dict for a model that is named, or DEFAULT to download torchvision's.", metavar="FILE"),
]
AllowPartialWeights = Annotated[
    bool, option(MODEL, "Take what is incomplete: load weights that fit in part only.", "--allow-partial")
]
Trust = Annotated[bool, option(MODEL, "Run code that comes with the model, such as --operators.", "--trust")]
Operators = Annotated[
    list[str] | None,
    option(MODEL, "Shared library with operators that the model needs. May be given again.", metavar="LIBRARY"),
]
InputShape = Annotated[
    str | None, option(MODEL, "Shape of one sample where the model doesn't say, e.g. 3,32,32.", metavar="C,H,W")
]
Size = Annotated[
    int | None,
    option(MODEL, "Size in pixels: the shorter side of pictures is made so long.", "--size", metavar="PIXELS"),
]
Crop = Annotated[
    int | None,
    option(MODEL, "Cut a square of this side from the centre (default: --size).", "--crop", metavar="PIXELS"),
]
Mean = Annotated[
    str | None, option(MODEL, "Subtracted from each channel, e.g. 0.485,0.456,0.406.", "--mean", metavar="NUMBERS")
]
Std = Annotated[
    str | None, option(MODEL, "Each channel is divided by it, e.g. 0.229,0.224,0.225.", "--std", metavar="NUMBERS")
]
_RANGE = "Range of values:"
Range = Annotated[
    str | None,
    option(MODEL, f"{_RANGE} where black and white come to lie, e.g. 0,255.", "--range", metavar="LOW,HIGH"),
]
BinRange = Annotated[
    str | None,
    option(HOW, f"{_RANGE} ends of the bins, such as 0,10 (default: found).", "--range", metavar="LOW,HIGH"),
]
PictureChannels = Annotated[
    str | None, option(MODEL, "Channels that pictures have: 1 grey, 3 RGB, 4 RGBA.", "--picture-channels", metavar="N")
]
Layout = Annotated[str | None, option(MODEL, "Axes of the model's picture: NCHW or NHWC.", metavar="AXES")]


def model_of_store(text: str) -> Any:
    """Declare the option that names a store's model."""
    return option(MODEL, f"Model of the store: {text}.", "--model", metavar="MODEL")


# -- how it runs -----------------------------------------------------------------------------------

_ENGINE = "auto, the fastest that agrees with the reference; eager, the reference; or a name"
_DEVICE = "Device: cpu, cuda, cuda:1 or mps"
_BATCH = "Samples that are taken at once"
Engine = Annotated[str, option(RUN, f"Engine: {_ENGINE}.", "--engine", "--engines", metavar="ENGINE")]
Engines = Annotated[
    str, option(RUN, f"Engines: {_ENGINE}; separated by commas.", "--engines", "--engine", metavar="ENGINES")
]
Device = Annotated[
    str,
    option(
        RUN, f"{_DEVICE}; for ONNX also tensorrt, rocm, coreml and more.", "--device", "--devices", metavar="DEVICE"
    ),
]
TorchDevice = Annotated[str, option(RUN, f"{_DEVICE}.", "--device", "--devices", metavar="DEVICE")]
Devices = Annotated[
    str,
    option(RUN, "Devices: cpu, cuda, cuda:1 or mps; separated by commas.", "--devices", "--device", metavar="DEVICES"),
]
BatchSize = Annotated[int, option(RUN, f"{_BATCH}.", "--batch-size", "--batch-sizes", metavar="N")]
BatchSizes = Annotated[
    str, option(RUN, f"{_BATCH}; several, separated by commas.", "--batch-sizes", "--batch-size", metavar="N,N")
]
Seed = Annotated[int, option(RUN, "Seed of everything that is drawn at random.", "--seed", metavar="N")]


def method(known: str) -> Any:
    """Declare the option that takes a method."""
    return option(HOW, f"Method: {known}.", "--method", metavar="METHOD")


def how(known: str) -> Any:
    """Declare the option that says how values are put together."""
    return option(HOW, f"How values are put together: {known}.", "--how", metavar="HOW")


def space(text: str) -> Any:
    """Declare the option that says what becomes of maps."""
    return option(HOW, f"Maps of a layer: {text}.", "--space", metavar="HOW")


def estimator(known: str) -> Any:
    """Declare the option that takes an estimator."""
    return option(HOW, f"Estimator: {known}.", "--estimator", metavar="NAME")


def steps(text: str) -> Any:
    """Declare the option that says how many steps there are."""
    return option(HOW, f"Steps: {text}.", "--steps", metavar="N")


def components(text: str) -> Any:
    """Declare the option that says how many directions there are."""
    return option(HOW, f"Components: {text}.", "--components", metavar="N")


def metric(known: str) -> Any:
    """Declare the option that says by what channels are ranked."""
    return option(HOW, f"Metric: channels are ranked by {known}.", "--metric", metavar="METRIC")


def top(text: str) -> Any:
    """Declare the option that says how many of the first there are."""
    return option(WHAT, f"Top ones: {text}.", "--top", "-k", metavar="N")


def per(text: str) -> Any:
    """Declare the option that says what has a row of its own."""
    return option(HOW, f"One row per: {text}.", "--per", metavar="WHAT")


def precision(text: str) -> Any:
    """Declare the option that takes what is computed in."""
    return option(RUN, f"Precision: {text}.", "--precision", metavar="TYPE")


def normalisation(known: str) -> Any:
    """Declare the option that says what range the colours span."""
    return option(HOW, f"Range of the colours: {known}.", "--normalisation", metavar="RANGE")


def order(more: str = "") -> Any:
    """Declare the option that takes an order of channels."""
    text = "index; max, mean, variance, sum or sparsity of their maps; or a ranking saved by fmx rank --save NAME"
    return option(HOW, f"Order of the channels: {text}{more}.", "--order", metavar="ORDER")


# -- what comes out --------------------------------------------------------------------------------

Json = Annotated[bool, option(OUT, "Print a JSON list instead of a table.", "--json")]
Name = Annotated[
    str | None, option(OUT, "Name of the folder of pictures (default: the time).", "--name", metavar="NAME")
]
Curve = Annotated[bool, option(OUT, "Write the objective of each step as CSV.", "--curve")]


def _share(value: float) -> float:
    """Refuse an opacity before anything runs."""
    if not 0 <= value <= 1:
        raise FmxError(f"--alpha lies between 0 and 1, not at {value:g}.")
    return value


def _colours(context: typer.Context, name: str | None) -> str | None:
    """Refuse a colormap before anything runs; shells that complete words don't wait for matplotlib."""
    if name is not None and not context.resilient_parsing:
        from fmx.render.palette import colours

        colours(name)
    return name


Alpha = Annotated[
    float, option(OUT, "Opacity where the map is highest, 0 to 1.", "--alpha", metavar="SHARE", callback=_share)
]


def output(text: str, metavar: str = "FOLDER") -> Any:
    """Declare the option that says where things go."""
    return option(OUT, f"Where to write: {text}.", "--output", "-o", metavar=metavar)


def overwrite(what: str) -> Any:
    """Declare the flag that lets something be replaced."""
    return option(OUT, f"Replace what is there: {what}.", "--overwrite")


def fps() -> Any:
    """Declare the option that says how fast a film is."""
    return option(OUT, "Frames a second of a film.", "--fps", metavar="RATE")


def files(known: str) -> Any:
    """Declare the option that takes the format of files."""
    return option(OUT, f"Format of files: {known}.", "--format", metavar="FORMAT")


def figure(text: str) -> Any:
    """Declare the option that takes the file of a figure."""
    return option(OUT, f"Figure: {text}, as .png, .svg or .pdf.", "--plot", metavar="FILE")


def film(text: str, metavar: str = "FILE") -> Any:
    """Declare the option that asks for a film."""
    return option(OUT, f"Film: {text}.", "--film", metavar=metavar)


def picture_size(text: str) -> Any:
    """Declare the option that says how large pictures become."""
    return option(OUT, f"Size in pixels: the longer side{text}.", "--size", metavar="PIXELS")


def scale(text: str) -> Any:
    """Declare the option that says how far maps are enlarged."""
    return option(OUT, f"Pixels of the picture for one of the map; {text}.", "--scale", metavar="N")


def colormap(more: str = "") -> Any:
    """Declare the option that takes a colormap."""
    return option(OUT, f"Any matplotlib colormap{more}.", "--cmap", metavar="NAME", callback=_colours)
