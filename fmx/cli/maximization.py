"""The command ``fmx maximize``: its options, its pictures and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.groups import Target, grouped
from fmx.cli.opening import Loading
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.data import Preprocess
    from fmx.layers import LayerInfo
    from fmx.maximize import Objective, Transforms

__all__ = ["maximize"]

_ROBUST = "Robustness and penalties"
_option = opt.option


@dataclass(frozen=True)
class _Kept(Target):
    """Where pictures go, and the results that a later run finds there."""

    output: Annotated[str, opt.output("the folder MODEL/NAME is made there")] = "maximized"
    overwrite: Annotated[bool, opt.overwrite("files, and results with other settings")] = False


@grouped
def maximize(
    model: opt.Model,
    *,
    layer: Annotated[str | None, opt.layer("one whose channels are maximized.")] = None,
    channels: opt.Channels = None,
    classes: Annotated[
        str | None,
        _option(
            opt.WHAT,
            "Classes such as 281,285 or 0-9: their logits.",
            "--classes",
            "--class",
            "--logits",
            metavar="CLASSES",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        _option(
            opt.WHAT,
            "Any sum: 'layer3:5 + 0.5*layer3:9 - logit:281'; LAYER:CHANNEL@ or @Y,X is a neuron. May be given again.",
            metavar="SUM",
        ),
    ] = None,
    pictures: Annotated[int, _option(opt.WHAT, "Pictures of each.", metavar="N")] = 1,
    diversity: Annotated[
        float,
        _option(
            opt.WHAT, "With several --pictures: weight of their difference, in units of the activation.", metavar="X"
        ),
    ] = 0.0,
    method: Annotated[str, opt.method("fourier, pixels, multi-scale or maco")] = "fourier",
    size: Annotated[
        int | None,
        _option(
            opt.HOW,
            "Size in pixels: the side of a picture (default: 128, or the model's own if smaller; multi-scale begins "
            "with 33).",
            metavar="PIXELS",
        ),
    ] = None,
    steps: Annotated[
        int | None, opt.steps("of the ascent (default: 512; maco 256; multi-scale 20 at each of its scales)")
    ] = None,
    rate: Annotated[
        float | None, _option(opt.HOW, "Learning rate of Adam (default: 0.05; multi-scale 0.2).", metavar="X")
    ] = None,
    scales: Annotated[
        int | None,
        _option(opt.HOW, "With multi-scale: how many sizes, each 1.2 times the last (default: 20).", metavar="N"),
    ] = None,
    spectrum: Annotated[
        str | None,
        _option(opt.HOW, "With maco: pictures whose spectrum is taken (default: the model's own).", metavar="PICTURES"),
    ] = None,
    seed: opt.Seed = 0,
    restarts: Annotated[
        int, _option(opt.HOW, "How often a picture that does not move is begun anew.", metavar="N")
    ] = 3,
    batch_size: opt.BatchSize = 16,
    device: opt.TorchDevice = "cpu",
    transforms: Annotated[
        bool, _option(_ROBUST, "Shift, scale and turn pictures at random in each step.", "--transforms/--no-transforms")
    ] = True,
    jitter: Annotated[
        int | None, _option(_ROBUST, "Pixels of the first shift (default: 8).", metavar="PIXELS", min=0)
    ] = None,
    zoom: Annotated[
        str | None, _option(_ROBUST, "Least and largest scale (default: 0.9,1.1).", metavar="LOW,HIGH")
    ] = None,
    rotate: Annotated[
        float | None, _option(_ROBUST, "Degrees either way (default: 10).", metavar="DEGREES", min=0)
    ] = None,
    views: Annotated[
        str | None,
        _option(
            _ROBUST,
            "Sides in pixels at which the network sees the picture, by turns (default: from its own to the model's: "
            "128,160,192,224).",
            metavar="PIXELS",
        ),
    ] = None,
    tv: Annotated[float, _option(_ROBUST, "Weight of the total variation.", metavar="X")] = 0.0,
    l2: Annotated[float, _option(_ROBUST, "Weight of the distance from grey.", metavar="X")] = 0.0,
    blur: Annotated[float, _option(_ROBUST, "Weight of what a slight blur would take away.", metavar="X")] = 0.0,
    target: _Kept,
    store: Annotated[
        str | None,
        _option(
            opt.OUT,
            "Store of the model's activations: results go into it (default: files in the folder).",
            metavar="STORE",
        ),
    ] = None,
    film: Annotated[str | None, opt.film("of the ascent, as .mp4, .webm, .avi, .gif or .apng")] = None,
    every: Annotated[
        int | None,
        _option(opt.OUT, "Keep the picture after every so many steps (default: none; 4 with --film).", metavar="N"),
    ] = None,
    curve: opt.Curve = False,
    plot: Annotated[str | None, opt.figure("of the objective at each step")] = None,
    json: opt.Json = False,
    loading: Loading,
) -> None:
    """Make pictures that excite channels, neurons or classes most, by gradient ascent from noise.

    Run the same command again to go on after an interruption.
    """
    from fmx.cli.maximized import Drawing, check_film, check_plot, check_store, draw, rows_of, said_of
    from fmx.cli.output import note, progress
    from fmx.cli.reading import show
    from fmx.maximize import maximize as compute
    from fmx.maximize.keep import kept_every
    from fmx.maximize.targets import targets_of

    if store is not None:
        check_store(store)
    opened = loading.load(model)
    prepare, assumed = _preprocess(opened, loading.pictures)
    if assumed:
        note(assumed)
    layer = texts.one_layer(opened, layer)
    wanted, chosen = _wanted(layer, channels, classes, objective, diversity, pictures, opened.layers)
    if film is not None:
        check_film(film, len(targets_of(wanted, chosen, opened.layers, pictures)), overwrite=target.overwrite)
    if plot is not None:
        check_plot(plot, overwrite=target.overwrite)
    drawing = Drawing(target.output, model, target.name, film=film, plot=plot, curve=curve, overwrite=target.overwrite)
    place = store or drawing.results
    with progress("maximizing") as update:
        found = compute(
            opened,
            wanted,
            chosen,
            method=method,
            size=size,
            steps=steps,
            rate=rate,
            seed=seed,
            pictures=pictures,
            transforms=_transforms(transforms, jitter, zoom, rotate, views),
            tv=tv,
            l2=l2,
            blur=blur,
            scales=scales,
            spectrum=spectrum,
            restarts=restarts,
            batch_size=batch_size,
            every=every if every is not None or not film else kept_every(place, opened.fingerprint) or 4,
            preprocess=prepare,
            device=device,
            to=place,
            overwrite=target.overwrite,
            progress=update,
        )
    columns = {"target": "target", "activation": "activation", "start": "of noise", "status": "status"}
    rows = rows_of(found)
    if any(row["restarts"] for row in rows):
        columns["restarts"] = "restarts"
    if any(row["variant"] for row in rows):
        columns = {"target": "target", "variant": "picture"} | columns
    show(rows, columns, json=json, about=[*said_of(found), f"pictures are in {draw(found, drawing)}"])


def _wanted(
    layer: str | None,
    channels: str | None,
    logits: str | None,
    objectives: list[str] | None,
    diversity: float,
    pictures: int,
    layers: Sequence[LayerInfo],
) -> tuple[str | list[Objective], str | list[int] | None]:
    """Gather what was asked for: a layer and its channels, or objectives."""
    from fmx.maximize import diversity as spread
    from fmx.maximize import logit, parse_objective
    from fmx.maximize.objectives import OUTPUT
    from fmx.maximize.targets import targets_of

    if channels is not None and layer is None:
        raise FmxError("--channels belong to a layer: add --layer NAME (fmx layers MODEL lists them).")
    chosen = texts.channels("--channels", channels)
    if layer is not None and not (logits or objectives or diversity):
        return layer, "all" if chosen is None else chosen
    if logits == "all":
        raise FmxError("--logits takes numbers and ranges such as 281,285 or 0-9, not 'all'.")
    made = [] if layer is None else [target.objective for target in targets_of(layer, chosen, layers)]
    made += [logit(index) for index in texts.channels("--logits", logits) or ()]
    made += [parse_objective(text) for text in objectives or ()]
    if not made:
        raise FmxError("Say what to maximize: --layer NAME with --channels, --logits, or --objective.")
    if not diversity:
        return made, None
    if pictures < 2:
        raise FmxError("--diversity is how much several pictures differ: add --pictures 4, for example.")
    return [one + diversity * spread((*one.layers, OUTPUT)[0]) for one in made], None


def _transforms(
    wanted: bool, jitter: int | None, zoom: str | None, rotate: float | None, views: str | None
) -> bool | Transforms:
    from fmx.maximize import Transforms

    usual = Transforms()
    ends = texts.ends("--zoom", zoom, "0.9,1.1")
    if ends is not None and not 0 < ends[0] <= ends[1]:
        raise FmxError(f"--zoom takes the least and the largest scale, such as 0.9,1.1, not '{zoom}'.")
    sides = texts.numbers("--views", views)
    if sides is not None and any(not side.is_integer() for side in sides):
        raise FmxError(f"--views takes whole numbers of pixels, such as 128,224, not '{views}'.")
    if jitter is None and ends is None and rotate is None and sides is None:
        return wanted
    if not wanted:
        raise FmxError("--no-transforms leaves pictures as they are: leave --jitter, --zoom, --rotate and --views out.")
    return replace(
        usual,
        jitter=usual.jitter if jitter is None else max(jitter, 0),
        scale=ends or usual.scale,
        rotate=usual.rotate if rotate is None else rotate,
        views=usual.views if sides is None else tuple(map(int, sides)),
    )


def _preprocess(model: Model, options: Any) -> tuple[Preprocess, str]:
    """Settle what pixels are to the model, and say so where it had to be assumed."""
    from fmx.maximize.network import picture_preprocess

    prepare = options.apply(picture_preprocess(model))
    if prepare.source != "assumed":
        return prepare, ""
    scaling = prepare.describe().partition(", ")[2] if prepare.channels in {1, 3, 4} else "pixels from 0 to 1"
    return prepare, f"the model does not say what pixels are to it; assumed: {scaling} (change it with --range, --mean)"
