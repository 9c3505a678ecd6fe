"""``fmx deconv`` and ``fmx attribute``: features and classes pulled back to the pictures that they respond to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.project import Pictures
    from fmx.store import Store

__all__ = ["attribute", "deconv", "register_projections"]


def register_projections(app: typer.Typer) -> None:
    """Add the commands that need a model's gradients."""
    examples: dict[Callable[..., None], str] = {
        deconv: "torchvision:vgg16 cat.jpg --weights vgg16.pth --layers features.15 --maps 9",
        attribute: "torchvision:resnet18 photos/ --weights resnet18.pth --method grad-cam --layer layer4",
    }
    for function, words in examples.items():
        app.command(epilog=f"Example: fmx {function.__name__} {words}")(function)


def _option(group: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=group, **more)


# Of a layer with more of them, channels have to be chosen.
_MANY_CHANNELS = 64
_WHAT, _STORE, _HOW, _RUN, _KEEP = "What", "From a store", "How", "Running", "What is kept"
_PICTURES = "A picture, a folder, a glob, a list, or arrays."

Output = Annotated[str, _option(_KEEP, "Where pictures go, as FOLDER/model/name.", "--output", "-o", metavar="FOLDER")]
Name = Annotated[str | None, _option(_KEEP, "Name of this run's pictures (default: the time).")]
Overwrite = Annotated[bool, _option(_KEEP, "Replace the pictures of this name.", "--overwrite")]
BatchSize = Annotated[int, _option(_RUN, "Signals that are pulled back at once.")]
Device = Annotated[str, _option(_RUN, "cpu, cuda, cuda:1 or mps.")]
Channels = Annotated[str | None, _option(_WHAT, "Channels, such as 3,17 or 0-15, or all.", "--channels")]
Information = Annotated[
    bool,
    _option(
        _KEEP,
        "Add how many bits each projection says about its picture, and how many come out by chance, to the table.",
        "--information",
    ),
]


def deconv(
    model: opt.Model,
    pictures: Annotated[
        str | None, typer.Argument(metavar="[PICTURES]", help=f"{_PICTURES} Left out with --top.", show_default=False)
    ] = None,
    layers: Annotated[
        str, _option(_WHAT, "Layers: names or any selection, as for fmx layers.", "--layers", "--layer")
    ] = "auto",
    channels: Channels = None,
    maps: Annotated[
        str | None,
        _option(_WHAT, "Project the top maps together: a count, or a share such as 0.1 (1.0: all). Default: 9."),
    ] = None,
    activations: Annotated[
        str, _option(_WHAT, "The strongest activations of each map: a count, or a share such as 0.1 (1.0: all).")
    ] = "1.0",
    metric: Annotated[
        str, _option(_WHAT, "Rank maps by max, mean, sum, variance, or selectivity (with --store).", "--by")
    ] = "max",
    each: Annotated[bool, _option(_WHAT, "Project the top maps one by one, not together.", "--each")] = False,
    film: Annotated[
        str | None,
        _option(_WHAT, "A film a layer, from one map to all, highest first: gif, mp4, avi, webm or apng."),
    ] = None,
    frames: Annotated[int, _option(_WHAT, "Frames of a film at most; the numbers of maps grow in equal ratios.")] = 64,
    fps: Annotated[float, _option(_WHAT, "Frames a second of a film.")] = 8,
    store: Annotated[str | None, _option(_STORE, "A store of this model.")] = None,
    top: Annotated[
        int | None, _option(_STORE, "Project so many top samples of each channel, cropped to what the neuron sees.")
    ] = None,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    informed: Information = False,
    output: Output = "deconv",
    name: Name = None,
    overwrite: Overwrite = False,
    json: opt.Json = False,
    weights: opt.Weights = None,
    allow_partial: opt.AllowPartial = False,
    trust: opt.Trust = False,
    operators: opt.Operators = None,
    input_shape: opt.InputShape = None,
    size: opt.Size = None,
    crop: opt.Crop = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    value_range: opt.Range = None,
    layout: opt.Layout = None,
) -> None:
    """Project feature maps back to the picture with a deconvnet (Zeiler & Fergus 2014).

    Without --channels the top maps of each layer are projected together, with --channels each of these. With --store
    and --top the channels' top samples are projected, beside what the neurons see of them.
    """
    from fmx.cli.projection_jobs import Projections, project_top_samples
    from fmx.project import Deconvnet, open_pictures, stored_pictures
    from fmx.render import PictureFolder
    from fmx.store import open_store

    if informed and top is not None:
        raise FmxError("--information is about whole pictures, and --top crops them: leave one of them out.")
    options = opt.pictures(size, crop, mean, std, value_range, None, layout)
    opened = _load(model, weights, input_shape, options, allow_partial, trust, operators)
    stored = None if store is None else open_store(store)
    wanted = _channels(channels)
    chosen = {"maps": _amount("--maps", maps), "activations": _amount("--activations", activations)}
    if top is not None:
        if stored is None:
            raise FmxError("--top looks samples up in a store: give it with --store.")
        if pictures is not None:
            raise FmxError("--top takes the pictures of the store: leave PICTURES out.")
        of_store = stored_pictures(opened, stored)
        _say_notes(of_store)
        network = Deconvnet(of_store, device=device, batch_size=batch_size)
        with PictureFolder(output, model, name, overwrite=overwrite) as folder:
            rows = project_top_samples(network, folder, stored, layers, wanted, top)
        _show(rows, json=json)
        return
    if pictures is None:
        raise FmxError("There are no pictures to project: give PICTURES, or a store with --store and --top.")
    read = open_pictures(opened, pictures, pictures=options)
    _say_notes(read)
    network = Deconvnet(read, device=device, batch_size=batch_size)
    names = _layer_names(read.model, layers)
    ranking = {"metric": metric} if metric != "selectivity" else {}
    scores = {layer: _selectivity(stored, layer) if metric == "selectivity" else None for layer in names}
    _say_limits(read.model, names)
    how = chosen | ranking | {"channels": wanted}
    with PictureFolder(output, model, name, overwrite=overwrite) as folder:
        job = Projections(network, folder, names, how, scores, informed=informed)
        if film is not None:
            rows = job.films(film.lstrip("."), frames, fps)
        elif wanted is not None and maps is None:
            rows = job.channels(fixed=True)
        else:
            how["maps"] = chosen["maps"] or (None if wanted else 9)
            rows = job.channels(fixed=False) if each else job.together()
    _show(rows, json=json)


def attribute(
    model: opt.Model,
    pictures: Annotated[str, typer.Argument(metavar="PICTURES", help=_PICTURES, show_default=False)],
    method: Annotated[
        str,
        _option(
            _HOW,
            "gradient, gradient-x-input, smoothgrad, integrated-gradients, guided, deconvnet, grad-cam, grad-cam++ or "
            "layer-cam.",
        ),
    ] = "gradient-x-input",
    classes: Annotated[
        str | None, _option(_WHAT, "Classes by number, such as 281,285, or auto: the most probable one.", "--class")
    ] = None,
    layer: Annotated[
        str | None,
        _option(_WHAT, "Its channels instead of classes. With grad-cam and the like: weigh its maps, for a class."),
    ] = None,
    channels: Channels = None,
    neuron: Annotated[str | None, _option(_WHAT, "One neuron of each channel, at Y,X.", metavar="Y,X")] = None,
    over: Annotated[
        str, _option(_WHAT, "What of a channel: the mean or sum of its map, or max: its strongest neuron.")
    ] = "mean",
    maps_of: Annotated[
        str | None, _option(_HOW, "Layer whose maps grad-cam and the like weigh (default: the last with maps).")
    ] = None,
    copies: Annotated[int, _option(_HOW, "Noisy copies, for smoothgrad.")] = 32,
    noise: Annotated[float, _option(_HOW, "Their noise, as a share of the input's range.")] = 0.15,
    seed: Annotated[int, _option(_HOW, "Its seed.")] = 0,
    steps: Annotated[int, _option(_HOW, "Points on the way, for integrated-gradients.")] = 64,
    baseline: Annotated[float, _option(_HOW, "Value of the model's input where the way begins.")] = 0.0,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    alpha: Annotated[float, _option(_KEEP, "Opacity of a map over the picture where it is highest, 0 to 1.")] = 0.6,
    cmap: Annotated[str, _option(_KEEP, "Any matplotlib colormap, for maps over the picture.")] = "inferno",
    informed: Information = False,
    output: Output = "attributed",
    name: Name = None,
    overwrite: Overwrite = False,
    json: opt.Json = False,
    weights: opt.Weights = None,
    allow_partial: opt.AllowPartial = False,
    trust: opt.Trust = False,
    operators: opt.Operators = None,
    input_shape: opt.InputShape = None,
    size: opt.Size = None,
    crop: opt.Crop = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    value_range: opt.Range = None,
    layout: opt.Layout = None,
) -> None:
    """Attribute a class, a channel or a neuron to the parts of the picture that it depends on.

    Draws a sheet a picture; fmx.project.attribute gives the values as a labelled Dataset.
    """
    from fmx.cli.projection_jobs import attributed
    from fmx.project import Attribution, Wanted, open_pictures
    from fmx.project.gradients import Cloud, Path
    from fmx.render import PictureFolder

    if classes is not None and (channels is not None or neuron is not None):
        raise FmxError("Classes and channels are attributed apart: give --class, or --layer with --channels.")
    if classes is not None and layer is not None and "cam" not in method:
        raise FmxError("Classes and channels are attributed apart: leave --class or --layer out.")
    options = opt.pictures(size, crop, mean, std, value_range, None, layout)
    opened = _load(model, weights, input_shape, options, allow_partial, trust, operators)
    place = None if neuron is None else _integers("--neuron", neuron)
    picked = "auto" if classes in {None, "auto"} else _integers("--class", str(classes))
    wanted = Wanted(layer, _channels(channels), place, over, picked)
    if layer is not None and channels is None and "cam" not in method:
        _check_number(opened, layer)
    read = open_pictures(opened, pictures, pictures=options)
    _say_notes(read)
    network = Attribution(
        read,
        method,
        wanted,
        maps_of=maps_of,
        cloud=Cloud(copies, noise, seed),
        path=Path(steps, baseline),
        device=device,
        batch_size=batch_size,
    )
    if method in {"guided", "deconvnet"}:
        _say_limits(read.model, [layer] if layer is not None else None, switches=method == "deconvnet")
    with PictureFolder(output, model, name, overwrite=overwrite) as folder:
        rows = attributed(network, folder, {"alpha": alpha, "cmap": cmap}, informed=informed)
    _show(rows, json=json)


def _check_number(model: Model, layer: str) -> None:
    """Let nobody wait for a thousand channels that nobody asked for."""
    from fmx.adapter import choose_layers

    (info,) = choose_layers(model, [layer])
    count = dict(zip(info.dims, info.shape, strict=True)).get("channel", 1)
    if count > _MANY_CHANNELS:
        raise FmxError(
            f"{layer} has {count} channels: choose some, such as --channels 3,17 (fmx deconv finds the strongest), or "
            "take --channels all."
        )


def _load(
    model: str, weights: str | None, shape: str | None, options: Any, partial: bool, trust: bool, operators: Any
) -> Model:
    from fmx.adapter import load

    return load(
        model,
        weights=weights,
        input_shape=opt.shape(shape) or options.input_shape(),
        layout=options.layout,
        allow_partial=partial,
        trust=trust,
        operators=operators or (),
    )


def _layer_names(model: Model, layers: str) -> list[str]:
    from fmx.adapter import choose_layers

    return [info.name for info in choose_layers(model, layers)]


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


def _say_notes(pictures: Pictures) -> None:
    from fmx.cli.output import note

    for text in pictures.notes:
        note(text)


def _say_limits(model: Model, layers: Sequence[str] | None, *, switches: bool = True) -> None:
    """Say where the rules about ReLUs and switches have little to hold on to."""
    from fmx.cli.output import note
    from fmx.project.rules import smooth_kinds

    last = None if layers is None else layers[-1]
    smooth = smooth_kinds(model.layers, last)
    if smooth:
        note(f"{', '.join(smooth)} pass their own derivative: the method has a rule for ReLUs only")
    before = [info.kind for info in model.layers]
    if last is not None:
        before = before[: [info.name for info in model.layers].index(last) + 1]
    if switches and not any("maxpool" in kind.lower().replace("_", "") for kind in before):
        note(
            "before the layer there is no max-pooling, on whose switches a deconvnet lives: expect the grid of the "
            "strides, and try fmx attribute --method guided"
        )


def _channels(text: str | None) -> list[int] | None:
    """Read channels such as 3,17 or 0-15; None for all."""
    if text is None or text == "all":
        return None
    found: list[int] = []
    for part in opt.words(text):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise FmxError(f"--channels takes numbers such as 3,17 or 0-15, not '{part}'.")
        found += range(int(first), int(last or first) + 1) if dash else [int(first)]
    return found


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in opt.words(text)]
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


def _show(rows: Sequence[dict[str, Any]], *, json: bool) -> None:
    from fmx.cli.output import print_json, say
    from fmx.cli.reading import show

    if json:
        print_json(rows)
        return
    names = [key for key in rows[0] if key != "file"] if rows else []
    show(rows, {key: key.replace("_", " ") for key in names}, json=False)
    for path in dict.fromkeys(row["file"] for row in rows if row["file"]):
        say(path)
