"""Covariances of a layer's channels and the means of its samples, in one read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.cross_moments import CrossMoments, channels_first, slabs
from fmx.analyze.sample_table import SampleTable
from fmx.analyze.samples import Rows

__all__ = ["ChannelMoments", "blocks", "lazy_moments", "sample_means"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# As much of a layer is read at once.
RUN_BYTES = 8 * 2**20
_LEAST_PART_BYTES = 32 * 2**20
_MOST_PARTS = 8


@dataclass(frozen=True)
class ChannelMoments:
    """What a part of a layer's samples came to.

    Attributes
    ----------
    moments : CrossMoments
        Of all pairs of channels.
    means : array (sample, channel)
        Mean of each sample over timesteps and positions; 0 where it has values that are not finite.
    nan, inf : array (sample,) of int64
        Values that were not finite.
    """

    moments: CrossMoments
    means: Floats
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]

    def __add__(self, other: ChannelMoments) -> ChannelMoments:
        return ChannelMoments(
            self.moments + other.moments,
            np.concatenate([self.means, other.means]),
            np.concatenate([self.nan, other.nan]),
            np.concatenate([self.inf, other.inf]),
        )


def lazy_moments(table: SampleTable) -> Any:
    """Give the moments of a layer's channels (`ChannelMoments`) as a lazy value."""
    runs = table.runs(RUN_BYTES // table.shape[2])
    parts = min(max(table.nbytes // _LEAST_PART_BYTES, 1), len(runs), _MOST_PARTS)
    cut = [runs[i * len(runs) // parts : (i + 1) * len(runs) // parts] for i in range(parts)]
    return delayed(_added, pure=False)([delayed(_moments, pure=False)(table, some) for some in cut])


def _added(parts: Iterable[ChannelMoments]) -> ChannelMoments:
    return reduce(lambda a, b: a + b, parts)


def _moments(table: SampleTable, runs: Sequence[Rows]) -> ChannelMoments:
    return _added(_one_run(steps, nan, inf) for steps, nan, inf in blocks(table, runs))


def blocks(
    table: SampleTable, runs: Iterable[Rows] | None = None
) -> Iterator[tuple[list[NDArray[Any]], Counts, Counts]]:
    """Read runs of samples one after the other, all of them where none are named.

    Yields
    ------
    list of array (sample, channel, position)
        One for each timestep, with 0 in place of what is not finite.
    array (sample,) of int64, twice
        Values that were not a number, and infinite ones.
    """
    array = table.open()
    for rows in table.runs(RUN_BYTES // table.shape[2]) if runs is None else runs:
        steps = [table.read_channels(array, step, rows) for step in range(table.shape[2])]
        values, nan, inf, _ = zip(*steps, strict=True)
        yield list(values), np.sum(nan, axis=0), np.sum(inf, axis=0)


def sample_means(steps: Sequence[NDArray[Any]], good: NDArray[np.bool_]) -> Floats:
    """Give the means of samples over timesteps and positions (sample, channel), 0 for those that are not good."""
    means = np.mean([step.mean(axis=2, dtype=np.float64) for step in steps], axis=0)
    return np.where(good[:, None], means, 0)


def _one_run(steps: Sequence[NDArray[Any]], nan: Counts, inf: Counts) -> ChannelMoments:
    good = (nan + inf) == 0
    kept = steps if good.all() else [step[good] for step in steps]
    moments = [CrossMoments.of(channels_first(slab)) for step in kept for (slab,) in slabs([step])]
    return ChannelMoments(reduce(lambda a, b: a + b, moments), sample_means(steps, good), nan, inf)
