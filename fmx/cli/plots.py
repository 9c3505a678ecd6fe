"""``fmx render plots``: figures of a store's analyses, computed now or saved before."""

from __future__ import annotations

from typing import Annotated

import typer

from fmx.cli import options as opt
from fmx.cli import picking as pick
from fmx.cli import reading as common
from fmx.cli import texts
from fmx.cli.groups import Target, grouped
from fmx.errors import FmxError, near_matches

__all__ = ["plots", "register_plots"]

KINDS = {
    "distribution": "histogram, box and cumulative share",
    "channels": "mean, std, largest value and zeros of each channel",
    "spatial": "mean and variance at each position, and where channels peak",
    "top-samples": "the pictures that excite channels most",
    "layers": "quantiles, std and sparsity of layers side by side",
    "robustness": "SQNR, cosine and rank stability against noise",
    "temporal": "change and autocorrelation over timesteps",
    "class-sums": "each class's top channels summed up for each sample",
    "similarity": "how alike layers are (linear CKA)",
    "rdm": "distances of all pairs of samples",
    "health": "dead, always-on, saturated and duplicate channels",
    "differences": "against another store (--other)",
}


def register_plots(render: typer.Typer) -> None:
    """Add the command to ``fmx render``."""
    render.command(epilog="Example: fmx render plots acts.zarr --plots layers,robustness --layers layer1,layer4")(plots)


@grouped
def plots(
    store: opt.StorePath,
    *,
    wanted: Annotated[
        str,
        opt.option(
            opt.WHAT,
            f"What to draw, separated by commas: {', '.join(KINDS)} (default: all it can).",
            "--plots",
            metavar="PLOTS",
        ),
    ] = "",
    layers: opt.Layers = "all",
    saved: Annotated[
        str,
        opt.option(opt.WHAT, "Draw saved results (--save NAME) instead of computing them.", "--from", metavar="NAMES"),
    ] = "",
    by: Annotated[
        str | None,
        opt.option(
            opt.WHAT,
            "Labels that are kept apart: in distributions, noise (default), label, or timestep; or whole.",
            metavar="LABEL",
        ),
    ] = None,
    channels: Annotated[str | None, opt.channel(", for distributions and top samples.")] = None,
    noise: opt.Level = None,
    other: Annotated[
        str | None,
        opt.option(opt.WHAT, "Another store of the same samples, for differences.", "--other", metavar="STORE"),
    ] = None,
    width: Annotated[
        float, opt.option(opt.OUT, "Width in mm: a column has about 85, a page 180.", metavar="MM")
    ] = 180.0,
    form: Annotated[str, opt.files("png, svg or pdf; several, separated by commas")] = "png",
    target: Target,
    allow_partial: common.AllowPartial = False,
) -> None:
    """Draw plots for papers: distributions, channels, layers, noise, time, classes, similarity, health.

    They lie in OUTPUT/MODEL/NAME, with an index.csv that says what each of them shows.

    Captions tell the number of samples and what was measured.
    """
    from fmx.cli.output import note, say
    from fmx.cli.plot_jobs import computed
    from fmx.cli.plot_saved import from_saved
    from fmx.cli.plot_wanted import Wanted
    from fmx.render.plots.page import check_width
    from fmx.render.plots.save import check_format, save_figure

    names = texts.words(wanted)
    for one in names:
        if one not in KINDS:
            raise FmxError(f"There is no plot {one}: {near_matches(one, KINDS, most=len(KINDS))}")
    forms = [check_format(one.lower().removeprefix(".")) for one in texts.words(form)]
    check_width(width)
    opened = common.open_for(store, allow_partial=allow_partial)
    asked = Wanted(
        opened,
        layers=layers,
        by=by,
        channels=tuple(texts.channels("--channels", channels) or ()),
        noise=texts.level(noise),
        other=None if other is None else common.open_for(other, allow_partial=allow_partial),
        width=width,
        allow_partial=allow_partial,
    )
    _ = asked.level  # refuses levels that the store has not
    skipped: list[str] = []
    with pick.folder(opened, target) as folder:
        drawn = from_saved(asked, texts.words(saved), names) if saved else computed(asked, names, skipped.append)
        count = 0
        for figure, labels in drawn:
            for one in forms or ["png"]:
                path = folder.path(*labels.values(), suffix=f".{one}")
                folder.add(save_figure(figure, path), labels)
                say(str(path))
                count += 1
        if not count:
            why = "; ".join([*skipped, *asked.missed]) or "choose other layers or plots"
            raise FmxError(f"Nothing was drawn: {why}.")
    for text in [*skipped, *asked.missed]:
        note(text)
