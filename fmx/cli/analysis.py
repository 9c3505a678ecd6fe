"""``fmx stats``, ``fmx hist``, ``fmx aggregate`` and ``fmx export``, and where verbs about stores are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import channels, quality, texts
from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.cli.groups import grouped
from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["aggregate", "export", "hist", "register_analyses", "stats"]

Folder = Annotated[str | None, opt.output("files in this folder")]
Format = Annotated[str, opt.files("csv, parquet, npy or h5")]

_BARS = " ▁▂▃▄▅▆▇█"


def register_analyses(app: typer.Typer) -> None:
    """Add the commands that analyse stores."""
    examples: dict[str, tuple[Callable[..., None], str]] = {
        "stats": (stats, "acts.zarr --by label,channel --layers layer4 --quantiles 0.05,0.5,0.95"),
        "hist": (hist, "acts.zarr --layers layer4 --by noise --bins 32"),
        "aggregate": (aggregate, "acts.zarr --over channel --how sum -o maps --format csv"),
        "rank": (channels.rank, "acts.zarr --layers layer4 --per class --top 5 --held-out 0.5"),
        "top-samples": (channels.top_samples, "acts.zarr --layers layer4 --top 9 --channels 0,3"),
        "class-sums": (channels.class_sums, "acts.zarr --layers layer4 --held-out 0.5"),
        "robustness": (quality.robustness, "acts.zarr --layers layer1,layer4"),
        "temporal": (quality.temporal, "clips.zarr --layers layer4 --per channel --top 5"),
        "health": (quality.health, "acts.zarr --layers kind:ReLU"),
        "export": (export, "acts.zarr --analysis stats -o out --format csv"),
    }
    for name, (function, words) in examples.items():
        epilog = f"Example: fmx {name} {words}"
        app.command(name, help=common.help_of(function), epilog=epilog)(grouped(function))


def stats(
    store: opt.StorePath,
    by: common.By = "",
    layers: opt.Layers = "all",
    quantiles: Annotated[
        str | None,
        opt.option(opt.HOW, "Quantiles, such as 0.05,0.5,0.95 (default: the median).", metavar="SHARES"),
    ] = None,
    exact: Annotated[
        bool, opt.option(opt.HOW, "Quantiles without error, in more than one read of the store.", "--exact")
    ] = False,
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Describe activations: mean, std, min, max, median, sparsity and more, per layer or by any labels.

    --json and --save have all of it: count, variance, skewness, kurtosis, L1 and L2 norms, Hoyer sparsity, shares of
    negative, NaN and infinite values too.
    """
    from fmx.analyze import stats as compute
    from fmx.analyze import to_rows

    opened = results.open(store)
    keep, wanted = texts.words(by), texts.numbers("--quantiles", quantiles)
    with common.reading():
        found = compute(
            opened,
            layers=layers,
            by=keep,
            quantiles=wanted,
            exact=exact,
            nan=nan,
            allow_partial=results.allow_partial,
        )
    results.keep(opened, found, {"analysis": "stats", "by": ",".join(keep), "exact": exact, "nan": nan})
    rows = [row for row in to_rows(found) if _there(row)]
    columns = ["layer", *keep, "mean", "std", "min", "max"]
    columns += [c for c in rows[0] if c == "median" or (c[0] == "q" and c[1:2].isdigit())] if rows else []
    columns += ["sparsity"]
    results.show(rows, {c: c for c in columns} | common.lost_column(rows))


def _there(row: Mapping[str, Any]) -> bool:
    """Tell the combinations of labels that no sample has."""
    return bool(row["count"] or row["nan"] or row["inf"])


def hist(
    store: opt.StorePath,
    by: common.By = "",
    layers: opt.Layers = "all",
    bins: Annotated[int, opt.option(opt.HOW, "Bins: how many, up to 1024.", metavar="N")] = 64,
    log: Annotated[
        bool,
        opt.option(opt.HOW, "Bins that grow with the values: powers of two, or between the ends of --range.", "--log"),
    ] = False,
    value_range: opt.BinRange = None,
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Count values in bins, per layer or by any labels, with their cumulative share.

    The table draws each histogram, heights as the logarithm of the counts; --json has a row for each bin.
    """
    from fmx.analyze import hist as compute

    opened = results.open(store)
    ends = texts.ends("--range", value_range, "0,10")
    keep = texts.words(by)
    with common.reading():
        found = compute(
            opened,
            layers=layers,
            by=keep,
            bins=bins,
            log=log,
            value_range=ends,
            nan=nan,
            allow_partial=results.allow_partial,
        )
    results.keep(opened, found, {"analysis": "hist", "by": ",".join(keep), "log": log, "nan": nan})
    rows = [row for layer, dataset in found.items() for row in _histograms(layer, dataset) if _there(row)]
    if results.json:
        results.show([bin for row in rows for bin in _bins(row)], {})
        return
    columns = {name: name for name in ("layer", *keep, "from", "histogram", "to", "count")}
    columns |= {name: name for name in ("under", "over") if any(row.get(name) for row in rows)}
    results.show(rows, columns | common.lost_column(rows))


def _histograms(layer: str, dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Make a row of each histogram, with a drawing."""
    import numpy as np

    dims = [str(dim) for dim in dataset["count"].dims]
    rows = []
    for index in np.ndindex(dataset["count"].shape):
        one = dataset.isel(dict(zip(dims, index, strict=True)))
        row: dict[str, Any] = {"layer": layer}
        row |= {d: dataset[d].values[i] if d in dataset.coords else i for d, i in zip(dims, index, strict=True)}
        row |= {str(name): one[name].item() for name in one.data_vars if not one[name].ndim}
        counts, edges, cdf = (one[name].values for name in ("counts", "edges", "cdf"))
        rows.append(
            row
            | {"from": float(edges[0]), "to": float(edges[-1]), "histogram": _drawn(counts)}
            | {"counts": counts, "edges": edges, "cdf": cdf}
        )
    return rows


def _drawn(counts: Any) -> str:
    """Draw a histogram as one line of at most 32 characters."""
    import numpy as np

    each = -(-len(counts) // 32)
    heights = np.add.reduceat(counts, range(0, len(counts), each)).astype(float)
    # Behind a ReLU nearly all values are in one bin: on a linear scale the others would not show.
    scaled = np.ceil(np.log1p(heights) / np.log1p(max(heights.max(), 1)) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in scaled)


def _bins(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    plain = {k: v for k, v in row.items() if k not in {"from", "to", "histogram", "counts", "edges", "cdf"}}
    sides = zip(row["edges"][:-1], row["edges"][1:], row["counts"], row["cdf"][1:], strict=True)
    return [
        {**plain, "bin": i, "low": float(low), "high": float(high), "bin_count": int(n), "cdf": float(share)}
        for i, (low, high, n, share) in enumerate(sides)
    ]


def aggregate(
    store: opt.StorePath,
    over: Annotated[
        str,
        opt.option(
            opt.WHAT,
            "Axes: those that are put together, separated by commas; channel (or depth), space, noise, timestep, "
            "sample, class.",
            metavar="AXES",
        ),
    ] = "channel",
    how: Annotated[str, opt.how("sum, mean, max, min, norm (L2) or std")] = "sum",
    layers: opt.Layers = "all",
    output: Folder = None,
    form: Format = "csv",
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Put axes together: sum the maps of a layer into one, average classes, or get numbers for each sample.

    Maps go to files with -o, one for each layer and noise level; numbers are printed too.
    """
    from fmx.analyze import aggregate as compute
    from fmx.analyze import to_rows
    from fmx.cli.output import print_json, say

    opened = results.open(store)
    axes = texts.words(over)
    found = compute(opened, over=axes, how=how, layers=layers, nan=nan, allow_partial=results.allow_partial)
    if output is not None:
        from fmx.analyze.export import export_results

        with common.reading("writing"):
            files = export_results(found, output, format=form, store=opened)
        if results.json:
            print_json([{"file": str(file)} for file in files])
        else:
            for file in files:
                say(str(file))
    if output is not None and results.save is None:
        return
    size = sum(int(dataset[how].size) for dataset in found.values())
    if size > _MOST_NUMBERS:
        raise FmxError(f"These are {size / 1e6:.1f} million numbers: write them to files with -o FOLDER.")
    with common.reading():
        (ready,) = opened.compute(found)
    results.keep(opened, ready, {"analysis": "aggregate", "over": ",".join(axes), "how": how})
    if output is None:
        rows = to_rows(ready)
        dims = [str(dim) for dataset in ready.values() for dim in dataset.dims]
        shown = [dim for dim in dict.fromkeys(dims) if len({row.get(dim) for row in rows}) > 1]
        results.show(rows, {c: c for c in ("layer", *shown, how)} | common.lost_column(rows))


_MOST_NUMBERS = 2_000_000


def export(
    store: opt.StorePath,
    output: Annotated[str, opt.output("files in this folder")],
    analysis: Annotated[
        str,
        opt.option(opt.WHAT, "Saved results by their names, separated by commas (default: all).", metavar="NAMES"),
    ] = "",
    layers: Annotated[str | None, opt.layers("Their activations are written instead of saved results.")] = None,
    form: Format = "csv",
    noise: opt.LevelOfAll = None,
    allow_partial: common.AllowPartial = False,
) -> None:
    """Write saved results, or activations chunk by chunk, to files that other programs read.

    There is one file for each layer (and noise level, for activations and maps); results go into a folder of their
    name.
    """
    from pathlib import Path

    from fmx.analyze.export import export_activations, export_results
    from fmx.cli.output import say
    from fmx.store import open_analysis, open_store, saved_analyses

    if layers is not None:
        opened = common.open_for(store, allow_partial=allow_partial)
        with common.reading("writing"):
            files = export_activations(opened, output, format=form, layers=layers, noise=texts.level(noise))
    else:
        opened = open_store(store)
        names = texts.words(analysis) or tuple(saved_analyses(opened.place))
        if not names:
            raise FmxError(
                f"{store} holds no saved results: save some with --save, or write activations with --layers."
            )
        files = []
        for name in names:
            files += export_results(open_analysis(opened.tree, name), Path(output) / name, format=form)
    for file in files:
        say(str(file))
