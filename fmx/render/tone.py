"""Tones: how a value's place in its range becomes its place in the colormap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches

__all__ = ["EQUALISED", "PLAIN", "Curve", "Tone", "curve_of_quantiles", "curve_of_values", "locally_equalised"]

EQUALISED = ("none", "histogram", "clahe")
# Values in order, and the share of all values that lie below each.
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
# CLAHE looks at tiles of a quarter of the map; smaller ones than these hold too few values to tell a distribution.
_LEAST_TILE = 8


@dataclass(frozen=True)
class Tone:
    """What is done to values on their way to colours, besides choosing whose range counts.

    Attributes
    ----------
    percentiles : tuple of float
        Ends of the range in percent of the values, such as (1, 99); what lies beyond is drawn as the end.
    symmetric : bool
        The range reaches as far below 0 as above, so that 0 is the middle of a diverging colormap.
    equalise : {"none", "histogram", "clahe"}
        ``histogram``: the colour says the share of values that are smaller, less those at the low end, so that all
        colours are used as often. ``clahe``: contrast-limited adaptive histogram equalization of each map by itself
        (Zuiderveld 1994; scikit-image's ``equalize_adapthist``).
    gamma : float
        Shares of the range are raised to this power: below 1 small values are brought out, above 1 large ones. Of a
        symmetric range the distance from 0 is raised.
    clip_limit : float
        Of CLAHE, 0 to 1: more gives more contrast.

    Raises
    ------
    FmxError
        There are no such percentiles, gamma, clip limit or equalization, or it can't go with symmetric ranges.
    """

    percentiles: tuple[float, float] = (0.0, 100.0)
    symmetric: bool = False
    equalise: str = "none"
    gamma: float = 1.0
    clip_limit: float = 0.01

    def __post_init__(self) -> None:
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            given = ", ".join(f"{p:g}" for p in self.percentiles)
            raise FmxError(
                f"Percentiles are two numbers from 0 to 100, the lower one first, such as 1,99; not {given}."
            )
        if self.equalise not in EQUALISED:
            raise FmxError(f"No equalization is called {self.equalise}: {near_matches(self.equalise, EQUALISED)}")
        if not (np.isfinite(self.gamma) and self.gamma > 0):
            raise FmxError(f"Gamma is a number above 0, not {self.gamma:g}.")
        if not 0 < self.clip_limit <= 1:
            raise FmxError(f"The clip limit of CLAHE lies above 0 and up to 1, not at {self.clip_limit:g}.")
        if self.symmetric and self.equalise != "none":
            raise FmxError("Equalised values don't lie symmetric about 0: leave out one of the two.")

    @property
    def clipped(self) -> bool:
        """Whether the ends are percentiles other than the extremes."""
        return tuple(self.percentiles) != (0, 100)

    @property
    def labels(self) -> dict[str, str]:
        """What to say about it on a picture: nothing where nothing is done."""
        said = {}
        if self.clipped:
            said["percentiles"] = "{:g} to {:g}".format(*self.percentiles)
        if self.symmetric:
            said["symmetric"] = "about 0"
        if self.equalise != "none":
            said["equalised"] = {"histogram": "histogram", "clahe": "CLAHE"}[self.equalise]
        if self.gamma != 1:
            said["gamma"] = f"{self.gamma:g}"
        return said

    def bent(self, share: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Raise shares of a range, 0 to 1, to the power of gamma."""
        if self.gamma == 1:
            return share
        if not self.symmetric:
            return share ** share.dtype.type(self.gamma)
        distance = 2 * share - 1
        raised: NDArray[np.floating[Any]] = (
            np.sign(distance) * np.abs(distance) ** share.dtype.type(self.gamma) + 1
        ) / 2
        return raised


PLAIN = Tone()


def curve_of_values(values: NDArray[Any], low: float, high: float) -> Curve:
    """Give the curve that equalises values within a range: the share of those that are smaller, 0 at the lowest.

    It is the usual formula (cdf(v) - cdf_min) / (1 - cdf_min), so that a map of many zeros, as behind a ReLU, keeps
    them at 0 and spreads the others over all colours.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    places, counts = np.unique(np.clip(finite, low, high), return_counts=True)
    if len(places) < 2:
        return np.array([low]), np.zeros(1)
    beyond = np.cumsum(counts) - counts[0]
    return places, beyond / beyond[-1]


def curve_of_quantiles(quantiles: NDArray[np.float64], low: float, high: float) -> Curve:
    """Give the same from quantiles at even steps from 0 to 1, of more values than fit the memory."""
    if np.isnan(quantiles).any():
        return np.array([low]), np.zeros(1)
    clipped = np.clip(quantiles, low, high)
    # Of equal quantiles the last says how many values are no larger.
    last = np.append(clipped[1:] > clipped[:-1], True)
    places, below = clipped[last], np.linspace(0, 1, len(clipped))[last]
    if len(places) < 2:
        return np.array([low]), np.zeros(1)
    return places, (below - below[0]) / (1 - below[0])


def locally_equalised(shares: NDArray[np.floating[Any]], clip_limit: float) -> NDArray[np.floating[Any]]:
    """Apply CLAHE to each of several maps of shares, (map, y, x); those of one value stay."""
    from skimage.exposure import equalize_adapthist

    tile = tuple(max(n // 4, min(n, _LEAST_TILE)) for n in shares.shape[1:])
    done = shares.copy()
    for one in done:
        if one.min() < one.max():
            one[...] = equalize_adapthist(one.astype(np.float64), kernel_size=tile, clip_limit=clip_limit)
    return done
