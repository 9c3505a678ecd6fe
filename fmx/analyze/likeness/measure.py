"""How alike layers, models and noise levels are: one question, several measures, one read of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.likeness import cca
from fmx.analyze.likeness.cka import cka
from fmx.analyze.likeness.collect import MOST_GRAM_BYTES, MOST_SAMPLES, GramSet, Sampled, collect, gram_bytes
from fmx.analyze.likeness.distances import COMPARISONS, DISTANCES, collect_distances, compare_distances, rdms
from fmx.analyze.likeness.minibatch import minibatch_cka
from fmx.analyze.likeness.nystrom import nystrom_cka
from fmx.analyze.not_finite import check_nan
from fmx.analyze.sample_table import SampleTable, tables_of
from fmx.analyze.samples import check_least, same_samples
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["ESTIMATORS", "METHODS", "Settings", "rdm", "similarity"]

Noise = float | Sequence[float] | str | None

METHODS = {
    "cka-linear": "centred kernel alignment with a linear kernel (Kornblith et al. 2019)",
    "cka-rbf": "centred kernel alignment with a Gaussian kernel (Kornblith et al. 2019)",
    "svcca": "mean canonical correlation of the strongest directions (Raghu et al. 2017)",
    "pwcca": "canonical correlations weighted by what they account for in the first layer (Morcos et al. 2018)",
    "rsa": "comparison of representational dissimilarity matrices (Kriegeskorte et al. 2008)",
}
ESTIMATORS = {
    "unbiased": "unbiased HSIC (Song et al. 2012); slightly negative where layers have nothing in common",
    "biased": "biased HSIC (Gretton et al. 2005); far from 0 for independent layers when there are few samples",
    "minibatch": "unbiased HSIC summed over minibatches, divided once (Nguyen et al. 2021)",
    "nystrom": "unbiased HSIC of kernels that some samples, the landmarks, stand for (Williams and Seeger 2001)",
}
_LEAST = {"unbiased": 4, "biased": 2}


@dataclass(frozen=True)
class Settings:
    """What a measure of similarity can be told; see `similarity`."""

    estimator: str = "auto"
    skip: str = "samples"
    width: float = 1.0
    variance: float = 0.99
    metric: str = "correlation"
    comparison: str = "spearman"
    batch: int = 256
    landmarks: int = 200
    seed: int = 0
    keep: bool = False

    @property
    def left_out(self) -> str:
        """What is left out for the sake of values that are not finite; 0 stands in for those that are kept."""
        return "features" if self.keep else self.skip


def similarity(
    store: Store,
    other: Store | None = None,
    *,
    layers: str | Iterable[str] = "all",
    other_layers: str | Iterable[str] | None = None,
    noise: Noise = None,
    method: str = "cka-linear",
    estimator: str = "auto",
    space: str | None = None,
    skip: str = "samples",
    width: float = 1.0,
    variance: float = 0.99,
    metric: str = "correlation",
    comparison: str = "spearman",
    samples: int | None = None,
    batch: int = 256,
    landmarks: int = 200,
    seed: int = 0,
    nan: str = "skip",
    allow_partial: bool = False,
) -> xr.Dataset:
    """Compare all pairs of layers and noise levels of a store, or those of one store with those of another.

    Every layer is read once, in columns of chunks, into its Gram matrix (sample, sample); all pairs come from these.
    In memory are n(n+1)/2 float64 for each layer and noise level, and for each thread a column of up to 256 MiB and two
    matrices of n × n; CKA by minibatches needs the columns only, and by Nyström's approximation, for up to about
    50 000 samples, n × landmarks for each layer. Where all samples of a column (a chunk's features) do
    not fit 256 MiB, it is read in tiles of samples, some of them more than once.

    Parameters
    ----------
    store, other : Store
        With the same samples, in any order.
    layers, other_layers : str or iterable of str
        See `fmx.store.Store.select`; those of the other store are the same unless given.
    noise : float, sequence of float or "all", optional
        Noise levels; the first (clean) if left out.
    method : str
        One of METHODS.
    estimator : str
        Of CKA, one of ESTIMATORS. ``auto`` is unbiased up to 5000 samples and 1 GiB of Gram matrices, else minibatch.
    space : str, optional
        What the features of a sample are: ``full``, all values of the layer (timesteps included), or ``mean`` or
        ``max`` of each channel over its positions. ``mean`` for svcca and pwcca if left out, else ``full``.
    skip : str
        What is left out where values are not finite: ``samples``, or ``features``.
    width : float
        Of Gaussian kernels, as a multiple of the median distance of samples.
    variance : float
        Share of the variance that svcca and pwcca keep of a layer.
    metric, comparison : str
        Of rsa: the distance of two samples (one of DISTANCES), and how matrices are compared (one of COMPARISONS).
    samples : int, optional
        Take so many samples only, drawn at random.
    batch : int
        Samples of a minibatch.
    landmarks : int
        Samples that stand for all with ``nystrom``: the more, the closer to ``unbiased``.
    seed : int
        Of minibatches, of landmarks, and of samples drawn.
    nan : str
        ``skip`` leaves out what `skip` says; ``keep`` makes the similarity of layers NaN that have values that are not
        finite, and leaves nothing of the others out.
    allow_partial : bool
        Analyse what is complete of stores that are not finished.

    Returns
    -------
    xarray.Dataset
        ``similarity`` (layer, noise, other_layer, other_noise), 0 with ``undefined`` true where one of a pair does not
        vary; ``nan``, ``inf`` and ``features`` (layer, noise) count values that were not finite, and features; for
        some methods ``components``, ``width``, ``trivial`` or ``undirected``. Attributes name method, estimator and
        samples.

    Raises
    ------
    FmxError
        Unlike samples, an unfinished store, no such layer, method or noise level, or too few samples.
    """
    if method not in METHODS:
        raise FmxError(f"There is no measure {method}: {near_matches(method, METHODS)}")
    check_nan(nan)
    settings = Settings(estimator, skip, width, variance, metric, comparison, batch, landmarks, seed, nan == "keep")
    space = space or ("mean" if method in ("svcca", "pwcca") else "full")
    _, rows = same_samples(store, other, allow_partial=allow_partial)
    rows = _some(rows, samples, seed)
    first = tables_of(store, _names(store, layers), noise, rows[0], space)
    second = first if other is None else tables_of(other, _names(other, other_layers or layers), noise, rows[1], space)
    together = first if other is None else [*first, *second]
    values, about = _measure(store, together, method, settings)
    split = len(first) if other is not None else 0
    found = _dataset(values[: len(first), split:], about, first, second, len(first), split)
    paths = {"store": str(store.path)} | ({} if other is None else {"other_store": str(other.path)})
    found = _without_spoiled(found) if nan == "keep" else found
    named = {"method": method, "space": space, "skip": skip, "not_finite": nan}
    return found.assign_attrs({**named, **paths, **_described(method, about)})


def rdm(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    noise: Noise = None,
    metric: str = "correlation",
    space: str = "full",
    skip: str = "samples",
    samples: int | None = None,
    seed: int = 0,
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Give the representational dissimilarity matrices of layers, all of them in one read of the store.

    Parameters
    ----------
    metric : str
        One of `fmx.analyze.likeness.DISTANCES`.
    store, layers, noise, space, skip, samples, seed, allow_partial
        See `similarity`; memory is the same.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: ``rdm`` (noise, sample, other_sample) with the samples' labels, and the counts ``nan``, ``inf`` and
        ``undirected`` (noise). Only samples that are finite in all of the layers are there, unless features are
        skipped.

    Raises
    ------
    FmxError
        As in `similarity`.
    """
    ids, rows = same_samples(store, allow_partial=allow_partial)
    rows = _some(rows, samples, seed)
    names = _names(store, layers)
    tables = tables_of(store, names, noise, rows[0], space)
    found = collect_distances(store, tables, metric, skip)
    kept = rows[0][found.kept]
    labels = store.tree.to_dataset()["label"].values[kept]
    ids = [store.samples[i] for i in kept]
    counts = {key: np.array([getattr(g, key).sum() for g in found.grams]) for key in ("nan", "inf")}
    matrices = list(rdms(found, tables, metric))
    levels = len(tables) // len(names)
    attributes = {"metric": metric, "definition": DISTANCES[metric], "space": space, "skip": skip}
    results = {}
    for i, name in enumerate(names):
        at = slice(i * levels, (i + 1) * levels)
        results[name] = xr.Dataset(
            {
                "rdm": (("noise", "sample", "other_sample"), np.stack([matrix for matrix, _ in matrices[at]])),
                **{key: ("noise", value[at]) for key, value in counts.items()},
                "undirected": ("noise", np.array([without for _, without in matrices[at]])),
            },
            coords={
                "noise": [table.noise for table in tables[at]],
                "sample": ids,
                "other_sample": ids,
                "label": ("sample", labels),
            },
            attrs={"layer": name, **attributes},
        )
    return results


def _names(store: Store, layers: str | Iterable[str]) -> list[str]:
    return [info.name for info in store.select(layers)]


def _some(rows: Sequence[NDArray[np.int64]], count: int | None, seed: int) -> list[NDArray[np.int64]]:
    """Draw samples, the same in both stores."""
    if count is None or count >= len(rows[0]):
        return list(rows)
    check_least(count, 1, "A comparison")
    chosen = np.sort(np.random.default_rng([seed, 2]).permutation(len(rows[0]))[:count])
    return [positions[chosen] for positions in rows]


def _measure(
    store: Store, tables: Sequence[SampleTable], method: str, settings: Settings
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    if method.startswith("cka"):
        return _cka(store, tables, settings, settings.width if method == "cka-rbf" else None)
    if method == "rsa":
        if settings.comparison not in COMPARISONS:
            near = near_matches(settings.comparison, COMPARISONS)
            raise FmxError(f"Distances can't be compared by {settings.comparison}: {near}")
        found = collect_distances(store, tables, settings.metric, settings.left_out)
        values, about = compare_distances(rdms(found, tables, settings.metric), settings.comparison)
        named = {"metric": settings.metric, "comparison": settings.comparison}
        return values, about | named | _counts(found)
    found = collect(store, tables, least=cca.LEAST, skip=settings.left_out)
    counted = _counts(found)
    layers = cca.bases(found, settings.variance)
    values, about = cca.svcca(layers) if method == "svcca" else cca.pwcca(tables, layers)
    return values, about | counted | {"variance": settings.variance}


def _cka(
    store: Store, tables: Sequence[SampleTable], settings: Settings, width: float | None
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    total, estimator = len(tables[0].rows), settings.estimator
    if estimator == "auto":
        fits = total <= MOST_SAMPLES and gram_bytes(total, len(tables)) <= MOST_GRAM_BYTES
        estimator = "unbiased" if fits else "minibatch"
    if estimator not in ESTIMATORS:
        raise FmxError(f"CKA has no estimator {estimator}: {near_matches(estimator, ['auto', *ESTIMATORS])}")
    how = Sampled(settings.seed, width, settings.keep)
    if estimator == "minibatch":
        if settings.skip == "features":
            raise FmxError("Minibatches can leave out samples only: take --skip samples, or --estimator unbiased.")
        values, about = minibatch_cka(store, tables, how, batch=settings.batch)
        return values, about | {"estimator": estimator, "batch": settings.batch, "seed": settings.seed}
    if estimator == "nystrom":
        if settings.skip == "features":
            raise FmxError("Nyström's approximation leaves out samples only: take --skip samples.")
        values, about = nystrom_cka(store, tables, how, landmarks=settings.landmarks)
        return values, about | {"estimator": estimator, "seed": settings.seed}
    found = collect(store, tables, least=_LEAST[estimator], skip=settings.left_out)
    counted = _counts(found)
    values, about = cka(found, biased=estimator == "biased", width=width)
    return values, about | counted | {"estimator": estimator}


def _counts(found: GramSet) -> dict[str, Any]:
    return {
        "nan": np.array([gram.nan.sum() for gram in found.grams]),
        "inf": np.array([gram.inf.sum() for gram in found.grams]),
        "samples": found.count,
    }


_ABOUT = {
    "nan": "values that are not a number",
    "inf": "values that are infinite",
    "features": "features of a sample",
    "components": "directions that hold the share of the variance that is kept",
    "width": "width of the Gaussian kernel",
    "undirected": "samples whose features are all 0, or all equal for correlations: at a distance of 1 from all others",
    "trivial": "canonical correlations that are 1 whatever the values are, as there are too few samples",
    "undefined": "one of the two does not vary over the samples, so that nothing can be said; given as 0",
}


def _dataset(
    values: NDArray[np.float64],
    about: Mapping[str, Any],
    first: Sequence[SampleTable],
    second: Sequence[SampleTable],
    count: int,
    split: int,
) -> xr.Dataset:
    """Give similarities and counts their labels."""
    coords: dict[str, Any] = {}
    shapes = []
    for tables, prefix in ((first, ""), (second, "other_")):
        coords[f"{prefix}layer"] = np.array(list(dict.fromkeys(t.layer for t in tables)), dtype=object)
        coords[f"{prefix}noise"] = list(dict.fromkeys(t.noise for t in tables))
        shapes.append((len(coords[f"{prefix}layer"]), len(coords[f"{prefix}noise"])))
    dims = tuple(coords)

    def pairs(matrix: NDArray[Any]) -> Any:
        return dims, matrix.reshape(*shapes[0], *shapes[1])

    varies = about["varies"] > 0
    undefined = ~(varies[:count, None] & varies[None, split:])
    variables: dict[str, Any] = {"similarity": pairs(values), "undefined": pairs(undefined)}
    if "trivial" in about:
        variables["trivial"] = pairs(about["trivial"][:count, split:].astype(np.int64))
    features = np.array([table.features for table in [*first, *second]])
    single = {"nan": about["nan"], "inf": about["inf"], "features": features}
    single |= {key: about[key] for key in ("components", "width", "undirected") if key in about}
    for key, array in single.items():
        whole = array if key == "width" else array.astype(np.int64)
        variables[key] = dims[:2], whole[:count].reshape(shapes[0])
        if split:
            variables[f"other_{key}"] = dims[2:], whole[count:].reshape(shapes[1])
    found = xr.Dataset(variables, coords=coords)
    for name in found.data_vars:
        text = _ABOUT.get(str(name).removeprefix("other_"))
        if text:
            found[name].attrs["definition"] = text
    return found


def _without_spoiled(found: xr.Dataset) -> xr.Dataset:
    """Make the similarities NaN of layers with values that are not finite."""
    lost = {
        prefix: found[f"{prefix}nan"] + found[f"{prefix}inf"] > 0
        for prefix in ("", "other_")
        if f"{prefix}nan" in found
    }
    theirs = lost.get("other_", lost[""].rename(layer="other_layer", noise="other_noise"))
    spoiled = lost[""] | theirs
    return found.assign(similarity=found["similarity"].where(~spoiled).transpose(*found["similarity"].dims))


def _described(method: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Say in plain values what was computed."""
    named = {key: about[key] for key in ("estimator", "metric", "comparison", "variance") if key in about}
    found = {"definition": METHODS[method], **named, "samples": int(about["samples"])}
    if "estimator" in about:
        found["estimator_definition"] = ESTIMATORS[about["estimator"]]
    if "landmarks" in about:
        found |= {"landmarks": int(about["landmarks"]), "seed": int(about["seed"])}
    if "batches" in about:
        found |= {"batches": int(about["batches"]), "batch": int(about["batch"]), "seed": int(about["seed"])}
    if "metric" in about:
        found["metric_definition"] = DISTANCES[about["metric"]]
        found["comparison_definition"] = COMPARISONS[about["comparison"]]
    return found
