"""What plots ask of datasets: that they hold what is drawn, how many samples, what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from fmx.errors import FmxError
from fmx.layers import said_layer

__all__ = ["groups", "layer_title", "lost", "need", "need_dims", "need_layers", "noise_note", "number"]


def need(dataset: xr.Dataset, names: Iterable[str], plot: str, command: str) -> None:
    """Make sure that results hold what a plot shows.

    Raises
    ------
    FmxError
        They do not; the sentence names the command that makes them.
    """
    missing = [name for name in names if name not in dataset]
    if missing:
        whose = f" of {dataset.attrs['layer']}" if dataset.attrs.get("layer") else ""
        raise FmxError(
            f"These results{whose} lack {', '.join(missing)}, which a plot of {plot} shows: make them with {command}."
        )


def need_layers(
    results: Mapping[str, xr.Dataset],
    names: Iterable[str],
    plot: str,
    command: str,
    by: tuple[str, Iterable[str]] | None = None,
) -> xr.Dataset:
    """Make sure of the same for the results of several layers, and give the first; `by`: see `need_dims`."""
    if not results:
        raise FmxError(f"There is no layer for a plot of {plot}: choose layers that the results have.")
    for dataset in results.values():
        if by is not None:
            need_dims(dataset, *by, plot, command)
        need(dataset, names, plot, command)
    return next(iter(results.values()))


def need_dims(dataset: xr.Dataset, name: str, dims: Iterable[str], plot: str, command: str) -> None:
    """Make sure that a variable has exactly certain axes.

    Raises
    ------
    FmxError
        It has others.
    """
    need(dataset, [name], plot, command)
    own, wanted = {str(dim) for dim in dataset[name].dims}, set(dims)
    if own != wanted:
        told = " and ".join(sorted(own)) or "the whole layer"
        asked = " and ".join(sorted(wanted)) or "the whole layer"
        raise FmxError(
            f"These results are by {told}, and a plot of {plot} takes them by {asked}: make them with {command}."
        )


def groups(dataset: xr.Dataset, name: str) -> tuple[str, list[str]]:
    """Give the axis that a variable keeps apart, and its labels as text; ``("", [""])`` where there is none."""
    dims = [str(dim) for dim in dataset[name].dims]
    if not dims:
        return "", [""]
    if len(dims) > 1:
        raise FmxError(f"One plot keeps one axis apart, not {' and '.join(dims)}: make the results by one of them.")
    values = dataset[dims[0]].values
    return dims[0], [f"{v:g}" if isinstance(v, float | np.floating) else str(v) for v in values.tolist()]


def layer_title(dataset: xr.Dataset) -> str:
    """Name the layer of results; a name that is a bare number says little without the kind."""
    name, kind = (str(dataset.attrs.get(key, "")) for key in ("layer", "kind"))
    return said_layer(name, kind) or "the layer"


def lost(datasets: Iterable[xr.Dataset], names: Iterable[str] = ("nan", "inf")) -> str:
    """Say how many values are NaN or infinite, if any."""
    names = list(names)
    total = sum(int(dataset[name].sum()) for dataset in datasets for name in names if name in dataset)
    return f"{total} values are NaN or infinite, and left out" if total else ""


def noise_note(dataset: xr.Dataset) -> str:
    """Name the noise level of results of one level."""
    level = dataset.attrs.get("noise", dataset.coords.get("noise"))
    if level is None or np.ndim(level):
        return ""
    return f"noise {float(level):g}"


def number(value: float) -> str:
    """Write a number in three digits."""
    return f"{value + 0.0:.3g}".replace("-", "−")
