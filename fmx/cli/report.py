"""``fmx report``: one page that tells the story of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.store import Store

__all__ = ["report"]


def report(
    store: opt.StorePath,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The page (default: report.html), or with --assets the folder."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="The model of the store: adds deconvnet and maximization of the top channels."
        ),
    ] = None,
    weights: opt.Weights = None,
    layers: opt.Layers = "all",
    sample: Annotated[str, typer.Option(help="Whose maps are drawn: a position, an id or the end of one.")] = "0",
    channels: Annotated[
        int | None,
        typer.Option(help="Channels of each layer shown with their top samples (default: 3 to 12, by layers)."),
    ] = None,
    features: Annotated[int, typer.Option(help="With --model: channels of each layer projected and maximized.")] = 2,
    seconds: Annotated[float, typer.Option(help="With --model: begin no further layer after so many.")] = 60.0,
    assets: Annotated[bool, typer.Option("--assets", help="Write a folder: the page, and pictures as files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
    allow_partial: common.AllowPartial = False,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1 or mps.")] = "cpu",
    trust: opt.Trust = False,
    operators: opt.Operators = None,
) -> None:
    """Write one page about a store: what made it, its layers with their health, top channels, classes and likeness.

    The page is a file that opens from disk, loads nothing from the network, and prints.
    """
    from fmx.cli.output import say
    from fmx.report.summaries import layers_of
    from fmx.report.write import check_target, write_report

    target = output or ("report" if assets else "report.html")
    check_target(target, assets=assets, overwrite=overwrite)
    if weights is not None and model is None:
        raise FmxError("--weights belong to a model: name it with --model.")
    opened = common.open_for(store, allow_partial=allow_partial, summaries=True)
    page = write_report(
        opened,
        target,
        layers=layers,
        model=None if model is None else _load(model, opened, weights, trust, operators),
        sample=int(sample) if sample.isdigit() else sample,
        channels=channels,
        features=features,
        seconds=seconds,
        assets=assets,
        overwrite=overwrite,
        allow_partial=allow_partial,
        device=device,
        reading=common.reading,
    )
    say(f"{page}: {len(layers_of(opened, layers))} layers, {_size(page, assets=assets)}")


def _load(model: str, store: Store, weights: str | None, trust: bool, operators: Any) -> Model:
    from fmx.adapter import load

    shape = tuple(int(n) for n in store.attributes.get("input_shape") or ())
    return load(model, weights=weights, input_shape=shape or None, trust=trust, operators=operators or ())


def _size(page: Path, *, assets: bool) -> str:
    files = [p for p in page.parent.rglob("*") if p.is_file()] if assets else [page]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB" + (f" in {len(files)} files" if assets else "")
