"""Centred kernel alignment of many samples, from their kernels with some of them: Nyström's approximation.

A kernel of n samples is taken as C W⁺ Cᵀ, C being its values (n, landmark) with m samples that are drawn, the
landmarks, and W those between landmarks (Williams and Seeger 2001). In memory are n · m numbers for each layer instead
of n²/2. Every chunk is read once, and those that hold landmarks twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.likeness.collect import MOST_GRAM_BYTES, Sampled, check_finite
from fmx.analyze.likeness.gram import BLOCK_BYTES, add_products, lazy_grams, shifted
from fmx.analyze.likeness.kernels import cosines, median_distance, rbf
from fmx.analyze.not_finite import check_products
from fmx.analyze.sample_table import Column, SampleTable
from fmx.analyze.samples import Rows, check_least
from fmx.analyze.threads import compute_alone
from fmx.errors import FmxError
from fmx.store import Store

__all__ = ["LEAST", "nystrom_cka"]

Floats = NDArray[np.float64]

LEAST = 4
# Directions of the landmarks' kernel below this share of its strongest one are rounding.
_NOTHING = 1e-10


@dataclass(frozen=True)
class Strip:
    """What all samples have to do with the landmarks, of some of a layer's features or of all.

    Attributes
    ----------
    inner : array (sample, landmark)
        Inner products, of features that have been shifted by their means over the landmarks.
    own : array (sample,)
        Inner product of each sample with itself.
    nan, inf : array (sample,) of int64
        Values that were not finite; 0 stood in for them.
    """

    inner: Floats
    own: Floats
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]

    def __add__(self, other: Strip) -> Strip:
        inner, own = self.inner + other.inner, self.own + other.own
        return Strip(inner, own, self.nan + other.nan, self.inf + other.inf)


@dataclass(frozen=True)
class StripTask:
    """How to make a part of a layer's strip; it can be sent to another machine."""

    table: SampleTable
    landmarks: Rows

    def run(self, columns: Sequence[Column]) -> Strip:
        """Read columns one after the other, some samples at a time, and add up their products."""
        n = len(self.table.rows)
        array = self.table.open()
        inner, own = np.zeros((n, len(self.landmarks))), np.zeros(n)
        nan, inf = (np.zeros(n, np.int64) for _ in range(2))
        for column in columns:
            held, by = shifted(self.table.read(array, column, self.landmarks).values)
            for rows in self._runs(column):
                block = self.table.read(array, column, rows)
                nan[rows] += block.nan
                inf[rows] += block.inf
                values, _ = shifted(block.values, by)
                where = slice(int(rows[0]), int(rows[-1]) + 1)
                add_products(inner[where], values, held)
                with np.errstate(over="ignore"):
                    own[where] += np.einsum("ij,ij->i", values, values, dtype=np.float64)
        check_products(inner, self.table.layer)
        check_products(own, self.table.layer)
        return Strip(inner, own, nan, inf)

    def _runs(self, column: Column) -> list[Rows]:
        """Cut the samples into runs of whole chunks."""
        length = self.table.chunks[0]
        size = max(column.width * self.table.result_type.itemsize, 1)
        most = max(BLOCK_BYTES // 16 // size // length, 1) * length
        return [np.arange(i, min(i + most, len(self.table.rows))) for i in range(0, len(self.table.rows), most)]


def nystrom_cka(
    store: Store, tables: Sequence[SampleTable], how: Sampled, *, landmarks: int
) -> tuple[Floats, dict[str, Any]]:
    """Compare all pairs of layers by centred kernel alignment of kernels that landmarks stand for, on Dask.

    The HSIC of the approximated kernels is the unbiased one (Song et al. 2012).

    Parameters
    ----------
    store, tables
        See `fmx.analyze.likeness.minibatch.minibatch_cka`.
    how : Sampled
        The landmarks tell the width of a Gaussian kernel.
    landmarks : int
        How many samples are drawn; the same for all layers. With all samples nothing is approximated.

    Returns
    -------
    array (table, table)
    dict
        ``varies``, ``nan``, ``inf`` and ``width`` (table,); ``landmarks`` and ``samples``, the numbers of those used.

    Raises
    ------
    FmxError
        There are too few samples, or what is kept of them does not fit the memory.
    """
    total = len(tables[0].rows)
    check_least(total, LEAST, "CKA by Nyström's approximation")
    if landmarks < 2:
        raise FmxError(f"Nyström's approximation takes at least 2 landmarks, not {landmarks}: raise --landmarks.")
    chosen = np.sort(np.random.default_rng([how.seed, 3]).permutation(total)[:landmarks])
    size = total * len(chosen) * len(tables) * 8
    if size > MOST_GRAM_BYTES:
        raise FmxError(
            f"The kernels of {total} samples with {len(chosen)} landmarks take {size / 1e9:.1f} GB for {len(tables)} "
            "layers: take fewer landmarks (--landmarks), samples (--subsample) or layers (--layers)."
        )
    strips: list[Strip] = list(compute_alone(store, lazy_grams([StripTask(table, chosen) for table in tables])))
    kept = np.ones(total, bool)
    for strip in strips:
        kept &= (strip.nan + strip.inf == 0) | how.keep
    check_finite(int(kept.sum()), total, LEAST)
    used = kept[chosen]
    if used.sum() < 2:
        raise FmxError("Fewer than 2 landmarks have finite values throughout: take more of them (--landmarks).")
    about: dict[str, Any] = {key: np.array([getattr(s, key).sum() for s in strips]) for key in ("nan", "inf")}
    features, widths = [], []
    for i, strip in enumerate(strips):
        made, scale = _features(strip, chosen, kept, how.width)
        features.append(made)
        widths.append(scale)
        strips[i] = Strip(np.empty((0, 0)), strip.own, strip.nan, strip.inf)  # let go of it
    values, varies = cosines(_hsic(features))
    about |= {"varies": varies.astype(np.float64), "samples": int(kept.sum()), "landmarks": int(used.sum())}
    return values, about | ({} if how.width is None else {"width": np.array(widths)})


def _features(strip: Strip, chosen: Rows, kept: NDArray[np.bool_], width: float | None) -> tuple[Floats, float]:
    """Give features (sample, direction), centred, whose inner products are the approximated kernel; and its width."""
    inner, own = strip.inner[kept][:, kept[chosen]], strip.own[kept]
    at = np.cumsum(kept)[chosen[kept[chosen]]] - 1
    scale = 0.0
    if width is not None:
        squared = np.maximum(own[:, None] + own[at][None, :] - 2 * inner, 0)
        squared[at, np.arange(len(at))] = 0
        scale = width * median_distance((squared[at] + squared[at].T) / 2)
        inner = rbf(squared, scale)
    between = inner[at]
    strength, vectors = np.linalg.eigh((between + between.T) / 2)
    there = strength > _NOTHING * max(float(strength[-1]), 0.0)
    found = inner @ (vectors[:, there] / np.sqrt(strength[there]))
    size = float(np.abs(found).max(initial=0.0))
    found -= found.mean(axis=0)
    peak = float(np.abs(found).max(initial=0.0))
    # Alignment does not depend on the size of values; what centring leaves of equal ones is rounding.
    return found / peak if peak > _NOTHING * size else np.zeros_like(found), scale


def _hsic(features: Sequence[Floats]) -> Floats:
    """Give the unbiased HSIC of all pairs of kernels, up to a factor, from their centred features.

    Those have sums of 0, so that the kernel without its diagonal k adds up to -k in each row.
    """
    n = len(features[0])
    own = np.stack([np.einsum("ij,ij->i", one, one) for one in features])
    sums = own.sum(axis=1)
    found = np.empty((len(features), len(features)))
    for i, left in enumerate(features):
        for j in range(i, len(features)):
            cross = left.T @ features[j]
            found[i, j] = found[j, i] = np.einsum("ij,ij->", cross, cross)
    return np.asarray(found - own @ own.T * (1 + 2 / (n - 2)) + np.outer(sums, sums) / ((n - 1) * (n - 2)))
