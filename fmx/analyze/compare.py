"""Comparing two stores: two models, two epochs, two formats, layer by layer and channel by channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.cross_moments import CrossMoments, correlations
from fmx.analyze.not_finite import check_nan, check_products, without_spoiled
from fmx.analyze.pair_task import Differences, Paired, PairTask
from fmx.analyze.sample_table import SampleTable, tables_of
from fmx.analyze.samples import noise_positions, same_samples
from fmx.analyze.threads import compute_alone
from fmx.errors import FmxError, LayerError, near_matches
from fmx.store import Store

__all__ = ["compare"]

Noise = float | Sequence[float] | str | None

_ABOUT = {
    "mean_abs": "mean absolute difference",
    "rmse": "root of the mean squared difference",
    "max_abs": "largest absolute difference",
    "relative_l2": "root of the sum of squared differences over that of the squares in the first store; infinite where "
    "that is 0",
    "correlation": "Pearson's correlation over samples, timesteps and positions",
    "cosine": "cosine of the angle between both",
    "mean": "mean in the first store",
    "other_mean": "mean in the other store",
    "match": "channel of the other store in the pairing with the largest sum of correlations (Hungarian assignment: "
    "Li et al. 2016); -1 where there are fewer channels",
    "match_correlation": "Pearson's correlation with the channel of the other store that is the match",
    "best_correlation": "largest correlation with any channel of the other store",
    "constant": "the channel is the same everywhere in the first store, and its correlations are given as 0",
    "spoiled": "the channel has values that are not finite in either store, or its match has",
    "constant_channels": "channels that are the same everywhere in the first store",
    "difference_map": "mean absolute difference at each position",
    "nan": "values that are not a number in the first store",
    "inf": "values that are infinite in the first store",
    "other_nan": "values that are not a number in the other store",
    "other_inf": "values that are infinite in the other store",
    "left_out": "samples that are left out because of values that are not finite",
    "points": "samples × timesteps × positions that are compared",
}


def compare(
    store: Store,
    other: Store,
    *,
    layers: str | Iterable[str] = "all",
    mapping: Mapping[str, str] | None = None,
    noise: Noise = "all",
    space: str = "full",
    maps: bool = False,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Compare layers of two stores of the same samples, in one read of each on Dask.

    In memory are, for each thread, runs of samples of 4 MiB from both stores with copies (64 MiB), and a matrix of
    all pairs of channels. Samples that are not finite in a layer, in either store, are left out of its comparison and
    counted.

    Parameters
    ----------
    store, other : Store
        With the same samples, in any order.
    layers : str or iterable of str
        Of the first store (see `fmx.store.Store.select`); those that the other has too are compared.
    mapping : mapping of str to str, optional
        Layers of the first store, and which of the other each is compared with; takes the place of `layers`.
    noise : float, sequence of float or "all", optional
        Noise levels that both have; the first if None.
    space : str
        Compare layers at every position (``full``), or the ``mean`` or ``max`` of each channel over its positions.
    maps : bool
        Keep the difference at every position.
    nan : str
        Samples with values that are not finite are left out, for all channels of a layer; ``keep`` also makes what is
        said of a channel NaN that has such values in either store, and what is said of its layer as a whole.
    allow_partial : bool
        Compare what is complete in both stores.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer of the first store. By (noise, channel): mean, other_mean, mean_abs, rmse, max_abs, relative_l2,
        correlation, cosine, where both layers have the same shape; and constant, match, match_correlation,
        best_correlation, spoiled. By (noise), for the layer as a whole: the same differences with ``layer_`` before
        them, ``layer_match_correlation`` (mean over the pairs of channels that vary), constant_channels, points,
        left_out, nan, inf, other_nan, other_inf. ``difference_map`` (noise, channel, …native) if asked for. Attributes
        name the other layer. Layers whose positions differ in number are matched by the means of their channels, which
        attribute ``matched_by`` says.

    Raises
    ------
    FmxError
        Unlike samples, an unfinished store, no such layer or noise level, no layer or level in common, other
        timesteps, or no finite sample.
    """
    check_nan(nan)
    _, rows = same_samples(store, other, allow_partial=allow_partial)
    names = _pairs(store, other, layers, mapping)
    levels = _levels(store, other, noise)
    tasks: dict[str, list[PairTask]] = {}
    for a, b in names.items():
        pairs = zip(
            tables_of(store, [a], levels, rows[0], space), tables_of(other, [b], levels, rows[1], space), strict=True
        )
        tasks[a] = [_task(x, y, maps) for x, y in pairs]
    found = compute_alone(store, [task.lazy() for some in tasks.values() for task in some])
    results, at = {}, 0
    for name, some in tasks.items():
        whole = _dataset(store, other, some, found[at : at + len(some)], names[name])
        results[name] = _kept(whole, nan)
        at += len(some)
    return results


def _kept(whole: xr.Dataset, nan: str) -> xr.Dataset:
    """Make results NaN that have values among theirs that are not finite, if such values are kept."""
    channels = [str(name) for name, variable in whole.data_vars.items() if "channel" in variable.dims]
    rest = [str(name) for name in whole.data_vars if name not in channels]
    found = without_spoiled(whole, nan, ("spoiled",), but=rest)
    return without_spoiled(found, nan, ("nan", "inf", "other_nan", "other_inf"), but=channels)


def _pairs(
    store: Store, other: Store, layers: str | Iterable[str], mapping: Mapping[str, str] | None
) -> dict[str, str]:
    if mapping:
        return {store.select([a])[0].name: other.select([b])[0].name for a, b in mapping.items()}
    theirs = {info.name for info in other.layers}
    chosen = [info.name for info in store.select(layers)]
    common = [name for name in chosen if name in theirs]
    if not common:
        wanted = ", ".join(chosen[:4]) + (", …" if len(chosen) > 4 else "")
        near = near_matches(chosen[0], sorted(theirs))
        raise LayerError(f"{other.path} has no layer {wanted}: {near} Pair unlike names with --map LAYER=LAYER.")
    return {name: name for name in common}


def _levels(store: Store, other: Store, noise: Noise) -> list[float]:
    if not (isinstance(noise, str) and noise == "all"):
        levels = list(noise_positions(store, noise))
        noise_positions(other, levels)
        return levels
    theirs = list(noise_positions(other, "all"))
    common = [v for v in noise_positions(store, "all") if any(np.isclose(v, w) for w in theirs)]
    if not common:
        raise FmxError(
            f"{store.path} and {other.path} have no noise level in common: extract both with the same --noise."
        )
    return common


def _task(a: SampleTable, b: SampleTable, maps: bool) -> PairTask:
    if a.shape[2] != b.shape[2]:
        raise FmxError(
            f"{a.layer} has {a.shape[2]} timesteps in one store and {b.layer} {b.shape[2]} in the other: extract both "
            "with the same --frames."
        )
    differ = a.dims == b.dims and a.shape[3:] == b.shape[3:]
    if not differ and a.positions != b.positions and a.space == "full":
        a, b = replace(a, space="mean"), replace(b, space="mean")
    return PairTask(a, b, differ, maps)


def _dataset(
    store: Store, other: Store, tasks: Sequence[PairTask], found: Sequence[Paired], other_layer: str
) -> xr.Dataset:
    task, name = tasks[0], tasks[0].table.layer
    if any(not pair.moments.count for pair in found):
        raise FmxError(f"{name} has no sample that is finite in both stores: leave it out (--layers '!{name}').")
    for pair in found:
        check_products(pair.moments.products, name)
    data = store.layer(name)
    theirs = _channel_labels(other.layer(other_layer), task.other)
    columns = [_channel_results(pair, theirs) for pair in found]
    layer = [_layer_results(pair) for pair in found]
    variables: dict[str, Any] = {key: (("noise", "channel"), np.stack([c[key] for c in columns])) for key in columns[0]}
    variables |= {key: ("noise", np.array([one[key] for one in layer])) for key in layer[0]}
    if found[0].differences is not None and found[0].differences.maps is not None:
        variables["difference_map"] = _maps(task.table, found)
    coords = {"noise": [t.table.noise for t in tasks], "channel": _channel_labels(data, task.table)}
    results = xr.Dataset(variables, coords=coords)
    for key in results.data_vars:
        text = _ABOUT.get(str(key), _ABOUT.get(str(key).removeprefix("layer_"), ""))
        results[key].attrs["definition"] = text + (
            ", of all channels together" if str(key).startswith("layer_") else ""
        )
    shapes = [f"{'×'.join(map(str, t.shape[3:]))}" for t in (task.table, task.other)]
    return results.assign_attrs(
        layer=name,
        other_layer=other_layer,
        store=str(store.path),
        other_store=str(other.path),
        matched_by="every position" if task.table.space == "full" else f"{task.table.space} of each channel",
        differences="" if task.differ else f"not told, as the shapes differ: {shapes[0]} and {shapes[1]}",
    )


def _channel_labels(data: xr.Dataset, table: SampleTable) -> NDArray[Any]:
    return np.asarray(data["channel"].values) if "channel" in data.coords else np.arange(table.channels)


def _channel_results(pair: Paired, theirs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    from scipy.optimize import linear_sum_assignment

    moments = pair.moments
    related = correlations(moments)
    rows, columns = linear_sum_assignment(related, maximize=True)
    match = np.full(len(related), -1, dtype=np.int64)
    match[rows] = theirs[columns]
    own = np.zeros(len(related))
    own[rows] = related[rows, columns]
    found: dict[str, NDArray[Any]] = {"mean": moments.mean}
    if pair.differences is not None:
        found |= {"other_mean": moments.other_mean} | _gaps(_sums(pair.differences, moments), moments.count)
        found["correlation"] = np.diagonal(related).copy()
    return found | {
        "constant": moments.constant,
        "match": match,
        "match_correlation": own,
        "best_correlation": related.max(axis=1),
        "spoiled": _spoiled(pair, rows, columns),
    }


def _spoiled(pair: Paired, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which channels have values that are not finite, or are compared or matched with one that has."""
    own, theirs = pair.bad
    found = own | theirs if pair.differences is not None else own.copy()
    found[rows] |= theirs[columns]
    return found


def _layer_results(pair: Paired) -> dict[str, Any]:
    moments = pair.moments
    matched = _channel_results(pair, np.arange(len(moments.other_mean)))
    some = (matched["match"] >= 0) & ~moments.constant & ~moments.other_constant[matched["match"]]
    found: dict[str, Any] = {}
    if pair.differences is not None:
        each = _sums(pair.differences, moments)
        summed = {key: (v.max if key == "largest" else v.sum)(keepdims=True) for key, v in each.items()}
        whole = _gaps(summed, moments.count * len(each["largest"]))
        found = {f"layer_{key}": value.item() for key, value in whole.items()}
        found["layer_correlation"] = _whole_correlation(moments)
    found["layer_match_correlation"] = float(matched["match_correlation"][some].mean()) if some.any() else 0.0
    found["constant_channels"] = int(moments.constant.sum())
    found["points"] = moments.count
    found["left_out"] = pair.left_out
    for i, prefix in enumerate(("", "other_")):
        found |= {f"{prefix}nan": int(pair.nan[i]), f"{prefix}inf": int(pair.inf[i])}
    return found


def _sums(gaps: Differences, moments: CrossMoments) -> dict[str, NDArray[Any]]:
    """Give sums over points for each channel: of differences, of squares in each layer, and of products."""
    n, a, b = moments.count, moments.mean, moments.other_mean
    with np.errstate(over="ignore", invalid="ignore"):
        powers = {
            "power": moments.squares + n * a * a,
            "other_power": moments.other_squares + n * b * b,
            "product": np.diagonal(moments.products) + n * a * b,
        }
    return {"absolute": gaps.absolute, "squares": gaps.squares, "largest": gaps.largest, **powers}


def _gaps(sums: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    length, other = np.sqrt(sums["power"]), np.sqrt(sums["other_power"])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(sums["squares"] > 0, np.sqrt(sums["squares"]) / length, 0.0)
        cosine = np.where(length * other > 0, sums["product"] / (length * other), (length == other).astype(np.float64))
    return {
        "mean_abs": sums["absolute"] / count,
        "rmse": np.sqrt(sums["squares"] / count),
        "max_abs": sums["largest"],
        "relative_l2": relative,
        "cosine": np.clip(cosine, -1, 1),
    }


def _whole_correlation(moments: CrossMoments) -> float:
    """Correlate all channels together, from what each of them came to."""
    a, b = moments.mean - moments.mean.mean(), moments.other_mean - moments.other_mean.mean()
    n = moments.count
    product = np.diagonal(moments.products).sum() + n * (a @ b)
    lengths = (moments.squares.sum() + n * (a @ a)) * (moments.other_squares.sum() + n * (b @ b))
    return float(np.clip(product / np.sqrt(lengths), -1, 1)) if lengths > 0 else 0.0


def _maps(table: SampleTable, found: Sequence[Paired]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Give the mean difference at each position, channels first."""
    others = [(dim, n) for dim, n in zip(table.dims, table.shape[3:], strict=True) if dim != "channel"]
    if table.space != "full":
        others = []
    # A map adds up samples and timesteps; a point is one of these at one position.
    means = [pair.differences.maps / (pair.moments.count / max(pair.differences.maps.shape[1], 1)) for pair in found]  # type: ignore[union-attr]
    shape = (len(found), table.channels, *(n for _, n in others))
    whole = np.stack(means).reshape(shape).astype(np.float32)
    return ("noise", "channel", *(dim for dim, _ in others)), whole
