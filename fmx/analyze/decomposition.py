"""Layers in few dimensions: principal components, non-negative factors, and maps of channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.channel_moments import ChannelMoments, lazy_moments
from fmx.analyze.channel_values import check_room
from fmx.analyze.cross_moments import CrossMoments, correlations
from fmx.analyze.factors import Factors, lazy_factors
from fmx.analyze.not_finite import check_products
from fmx.analyze.sample_table import SampleTable, tables_of
from fmx.analyze.samples import check_least, same_samples
from fmx.analyze.threads import compute_alone
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["DECOMPOSITIONS", "decompose"]

DECOMPOSITIONS = {
    "pca": "principal components of the channels over samples, timesteps and positions (Pearson 1901), exact, from "
    "their covariances",
    "nmf": "non-negative factors of the channels over samples, timesteps and positions (Lee and Seung 1999), by "
    "scikit-learn's MiniBatchNMF",
    "tsne": "t-SNE of the channels (van der Maaten and Hinton 2008) by scikit-learn, at distances of 1 - correlation",
    "umap": "UMAP of the channels (McInnes et al. 2018) by umap-learn, at distances of 1 - correlation",
}
LEAST_CHANNELS = 4


def decompose(
    store: Store,
    *,
    method: str = "pca",
    layers: str | Iterable[str] = "all",
    noise: float | None = None,
    components: int = 10,
    clip: bool = False,
    points: int = 50_000,
    samples: int | None = None,
    seed: int = 0,
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Describe layers by few directions in the space of their channels, or lay their channels out in a plane.

    A layer is read once, in runs of samples of 8 MiB. In memory are such runs with copies (64 MiB for each thread), a
    matrix of all pairs of channels, and one number for each sample and channel; for nmf 64 MiB of points too. Samples
    with values that are not finite are left out and counted.

    Parameters
    ----------
    store : Store
    method : str
        One of DECOMPOSITIONS. ``umap`` takes the package umap-learn.
    layers : str or iterable of str
    noise : float, optional
        Noise level; the first if left out.
    components : int
        Of pca and nmf; no more than the layer has channels.
    clip : bool
        Take negative values as 0 in nmf, and count them; else they are refused.
    points : int
        Of nmf: how many positions of samples are drawn to learn from. Coordinates are of all samples.
    samples : int, optional
        Take so many samples only, drawn at random.
    seed : int
    allow_partial : bool
        Take what is complete of a store that is not finished.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer; for pca ``components`` (component, channel), unit vectors whose largest entry is positive,
        ``explained_variance`` and ``explained_ratio`` (component), ``mean`` (channel) and ``coordinates`` (sample,
        component), those of the sample's mean over timesteps and positions. For nmf ``components``, ``coordinates`` and
        ``relative_error`` of the sample means. For tsne and umap ``embedding`` (channel, axis) and ``constant``
        (channel), true for channels that do not vary, which are at a distance of 1 from all others. Counts ``nan``,
        ``inf`` and ``left_out``.

    Raises
    ------
    FmxError
        No such method, layer or noise level, an unfinished store, negative values, too few channels or samples, or
        umap-learn is not there.
    """
    if method not in DECOMPOSITIONS:
        raise FmxError(f"There is no decomposition {method}: {near_matches(method, DECOMPOSITIONS)}")
    if components < 1:
        raise FmxError(f"--components takes a number of 1 or more, not {components}.")
    if method == "umap":
        _umap_class()
    _, (rows,) = same_samples(store, allow_partial=allow_partial)
    if samples is not None and samples < len(rows):
        rows = np.sort(np.random.default_rng([seed, 2]).permutation(rows)[: max(samples, 0)])
    check_least(len(rows), 2, "A decomposition")
    tables = tables_of(store, [info.name for info in store.select(layers)], noise, rows)
    for table in tables:
        check_room(table)
    if method == "nmf":
        lazy = [lazy_factors(table, components, clip=clip, points=points, seed=seed) for table in tables]
    else:
        lazy = [lazy_moments(table) for table in tables]
    found = zip(tables, compute_alone(store, lazy), strict=True)
    return {table.layer: _dataset(store, table, method, part, components, seed) for table, part in found}


def _dataset(
    store: Store, table: SampleTable, method: str, found: ChannelMoments | Factors, components: int, seed: int
) -> xr.Dataset:
    data = store.layer(table.layer)
    channels = np.asarray(data["channel"].values) if "channel" in data.coords else np.arange(table.channels)
    good = (found.nan + found.inf) == 0
    if good.sum() < 2:
        raise FmxError(f"{table.layer} has fewer than 2 samples with finite values: leave it out (--layers).")
    if isinstance(found, ChannelMoments):
        check_products(found.moments.products, table.layer)
    kept = table.rows[good]
    coords: dict[str, Any] = {"channel": channels}
    if isinstance(found, Factors):
        variables = _factorized(found, good)
    elif method == "pca":
        variables = _principal(found, good, components)
    else:
        variables = _laid_out(found.moments, method, seed, table.layer)
        coords["axis"] = ["x", "y"]
    if "coordinates" in variables:
        labels = store.tree.to_dataset()["label"].values[kept]
        coords |= {"sample": [store.samples[i] for i in kept], "label": ("sample", labels)}
        coords["component"] = np.arange(variables["components"][1].shape[0])
    counts = {"nan": int(found.nan.sum()), "inf": int(found.inf.sum()), "left_out": int((~good).sum())}
    about = {"layer": table.layer, "noise": table.noise, "method": method, "definition": DECOMPOSITIONS[method]}
    return xr.Dataset(variables | counts, coords=coords, attrs=about | {"samples": int(good.sum()), "seed": seed})


def _principal(found: ChannelMoments, good: NDArray[np.bool_], components: int) -> dict[str, Any]:
    values, vectors = np.linalg.eigh(found.moments.products / found.moments.count)
    count = min(components, len(values))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1].T[:count]
    largest = vectors[np.arange(count), np.abs(vectors).argmax(axis=1)]
    vectors = vectors * np.sign(largest)[:, None]
    total = values.sum()
    return {
        "components": (("component", "channel"), vectors),
        "explained_variance": ("component", values[:count]),
        "explained_ratio": ("component", values[:count] / total if total else np.zeros(count)),
        "mean": ("channel", found.moments.mean),
        "coordinates": (("sample", "component"), (found.means[good] - found.moments.mean) @ vectors.T),
    }


def _factorized(found: Factors, good: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "components": (("component", "channel"), found.components),
        "coordinates": (("sample", "component"), found.coordinates[good]),
        "relative_error": found.error,
        "clipped": found.clipped,
        "points": found.points,
    }


def _laid_out(moments: CrossMoments, method: str, seed: int, layer: str) -> dict[str, Any]:
    count = len(moments.mean)
    if count < LEAST_CHANNELS:
        raise FmxError(
            f"{layer} has {count} channel{'' if count == 1 else 's'}, and a map of channels takes at least "
            f"{LEAST_CHANNELS}: leave it out (--layers)."
        )
    distances = 1 - correlations(moments)
    distances = np.maximum((distances + distances.T) / 2, 0)
    np.fill_diagonal(distances, 0)
    place = _tsne if method == "tsne" else _umap
    return {
        "embedding": (("channel", "axis"), np.asarray(place(distances, seed), dtype=np.float64)),
        "constant": ("channel", moments.constant),
    }


def _tsne(distances: NDArray[np.float64], seed: int) -> Any:
    from sklearn.manifold import TSNE

    near = min(30.0, (len(distances) - 1) / 3)
    return TSNE(2, perplexity=near, metric="precomputed", init="random", random_state=seed).fit_transform(distances)


def _umap(distances: NDArray[np.float64], seed: int) -> Any:
    near = min(15, len(distances) - 1)
    model = _umap_class()(n_neighbors=near, metric="precomputed", init="random", random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that distances can't be turned back into values, which nobody asked for
        return model.fit_transform(distances)


def _umap_class() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        raise FmxError("UMAP takes the package umap-learn: pip install umap-learn, or take --method tsne.") from None
    return UMAP
