"""Values on their way into the store: rounded where they are stored with less precision, and counted where unusual."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Narrowed", "count_unusual", "narrow", "round_to_bfloat16"]

Counts = NDArray[np.uint32]


@dataclass
class Narrowed:
    """Values that became infinite, as (first sample, noise level, count of each sample)."""

    found: list[tuple[int, int, Counts]] = field(default_factory=list)

    def add(self, sample: int, level: int, counts: Counts | None) -> None:
        if counts is not None:
            self.found.append((sample, level, counts))


def narrow(source: NDArray[Any], target: NDArray[Any], precision: str = "") -> Counts | None:
    """Copy `source` (sample, …) into `target`, rounded to its type or to `precision`.

    Returns
    -------
    array of uint32 (sample) or None
        How many finite values of each sample became infinite; None where there are none.
    """
    exact = source.dtype == target.dtype and not precision
    with np.errstate(over="ignore"):
        np.copyto(target, source, casting="unsafe")
    if exact or target.dtype.kind != "f":
        return None
    if precision == "bfloat16":
        round_to_bfloat16(target)
    if np.isfinite(target).all():
        return None
    counts = _each(np.isinf(target) & np.isfinite(source))
    return counts if counts.any() else None


def round_to_bfloat16(values: NDArray[np.float32]) -> None:
    """Round to the nearest bfloat16, ties to even, in place; values that are no number stay none."""
    bits = values.view(np.uint32)
    odd = np.isnan(values)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    bits[...] = np.where(odd, np.uint32(0x7FC00000), rounded) if odd.any() else rounded


def count_unusual(values: NDArray[Any]) -> dict[str, Counts]:
    """Count the values (sample, …) that are not a number or infinite, by sample; empty where all are finite."""
    if np.isfinite(values).all():
        return {}
    return {"nan": _each(np.isnan(values)), "inf": _each(np.isinf(values))}


def _each(found: NDArray[np.bool_]) -> Counts:
    counts: Counts = found.reshape(len(found), -1).sum(axis=1, dtype=np.uint32)
    return counts
