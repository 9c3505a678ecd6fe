"""The command ``fmx occlude``: its options, its figures and its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.errors import FmxError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from fmx.project import Pictures
    from fmx.render import PictureFolder
    from fmx.render.occlusion import HeatMap

__all__ = ["occlude"]

_WHAT, _PATCH, _RUN, _KEEP, _MODEL = "What", "The patch", "Running", "What is kept", "Model and pictures"
_MOST_HEATS = 4


def _option(group: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


def occlude(
    model: opt.Model,
    pictures: Annotated[
        str,
        typer.Argument(metavar="PICTURES", help="A picture, a folder, a glob, a list, or arrays.", show_default=False),
    ],
    classes: Annotated[
        str, _option(_WHAT, "Classes: auto (the most probable one of each picture), numbers, or none.", "--class")
    ] = "auto",
    layers: Annotated[
        str | None, _option(_WHAT, "Layers with feature maps to map: names or any selection.", "--layer")
    ] = None,
    channels: Annotated[
        str, _option(_WHAT, "Their feature maps: auto (the strongest one in each picture), numbers, or all.")
    ] = "auto",
    scores: Annotated[
        str, _option(_WHAT, "What counts as probability: softmax of the output, raw, or auto: raw if it is one.")
    ] = "auto",
    names: Annotated[
        str | None, _option(_WHAT, "Names of the classes: imagenet, or a text file with one on each line.")
    ] = None,
    patch: Annotated[int, _option(_PATCH, "Side in pixels of the model's input.")] = 32,
    stride: Annotated[int, _option(_PATCH, "Pixels from one place to the next.")] = 16,
    fill: Annotated[
        str, _option(_PATCH, "zero (in the model's input: the mean colour), grey, mean (of the picture), or blur.")
    ] = "zero",
    batch_size: Annotated[int, _option(_RUN, "Pictures that the model runs at once.")] = 32,
    device: Annotated[str, _option(_RUN, "cpu, cuda, cuda:1 or mps.")] = "cpu",
    engine: Annotated[
        str, _option(_RUN, "auto: the fastest that agrees with the reference; eager: the reference; or a name.")
    ] = "auto",
    output: Annotated[
        str, _option(_KEEP, "Where the figures go, as FOLDER/model/name.", "--output", "-o", metavar="FOLDER")
    ] = "occluded",
    name: Annotated[str | None, _option(_KEEP, "Name of this run's figures (default: the time).")] = None,
    overwrite: Annotated[bool, _option(_KEEP, "Replace the figures of this name.", "--overwrite")] = False,
    alpha: Annotated[float, _option(_KEEP, "Opacity of the greatest loss over the picture, 0 to 1.")] = 0.75,
    cmap: Annotated[str, _option(_KEEP, "Any matplotlib colormap.")] = "inferno",
    json: opt.Json = False,
    weights: Annotated[
        str | None, _option(_MODEL, "State dict for a model that is named, or DEFAULT to download torchvision's.")
    ] = None,
    allow_partial: Annotated[
        bool, _option(_MODEL, "Load weights that fit in part only, and say what did not.", "--allow-partial")
    ] = False,
    trust: Annotated[bool, _option(_MODEL, "Run code that comes with the model.", "--trust")] = False,
    operators: Annotated[
        list[str] | None, _option(_MODEL, "Shared library with operators that the model needs.", metavar="LIBRARY")
    ] = None,
    input_shape: Annotated[
        str | None, _option(_MODEL, "Shape of one sample where the model doesn't say.", metavar="C,H,W")
    ] = None,
    size: Annotated[int | None, _option(_MODEL, "Resize pictures so that the shorter side has this length.")] = None,
    crop: Annotated[int | None, _option(_MODEL, "Cut a square of this side from the centre.")] = None,
    mean: Annotated[str | None, _option(_MODEL, "Subtracted from each channel of the picture.")] = None,
    std: Annotated[str | None, _option(_MODEL, "Each channel of the picture is divided by it.")] = None,
    value_range: Annotated[
        str | None, _option(_MODEL, "Where black and white come to lie, e.g. 0,255 for raw pixels.", "--range")
    ] = None,
    layout: Annotated[str | None, _option(_MODEL, "Axes of the model's picture: NCHW or NHWC.")] = None,
) -> None:
    """Hide one part of a picture after the other, and map what is left of classes and feature maps.

    Writes a figure of each picture, and all maps as maps.nc for xarray.open_dataset.
    """
    from fmx.adapter import load
    from fmx.cli.output import note, progress, say
    from fmx.cli.reading import show
    from fmx.project import open_pictures
    from fmx.project.occlusion import occlude_pictures
    from fmx.render import PictureFolder

    known = _names(names)
    options = opt.pictures(size, crop, mean, std, value_range, None, layout)
    opened = load(
        model,
        weights=weights,
        input_shape=opt.shape(input_shape) or options.input_shape(),
        layout=layout,
        allow_partial=allow_partial,
        trust=trust,
        operators=operators or (),
    )
    read = open_pictures(opened, pictures, pictures=options)
    with PictureFolder(output, model, name, overwrite=overwrite) as folder:
        with progress("occluding") as update:
            found = occlude_pictures(
                read,
                patch=patch,
                stride=stride,
                fill=fill,
                classes=opt.words(classes),
                layers=layers or (),
                channels=opt.words(channels),
                scores=scores,
                batch_size=batch_size,
                device=device,
                engine=engine,
                progress=update,
            )
        about = list(read.notes)
        if known and len(known) != found.attrs.get("classes", len(known)):
            about.append(f"--names has {len(known)} names, and the model {found.attrs['classes']} classes: not used")
            known = []
        _save(found, folder)
        for index in range(len(read)):
            _draw(found, read, index, folder, known, alpha, cmap)
    rows = list(_rows(found, known))
    headings = {"sample": "picture", "target": "of", "whole": "whole", "lowest": "least", "y": "at y", "x": "at x"}
    if "most_probable" in found:
        headings["changed"] = "other class"
    show(rows, headings, json=json, about=about)
    if not json:
        note("least is the lowest value, with the patch at (y, x); other class is the share of places where it changes")
        say(str(folder.place))


def _names(asked: str | None) -> list[str]:
    """Read the names of classes."""
    if asked is None:
        return []
    if asked == "imagenet":
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    try:
        return [line.strip() for line in Path(asked).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise FmxError(f"--names takes imagenet or a text file, and {asked} can't be read: {why}.") from None


def _save(found: xr.Dataset, folder: PictureFolder) -> None:
    from fmx.render.sinks import whole_file

    path = folder.path("maps", suffix=".nc")
    with whole_file(path) as unfinished:
        found.to_netcdf(unfinished, engine="scipy")
    folder.add(path, {"shows": "all maps, for xarray.open_dataset"})


def _draw(
    found: xr.Dataset,
    read: Pictures,
    index: int,
    folder: PictureFolder,
    names: Sequence[str],
    alpha: float,
    cmap: str,
) -> None:
    """Draw all maps of one picture, a few on each figure."""
    from fmx.render.occlusion import ClassMap, occlusion_figure

    one = found.isel(sample=index)
    sample = str(one["sample"].item())
    heats = list(_heats(one, names))
    classes = None
    if "most_probable" in one:
        classes = ClassMap(one["most_probable"].values, int(one["whole_class"]), names)
    side = "×".join(map(str, dict.fromkeys(one.attrs["patch"])))
    facts = {"patch": side, "stride": str(one.attrs["stride"]), "fill": str(one.attrs["fill"])}
    for first in range(0, len(heats), _MOST_HEATS):
        some = heats[first : first + _MOST_HEATS]
        frame = occlusion_figure(
            _shown(read, index),
            (one["y"].values, one["x"].values),
            some,
            classes if first == 0 else None,
            caption=[sample, *(f"{key} {value}" for key, value in facts.items())],
            labels={"sample": sample, "shows": "; ".join(heat.title for heat in some), **facts},
            alpha=alpha,
            cmap=cmap,
        )
        folder.save(frame, Path(sample).with_suffix(""), *([first // _MOST_HEATS + 1] if first else []))


def _heats(one: xr.Dataset, names: Sequence[str]) -> Iterator[HeatMap]:
    from fmx.render.occlusion import HeatMap

    for i in range(one.sizes["target"]):
        target = one.isel(target=i)
        yield HeatMap(_title(target, names), target["value"].values, float(target["whole"]))


def _title(target: xr.Dataset, names: Sequence[str]) -> str:
    """Say what a map is of, with the number that was found for this picture."""
    number, kind, layer = int(target["number"]), str(target["kind"].item()), str(target["layer"].item())
    if layer:
        return f"{layer} channel {number}: {kind}"
    what = "probability" if target.attrs["scores"] != "the output as it is" else "output"
    return f"{what} of {number} {names[number]}" if names else f"{what} of class {number}"


def _shown(read: Pictures, index: int) -> NDArray[np.uint8]:
    """Give a picture as RGB; arrays that are model input are scaled from their least to their largest value."""
    import numpy as np

    picture = read.picture(index)
    if picture is None:
        values = np.moveaxis(read.colour_first(read.values(index)), 0, -1).astype(np.float64)
        values = values if values.shape[2] in {1, 3} else values.mean(axis=2, keepdims=True)
        low, high = values.min(), values.max()
        picture = np.round((values - low) / max(high - low, np.finfo(np.float64).tiny) * 255).astype(np.uint8)
    return picture[:, :, :3] if picture.shape[2] > 1 else np.repeat(picture, 3, axis=2)


def _rows(found: xr.Dataset, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Give a row for each map: where the patch does the most harm."""
    for index in range(found.sizes["sample"]):
        one = found.isel(sample=index)
        for i in range(one.sizes["target"]):
            target = one.isel(target=i)
            worst = target["value"].argmin(("y", "x"))
            least = target["value"].isel(worst)
            row: dict[str, Any] = {
                "sample": str(one["sample"].item()),
                "target": _title(target, names),
                "kind": str(target["kind"].item()),
                "layer": str(target["layer"].item()),
                "number": int(target["number"]),
                "whole": float(target["whole"]),
                "lowest": float(least),
                "y": float(least["y"]),
                "x": float(least["x"]),
            }
            if "most_probable" in one and not row["layer"]:
                row["changed"] = float((one["most_probable"] != one["whole_class"]).mean())
            yield row
