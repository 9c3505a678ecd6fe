"""Histograms and empirical distributions of activations, for any combination of labels, in one read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from fmx.analyze.not_finite import check_nan, without_spoiled
from fmx.analyze.parts import check_complete
from fmx.analyze.store_reduce import summarise
from fmx.errors import FmxError
from fmx.reduce import EdgeHistogram, Histogram, LogHistogram
from fmx.store import Store

__all__ = ["hist"]

_ABOUT = {
    "counts": "finite values in the bin; a bin holds its left edge{last}",
    "log counts": "finite values in the bin; a bin holds the edge nearer to 0, the one between two zeros the zeros",
    "edges": "edges of the bins",
    "cdf": "share of the finite values that lie below the edge: exact",
    "log cdf": "share of the finite values below the edge, for edges above 0, and of at most the edge, for those "
    "below; 0 is there twice, before and behind the zeros: exact",
    "count": "finite values",
    "under": "finite values below the first edge",
    "over": "finite values above the last edge",
    "nan": "values that are not a number",
    "inf": "values that are infinite",
}
_MOST_OCTAVES = 24


def hist(
    store: Store,
    *,
    layers: str | Iterable[str] = "all",
    by: str | Sequence[str] = (),
    bins: int = 64,
    log: bool = False,
    value_range: tuple[float, float] | None = None,
    edges: Sequence[float] | None = None,
    nan: str = "skip",
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Count values in bins, and give their empirical distribution at the bins' edges.

    The range is found in the same read if none is given: of bins of equal width see `fmx.reduce.Histogram`, whose last
    bins may lie behind the largest value; logarithmic bins are powers of two and parts of them on either side of 0 (see
    `fmx.reduce.LogHistogram`).

    Parameters
    ----------
    store : Store
    layers : str or iterable of str
    by : str or sequence of str
        Dims to keep apart; ``label`` for the samples of each label.
    bins : int
        Up to 1024. With `log` and no range: as many as the bins of 24 powers of two of either sign, at least.
    log : bool
        Bins whose edges have the same ratio (with a range), or that are parts of powers of two (without).
    value_range : (float, float), optional
    edges : sequence of float, optional
        Instead of `bins`, `log` and `value_range`.
    nan : str
        ``skip`` gives shares of the finite values; ``keep`` makes a distribution NaN that has others too. Counts are of
        the finite values in any case.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: counts (*by, bin), edges and cdf (*by, edge), count, nan and inf (*by); with given edges also
        under and over. Empty bins at both ends that are empty for all labels are left out of logarithmic histograms.

    Raises
    ------
    FmxError
        Numbers of bins, ranges or edges that can't be; no such layer, dim or labels; an unfinished store.
    """
    check_nan(nan)
    check_complete(store, allow_partial)
    reducer = _reducer(bins, log, value_range, edges)
    found = summarise(store, {"hist": reducer}, layers=layers, by=by, states=True)
    return {name: without_spoiled(_described(states, reducer), nan, but=("edges",)) for name, states in found.items()}


def _reducer(
    bins: int, log: bool, value_range: tuple[float, float] | None, edges: Sequence[float] | None
) -> Histogram | LogHistogram | EdgeHistogram:
    try:
        if edges is not None:
            return EdgeHistogram(edges)
        if not 1 <= bins <= 1024:
            raise ValueError(f"a histogram has 1 to 1024 bins, not {bins}")
        if value_range is not None:
            return EdgeHistogram.log(*value_range, bins) if log else EdgeHistogram.linear(*value_range, bins)
        if not log:
            return Histogram(bins)
        cells = 1
        while 2 * cells * _MOST_OCTAVES < bins:
            cells *= 2
        return LogHistogram(cells, _MOST_OCTAVES)
    except ValueError as error:
        raise FmxError(f"{error}: correct --bins or --range.") from error


def _described(states: xr.Dataset, reducer: Histogram | LogHistogram | EdgeHistogram) -> xr.Dataset:
    dims, entries = states["hist"].dims, states["hist"].values
    results = reducer.finalize(entries)
    counts, edges = results["counts"], results["edges"]
    log = isinstance(reducer, LogHistogram)
    if log:
        used = np.flatnonzero(counts.reshape(-1, counts.shape[-1]).any(axis=0))
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        counts, edges = counts[..., low:high], edges[..., low : high + 1]
    under = results.get("under", np.zeros(entries.shape, np.int64))
    count = counts.sum(axis=-1) + under + results.get("over", 0)
    below = np.concatenate([np.zeros((*entries.shape, 1)), np.cumsum(counts, axis=-1)], axis=-1) + under[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        cdf = below / np.where(count > 0, count, np.nan)[..., None]
    found = {"counts": counts, "edges": edges, "cdf": cdf, "count": count}
    found |= {name: results[name] for name in ("under", "over", "nan", "inf") if name in results}
    extra = {"counts": ("bin",), "edges": ("edge",), "cdf": ("edge",)}
    last = ", the last bin both of its edges" if isinstance(reducer, EdgeHistogram) else ""
    variables = {}
    for name, values in found.items():
        about = _ABOUT[f"log {name}" if log and f"log {name}" in _ABOUT else name].format(last=last)
        variables[name] = ((*dims, *extra.get(name, ())), values, {"definition": about})
    return xr.Dataset(variables, coords=states.coords, attrs=states.attrs)
