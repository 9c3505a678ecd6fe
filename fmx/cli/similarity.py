"""``fmx compare`` and ``fmx similarity``, and where verbs that compare stores and layers are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from fmx.cli import chosen, texts
from fmx.cli import options as opt
from fmx.cli import reading as common
from fmx.cli.decomposition import decompose, information
from fmx.cli.groups import grouped
from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["compare", "register_comparisons", "similarity"]


def register_comparisons(app: typer.Typer) -> None:
    """Add the commands that compare stores and layers."""
    examples: dict[Callable[..., None], str] = {
        compare: "float.onnx.zarr int8.onnx.zarr --layers layer1,layer4",
        similarity: "acts.zarr --method cka-linear --layers 'layer*'",
        decompose: "acts.zarr --method pca --components 5 --layers layer4",
        information: "acts.zarr --about label --layers layer4",
    }
    for function, words in examples.items():
        epilog = f"Example: fmx {function.__name__} {words}"
        app.command(help=common.help_of(function), epilog=epilog)(grouped(function))


def compare(
    store: opt.StorePath,
    other: opt.Other,
    layers: opt.Layers = "all",
    pair: Annotated[
        list[str] | None,
        opt.option(
            opt.WHAT,
            "Layer of the first and of the other, such as 12=features.12. May be given again.",
            "--map",
            metavar="LAYER=LAYER",
        ),
    ] = None,
    noise: opt.AllLevels = "all",
    space: Annotated[str, opt.space("full, every position, or the mean or max of each channel")] = "full",
    per: Annotated[str, opt.per("layer or channel")] = "layer",
    positions: Annotated[
        bool, opt.option(opt.OUT, "Save differences at every position too, with --save.", "--positions")
    ] = False,
    nan: common.Nan = "skip",
    *,
    results: common.Results,
) -> None:
    """Compare two stores layer by layer: two models, two epochs, two formats.

    Differences where layers have the same shape, and for every channel the one of the other store that goes with it:
    the pairing whose correlations have the largest sum.
    """
    from fmx.analyze import to_rows
    from fmx.analyze.compare import compare as compute

    texts.one_of("--per", per, ("layer", "channel"))
    if positions and results.save is None:
        raise FmxError("--positions are kept in the store: give them a name with --save NAME.")
    first, second = results.open(store), results.open(other)
    with common.reading():
        found = compute(
            first,
            second,
            layers=texts.words(layers),
            mapping=texts.pairs("--map", pair or ()),
            noise=texts.levels(noise),
            space=space,
            maps=positions,
            nan=nan,
            allow_partial=results.allow_partial,
        )
    results.keep(first, found, {"analysis": "compare", "other": other, "space": space, "nan": nan})
    wanted = {name: _per(dataset, per) for name, dataset in found.items()}
    rows = [row | {"other_layer": found[row["layer"]].attrs["other_layer"]} for row in to_rows(wanted)]
    for row in rows:
        row["lost"] = sum(row.get(key, 0) for key in ("nan", "inf", "other_nan", "other_inf"))
    lead = ["layer"] + ["other_layer"] * any(r["layer"] != r["other_layer"] for r in rows)
    lead += ["noise"] * (len({r["noise"] for r in rows}) > 1) + ["channel"] * (per == "channel")
    columns = {name: name.replace("_", " ") for name in lead}
    headings = _CHANNEL_HEADINGS if per == "channel" else _LAYER_HEADINGS
    columns |= {key: text for key, text in headings.items() if any(key in row for row in rows)}
    columns |= common.lost_column(rows)
    about = [f"{name}: differences are {d.attrs['differences']}" for name, d in found.items() if d.attrs["differences"]]
    results.show(rows, columns, about=about)


_LAYER_HEADINGS = {
    "layer_relative_l2": "rel. L2",
    "layer_rmse": "RMSE",
    "layer_max_abs": "max",
    "layer_correlation": "correlation",
    "layer_cosine": "cosine",
    "layer_match_correlation": "matched r",
    "moved": "moved",
    "constant_channels": "constant",
    "left_out": "left out",
}
_CHANNEL_HEADINGS = {
    "relative_l2": "rel. L2",
    "rmse": "RMSE",
    "max_abs": "max",
    "correlation": "correlation",
    "cosine": "cosine",
    "match": "match",
    "match_correlation": "matched r",
    "constant": "constant",
}


def _per(dataset: xr.Dataset, per: str) -> xr.Dataset:
    """Take what is there for each channel, or for the layer as a whole."""
    if per == "channel":
        names = [name for name in dataset.data_vars if dataset[name].dims == ("noise", "channel")]
        return dataset[names]
    moved = (dataset["match"] != dataset["channel"]) & ~dataset["constant"]
    names = [name for name in dataset.data_vars if dataset[name].dims == ("noise",)]
    return dataset[names].assign(moved=moved.sum("channel"))


def similarity(
    store: opt.StorePath,
    other: opt.OtherIfAny = None,
    method: Annotated[
        str, opt.method("cka-linear, cka-rbf, svcca, pwcca or rsa (dissimilarity matrices compared)")
    ] = "cka-linear",
    layers: opt.Layers = "all",
    other_layers: Annotated[
        str | None,
        opt.option(opt.WHAT, "Layers of the other store (default: the same).", "--other-layers", metavar="LAYERS"),
    ] = None,
    noise: opt.Levels = None,
    estimator: Annotated[
        str, opt.estimator("of CKA, unbiased, biased, minibatch or nystrom; auto: minibatch over 5000 samples or 1 GiB")
    ] = "auto",
    space: Annotated[
        str | None, opt.space("full, all values of a sample, or the mean or max of each channel (default: by --method)")
    ] = None,
    skip: Annotated[
        str, opt.option(opt.HOW, "Left out where values are NaN or infinite: samples or features.", metavar="WHAT")
    ] = "samples",
    bandwidth: Annotated[
        float, opt.option(opt.HOW, "Width of cka-rbf's kernel, times the median distance.", metavar="X")
    ] = 1.0,
    variance: Annotated[
        float, opt.option(opt.HOW, "Share of a layer's variance that svcca and pwcca keep.", metavar="SHARE")
    ] = 0.99,
    distance: Annotated[
        str,
        opt.option(
            opt.HOW, "Distance of rsa: correlation, cosine, euclidean, sqeuclidean or cityblock.", metavar="NAME"
        ),
    ] = "correlation",
    comparison: Annotated[
        str, opt.option(opt.HOW, "Comparison of rsa: spearman, pearson, cosine or kendall.", metavar="NAME")
    ] = "spearman",
    batch_size: Annotated[
        int, opt.option(opt.RUN, "Samples that are taken at once, with --estimator minibatch.", metavar="N")
    ] = 256,
    landmarks: Annotated[
        int, opt.option(opt.HOW, "Samples that stand for all with --estimator nystrom.", metavar="N")
    ] = 200,
    nan: common.Nan = "skip",
    *,
    drawn: chosen.Drawn,
    results: common.Kept,
) -> None:
    """Say how alike layers are: all pairs of a store's, with those of another store, or over noise levels.

    1 is alike and 0 is nothing in common. The store is read once for all pairs.
    """
    from fmx.analyze import to_rows
    from fmx.analyze.likeness import similarity as compute
    from fmx.cli.output import print_json

    if not bandwidth > 0:
        raise FmxError(f"--bandwidth takes a number above 0, not {bandwidth:g}.")
    first, second = results.open(store), None if other is None else results.open(other)
    with common.reading():
        found = compute(
            first,
            second,
            layers=texts.words(layers),
            other_layers=None if other_layers is None else texts.words(other_layers),
            noise=texts.levels(noise),
            method=method,
            estimator=estimator,
            space=space,
            skip=skip,
            width=bandwidth,
            variance=variance,
            metric=distance,
            comparison=comparison,
            samples=drawn.subsample,
            batch=batch_size,
            landmarks=landmarks,
            seed=drawn.seed,
            nan=nan,
            allow_partial=results.allow_partial,
        )
    attributes = {str(key): value for key, value in found.attrs.items()}
    by_layer = {str(name): found.sel(layer=name) for name in found["layer"].values}
    results.keep(first, by_layer, {"analysis": "similarity", **attributes})
    if results.json:
        print_json(to_rows({"": found}))
        return
    _print_similarity(found)


def _print_similarity(found: xr.Dataset) -> None:
    from fmx.cli.matrix import print_matrix
    from fmx.cli.output import note

    names = {prefix: _names(found, prefix) for prefix in ("", "other_")}
    count = len(names[""])
    values = found["similarity"].values.reshape(count, -1)
    unsaid = found["undefined"].values.reshape(count, -1)
    cells = [[None if u else float(v) for v, u in zip(*row, strict=True)] for row in zip(values, unsaid, strict=True)]
    print_matrix(names[""], names["other_"], cells, "layer")
    about = found.attrs
    told = [str(about[key]) for key in ("estimator", "metric", "comparison") if key in about]
    told += [f"{about['landmarks']} landmarks"] if "landmarks" in about else []
    how = " ".join([str(about["method"]), ", ".join(told)]).strip()
    note(f"{how} of {about['samples']} samples, features: {about['space']}")
    if found["undefined"].any():
        note("a dash: one of the two does not vary over the samples")
    if lost := _lost(found, names):
        what = "pairs with them are NaN" if about["not_finite"] == "keep" else f"left out: {about['skip']}"
        note(f"values that are NaN or infinite: {', '.join(lost)}; {what}")
    if "trivial" in found and found["trivial"].where(~_same(found)).any():
        note(
            "some canonical correlations are 1 whatever the values, as components outnumber samples: take more samples"
        )


def _lost(found: xr.Dataset, names: dict[str, list[str]]) -> list[str]:
    """Say which layers have how many values that are not finite."""
    told = []
    for prefix in ("", "other_") if "other_nan" in found else ("",):
        counts = (found[f"{prefix}nan"] + found[f"{prefix}inf"]).values.ravel()
        told += [f"{n} in {name}" for name, n in zip(names[prefix], counts, strict=True) if n]
    return told


def _same(found: xr.Dataset) -> xr.DataArray:
    """Which pairs are a layer with itself."""
    same = (found["layer"] == found["other_layer"]) & (found["noise"] == found["other_noise"])
    return same & ("other_store" not in found.attrs)


def _names(found: xr.Dataset, prefix: str) -> list[str]:
    levels = [float(v) for v in found[f"{prefix}noise"].values]
    layers = [str(v) for v in found[f"{prefix}layer"].values]
    return [f"{layer} @{level:g}" if len(levels) > 1 else layer for layer in layers for level in levels]
