"""``fmx decompose`` and ``fmx information``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fmx.cli import chosen, texts
from fmx.cli import options as opt
from fmx.cli import reading as common

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["decompose", "information"]


def decompose(
    store: opt.StorePath,
    method: Annotated[
        str, opt.method("pca, nmf (non-negative factors), or tsne or umap (a map of the channels)")
    ] = "pca",
    layers: opt.Layers = "all",
    noise: opt.Level = None,
    components: Annotated[int, opt.components("how many, of pca and nmf")] = 10,
    clip: Annotated[bool, opt.option(opt.HOW, "Take negative values as 0 in nmf.", "--clip")] = False,
    points: Annotated[int, opt.option(opt.HOW, "Positions of samples that nmf learns from.", metavar="N")] = 50_000,
    *,
    drawn: chosen.Drawn,
    results: common.Results,
) -> None:
    """Describe layers by few directions of their channels, or lay their channels out in a plane.

    --save keeps the directions and the coordinates of all samples.
    """
    from fmx.analyze import to_rows
    from fmx.analyze.decomposition import decompose as compute

    opened = results.open(store)
    with common.reading():
        found = compute(
            opened,
            method=method,
            layers=texts.words(layers),
            noise=texts.level(noise),
            components=components,
            clip=clip,
            points=points,
            samples=drawn.subsample,
            seed=drawn.seed,
            allow_partial=results.allow_partial,
        )
    results.keep(
        opened, found, {"analysis": "decompose", "method": method, "components": components, "seed": drawn.seed}
    )
    if method in ("tsne", "umap"):
        placed = {name: _plane(dataset) for name, dataset in found.items()}
        results.show(to_rows(placed), {c: c for c in ("layer", "channel", "x", "y")})
    elif results.json:
        results.show([row for name, one in found.items() for row in _component_rows(name, one)], {})
    else:
        rows = [_summary(name, dataset, method) for name, dataset in found.items()]
        columns = {key: _HEADINGS.get(key, key.replace("_", " ")) for key in rows[0] if key not in ("nan", "inf")}
        told = ["shares of the variance over samples, timesteps and positions"] if method == "pca" else []
        results.show(rows, columns | common.lost_column(rows), about=told)


_HEADINGS = {"first": "share of 1", "first_3": "of 3", "all_of_them": "of all"}


def _plane(dataset: xr.Dataset) -> xr.Dataset:
    axes = {str(axis): dataset["embedding"].sel(axis=axis, drop=True) for axis in dataset["axis"].values}
    return dataset.drop_dims("axis").assign(axes)


def _component_rows(layer: str, dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Make a row of each component, with the channels that it is made of most."""
    rows = []
    for i in range(dataset.sizes["component"]):
        one = dataset.isel(component=i)
        row = {"layer": layer, "component": i}
        row |= {str(name): one[name].item() for name in one.data_vars if not one[name].ndim}
        rows.append(row | {"channels": _strongest(one)})
    return rows


def _strongest(component: xr.Dataset, most: int = 3) -> list[int]:
    order = abs(component["components"].values).argsort(kind="stable")[::-1][:most]
    return [int(channel) for channel in component["channel"].values[order]]


def _summary(layer: str, dataset: xr.Dataset, method: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": layer,
        "channels": dataset.sizes["channel"],
        "components": dataset.sizes["component"],
    }
    if method == "pca":
        shares = dataset["explained_ratio"].values
        row |= {"first": float(shares[0]), "first_3": float(shares[:3].sum()), "all_of_them": float(shares.sum())}
    else:
        row |= {"relative_error": dataset["relative_error"].item(), "points": dataset["points"].item()}
        row |= {"clipped": dataset["clipped"].item()} if dataset["clipped"].item() else {}
    row["strongest_channels"] = " ".join(map(str, _strongest(dataset.isel(component=0))))
    return row | {key: dataset[key].item() for key in ("nan", "inf")}


def information(
    store: opt.StorePath,
    about: Annotated[
        str,
        opt.option(
            opt.WHAT, "About: label, or of the picture, brightness, contrast, red, green, blue.", metavar="WHAT"
        ),
    ] = "label",
    layers: opt.Layers = "all",
    noise: opt.Levels = None,
    of: Annotated[
        str,
        opt.option(opt.WHAT, "Of what: channel, or component, projections on principal components.", metavar="WHAT"),
    ] = "channel",
    summary: Annotated[
        str, opt.option(opt.HOW, "A channel's value for a sample: mean or max over its positions.", metavar="HOW")
    ] = "mean",
    estimator: Annotated[
        str, opt.estimator("binned, with the correction of Miller and Madow, or knn, nearest neighbours")
    ] = "binned",
    bins: Annotated[int, opt.option(opt.HOW, "Bins: how many, of equal frequency.", metavar="N")] = 8,
    components: Annotated[int, opt.components("how many projections, with --of component")] = 10,
    shuffles: Annotated[
        int,
        opt.option(opt.HOW, "How often labels are shuffled, to see what comes out by chance.", metavar="N"),
    ] = 10,
    per: Annotated[str, opt.per("layer or channel (or component)")] = "layer",
    nan: common.Nan = "skip",
    *,
    drawn: chosen.Drawn,
    results: common.Results,
) -> None:
    """Estimate, in bits, how much each channel says about the label or the picture."""
    from fmx.analyze import to_rows
    from fmx.analyze.information import information as compute

    texts.one_of("--per", per, ("layer", "channel"))
    opened = results.open(store)
    with common.reading():
        found = compute(
            opened,
            about=about,
            layers=texts.words(layers),
            noise=texts.levels(noise),
            of=of,
            summary=summary,
            estimator=estimator,
            bins=bins,
            components=components,
            shuffles=shuffles,
            samples=drawn.subsample,
            seed=drawn.seed,
            nan=nan,
            allow_partial=results.allow_partial,
        )
    results.keep(
        opened, found, {"analysis": "information", "about": about, "estimator": estimator, "of": of, "nan": nan}
    )
    rows = to_rows(found)
    if per == "layer" and not results.json:
        rows = [row for name, dataset in found.items() for row in _best(name, dataset, of)]
        headings = {of: f"best {of}", "most": "its bits", "mean": "mean bits", "chance": "by chance"}
        columns = {key: headings.get(key, key) for key in rows[0] if key not in ("nan", "inf")}
    else:
        columns = {key: key for key in ("layer", "noise", of, "information", "chance", "share") if key in rows[0]}
    told = f"{estimator}, in bits, about {about}"
    bits = next(iter(found.values()))
    told += f" ({bits['entropy'].values[0]:.3g} bits)" if "entropy" in bits else ""
    results.show(rows, columns | common.lost_column(rows), about=[told])


def _best(layer: str, dataset: xr.Dataset, of: str) -> list[dict[str, Any]]:
    """Make a row of each noise level, with the channel that says most."""
    import numpy as np

    rows = []
    for level in dataset["noise"].values:
        one = dataset.sel(noise=level)
        bits = one["information"].values
        best = int(np.where(np.isnan(bits), -np.inf, bits).argmax())
        row: dict[str, Any] = {"layer": layer} | ({"noise": float(level)} if dataset.sizes["noise"] > 1 else {})
        row |= {of: int(one[of].values[best]), "most": float(one["information"].values[best])}
        row |= {"mean": float(one["information"].mean()), "chance": float(one["chance"].mean())}
        rows.append(row | {"samples": int(one["samples"]), "nan": int(one["nan"]), "inf": int(one["inf"])})
    return rows
