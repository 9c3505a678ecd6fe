"""Centred kernel alignment of more samples than a matrix of their pairs has room for, by minibatches.

The terms of the unbiased HSIC are summed over batches and divided once (Nguyen, Raghu and Kornblith 2021). That holds
for batches drawn at random. Stores keep neighbouring samples, often those of one class, in the same chunks; so batches
are drawn from *groups* of samples, as many as fit the memory, that consist of runs of whole chunks from all over the
store. Every chunk is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.likeness.collect import Sampled, check_finite
from fmx.analyze.likeness.gram import BLOCK_BYTES, GramTask, add_products, lazy_grams, shifted, unpack
from fmx.analyze.likeness.kernels import centred, cosines, flat, median_distance, products, rbf, squared_distances
from fmx.analyze.not_finite import check_products
from fmx.analyze.sample_table import SampleTable
from fmx.analyze.samples import Rows, check_least
from fmx.analyze.threads import compute_alone, task_bytes
from fmx.errors import FmxError
from fmx.store import Store

__all__ = ["LEAST", "draw_groups", "minibatch_cka"]

Floats = NDArray[np.float64]

LEAST = 4
# Distances of as many samples tell the width of Gaussian kernels.
_WIDTH_SAMPLES = 512


@dataclass(frozen=True)
class Batch:
    """What batches of one group came to.

    Attributes
    ----------
    terms : array (table, table)
        HSIC summed over the batches.
    batches, used : int
        Batches, and samples in them.
    nan, inf : array (table,) of int64
        Values that were not finite.
    """

    terms: Floats
    batches: int
    used: int
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            self.terms + other.terms,
            self.batches + other.batches,
            self.used + other.used,
            self.nan + other.nan,
            self.inf + other.inf,
        )


@dataclass(frozen=True)
class GroupTask:
    """How to take a group's batches; it can be sent to another machine.

    Attributes
    ----------
    tables : sequence of SampleTable
    widths : sequence of float or None
        Of Gaussian kernels; linear ones where None.
    keep : bool
        Leave out no sample; 0 stands in for values that are not finite.
    """

    tables: Sequence[SampleTable]
    widths: Sequence[float] | None
    keep: bool = False

    def run(self, rows: Rows, batches: Sequence[Rows]) -> Batch:
        """Read the samples of a group, and sum up the HSIC of batches (positions in the group)."""
        spoiled = np.zeros(len(rows), bool)
        nan, inf = (np.zeros(len(self.tables), np.int64) for _ in range(2))
        grams = []
        for i, table in enumerate(self.tables):
            made, nans, infs = self._grams(table, rows, batches)
            spoiled |= ((nans + infs) > 0) & (not self.keep)
            nan[i], inf[i] = nans.sum(), infs.sum()
            grams.append(made)
        terms = np.zeros((len(self.tables), len(self.tables)))
        counted = used = 0
        for k, batch in enumerate(batches):
            kept = ~spoiled[batch]
            n = int(kept.sum())
            if n < LEAST:
                continue
            vectors = [self._vector(i, made[k][np.ix_(kept, kept)]) for i, made in enumerate(grams)]
            terms += products(vectors) / (n * (n - 3))
            counted += 1
            used += n
        return Batch(terms, counted, used, nan, inf)

    def _vector(self, i: int, gram: Floats) -> Floats:
        check_products(gram, self.tables[i].layer)
        kernel = gram if self.widths is None else rbf(squared_distances(gram), self.widths[i])
        return flat(centred(kernel, biased=False))

    @staticmethod
    def _grams(
        table: SampleTable, rows: Rows, batches: Sequence[Rows]
    ) -> tuple[list[Floats], NDArray[np.int64], NDArray[np.int64]]:
        array = table.open()
        made = [np.zeros((len(batch), len(batch))) for batch in batches]
        nan, inf = (np.zeros(len(rows), np.int64) for _ in range(2))
        for column in table.columns():
            block = table.read(array, column, rows)
            nan += block.nan
            inf += block.inf
            values, _ = shifted(block.values)
            for gram, batch in zip(made, batches, strict=True):
                add_products(gram, values[batch])
        return made, nan, inf


def draw_groups(tables: Sequence[SampleTable], batch: int, seed: int) -> Iterator[tuple[Rows, list[Rows]]]:
    """Draw groups of samples, and batches within them, each sample once.

    Yields
    ------
    array (sample,) of int64
        Rows of the tables.
    list of array of int64
        The batches, as positions among them.
    """
    total = len(tables[0].rows)
    widest = max(column.width * table.result_type.itemsize for table in tables for column in table.columns())
    most = min(max(task_bytes(BLOCK_BYTES) // widest, batch), total)
    run = min(max(table.chunks[0] for table in tables), most)
    rng = np.random.default_rng(seed)
    starts = rng.permutation(np.arange(0, total, run))
    # No group may be too small for a batch, as one that had only the last, shorter run would be.
    parts = max(min(math.ceil(total / most), len(starts) // math.ceil(2 * LEAST / run)), 1)
    for some in np.array_split(starts, parts):
        rows = np.concatenate([np.arange(s, min(s + run, total)) for s in np.sort(some)])
        shuffled = rng.permutation(len(rows))
        yield rows, [np.sort(part) for part in np.array_split(shuffled, max(len(rows) // batch, 1))]


def minibatch_cka(
    store: Store, tables: Sequence[SampleTable], how: Sampled, *, batch: int
) -> tuple[Floats, dict[str, Any]]:
    """Compare all pairs of layers by centred kernel alignment over minibatches, in one read of the stores on Dask.

    Parameters
    ----------
    store : Store
        Where errors of reading are said to be.
    tables : sequence of SampleTable
        Of the same samples.
    how : Sampled
        512 samples tell the width of a Gaussian kernel.
    batch : int
        Samples of a batch, 4 or more.

    Returns
    -------
    array (table, table)
    dict
        ``varies``, ``nan``, ``inf`` and ``width`` (table,); ``batches`` and ``samples``, the number of those used.

    Raises
    ------
    FmxError
        There are too few samples.
    """
    total = len(tables[0].rows)
    check_least(total, LEAST, "CKA by minibatches")
    if batch < LEAST:
        raise FmxError(f"A minibatch takes at least {LEAST} samples, not {batch}: raise --batch-size.")
    widths = None if how.width is None else _widths(store, tables, how.width, how.seed, how.keep)
    task = GroupTask(tables, widths, how.keep)
    lazy = [delayed(task.run, pure=False)(rows, batches) for rows, batches in draw_groups(tables, batch, how.seed)]
    found: Sequence[Batch] = compute_alone(store, lazy)
    whole = found[0]
    for more in found[1:]:
        whole = whole + more
    check_finite(whole.used, total, LEAST)
    check_products(whole.terms, " and ".join(dict.fromkeys(table.layer for table in tables)))
    values, varies = cosines(whole.terms)
    about: dict[str, Any] = {"varies": varies.astype(np.float64), "nan": whole.nan, "inf": whole.inf}
    if widths is not None:
        about["width"] = np.array(widths)
    return values, about | {"batches": whole.batches, "samples": whole.used}


def _widths(store: Store, tables: Sequence[SampleTable], width: float, seed: int, keep: bool) -> list[float]:
    rng = np.random.default_rng([seed, 1])
    total = len(tables[0].rows)
    chosen = np.sort(rng.permutation(total)[:_WIDTH_SAMPLES])
    some = [replace(table, rows=table.rows[chosen]) for table in tables]
    found = []
    for gram in compute_alone(store, lazy_grams([GramTask(table) for table in some])):
        kept = (gram.nan + gram.inf == 0) | keep
        found.append(width * median_distance(squared_distances(unpack(gram.packed)[np.ix_(kept, kept)])))
    return found
