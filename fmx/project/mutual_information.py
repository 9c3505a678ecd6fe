"""How much a projection says about the picture: mutual information between the two, position by position."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import FmxError, near_matches
from fmx.reduce.mutual import binned, cut, entropy, nearest

__all__ = ["PIXEL_ESTIMATORS", "information"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

PIXEL_ESTIMATORS = {
    "binned": "plug-in estimate over bins of equal frequency with the correction of Miller and Madow; can be below 0",
    "knn": "nearest neighbours, Kraskov et al. (2004), by scikit-learn; 0 at least",
}
_PROJECTIONS = ("projection", "attribution")
_NEIGHBOURS = 3
_FEWEST_A_BIN = 4
# Bins at most, unless told; and positions for each pair of bins. With fewer the correction leaves more than a hundredth
# of a bit: 0.4 bits with a quarter of them, 1.8 with a sixteenth.
_MOST_BINS = 16
_FOR_A_PAIR = 4
# So many maps are estimated at once: their bins are what takes memory.
_AT_ONCE = 32


@dataclass(frozen=True)
class _Estimate:
    """How it is estimated; see `information`."""

    estimator: str
    bins: int
    positions: int | None
    shifts: int
    seed: int

    def of(self, maps: Floats, shown: Floats) -> tuple[Floats, Floats, float]:
        """Estimate it for maps (map, y, x) and what the picture shows (y, x): bits, bits by chance, entropy."""
        rng = np.random.default_rng(self.seed)
        moves = [divmod(int(step), shown.shape[1]) for step in rng.integers(1, shown.size, self.shifts)]
        if self.estimator == "binned":
            known = cut(shown.reshape(-1, 1), self.bins).reshape(shown.shape)
            levels = cut(maps.reshape(len(maps), -1).T, self.bins)
            bits = binned(levels, known.ravel())
            chance = [binned(levels, np.roll(known, move, (0, 1)).ravel()) for move in moves]
            entropic = float(entropy(np.bincount(known.ravel()), corrected=False))
        else:
            some = self._some(rng, shown.size)
            columns = maps.reshape(len(maps), -1).T[some]
            bits = self._near(columns, shown.ravel()[some])
            chance = [self._near(columns, np.roll(shown, move, (0, 1)).ravel()[some]) for move in moves]
            entropic = float("nan")
        return bits, np.mean(chance, axis=0) if chance else np.full(len(maps), np.nan), entropic

    def _near(self, columns: Floats, values: Floats) -> Floats:
        return nearest(columns, values, labels=False, neighbours=_NEIGHBOURS, seed=self.seed)

    def _some(self, rng: np.random.Generator, count: int) -> NDArray[np.intp]:
        if self.positions is None or self.positions >= count:
            return np.arange(count)
        return np.sort(rng.permutation(count)[: self.positions])


def information(
    results: xr.Dataset,
    *,
    estimator: str = "binned",
    bins: int | None = None,
    positions: int | None = 2000,
    shifts: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    """Estimate the mutual information between projections and the pictures that they are of.

    Each position of a picture is taken for a draw: one number is what the projection has there, the other what the
    picture has. A projection with colours is compared colour by colour, and the mean over the colours is given; one
    without is compared with the brightness, the mean of the colours. Where a projection is coarser than its picture,
    as those of Grad-CAM are, the picture is averaged over the areas of its positions.

    Neighbouring positions are alike, in projections and in pictures, so that two that have nothing in common can come
    out above 0. What comes out by chance is therefore estimated from the same projection and the picture shifted around
    (beyond the border it comes in on the other side), which leaves both as smooth as they are.

    Parameters
    ----------
    results : xarray.Dataset
        What `fmx.project.deconv` or `fmx.project.attribute` gave, of pictures: ``projection`` or ``attribution``
        (…, colour, y, x) or (…, y, x), and ``picture`` (y, x, band), both for each sample where there is such an axis.
        With ``group="growing"`` this is the information in more and more maps together.
    estimator : str
        One of PIXEL_ESTIMATORS.
    bins : int, optional
        Of equal frequency, for both, with ``binned``: 16 where left out, and fewer where there are less than 4
        positions for each pair of bins, of which the estimate comes out too high.
    positions : int, optional
        Take so many positions only, drawn at random, with ``knn``; all for None.
    shifts : int
        How often the picture is shifted, by steps drawn at random, to tell what comes out by chance.
    seed : int

    Returns
    -------
    xarray.Dataset
        ``information`` in bits a position, for each projection; ``chance``, the same of the shifted picture; ``share``
        of the entropy of the picture's bins, and that ``entropy`` (only with ``binned``).

    Raises
    ------
    FmxError
        No projections of pictures, values that are not finite, no such estimator, or too few positions.
    """
    if estimator not in PIXEL_ESTIMATORS:
        raise FmxError(f"There is no estimator {estimator}: {near_matches(estimator, PIXEL_ESTIMATORS)}")
    if (bins is not None and bins < 2) or shifts < 0 or (positions is not None and positions < 2 * _NEIGHBOURS):
        raise FmxError(f"Bins are 2 or more, shifts 0 or more, and positions {2 * _NEIGHBOURS} or more.")
    maps, picture = _projections(results)
    if bins is None:
        bins = _fitting(maps.sizes["y"] * maps.sizes["x"])
    how = _Estimate(estimator, bins, positions, shifts, seed)
    each = [_of_sample(how, *one) for one in _samples(maps, picture)]
    lead = [dim for dim in maps.dims if dim not in {"colour", "y", "x"}]
    shape = [maps.sizes[dim] for dim in lead]
    bits, chance = (np.concatenate([one[i] for one in each]).reshape(shape) for i in (0, 1))
    variables: dict[str, Any] = {
        "information": (lead, bits, {"units": "bit", "definition": PIXEL_ESTIMATORS[estimator]}),
        "chance": (lead, chance, {"units": "bit", "definition": "of the picture, shifted around at random"}),
    }
    if estimator == "binned":
        dims = [dim for dim in lead if dim == "sample"]
        known = np.reshape([one[2] for one in each], [maps.sizes[dim] for dim in dims])
        spread = np.broadcast_to(known.reshape((*known.shape, *[1] * (len(lead) - len(dims)))), bits.shape)
        share = np.divide(bits, spread, out=np.zeros_like(bits), where=spread > 0)
        variables["share"] = (lead, share, {"definition": "of the entropy of the picture's bins"})
        variables["entropy"] = (dims, known, {"units": "bit", "definition": "of the picture's bins"})
    coords = {name: c for name, c in maps.coords.items() if set(c.dims) <= set(lead)}
    settings = {"bins": bins} if estimator == "binned" else {"neighbours": _NEIGHBOURS}
    about: dict[str, Any] = {k: results.attrs[k] for k in ("method", "layer", "model") if k in results.attrs}
    about |= {"estimator": estimator, **settings, "shifts": shifts, "seed": seed}
    return xr.Dataset(variables, coords=coords, attrs=about)


def _fitting(count: int) -> int:
    """Give a number of bins for so many positions."""
    return min(_MOST_BINS, max(2, math.isqrt(count // _FOR_A_PAIR)))


def _projections(results: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Find the projections, (…, y, x) or (…, colour, y, x), and the pictures (…, y, x, band)."""
    name = next((name for name in _PROJECTIONS if name in results), None)
    if name is None:
        raise FmxError("These results hold no projections: give what fmx.project.deconv or attribute gave.")
    if "picture" not in results:
        raise FmxError("These are projections of arrays, and the information is about pictures: project pictures.")
    maps, picture = results[name], results["picture"]
    if not np.isfinite(maps.values).all():
        raise FmxError("The projections hold values that are not finite: choose other maps, or look at the picture.")
    found = picture.rename({f"input_{axis}": axis for axis in "yx" if f"input_{axis}" in picture.dims})
    dims = ["colour", "y", "x"] if "colour" in maps.dims else ["y", "x"]
    samples = ["sample"] if "sample" in maps.dims else []
    return maps.transpose(*samples, ..., *dims), found.transpose(*samples, "y", "x", "band")


def _samples(maps: xr.DataArray, picture: xr.DataArray) -> Iterator[tuple[Floats, Floats]]:
    """Give the projections (map, colour or 1, y, x) and the picture (colour or 1, y, x) of each sample."""
    coloured = "colour" in maps.dims
    for i in range(maps.sizes.get("sample", 1)):
        one = maps.isel(sample=i).values if "sample" in maps.dims else maps.values
        shown = picture.isel(sample=i).values if "sample" in picture.dims else picture.values
        inner = one.shape[-3:] if coloured else (1, *one.shape[-2:])
        bands = np.moveaxis(shown.astype(np.float64), -1, 0)
        if not coloured or len(bands) != inner[0]:
            bands = bands.mean(axis=0, keepdims=True)
        values = one.reshape(-1, *inner)
        # Of a picture whose colours differ from the projection's only the brightness is comparable.
        values = values if len(bands) == inner[0] else values.mean(axis=1, keepdims=True)
        yield values, np.stack([_reduced(band, inner[1:]) for band in bands])


def _reduced(band: Floats, shape: tuple[int, ...]) -> Floats:
    """Average a picture over areas, to the resolution of a coarser projection."""
    if band.shape == shape:
        return band
    small = Image.fromarray(band.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def _of_sample(how: _Estimate, maps: NDArray[Any], picture: Floats) -> tuple[Floats, Floats, float]:
    """Estimate it for all projections of a sample, on average over the colours."""
    count = picture[0].size
    fewest = _FEWEST_A_BIN * how.bins if how.estimator == "binned" else 2 * _NEIGHBOURS
    if count < fewest:
        raise FmxError(
            f"A projection of {picture.shape[1]}×{picture.shape[2]} has {count} positions, and this estimate needs "
            f"{fewest}: take fewer bins, or a layer with larger maps."
        )
    bits, chance, known = [], [], []
    for first in range(0, len(maps), _AT_ONCE):
        some = maps[first : first + _AT_ONCE].astype(np.float64)
        found = [how.of(some[:, colour], shown) for colour, shown in enumerate(picture)]
        bits.append(np.mean([one[0] for one in found], axis=0))
        chance.append(np.mean([one[1] for one in found], axis=0))
        known.append(float(np.mean([one[2] for one in found])))
    return np.concatenate(bits), np.concatenate(chance), known[0]
