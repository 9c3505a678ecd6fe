"""The commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli.analysis import register_analyses
from fmx.cli.benchmark import bench
from fmx.cli.extraction import extract
from fmx.cli.maximization import maximize
from fmx.cli.occlusion import occlude
from fmx.cli.similarity import register_comparisons
from fmx.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    name="fmx",
    help="See and measure what happens inside a trained network: PyTorch, TorchScript, .pt2 and ONNX.",
    epilog="Start with: fmx demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
render = typer.Typer(help="Draw what a store holds.", no_args_is_help=True)
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
    allow_partial: opt.AllowPartial = False,
    trust: opt.Trust = False,
    operators: opt.Operators = None,
    layers: opt.Layers = "all",
    input_shape: opt.InputShape = None,
    size: opt.Size = None,
    channels: opt.Channels = None,
    layout: opt.Layout = None,
    json: opt.Json = False,
) -> None:
    """List a model's layers: name, kind, dims, shape, type and megabytes a sample."""
    from fmx.adapter import choose_layers, load
    from fmx.cli.output import note, print_json, print_table
    from fmx.extraction import PictureOptions

    shape = opt.shape(input_shape) or PictureOptions(size=size, channels=channels, layout=layout).input_shape()
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
    epilog="Example: fmx occlude torchvision:resnet18 photos/ --weights resnet18.pth --patch 48 --layer layer4"
)(occlude)
app.command(epilog="Example: fmx maximize torchvision:resnet18 --weights resnet18.pth --layer layer3 --channels 0-15")(
    maximize
)
app.command(epilog="Example: fmx verify acts.zarr")(verify)


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


Layer = Annotated[str, typer.Option(help="Layers to draw: a name or any selection, as for fmx layers.")]
SampleId = Annotated[str, typer.Option(help="Sample: its id, the end of it, or its position.")]
Noise = Annotated[float, typer.Option(help="Noise level, one that the store has.")]
Timestep = Annotated[int, typer.Option(help="Timestep.")]
Out = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the pictures go.")]


@render.command(epilog="Example: fmx render grid acts.zarr --layer layer1 --sample chelsea.png")
def grid(
    store: opt.StorePath,
    layer: Layer = "auto",
    sample: SampleId = "0",
    noise: Noise = 0.0,
    timestep: Timestep = 0,
    output: Out = "out",
    scale: Annotated[int, typer.Option(help="Pixels of the page for one of the map; 1 is the layer's own size.")] = 1,
    cmap: Annotated[
        str | None, typer.Option(help="Any matplotlib colormap (default: viridis, or RdBu_r where signed).")
    ] = None,
    normalisation: Annotated[
        str, typer.Option(help="Range of the colours: filter (each map its own), layer, or signed.")
    ] = "filter",
    legend: Annotated[bool, typer.Option(help="Say on the page what it shows.")] = True,
) -> None:
    """Draw a layer's feature maps as pages of 8×8, at the layer's own resolution."""
    from fmx.cli.draw import draw_grids
    from fmx.cli.output import say
    from fmx.store import open_store

    colours = cmap or ("RdBu_r" if normalisation == "signed" else "viridis")
    look = {"scale": scale, "cmap": colours, "normalisation": normalisation, "legend": legend}
    for path in draw_grids(open_store(store), layer, sample, noise, timestep, output, look):
        say(str(path))


@render.command(epilog="Example: fmx render overlay acts.zarr --layer auto --sample 0")
def overlay(
    store: opt.StorePath,
    layer: Layer = "auto",
    sample: SampleId = "0",
    channel: Annotated[
        str, typer.Option(help="What to lay over the picture: mean or max over the channels, or a channel's number.")
    ] = "mean",
    noise: Noise = 0.0,
    timestep: Timestep = 0,
    output: Out = "out",
    alpha: Annotated[float, typer.Option(help="Opacity where the map is highest, 0 to 1.")] = 0.6,
    cmap: Annotated[str, typer.Option(help="Any matplotlib colormap.")] = "inferno",
) -> None:
    """Lay heat maps of layers over the input picture."""
    from fmx.cli.draw import draw_overlay
    from fmx.cli.output import say
    from fmx.store import open_store

    look = {"alpha": alpha, "cmap": cmap}
    say(str(draw_overlay(open_store(store), layer, sample, channel, noise, timestep, output, look)))


@app.command(epilog="Example: fmx demo -o fmx-demo")
def demo(output: Out = "fmx-demo") -> None:
    """Show all of it on a pretrained network and two photographs, offline."""
    from fmx.cli.demo import run_demo

    run_demo(output)
