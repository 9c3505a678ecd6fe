"""Maps in which there is nothing to see: of one value, or without any number; found, named and hatched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.render.palette import PAPER, gray_indices

__all__ = ["WORDS", "Unusual", "find_unusual", "hatched"]

# What the labels are called in a sentence.
WORDS = {"constant": "constant:", "nan": "no finite value:", "some_nan": "in part not finite:"}
_HATCH = int(gray_indices(np.array(150, dtype=np.uint8)))


@dataclass(frozen=True, eq=False)
class Unusual:
    """Which maps are of one value, hold no finite value at all, or hold some that are not finite, each (map,).

    Attributes
    ----------
    constant, nan, some_nan : ndarray of bool
    values : ndarray
        The smallest finite value of each map, NaN where there is none.
    """

    constant: NDArray[np.bool_]
    nan: NDArray[np.bool_]
    some_nan: NDArray[np.bool_]
    values: NDArray[np.float64]

    def labels(self, names: Sequence[object]) -> dict[str, str]:
        """Say which ones, by their names."""
        chosen = {key: [str(names[i]) for i in np.flatnonzero(found).tolist()] for key, found in self._which.items()}
        return {key: _few(list(dict.fromkeys(which))) for key, which in chosen.items() if which}

    def words(self) -> list[str]:
        """Say what is unusual about each map; empty where nothing is."""
        which = [(WORDS[key].rstrip(":"), found) for key, found in self._which.items()]
        return [next((word for word, found in which if found[i]), "") for i in range(len(self.values))]

    def all_are(self, key: str) -> bool:
        """Tell whether all maps are ``constant``, ``nan`` or ``some_nan``."""
        return bool(self._which[key].all())

    @property
    def _which(self) -> dict[str, NDArray[np.bool_]]:
        return {"constant": self.constant, "nan": self.nan, "some_nan": self.some_nan}


def find_unusual(maps: NDArray[Any]) -> Unusual:
    """Find the maps, (map, y, x), in which there is nothing to see."""
    lowest, highest = maps.min(axis=(1, 2)), maps.max(axis=(1, 2))
    some = np.isfinite(lowest.astype(np.float64)) & np.isfinite(highest.astype(np.float64))
    if some.all():
        nothing = np.zeros(len(maps), bool)
        return Unusual(np.asarray(lowest == highest), nothing, nothing, lowest.astype(np.float64))
    exact = maps.astype(np.float64)
    finite = np.isfinite(exact)
    least = np.where(finite, exact, np.inf).min(axis=(1, 2))
    most = np.where(finite, exact, -np.inf).max(axis=(1, 2))
    empty = np.asarray(~finite.any(axis=(1, 2)))
    whole = np.asarray(finite.all(axis=(1, 2)))
    return Unusual((least == most) & whole, empty, ~empty & ~whole, np.where(empty, np.nan, least))


def hatched(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give diagonal lines on white, as indices of a page's palette, (y, x): what stands for no value at all."""
    y, x = np.ogrid[: size[0], : size[1]]
    return np.where((y + x) % 6 < 2, _HATCH, PAPER).astype(np.uint8)


def _few(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 8 else [*names[:6], "…", names[-1]])
