"""Non-negative factors of a layer's channels, learnt from points that are drawn while it is read."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask import delayed
from numpy.typing import NDArray

from fmx.analyze.channel_moments import blocks, sample_means
from fmx.analyze.sample_table import SampleTable
from fmx.errors import FmxError

__all__ = ["Factors", "lazy_factors"]

Floats = NDArray[np.float64]

# The points that are learnt from take no more.
MOST_BYTES = 64 * 2**20
# scikit-learn's own 1024 needs more passes over the points.
_BATCH = 256
# What is warned of is settled for all threads of a process at once.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Factors:
    """What a non-negative factorization found.

    Attributes
    ----------
    components : array (component, channel)
    coordinates : array (sample, component)
        Of each sample's mean over timesteps and positions.
    nan, inf : array (sample,) of int64
        Values that were not finite.
    clipped, points : int
        Negative values that were taken as 0, and points that were learnt from.
    error : float
        Length of what the means of the samples differ by from what the factors make of them, relative to their length.
    """

    components: Floats
    coordinates: Floats
    nan: NDArray[np.int64]
    inf: NDArray[np.int64]
    clipped: int
    points: int
    error: float


def lazy_factors(table: SampleTable, components: int, *, clip: bool, points: int, seed: int) -> Any:
    """Give a layer's factors (`Factors`) as a lazy value.

    Parameters
    ----------
    table : SampleTable
    components : int
    clip : bool
        Take negative values as 0; else they are an error.
    points : int
        About how many points (a position of a sample at a timestep) are drawn; fewer where they take over 64 MiB.
    seed : int
    """
    return delayed(_factors, pure=False)(table, min(components, table.channels), clip, points, seed)


def _factors(table: SampleTable, components: int, clip: bool, points: int, seed: int) -> Factors:
    from sklearn.decomposition import MiniBatchNMF

    there = max(len(table.rows) * table.shape[2] * table.positions, 1)
    share = min(points, MOST_BYTES // (8 * table.channels)) / there
    rng = np.random.default_rng(seed)
    means, drawn, nans, infs, clipped = [], [], [], [], 0
    for steps, nan, inf in blocks(table):
        good = (nan + inf) == 0
        for i, step in enumerate(steps):
            negative = int((step[good] < 0).sum())
            if negative and not clip:
                raise FmxError(
                    f"{table.layer} has negative values, which non-negative factors can't make up: take them as 0 with "
                    "--clip, or decompose the layer by --method pca."
                )
            clipped += negative
            steps[i] = np.maximum(step, 0)
            flat = steps[i][good].swapaxes(1, 2).reshape(-1, step.shape[1])
            drawn.append(flat[rng.random(len(flat)) < share].astype(np.float64))
        means.append(sample_means(steps, good))
        nans.append(nan)
        infs.append(inf)
    learnt, whole = np.concatenate(drawn), np.concatenate(means)
    if len(learnt) < components or not learnt.any():
        raise FmxError(f"{table.layer} has too few points that are not 0 for {components} factors: ask for fewer.")
    # The start that scikit-learn computes has no more components than there are points and channels.
    model = MiniBatchNMF(components, init="nndsvda", random_state=seed, batch_size=_BATCH)
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: the error says how good it is
        found = model.fit(learnt).transform(whole)
    length = np.linalg.norm(whole)
    error = float(np.linalg.norm(whole - found @ model.components_) / length) if length else 0.0
    parts = np.asarray(model.components_, np.float64), np.asarray(found, np.float64)
    return Factors(*parts, np.concatenate(nans), np.concatenate(infs), clipped, len(learnt), error)
