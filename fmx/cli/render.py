"""``fmx render``: pictures of what a store holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import picking as pick
from fmx.cli import texts
from fmx.cli.commands import Commands
from fmx.cli.groups import Target, grouped
from fmx.errors import FmxError

__all__ = ["render"]

render = typer.Typer(cls=Commands, help="Draw what a store holds.", no_args_is_help=True)

PAGE = "8x8"
EVERYWHEN = pick.Which(noise="all", timestep="all")


@render.command(epilog="Example: fmx render grid acts.zarr --layer layer1 --sample chelsea.png")
@grouped
def grid(
    store: opt.StorePath,
    *,
    which: pick.Which,
    channels: pick.Channels,
    page: Annotated[str, opt.option(opt.OUT, "Rows and columns of a page.", metavar="ROWSxCOLUMNS")] = PAGE,
    scale: Annotated[int, opt.scale("1 is the layer's own size")] = 1,
    normalisation: pick.Normalisation = "filter",
    colours: pick.Colours,
    legend: pick.Legend = True,
    target: Target,
) -> None:
    """Draw a layer's feature maps as pages of 8×8, at the layer's own resolution; a layer without maps as bars."""
    from fmx.cli.draw import draw_grids, page_layout
    from fmx.store import open_store

    rows, columns = page_layout(page)
    opened = open_store(store)
    places, tone = which.places(opened), colours.tone
    look = {"rows": rows, "columns": columns, "scale": scale, "legend": legend, **channels.look, **colours.look}
    with pick.folder(opened, target) as made:
        ranging = pick.ranging(opened, places.layers, normalisation, tone)
        pick.tell(list(draw_grids(places, made, ranging, **look)), made)


@render.command(epilog="Example: fmx render frames acts.zarr --layer layer1 --channels 0-63 --size 600 --cmap magma")
@grouped
def frames(
    store: opt.StorePath,
    *,
    which: pick.Which,
    channels: pick.Channels,
    top: Annotated[int | None, opt.top("channels that come first in the --order (default: all)")] = None,
    size: Annotated[str | None, opt.picture_size(", or WIDTHxHEIGHT")] = None,
    scale: Annotated[int | None, opt.scale("where --size is not given")] = None,
    normalisation: pick.Normalisation = "filter",
    colours: pick.Colours,
    values: Annotated[
        str | None,
        opt.option(
            opt.OUT,
            "Write the values themselves: png16 or tif16 (scale and offset in the file; fmx.render.read_values), "
            "or tif32 (float32).",
            metavar="FORMAT",
        ),
    ] = None,
    form: Annotated[str, opt.files("png or tif, for pictures in colours")] = "png",
    legend: pick.Legend = False,
    target: Target,
) -> None:
    """Draw feature maps, a picture each, at the layer's own resolution or any size; or write their values."""
    from fmx.cli.draw import draw_frames, picture_size, value_format, write_values
    from fmx.store import open_store

    opened = open_store(store)
    places, tone = which.places(opened), colours.tone
    wanted = {**channels.look, "top": top}
    if values is not None:
        form_of_values = value_format(values, size, scale)
        with pick.folder(opened, target) as made:
            pick.tell(list(write_values(places, made, form_of_values, **wanted)), made)
        return
    look = {"size": picture_size(size), "scale": scale, "legend": legend, **wanted, **colours.look}
    with pick.folder(opened, target) as made:
        ranging = pick.ranging(opened, places.layers, normalisation, tone)
        pick.tell(list(draw_frames(places, made, ranging, form, **look)), made)


@render.command(epilog="Example: fmx render overlay acts.zarr --layer layer4 --sample 0 --top 9")
@grouped
def overlay(
    store: opt.StorePath,
    *,
    layer: opt.Layers = "auto",
    sample: opt.Samples = "0",
    channel: Annotated[str | None, opt.channel(", summed; or mean (default) or max over all.")] = None,
    top: Annotated[
        int | None,
        opt.top("channels laid over one picture, each by itself, the highest first; or samples of each with --from"),
    ] = None,
    order: Annotated[str, opt.order("; --top takes the first")] = "max",
    saved: Annotated[
        str,
        opt.option(
            opt.WHAT,
            "Draw saved results (fmx top-samples --save NAME): each channel over the samples that excite it most.",
            "--from",
            metavar="NAME",
        ),
    ] = "",
    style: Annotated[
        str,
        opt.option(opt.HOW, "Style: heat, colours; or mask, contour or crop where the map is high.", metavar="STYLE"),
    ] = "heat",
    threshold: Annotated[
        float | None,
        opt.option(opt.HOW, "Share of the range that counts as high (default: 0.5; heat: 0).", metavar="SHARE"),
    ] = None,
    alpha: opt.Alpha = 0.6,
    one_range: Annotated[
        bool,
        opt.option(opt.HOW, "Of many pictures: one range of colours, or each its own.", "--one-range/--own-ranges"),
    ] = True,
    class_names: opt.ClassNames = None,
    cmap: Annotated[str, opt.colormap()] = "inferno",
    noise: opt.Level = "0",
    timestep: opt.Timestep = "0",
    target: Target,
) -> None:
    """Lay heat maps over the input: layers on one picture, --top channels on one, or --channels on many pictures."""
    from fmx.cli.draw import draw_channel_overlays, draw_overlay, draw_sample_overlays, draw_top_overlays
    from fmx.store import open_store

    opened = open_store(store)
    names = texts.samples(opened, sample)
    if not saved and top is not None and (channel is not None or len(names) > 1):
        raise FmxError("--top draws the highest channels of one sample: leave out --channels, and give one --sample.")
    look = {"alpha": alpha, "threshold": threshold, "style": style, "cmap": cmap}
    if saved:
        if (sample, noise, timestep) != ("0", "0", "0"):
            raise FmxError(
                "The results of --from say which samples there are: leave --sample, --noise, --timestep out."
            )
        with pick.folder(opened, target) as made:
            shown = {"most": top, "shared": one_range, **look}
            pick.tell(list(draw_top_overlays(opened, layer, saved, channel, made, shown)), made)
        return
    place = {"noise": texts.level(noise), "timestep": texts.one_number("--timestep", timestep)}
    with pick.folder(opened, target) as made:
        if top is not None:
            settings = {"order": order, "top": top, "classes": texts.class_names(class_names), **place, **look}
            paths = list(draw_channel_overlays(opened, layer, names[0], made, settings))
        elif len(names) > 1:
            settings = {"shared": one_range, **place, **look}
            paths = list(draw_sample_overlays(opened, layer, names, channel or "mean", made, settings))
        else:
            paths = [draw_overlay(opened, layer, names[0], channel or "mean", made, place | look)]
        pick.tell(paths, made)


@render.command(epilog="Example: fmx render video acts.zarr --layer layer2 --over timestep --view overlay --format mp4")
@grouped
def video(
    store: opt.StorePath,
    *,
    layer: opt.Layers = "auto",
    over: Annotated[
        str,
        opt.option(
            opt.WHAT,
            "Axes: the one that frames go along, channel, timestep, noise (level), sample, or a label of samples by "
            "which these are ordered, such as step or epoch (default: timestep of clips, else channel).",
            metavar="AXIS",
        ),
    ] = "",
    sample: Annotated[str, opt.sample(" (default: the first, or all of a film over samples)")] = "",
    channel: Annotated[
        str | None, opt.channel(", one a frame or one in a grid, else summed; or mean (default) or max over all.")
    ] = None,
    order: Annotated[str, opt.order()] = "index",
    view: Annotated[
        str, opt.option(opt.HOW, "View: map, overlay (on the input), or grid of 64 channels.", metavar="VIEW")
    ] = "map",
    beside: Annotated[bool, opt.option(opt.OUT, "Show the input beside it.", "--beside/--no-beside")] = True,
    noise: opt.Level = "0",
    timestep: opt.Timestep = "0",
    fps: Annotated[float, opt.fps()] = 10,
    form: Annotated[str, opt.files("avi (FFV1, lossless), mp4 (H.264), webm, gif or apng")] = "mp4",
    size: Annotated[int, opt.picture_size(" of the map; a grid has at least its own")] = 320,
    normalisation: Annotated[
        str,
        opt.normalisation(
            "film, the same in all frames, or as for fmx render grid (default: film; of channels: filter)"
        ),
    ] = "",
    colours: pick.Colours,
    legend: pick.Legend = True,
    target: Target,
) -> None:
    """Film a layer: one frame a channel, timestep, noise level or sample, with the input beside it."""
    from fmx.cli.draw import draw_films, layers_with_maps
    from fmx.render import Film
    from fmx.render.video import VIDEO_SUFFIXES
    from fmx.store import open_store

    if f".{form}" not in VIDEO_SUFFIXES:
        known = ", ".join(suffix.removeprefix(".") for suffix in VIDEO_SUFFIXES)
        raise FmxError(f"--format takes {known}, not '{form}'.")
    opened = open_store(store)
    along = over or ("timestep" if opened.frames > 1 else "channel")
    several = along not in {"channel", "timestep", "noise"}
    look: dict[str, Any] = {
        "over": along,
        "samples": texts.samples(opened, sample or ("all" if several else "0")),
        "noise": texts.level(noise),
        "timestep": texts.one_number("--timestep", timestep),
        **pick.filmed_channels(channel, each=along == "channel" or view == "grid"),
        "order": order,
        "view": view,
        "beside": beside,
        "normalisation": normalisation,
        "tone": colours.tone,
        "size": size,
        **colours.look,
        "legend": legend,
    }
    if view == "overlay" and colours.cmap is None:
        look["cmap"] = "inferno"
    films = [Film(opened, one, **look) for one in layers_with_maps(opened, layer)]
    with pick.folder(opened, target) as made:
        pick.tell(list(draw_films(films, made, form, fps)), made)


@render.command(epilog="Example: fmx render multiples acts.zarr --rows noise --columns layer --noise all --sample 3")
@grouped
def multiples(
    store: opt.StorePath,
    *,
    rows: Annotated[
        str,
        opt.option(opt.WHAT, "What differs from row to row: layer, sample, noise, timestep, channel.", metavar="AXIS"),
    ],
    columns: Annotated[str, opt.option(opt.WHAT, "What differs from column to column, likewise.", metavar="AXIS")],
    which: pick.Which = EVERYWHEN,
    channel: Annotated[str, opt.channel(", mean, max, of which several may be given.")] = "mean",
    size: Annotated[int | None, opt.picture_size(" of a map")] = None,
    normalisation: Annotated[
        str,
        opt.normalisation(
            "filter (each map its own), time (levels and timesteps of a channel together), layer, or all that is shown"
        ),
    ] = "time",
    colours: pick.Colours,
    target: Target,
) -> None:
    """Draw small multiples: noise by layer, time by channel, or any two labels as rows and columns of one page."""
    from fmx.cli.draw import layers_with_maps
    from fmx.render import multiples as drawn
    from fmx.store import open_store

    opened = open_store(store)
    places = which.places(opened)
    choices: dict[str, Sequence[Any]] = {
        "layer": layers_with_maps(opened, which.layer),
        "sample": places.samples,
        "noise": places.noises,
        "timestep": places.timesteps,
        "channel": pick.channel_list(channel),
    }
    frames = drawn(
        opened,
        rows=rows,
        columns=columns,
        choices=choices,
        normalisation=normalisation,
        tone=colours.tone,
        size=size,
        **colours.look,
    )
    with pick.folder(opened, target) as made:
        fixed = [str(choices[axis][0]) for axis in ("layer", "sample") if axis not in (rows, columns)]
        parts = [f"{rows}-by-{columns}", *fixed, channel if "channel" not in (rows, columns) else "channels"]
        pick.tell([made.save(frame, *parts, f"page{i:03d}") for i, frame in enumerate(frames, start=1)], made)
