"""The commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import texts
from fmx.cli.analysis import register_analyses
from fmx.cli.benchmark import bench
from fmx.cli.commands import Commands
from fmx.cli.extraction import extract
from fmx.cli.maximization import maximize
from fmx.cli.maximized_saved import register_maximized
from fmx.cli.occlusion import occlude
from fmx.cli.panels import arrange
from fmx.cli.plots import register_plots
from fmx.cli.projection import register_projections
from fmx.cli.reading import help_of
from fmx.cli.render import render
from fmx.cli.report import report
from fmx.cli.similarity import register_comparisons
from fmx.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    name="fmx",
    cls=Commands,
    help="See and measure what happens inside a trained network: PyTorch, TorchScript, .pt2 and ONNX.",
    epilog="Start with: fmx demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(render, name="render", epilog="Example: fmx render grid acts.zarr")


def _version(shown: bool) -> None:
    if shown:
        import fmx

        typer.echo(f"fmx {fmx.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version)] = False,
) -> None:
    """See and measure what happens inside a trained network: PyTorch, TorchScript, .pt2 and ONNX."""


@app.command(epilog="Example: fmx layers torchvision:resnet18")
def layers(
    model: opt.Model,
    weights: opt.Weights = None,
    allow_partial: opt.AllowPartialWeights = False,
    trust: opt.Trust = False,
    operators: opt.Operators = None,
    layers: opt.Layers = "all",
    input_shape: opt.InputShape = None,
    size: opt.Size = None,
    picture_channels: opt.PictureChannels = None,
    layout: opt.Layout = None,
    json: opt.Json = False,
) -> None:
    """List a model's layers: name, kind, dims, shape, type and megabytes a sample."""
    from fmx.adapter import choose_layers, load
    from fmx.cli.output import note, print_json, print_table
    from fmx.extraction import PictureOptions

    shape = (
        texts.shape(input_shape)
        or PictureOptions(size=size, channels=texts.picture_channels(picture_channels), layout=layout).input_shape()
    )
    opened = load(
        model,
        weights=weights,
        input_shape=shape,
        layout=layout,
        allow_partial=allow_partial,
        trust=trust,
        operators=operators or (),
    )
    chosen = choose_layers(opened, layers)
    if json:
        keys = ("name", "kind", "dims", "shape", "dtype")
        print_json([{k: getattr(layer, k) for k in keys} | {"bytes": layer.nbytes} for layer in chosen])
        return
    for text in (opened.notes, _assumed(opened)):
        if text:
            note(text)
    rows = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "dims": " ".join(layer.dims),
            "shape": "×".join(map(str, layer.shape)),
            "dtype": layer.dtype,
            "mb": layer.nbytes / 1e6,
        }
        for layer in chosen
    ]
    headings = {"name": "layer", "kind": "kind", "dims": "dims", "shape": "shape", "dtype": "dtype", "mb": "MB/sample"}
    print_table(rows, headings)


def _assumed(model: Any) -> str:
    assumed = model.inputs[0].assumed
    return f"the model does not say what it takes; assumed: {assumed} (change it with --input-shape)" if assumed else ""


app.command(
    epilog="Example: fmx extract torchvision:resnet18 photos/ -o acts.zarr --weights resnet18.pth --noise 0,0.2,0.4"
)(extract)
app.command(epilog="Example: fmx bench torchvision:resnet18 --layers layer1,layer2,layer3,layer4")(bench)


app.command(
    epilog="Example: fmx occlude torchvision:resnet18 photos/ --weights resnet18.pth --patch 48 --layer layer4",
    help=help_of(occlude),
)(occlude)
app.command(epilog="Example: fmx maximize torchvision:resnet18 --weights resnet18.pth --layer layer3 --channels 0-15")(
    maximize
)
app.command(epilog="Example: fmx verify acts.zarr")(verify)
app.command(epilog="Example: fmx report acts.zarr -o report.html --layers layer1,layer4", help=help_of(report))(report)


@app.command(epilog="Example: fmx info acts.zarr")
def info(store: opt.StorePath, json: opt.Json = False) -> None:
    """Say what a store holds and how it was made."""
    from fmx.cli.describe import describe_store, store_rows
    from fmx.cli.output import print_json
    from fmx.store import open_store

    opened = open_store(store)
    if json:
        print_json(store_rows(opened))
    else:
        describe_store(opened)


register_analyses(app)
register_comparisons(app)
register_plots(render)
register_maximized(render)
register_projections(app)


@app.command(epilog="Example: fmx demo -o fmx-demo")
def demo(
    output: Annotated[str, opt.output("the folder of its store and pictures")] = "fmx-demo",
) -> None:
    """Show all of it on a pretrained network and two photographs, offline."""
    from fmx.cli.demo import run_demo

    run_demo(output)


arrange(app)
