"""What is read and summed up to compare a layer of one store with one of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.cross_moments import CrossMoments, channels_first, slabs
from fmx.analyze.sample_table import SampleTable
from fmx.analyze.samples import Rows

__all__ = ["Differences", "PairTask", "Paired"]

Floats = NDArray[np.float64]

# As much of a layer is read at once from each store.
RUN_BYTES = 4 * 2**20
MOST_PARTS = 8
_LEAST_PART_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Differences:
    """Sums over points for each channel of two layers of the same shape.

    Attributes
    ----------
    absolute, squares, largest : array (channel,)
        Of the differences: sum of absolute values, sum of squares, largest absolute value.
    maps : array (channel, position), optional
        Sum of the absolute differences over samples and timesteps.
    """

    absolute: Floats
    squares: Floats
    largest: Floats
    maps: Floats | None

    @classmethod
    def of(cls, a: Floats, b: Floats, samples: int, *, maps: bool) -> Differences:
        """Take in points (channel, sample and position) of so many samples of both layers."""
        gap = a - b
        np.abs(gap, out=gap)
        each = gap.reshape(len(gap), samples, -1).sum(axis=1) if maps else None
        return cls(gap.sum(axis=1), np.einsum("ij,ij->i", gap, gap), gap.max(axis=1, initial=0.0), each)

    def __add__(self, other: Differences) -> Differences:
        return Differences(
            self.absolute + other.absolute,
            self.squares + other.squares,
            np.maximum(self.largest, other.largest),
            None if self.maps is None or other.maps is None else self.maps + other.maps,
        )


@dataclass(frozen=True)
class Paired:
    """What the points of a pair of layers came to.

    Attributes
    ----------
    moments : CrossMoments
        Of all pairs of channels.
    differences : Differences or None
        Where the layers have the same shape.
    nan, inf : array (store,) of int64
        Values that were not finite.
    left_out : int
        Samples that were left out because of them.
    bad : tuple of array (channel,) of bool
        Channels of each layer that had such values.
    """

    moments: CrossMoments
    differences: Differences | None
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    left_out: int
    bad: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    def __add__(self, other: Paired) -> Paired:
        both = self.differences is not None and other.differences is not None
        return Paired(
            self.moments + other.moments,
            self.differences + other.differences if both else None,  # type: ignore[operator]
            self.nan + other.nan,
            self.inf + other.inf,
            self.left_out + other.left_out,
            (self.bad[0] | other.bad[0], self.bad[1] | other.bad[1]),
        )


@dataclass(frozen=True)
class PairTask:
    """How to compare two layers at one noise level; it can be sent to another machine.

    Attributes
    ----------
    table, other : SampleTable
        Of the same samples, in the same order.
    differ : bool
        Take differences: the layers have the same shape.
    maps : bool
        Keep them for every position.
    """

    table: SampleTable
    other: SampleTable
    differ: bool
    maps: bool

    def run(self, runs: Sequence[Rows]) -> Paired:
        """Read runs of samples one after the other from both stores."""
        arrays = self.table.open(), self.other.open()
        return reduce(lambda total, rows: total + self._read(arrays, rows), runs[1:], self._read(arrays, runs[0]))

    def _read(self, arrays: tuple[Any, Any], rows: Rows) -> Paired:
        nan, inf = np.zeros(2, np.int64), np.zeros(2, np.int64)
        spoiled = np.zeros(len(rows), bool)
        bad = np.zeros(self.table.channels, bool), np.zeros(self.other.channels, bool)
        steps = []
        for step in range(self.table.shape[2]):
            values = []
            for i, (table, array) in enumerate(zip((self.table, self.other), arrays, strict=True)):
                block, nans, infs, channels = table.read_channels(array, step, rows)
                bad[i][channels] = True
                nan[i] += nans.sum()
                inf[i] += infs.sum()
                spoiled |= (nans + infs) > 0
                values.append(block)
            steps.append(values)
        if spoiled.any():
            steps = [[block[~spoiled] for block in values] for values in steps]
        found = [self._sums(*slab) for values in steps for slab in slabs(values)]
        moments, differences = found[0]
        for more, gaps in found[1:]:
            moments = moments + more
            differences = differences + gaps if differences is not None and gaps is not None else None
        return Paired(moments, differences, nan, inf, int(spoiled.sum()), bad)

    def _sums(self, a: NDArray[Any], b: NDArray[Any]) -> tuple[CrossMoments, Differences | None]:
        """Take in values (sample, channel, position) of both layers."""
        x, y = channels_first(a), channels_first(b)
        with np.errstate(over="ignore", invalid="ignore"):
            gaps = Differences.of(x, y, len(a), maps=self.maps) if self.differ else None
        return CrossMoments.of(x, y), gaps

    def lazy(self) -> Any:
        """Give the result as a lazy value."""
        runs = self.table.runs(RUN_BYTES // self.table.shape[2])
        wanted = (self.table.nbytes + self.other.nbytes) // _LEAST_PART_BYTES
        parts = min(max(wanted, 1), len(runs), MOST_PARTS)
        cut = [runs[i * len(runs) // parts : (i + 1) * len(runs) // parts] for i in range(parts)]
        return delayed(_added, pure=False)([delayed(self.run, pure=False)(some) for some in cut])


def _added(parts: Sequence[Paired]) -> Paired:
    return reduce(lambda a, b: a + b, parts)
