"""``fmx report``: one page that tells the story of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.cli import texts
from fmx.errors import FmxError

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.store import Store

__all__ = ["report"]


def report(
    store: opt.StorePath,
    output: Annotated[
        str | None,
        opt.output("the page (default: report.html), or with --assets the folder", "FILE"),
    ] = None,
    model: Annotated[
        str | None,
        opt.model_of_store("adds deconvnet and maximization of the top channels"),
    ] = None,
    weights: opt.Weights = None,
    layers: opt.Layers = "all",
    sample: opt.Sample = "0",
    top: Annotated[
        int | None,
        opt.top("channels of each layer that are shown with their top samples (default: 3 to 12, by layers)"),
    ] = None,
    features: Annotated[
        int, opt.option(opt.WHAT, "With --model: channels of each layer projected and maximized.", metavar="N")
    ] = 2,
    seconds: Annotated[
        float, opt.option(opt.RUN, "With --model: begin no further layer after so many.", metavar="SECONDS")
    ] = 60.0,
    assets: Annotated[
        bool, opt.option(opt.OUT, "Write a folder: the page, and pictures as files.", "--assets")
    ] = False,
    overwrite: Annotated[bool, opt.overwrite("a report")] = False,
    allow_partial: common.AllowPartial = False,
    device: opt.TorchDevice = "cpu",
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
        sample=texts.one_sample(opened, sample),
        channels=top,
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
