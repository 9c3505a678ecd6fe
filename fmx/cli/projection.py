"""``fmx deconv`` and ``fmx attribute``: features and classes pulled back to the pictures that they respond to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.arrays import Arrays, array_file, check_array_file
from fmx.cli.groups import Target, grouped
from fmx.cli.opening import Backward, Opening, PictureData
from fmx.cli.projection_notes import check_number, say_limits, say_notes
from fmx.cli.reading import help_of
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.store import Store

__all__ = ["attribute", "deconv", "register_projections"]


def register_projections(app: typer.Typer) -> None:
    """Add the commands that need a model's gradients."""
    examples: dict[Callable[..., None], str] = {
        deconv: "torchvision:vgg16 cat.jpg --weights vgg16.pth --layers features.15 --maps 9",
        attribute: "torchvision:resnet18 photos/ --weights resnet18.pth --method grad-cam --layer layer4",
    }
    for function, words in examples.items():
        app.command(epilog=f"Example: fmx {function.__name__} {words}", help=help_of(function))(function)


_DECONV, _ATTRIBUTED = Target(output="deconv"), Target(output="attributed")

Information = Annotated[
    bool,
    opt.option(
        opt.OUT,
        "Add how many bits each projection says about its picture, and how many come out by chance, to the table.",
        "--information",
    ),
]


@grouped
def deconv(
    model: opt.Model,
    pictures: Annotated[
        str | None,
        typer.Argument(
            metavar="[PICTURES]",
            help="A picture, a folder, a glob, a list, or arrays. Left out with --top.",
            show_default=False,
        ),
    ] = None,
    *,
    layers: opt.Layers = "auto",
    channels: opt.Channels = None,
    maps: Annotated[
        str | None,
        opt.option(
            opt.WHAT,
            "Project the top maps together: a count, or a share such as 0.1; 1.0 is all (default: 9).",
            metavar="COUNT|SHARE",
        ),
    ] = None,
    activations: Annotated[
        str,
        opt.option(
            opt.WHAT,
            "Of each map only its strongest activations: a count, or a share such as 0.1; 1.0 is all.",
            metavar="COUNT|SHARE",
        ),
    ] = "1.0",
    metric: Annotated[str, opt.metric("max, mean, sum, variance, or selectivity (with --store)")] = "max",
    each: Annotated[bool, opt.option(opt.WHAT, "Project the top maps one by one, not together.", "--each")] = False,
    film: Annotated[
        str | None, opt.film("one a layer, from one map to all, highest first; gif, mp4, avi, webm or apng", "FORMAT")
    ] = None,
    frames: Annotated[
        int,
        opt.option(
            opt.OUT, "Frames: how many a film has at most; the numbers of maps grow in equal ratios.", metavar="N"
        ),
    ] = 64,
    fps: Annotated[float, opt.fps()] = 8,
    store: Annotated[str | None, opt.option(opt.WHAT, "Store of the model's activations.", metavar="STORE")] = None,
    top: Annotated[
        int | None, opt.top("samples of each channel in --store, projected and cropped to what the neuron sees")
    ] = None,
    running: Backward,
    target: Target = _DECONV,
    arrays: Arrays = None,
    informed: Information = False,
    json: opt.Json = False,
    opening: Opening,
) -> None:
    """Project feature maps back to the picture with a deconvnet (Zeiler & Fergus 2014).

    Without --channels the top maps of each layer are projected together, with --channels each of these. With --store
    and --top the channels' top samples are projected, beside what the neurons see of them.
    """
    from fmx.adapter import choose_layers
    from fmx.cli.projection_jobs import Projections
    from fmx.project import Deconvnet
    from fmx.store import open_store

    check_array_file(arrays, overwrite=target.overwrite)
    if informed and top is not None:
        raise FmxError("--information is about whole pictures, and --top crops them: leave one of them out.")
    opened = opening.load(model)
    stored = None if store is None else open_store(store)
    wanted = texts.channels("--channels", channels)
    chosen = {"maps": _amount("--maps", maps), "activations": _amount("--activations", activations)}
    if top is not None:
        if stored is None:
            raise FmxError("--top looks samples up in a store: give it with --store.")
        if pictures is not None:
            raise FmxError("--top takes the pictures of the store: leave PICTURES out.")
        rows = _project_top((opened, model), stored, layers, wanted, top, running, (target, arrays))
        _show(rows, arrays, json=json)
        return
    if pictures is None:
        raise FmxError("There are no pictures to project: give PICTURES, or a store with --store and --top.")
    read = opening.open(opened, pictures)
    say_notes(read)
    network = Deconvnet(read, **running.ways)
    names = [info.name for info in choose_layers(read.model, layers)]
    ranking = {"metric": metric} if metric != "selectivity" else {}
    scores = {layer: _selectivity(stored, layer) if metric == "selectivity" else None for layer in names}
    say_limits(read.model, names)
    how = chosen | ranking | {"channels": wanted}
    lead = {"sample": read.samples, "layer": names}
    with target.folder(model) as folder, array_file(arrays, lead, overwrite=target.overwrite) as keep:
        job = Projections(network, folder, names, how, scores, informed=informed, keep=keep)
        if film is not None:
            rows = job.films(_film(film), frames, fps)
        elif wanted is not None and maps is None:
            rows = job.channels(fixed=True)
        else:
            how["maps"] = 9 if maps is None and wanted is None else chosen["maps"]
            rows = job.channels(fixed=False) if each else job.together()
    _show(rows, arrays, json=json)


def _project_top(
    model: tuple[Model, str],
    store: Store,
    layers: str,
    channels: Sequence[int] | None,
    top: int,
    running: Backward,
    where: tuple[Target, str | None],
) -> list[dict[str, Any]]:
    """Project the top samples of channels."""
    from fmx.cli.projection_top import layers_of, project_top_samples
    from fmx.project import Deconvnet, stored_pictures

    target, arrays = where
    of_store = stored_pictures(model[0], store)
    say_notes(of_store)
    network = Deconvnet(of_store, **running.ways)
    names = layers_of(store, of_store.model, layers)
    with (
        target.folder(model[1]) as folder,
        array_file(arrays, {"layer": names}, overwrite=target.overwrite) as keep,
    ):
        return project_top_samples(network, folder, store, names, channels, top, keep=keep)


@grouped
def attribute(
    model: opt.Model,
    pictures: PictureData,
    *,
    method: Annotated[
        str,
        opt.method(
            "gradient, gradient-x-input, smoothgrad, integrated-gradients, guided, deconvnet, grad-cam, grad-cam++ or "
            "layer-cam"
        ),
    ] = "gradient-x-input",
    classes: Annotated[str | None, opt.classes(", or auto: the most probable one (default: auto).")] = None,
    layer: Annotated[
        str | None,
        opt.layer("its channels instead of classes; with grad-cam and the like, the one whose maps are weighed."),
    ] = None,
    channels: opt.Channels = None,
    neuron: Annotated[
        str | None, opt.option(opt.WHAT, "One neuron of each channel, by its place in the map.", metavar="Y,X")
    ] = None,
    how: Annotated[str, opt.how("mean or sum of a channel's map, or max, its strongest neuron")] = "mean",
    maps_of: Annotated[
        str | None,
        opt.option(
            opt.WHAT,
            "With grad-cam and the like: layer whose maps are weighed (default: the last with maps).",
            metavar="LAYER",
        ),
    ] = None,
    copies: Annotated[int, opt.option(opt.HOW, "With smoothgrad: noisy copies.", metavar="N")] = 32,
    sigma: Annotated[
        float,
        opt.option(opt.HOW, "With smoothgrad: their noise, as a share of the input's range.", metavar="SHARE"),
    ] = 0.15,
    seed: opt.Seed = 0,
    steps: Annotated[int, opt.steps("points on the way, of integrated-gradients")] = 64,
    baseline: Annotated[
        float,
        opt.option(opt.HOW, "With integrated-gradients: value of the model's input where the way begins.", metavar="X"),
    ] = 0.0,
    running: Backward,
    target: Target = _ATTRIBUTED,
    arrays: Arrays = None,
    alpha: opt.Alpha = 0.6,
    cmap: Annotated[str, opt.colormap(", for maps over the picture")] = "inferno",
    informed: Information = False,
    json: opt.Json = False,
    opening: Opening,
) -> None:
    """Attribute a class, a channel or a neuron to the parts of the picture that it depends on.

    Draws a sheet a picture; --arrays writes the values.
    """
    from fmx.cli.projection_jobs import attributed
    from fmx.project import Attribution, Wanted
    from fmx.project.gradients import Cloud, Path

    check_array_file(arrays, overwrite=target.overwrite)
    if classes is not None and (channels is not None or neuron is not None):
        raise FmxError("Classes and channels are attributed apart: give --class, or --layer with --channels.")
    if classes is not None and layer is not None and "cam" not in method:
        raise FmxError("Classes and channels are attributed apart: leave --class or --layer out.")
    opened = opening.load(model)
    place = None if neuron is None else _integers("--neuron", neuron)
    layer = texts.one_layer(opened, layer)
    picked = "auto" if classes in {None, "auto"} else texts.whole_numbers("--class", str(classes))
    wanted = Wanted(layer, texts.channels("--channels", channels), place, how, picked)
    if layer is not None and channels is None and "cam" not in method:
        check_number(opened, layer)
    read = opening.open(opened, pictures)
    say_notes(read)
    settings: dict[str, Any] = {"maps_of": texts.one_layer(opened, maps_of)}
    settings |= {"cloud": Cloud(copies, sigma, seed), "path": Path(steps, baseline)}
    network = Attribution(read, method, wanted, **settings, **running.ways)
    if method in {"guided", "deconvnet"}:
        say_limits(read.model, [layer] if layer is not None else None, switches=method == "deconvnet")
    lead = {"sample": read.samples}
    with target.folder(model) as folder, array_file(arrays, lead, overwrite=target.overwrite) as keep:
        rows = attributed(network, folder, {"alpha": alpha, "cmap": cmap}, informed=informed, keep=keep)
    _show(rows, arrays, json=json)


def _selectivity(store: Store | None, layer: str) -> Any:
    """Score the channels of a layer by how selective they are for a class, by a store of it."""
    import numpy as np

    from fmx.analyze import rank

    if store is None:
        raise FmxError("Selectivity is about classes, of which a store knows: give one with --store.")
    info = store.select([layer])[0]
    count = info.shape[info.dims.index("channel")]
    found = rank(store, metric="selectivity", top=count, layers=[layer])[layer]
    scores = np.full(count, np.nan)
    there = found["channel"].values >= 0
    scores[found["channel"].values[there]] = found["score"].values[there]
    return scores


def _film(text: str) -> str:
    """Read the format of films."""
    from fmx.render.video import VIDEO_SUFFIXES

    known = [suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES]
    texts.one_of("--film", text.lower().removeprefix("."), known)
    return text.lower().removeprefix(".")


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in texts.words(text)]
    except ValueError:
        raise FmxError(f"{option} takes whole numbers separated by commas, not '{text}'.") from None


def _amount(option: str, text: str | None) -> int | float | None:
    """Read a count such as 9, or a share with a point such as 0.1 or 1.0."""
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise FmxError(f"{option} takes a count such as 9 or a share such as 0.1, not '{text}'.") from None


def _show(rows: Sequence[dict[str, Any]], arrays: str | None, *, json: bool) -> None:
    from fmx.cli.output import print_json, say
    from fmx.cli.reading import show

    if json:
        print_json(rows)
        return
    names = [key for key in rows[0] if key != "file"] if rows else []
    show(rows, {key: key.replace("_", " ") for key in names}, json=False)
    files = dict.fromkeys(row["file"] for row in rows if row["file"])
    for path in [*files, *([arrays] if arrays else [])]:
        say(path)
