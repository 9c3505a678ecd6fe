"""The command ``fmx bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmx.cli import options as opt
from fmx.cli import texts

__all__ = ["bench"]


def bench(
    model: opt.Model,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]", help="What is extracted, so that decoding counts too (default: random input)."
        ),
    ] = None,
    layers: opt.Layers = "auto",
    weights: opt.Weights = None,
    trust: opt.Trust = False,
    operators: opt.Operators = None,
    batch_sizes: opt.BatchSizes = "32",
    engines: opt.Engines = "eager,auto",
    devices: opt.Devices = "cpu",
    rounds: Annotated[int, opt.option(opt.RUN, "Timed rounds.", metavar="N")] = 5,
    input_shape: opt.InputShape = None,
    plot: Annotated[str | None, opt.figure("of the rates")] = None,
    json: opt.Json = False,
) -> None:
    """Time the bare model, the capture of its layers, and whole extractions, side by side."""
    from fmx.adapter import load
    from fmx.cli.output import print_json, print_table, progress, say
    from fmx.extraction import bench as measure

    if plot is not None:
        from fmx.render.plots.save import check_format

        check_format(Path(plot).suffix.lower().removeprefix("."))
    opened = load(model, weights=weights, input_shape=texts.shape(input_shape), trust=trust, operators=operators or ())
    sizes = texts.whole_numbers("--batch-sizes", batch_sizes)
    with progress("timing") as update:
        rows = measure(
            opened,
            data=data,
            layers=layers,
            batch_sizes=sizes,
            engines=texts.words(engines),
            devices=texts.words(devices),
            rounds=rounds,
            progress=update,
        )
    if plot is not None:
        from fmx.cli.rates import draw_rates

        draw_rates(rows, plot)
    if json:
        print_json(rows)
        return
    base = "× first"
    headings = {"what": "what", "engine": "engine", "batch_size": "batch", "device": "device"}
    headings |= {"images_per_s": "images/s", "ratio": base, "bottleneck": "bound by"}
    varied = {key for key in ("batch_size", "device") if len({row[key] for row in rows}) > 1}
    print_table(rows, {k: v for k, v in headings.items() if k in varied or k not in {"batch_size", "device"}})
    if plot is not None:
        say(plot)
