"""``fmx render maximized``: results of ``fmx maximize``, drawn again without the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.groups import Target, grouped
from fmx.errors import FmxError, LayerError, near_matches

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["register_maximized"]


def register_maximized(render: typer.Typer) -> None:
    """Add the command to ``fmx render``."""
    render.command(epilog="Example: fmx render maximized maximized/squeezenet1_1 --layer features.9 --film ascent.mp4")(
        maximized
    )


@grouped
def maximized(
    results: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS", help="What fmx maximize filled: a store, or maximized/MODEL.", show_default=False
        ),
    ],
    *,
    layer: Annotated[str | None, opt.layer("one whose channels are drawn, or objectives, which is all else.")] = None,
    channels: opt.Channels = None,
    film: Annotated[
        str | None,
        opt.film("of the ascent, where pictures were kept (--every), as .mp4, .webm, .avi, .gif or .apng"),
    ] = None,
    plot: Annotated[str | None, opt.figure("of the objective at each step")] = None,
    curve: opt.Curve = False,
    target: Target,
) -> None:
    """Draw pictures, sheets, films and curves of what fmx maximize made before; the model is not needed."""
    from fmx.cli.maximized import Drawing, check_film, check_plot, draw
    from fmx.cli.output import say
    from fmx.maximize.keep import saved_results

    place = _results(results)
    found = _chosen(saved_results(place), layer, channels)
    count = sum(int(one.sizes[one["activation"].dims[0]]) for one in found.values())
    if film is not None:
        check_film(film, count, overwrite=target.overwrite)
        without = [name for name, one in found.items() if "frame" not in one]
        if without:
            raise FmxError(f"No pictures of the ascent were kept of {without[0]}: make them with fmx maximize --every.")
    if plot is not None:
        check_plot(plot, overwrite=target.overwrite)
    drawing = Drawing(
        target.output, _model(place), target.name, film=film, plot=plot, curve=curve, overwrite=target.overwrite
    )
    say(str(draw(found, drawing)))


def _results(text: str) -> str:
    """Find the folder of results below that of the model."""
    inner = Path(text) / "results"
    return str(inner) if inner.is_dir() and not (Path(text) / "zarr.json").exists() else text


def _model(place: str) -> str:
    from fmx.store import is_fmx_store, open_store

    if is_fmx_store(place):
        return str(open_store(place).attributes.get("model") or "model")
    folder = Path(place).resolve()
    return folder.parent.name if folder.name == "results" else folder.name


def _chosen(found: dict[str, xr.Dataset], layer: str | None, channels: str | None) -> Mapping[str, xr.Dataset]:
    """Take what was asked for.

    Raises
    ------
    LayerError
        It is not there.
    """
    wanted = texts.channels("--channels", channels)
    if wanted is not None and layer is None and len(found) > 1:
        raise FmxError(f"--channels belong to a layer: add --layer, one of {', '.join(found)}.")
    if layer is not None and layer not in found:
        raise LayerError(f"No pictures of {layer} are there: {near_matches(layer, found)}")
    chosen = found if layer is None else {layer: found[layer]}
    if wanted is None:
        return chosen
    ((name, results),) = chosen.items()
    there = results["channel"].values.tolist() if "channel" in results.dims else []
    missing = [channel for channel in wanted if channel not in there]
    if missing:
        raise LayerError(f"Channel {missing[0]} of {name} was not maximized: make it with fmx maximize.")
    return {name: results.sel(channel=wanted)}
