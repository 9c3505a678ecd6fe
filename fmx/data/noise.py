"""Noise that belongs to the sample: a function of (seed, sample id, timestep, level) and of nothing else.

Any batch size, any worker and any resumed run therefore draw the same noise, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fmx.data.perturb.base import perturbation
from fmx.data.perturb.draw import generator

__all__ = ["gaussian_noise", "noise_levels"]


def noise_levels(levels: Iterable[float]) -> list[float]:
    """Order the levels of Gaussian noise: 0, the clean pass, always first, then rising, each once.

    Raises
    ------
    DataError
        A level is negative, not finite or beyond reason.
    """
    return perturbation("gaussian").levels(levels)


def gaussian_noise(shape: Sequence[int], *, seed: int, sample: str, timestep: int, level: float) -> NDArray[np.float32]:
    """Draw Gaussian noise of standard deviation `level` for one sample at one timestep.

    Parameters
    ----------
    shape : sequence of int
        Shape of the sample, without batch and timestep.
    seed : int
    sample : str
        Id of the sample.
    timestep : int
    level : float
        Standard deviation, in the units of what the noise is added to.

    Returns
    -------
    array of float32
        Drawn from a counter-based generator (Philox) keyed by the hash of all four.
    """
    drawn = generator(seed=seed, sample=sample, timestep=timestep, level=level).standard_normal(
        tuple(shape), dtype=np.float32
    )
    drawn *= np.float32(level)
    return drawn
