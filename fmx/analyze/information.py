"""How much the channels of a layer say about labels, or about the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.analyze.channel_values import ChannelValues, channel_values
from fmx.analyze.labels import groups_of
from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.sample_table import SampleTable, tables_of
from fmx.analyze.samples import check_least, same_samples
from fmx.errors import FmxError, near_matches
from fmx.reduce.mutual import binned, cut, entropy, nearest
from fmx.store import Store

__all__ = ["INFORMATION_ESTIMATORS", "TARGETS", "information"]

Floats = NDArray[np.float64]

INFORMATION_ESTIMATORS = {
    "binned": "plug-in estimate over bins of equal frequency with the correction of Miller and Madow; can be below 0",
    "knn": "nearest neighbours: Ross (2014) for labels, Kraskov et al. (2004) for numbers, by scikit-learn; 0 at least",
}
TARGETS = {
    "label": "the sample's label",
    "brightness": "mean of the picture's pixels",
    "contrast": "standard deviation of the picture's pixels",
    "red": "mean of the picture's first band",
    "green": "mean of the picture's second band",
    "blue": "mean of the picture's third band",
}
_SUMMARIES = ("mean", "max")
_NEIGHBOURS = 3


@dataclass(frozen=True)
class Target:
    """What activations are to say something about.

    Attributes
    ----------
    values : array (sample,)
        Numbers of labels, or measurements.
    labels : bool
        Which of these they are.
    name : str
    """

    values: NDArray[Any]
    labels: bool
    name: str


@dataclass(frozen=True)
class Estimate:
    """How mutual information is estimated; see `information`."""

    estimator: str
    bins: int
    shuffles: int
    seed: int

    def of(self, columns: Floats, target: Target) -> Floats:
        """Estimate it for all columns (sample, column)."""
        if self.estimator == "knn":
            how = {"neighbours": _NEIGHBOURS, "seed": self.seed}
            return nearest(columns, target.values, labels=target.labels, **how)
        return binned(cut(columns, self.bins), self.known(target))

    def by_chance(self, columns: Floats, target: Target) -> Floats:
        """Estimate it with the target shuffled, on average."""
        rng = np.random.default_rng(self.seed)
        values, known = cut(columns, self.bins), self.known(target)
        total = np.zeros(columns.shape[1])
        for _ in range(self.shuffles):
            shuffled = rng.permutation(len(known))
            if self.estimator == "knn":
                total += self.of(columns, Target(target.values[shuffled], target.labels, target.name))
            else:
                total += binned(values, known[shuffled])
        return total / max(self.shuffles, 1)

    def known(self, target: Target) -> NDArray[np.int64]:
        """Give the target as numbers of labels or bins."""
        if target.labels:
            return target.values.astype(np.int64)
        return cut(target.values.astype(np.float64)[:, None], self.bins)[:, 0]


def information(
    store: Store,
    *,
    about: str | Sequence[float] | Sequence[str] = "label",
    layers: str | Iterable[str] = "all",
    noise: float | Sequence[float] | str | None = None,
    of: str = "channel",
    summary: str = "mean",
    estimator: str = "binned",
    bins: int = 8,
    components: int = 10,
    shuffles: int = 10,
    samples: int | None = None,
    seed: int = 0,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Estimate the mutual information between the activation of each channel and labels, or something of the input.

    A layer is read once; in memory is one number for each sample and channel of all layers, beside a column of chunks.

    Parameters
    ----------
    store : Store
    about : str or sequence
        One of TARGETS, or one value for each sample of the store in its order: text is taken as labels, numbers as
        measurements.
    layers : str or iterable of str
    noise : float, sequence of float or "all", optional
        Noise levels; the first if left out.
    of : str
        ``channel``, or ``component``: projections on the principal components of the channels' values.
    summary : str
        A channel's value for a sample: the ``mean`` or ``max`` over its positions, on average over timesteps.
    estimator : str
        One of INFORMATION_ESTIMATORS.
    bins : int
        Of equal frequency, for channels and measurements, with ``binned``.
    components : int
        How many projections.
    shuffles : int
        How often the target is shuffled to tell what comes out by chance.
    samples : int, optional
        Take so many samples only, drawn at random.
    seed : int
    nan : str
        Samples with values that are not finite are left out, for all channels of a layer; ``keep`` also makes what is
        said of a channel (any component) NaN that has such values, at a noise level.
    allow_partial : bool
        Take what is complete of a store that is not finished.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: ``information`` (noise, channel or component), in bits; ``chance``, the same for a shuffled target;
        ``share`` of the entropy of the target (with ``knn`` of measurements there is none); ``entropy`` of the target;
        ``spoiled``, whether it has values that are not finite; ``samples``, ``nan``, ``inf`` and ``left_out`` (noise).

    Raises
    ------
    FmxError
        No labels, one class only, no pictures in the store, too few samples, or no such layer, level or estimator.
    """
    for what, asked, known in (
        ("estimator", estimator, list(INFORMATION_ESTIMATORS)),
        ("summary of positions", summary, list(_SUMMARIES)),
        ("information of", of, ["channel", "component"]),
    ):
        if asked not in known:
            raise FmxError(f"There is no {what} {asked}: {near_matches(asked, known)}")
    check_nan(nan)
    if bins < 2 or shuffles < 0 or components < 1:
        raise FmxError("--bins takes 2 or more, --components 1 or more, and --shuffles 0 or more.")
    _, (rows,) = same_samples(store, allow_partial=allow_partial)
    if samples is not None and samples < len(rows):
        rows = np.sort(np.random.default_rng([seed, 2]).permutation(rows)[: max(samples, 0)])
    least = 2 * bins if estimator == "binned" else _NEIGHBOURS + 2
    check_least(len(rows), least, f"This estimate ({estimator})")
    target = _target(store, about, rows)
    tables = tables_of(store, [info.name for info in store.select(layers)], noise, rows, summary)
    found = channel_values(store, tables)
    how = Estimate(estimator, bins, shuffles, seed)
    levels = len({table.noise for table in tables})
    results = {}
    for first in range(0, len(tables), levels):
        some = slice(first, first + levels)
        layer = _layer(store, tables[some], found[some], target, how, of, components, least)
        results[tables[first].layer] = without_spoiled(layer, nan, ("spoiled",), but=("entropy",))
    return results


def _target(store: Store, about: str | Sequence[float] | Sequence[str], rows: NDArray[np.int64]) -> Target:
    if isinstance(about, str):
        if about not in TARGETS:
            raise FmxError(f"There is nothing called {about} to have information about: {near_matches(about, TARGETS)}")
        if about != "label":
            return Target(_of_pictures(store, about, rows), False, about)
        groups = groups_of(store.tree.to_dataset().isel(sample=rows), store.path)
        return _checked(Target(groups.numbers, True, about), groups.names)
    if len(about) != len(store.samples):
        raise FmxError(f"There are {len(about)} values for {len(store.samples)} samples: give one for each.")
    values = np.asarray(about)[rows]
    if values.dtype.kind in "fiu":
        if not np.isfinite(values).all():
            raise FmxError("The values given for the samples are not all finite: leave those samples out of the store.")
        return _checked(Target(values, False, "values"), np.unique(values).astype(str).tolist())
    names, numbers = np.unique(values.astype(str), return_inverse=True)
    return _checked(Target(numbers, True, "values"), names.tolist())


def _checked(target: Target, names: Sequence[str]) -> Target:
    if len(names) < 2:
        what = "label" if target.labels else "value"
        raise FmxError(
            f"All samples have the same {what} ({names[0]}), which nothing can inform about: extract others too."
        )
    return target


def _of_pictures(store: Store, what: str, rows: NDArray[np.int64]) -> Floats:
    pictures = store.pictures
    if pictures is None:
        raise FmxError(
            f"{store.path} holds no pictures, as it was not made from any: ask about labels, or give a value for each "
            "sample (from Python)."
        )
    at = np.searchsorted(np.flatnonzero(store.complete), rows)
    some = pictures.isel(sample=at)
    dims = [dim for dim in some.dims if dim != "sample"]
    if what in ("red", "green", "blue"):
        band = ("red", "green", "blue").index(what)
        if band >= some.sizes["band"]:
            raise FmxError(f"The pictures have {some.sizes['band']} band, and none is {what}: ask about brightness.")
        some = some.isel(band=[band])
    lazy = some.astype(np.float64)
    (found,) = store.compute(lazy.std(dims) if what == "contrast" else lazy.mean(dims))
    _checked(Target(found.values, False, what), np.unique(found.values).astype(str).tolist())
    return np.asarray(found.values, dtype=np.float64)


def _layer(
    store: Store,
    tables: Sequence[SampleTable],
    found: Sequence[ChannelValues],
    target: Target,
    how: Estimate,
    of: str,
    components: int,
    least: int,
) -> xr.Dataset:
    data = store.layer(tables[0].layer)
    channels = np.asarray(data["channel"].values) if "channel" in data.coords else np.arange(tables[0].channels)
    names = ("information", "chance", "spoiled", "entropy", "samples", "left_out")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for table, values in zip(tables, found, strict=True):
        good = values.finite
        if good.sum() < least:
            raise FmxError(
                f"{table.layer} has finite values for {int(good.sum())} samples only, and {least} are needed: leave it "
                "out (--layers)."
            )
        columns = values.values[good]
        columns = columns if of == "channel" else _projected(columns, components)
        some = Target(target.values[good], target.labels, target.name)
        rows["spoiled"].append(values.bad if of == "channel" else np.full(columns.shape[1], values.bad.any()))
        rows["information"].append(how.of(columns, some))
        rows["chance"].append(how.by_chance(columns, some))
        rows["entropy"].append(_entropy(some, how))
        rows["samples"].append(int(good.sum()))
        rows["left_out"].append(int((~good).sum()))
    return _labelled(tables, found, rows, target, how, {of: channels if of == "channel" else None})


def _labelled(
    tables: Sequence[SampleTable],
    found: Sequence[ChannelValues],
    rows: dict[str, list[Any]],
    target: Target,
    how: Estimate,
    axis: dict[str, NDArray[Any] | None],
) -> xr.Dataset:
    (dim, labels), *_ = axis.items()
    bits = np.stack(rows["information"])
    variables: dict[str, Any] = {
        "information": (("noise", dim), bits, {"units": "bit", "definition": INFORMATION_ESTIMATORS[how.estimator]}),
        "chance": (("noise", dim), np.stack(rows["chance"]), {"units": "bit", "definition": "of a shuffled target"}),
    }
    spoiled = "whether it has values that are not finite"
    variables["spoiled"] = (("noise", dim), np.stack(rows["spoiled"]), {"definition": spoiled})
    if target.labels or how.estimator == "binned":
        known = np.array(rows["entropy"])
        share = np.where(known[:, None] > 0, bits / np.where(known > 0, known, 1)[:, None], 0)
        variables["share"] = (("noise", dim), share, {"definition": "of the entropy of the target"})
        variables["entropy"] = ("noise", known, {"units": "bit", "definition": "of the target"})
    variables |= {key: ("noise", np.array(rows[key])) for key in ("samples", "left_out")}
    variables |= {key: ("noise", np.array([getattr(f, key).sum() for f in found])) for key in ("nan", "inf")}
    coords = {"noise": [table.noise for table in tables], dim: np.arange(bits.shape[1]) if labels is None else labels}
    about = {"layer": tables[0].layer, "about": target.name, "estimator": how.estimator, "summary": tables[0].space}
    settings = {"bins": how.bins} if how.estimator == "binned" else {"neighbours": _NEIGHBOURS}
    return xr.Dataset(variables, coords=coords, attrs=about | settings | {"shuffles": how.shuffles, "seed": how.seed})


def _entropy(target: Target, how: Estimate) -> float:
    """Give the entropy of the target as it is counted, in bits."""
    return float(entropy(np.bincount(how.known(target)), corrected=False))


def _projected(columns: Floats, components: int) -> Floats:
    centred = columns - columns.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, ::-1][:, :components])
