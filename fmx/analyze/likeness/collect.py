"""The Gram matrices of several layers of one or two stores, of the samples on which all of them are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.likeness import gram
from fmx.analyze.likeness.gram import Grams, GramTask, add_products, lazy_grams, unpack
from fmx.analyze.sample_table import SampleTable
from fmx.analyze.samples import check_least
from fmx.analyze.threads import compute_alone, task_bytes
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["SKIPS", "GramSet", "Sampled", "check_finite", "collect", "gram_bytes"]

SKIPS = ("samples", "features")

# Gram matrices that take more are not made; see `fmx.analyze.likeness.minibatch` for what there is instead.
MOST_GRAM_BYTES = 2**30
MOST_SAMPLES = 5000


@dataclass(frozen=True)
class Sampled:
    """How CKA is estimated from a part of all pairs of samples.

    Attributes
    ----------
    seed : int
        Of the samples that are drawn.
    width : float or None
        Take a Gaussian kernel, whose width is this many times the median distance of some samples; else a linear one.
    keep : bool
        Leave out no sample; 0 stands in for values that are not finite.
    """

    seed: int
    width: float | None = None
    keep: bool = False


@dataclass(frozen=True)
class GramSet:
    """Gram matrices of the same samples.

    Attributes
    ----------
    grams : list of Grams
        One for each table.
    kept : array (sample,) of bool
        Samples on which all features that are looked at are finite.
    """

    grams: list[Grams]
    kept: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Samples that are kept."""
        return int(self.kept.sum())

    def matrices(self) -> Iterator[NDArray[np.float64]]:
        """Give the Gram matrices (sample, sample) of the kept samples one after the other, and let go of each."""
        for one in self.grams:
            whole = unpack(one.packed)
            one.packed = np.empty(0)
            yield whole if self.kept.all() else whole[np.ix_(self.kept, self.kept)]


def gram_bytes(samples: int, tables: int) -> int:
    """Say how much memory the Gram matrices of so many samples and tables take."""
    return tables * samples * (samples + 1) * 4


def collect(
    store: Store,
    tables: Sequence[SampleTable],
    *,
    least: int,
    skip: str = "samples",
    raw: bool = False,
    multiply: Callable[..., None] = add_products,
) -> GramSet:
    """Compute the Gram matrices of all tables together, in one read of the stores on Dask.

    Parameters
    ----------
    store : Store
        Where errors of reading are said to be.
    tables : sequence of SampleTable
        Of the same samples.
    least : int
        Samples that must be left.
    skip : str
        What is left out where values are not finite: ``samples``, or ``features``.
    raw, multiply
        See `fmx.analyze.likeness.gram.GramTask`.

    Raises
    ------
    FmxError
        There are too few samples, or too many for matrices of their pairs.
    """
    if skip not in SKIPS:
        raise FmxError(f"What is not finite can't be left out by {skip}: {near_matches(skip, SKIPS)}")
    total = len(tables[0].rows)
    check_least(total, least, "This measure")
    if total > MOST_SAMPLES or gram_bytes(total, len(tables)) > MOST_GRAM_BYTES:
        size = gram_bytes(total, len(tables)) / 1e9
        raise FmxError(
            f"Matrices of all pairs of {total} samples for {len(tables)} layers take {size:.1f} GB: take fewer samples "
            "(--subsample) or layers (--layers), or CKA by minibatches or landmarks (--estimator minibatch or nystrom)."
        )
    room = task_bytes(gram.BLOCK_BYTES)
    tasks = [GramTask(table, skip == "features", raw, multiply, room) for table in tables]
    grams = list(compute_alone(store, lazy_grams(tasks)))
    kept = np.ones(total, bool)
    if skip == "samples":
        for one in grams:
            kept &= (one.nan + one.inf) == 0
    check_finite(int(kept.sum()), total, least)
    return GramSet(grams, kept)


def check_finite(kept: int, total: int, least: int) -> None:
    """Refuse to go on with too few samples that are finite.

    Raises
    ------
    FmxError
    """
    if kept < min(least, total):
        raise FmxError(
            f"Only {kept} of {total} samples have finite values throughout, and {least} are needed: leave out those "
            "layers (--layers), or features instead of samples (fmx similarity --skip features, or skip='features')."
        )
