"""The command ``fmx occlude``: its options, its figures and its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.arrays import Arrays, check_array_file, write_arrays
from fmx.cli.groups import Target, grouped
from fmx.cli.opening import Opening, PictureData, Together

if TYPE_CHECKING:
    import xarray as xr

    from fmx.project import Pictures
    from fmx.render import PictureFolder
    from fmx.render.occlusion import HeatMap

__all__ = ["occlude"]

_PATCH = "The patch"
_TARGET, _TOGETHER = Target(output="occluded"), Together(batch_size=32)
_MOST_HEATS = 4


@grouped
def occlude(
    model: opt.Model,
    pictures: PictureData,
    *,
    classes: Annotated[str, opt.classes("; auto, the most probable one of each picture; or none.")] = "auto",
    layers: opt.LayersIfAny = None,
    channels: Annotated[str, opt.channel(", all, or auto: the strongest one in each picture.")] = "auto",
    scores: Annotated[
        str,
        opt.option(
            opt.WHAT,
            "What counts as probability: softmax of the output, raw, or auto: raw if it is one.",
            metavar="KIND",
        ),
    ] = "auto",
    class_names: opt.ClassNames = None,
    patch: Annotated[int, opt.option(_PATCH, "Side in pixels of the model's input.", metavar="PIXELS")] = 32,
    stride: Annotated[int, opt.option(_PATCH, "Stride: pixels from one place to the next.", metavar="PIXELS")] = 16,
    fill: Annotated[
        str,
        opt.option(
            _PATCH,
            "Fill: zero (in the model's input: the mean colour), grey, mean (of the picture), or blur.",
            metavar="COLOUR",
        ),
    ] = "zero",
    running: Together = _TOGETHER,
    engine: opt.Engine = "auto",
    target: Target = _TARGET,
    arrays: Arrays = None,
    alpha: opt.Alpha = 0.75,
    cmap: Annotated[str, opt.colormap()] = "inferno",
    json: opt.Json = False,
    opening: Opening,
) -> None:
    """Hide one part of a picture after the other, and map what is left of classes and feature maps.

    Writes a figure of each picture, and all maps as maps.nc for xarray.open_dataset, or where --arrays says.
    """
    from fmx.cli.output import note, progress, say
    from fmx.cli.reading import show
    from fmx.project.occlusion import occlude_pictures

    check_array_file(arrays, overwrite=target.overwrite)
    known = texts.class_names(class_names)
    read = opening.open(opening.load(model), pictures)
    with target.folder(model) as folder:
        with progress("occluding") as update:
            found = occlude_pictures(
                read,
                patch=patch,
                stride=stride,
                fill=fill,
                classes=texts.numbered("--class", classes),
                layers=layers or (),
                channels=texts.numbered("--channels", channels),
                scores=scores,
                batch_size=running.batch_size,
                device=running.device,
                engine=engine,
                progress=update,
            )
        about = list(read.notes)
        if known and len(known) != found.attrs.get("classes", len(known)):
            about.append(
                f"--class-names has {len(known)} names, and the model {found.attrs['classes']} classes: not used"
            )
            known = []
        _save(found, folder, arrays, overwrite=target.overwrite)
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
        if arrays is not None:
            say(arrays)


def _save(found: xr.Dataset, folder: PictureFolder, arrays: str | None, *, overwrite: bool) -> None:
    if arrays is not None:
        write_arrays(found, arrays, overwrite=overwrite)
        return
    path = folder.path("maps", suffix=".nc")
    write_arrays(found, str(path))
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
    from fmx.cli.projection_figures import input_picture
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
            input_picture(read, index),
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
