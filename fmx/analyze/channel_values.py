"""One value for each sample and channel: the mean or the maximum over positions, read on Dask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.sample_table import SampleTable
from fmx.errors import FmxError
from fmx.store import Store

__all__ = ["ChannelValues", "channel_values", "check_room"]

# As much may the values of a layer take.
MOST_BYTES = 2**30


@dataclass(frozen=True)
class ChannelValues:
    """A layer's values by sample and channel.

    Attributes
    ----------
    values : array (sample, channel) of float64
        With 0 in place of what is not finite; the mean over timesteps.
    nan, inf : array (sample,) of int64
        How many of each sample's values were not a number or infinite.
    bad : array (channel,) of bool
        Channels that had such values.
    """

    values: NDArray[np.float64]
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    bad: NDArray[np.bool_]

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which samples have finite values only (sample)."""
        return np.asarray((self.nan + self.inf) == 0)


def check_room(table: SampleTable) -> None:
    """Refuse a layer of which one value for each sample and channel does not fit the memory.

    Raises
    ------
    FmxError
    """
    size = len(table.rows) * table.channels * 8
    if size > MOST_BYTES:
        raise FmxError(
            f"One value for each sample and channel of {table.layer} takes {size / 1e9:.1f} GB: take fewer samples "
            "(--subsample)."
        )


def channel_values(store: Store, tables: Sequence[SampleTable]) -> list[ChannelValues]:
    """Read tables whose space is ``mean`` or ``max``, each chunk once; in memory are (sample, channel) float64 of each.

    Raises
    ------
    FmxError
        They do not fit the memory.
    """
    for table in tables:
        check_room(table)
    return list(store.compute(*(delayed(_read, pure=False)(table) for table in tables)))


def _read(table: SampleTable) -> ChannelValues:
    array = table.open()
    rows = np.arange(len(table.rows))
    total = np.zeros((len(rows), table.channels))
    nan, inf = (np.zeros(len(rows), np.int64) for _ in range(2))
    bad = np.zeros(table.channels, bool)
    for column in table.columns():
        block: Any = table.read(array, column, rows)
        total[:, column.start : column.stop] += block.values
        nan += block.nan
        inf += block.inf
        bad[column.start : column.stop] |= block.bad
    return ChannelValues(total / table.shape[2], nan, inf, bad)
