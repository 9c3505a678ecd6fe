"""Noise that belongs to the sample: a function of (seed, sample id, timestep, level) and of nothing else.

Any batch size, any worker and any resumed run therefore draw the same noise, bit for bit.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError

__all__ = ["gaussian_noise", "noise_levels"]

_HIGHEST = 1e6


def noise_levels(levels: Iterable[float]) -> list[float]:
    """Order the levels of the noise axis: 0, the clean pass, always first, then rising, each once.

    Raises
    ------
    DataError
        A level is negative, not finite or beyond reason.
    """
    given = [float(level) for level in levels]
    bad = [level for level in given if not 0 <= level <= _HIGHEST]
    if bad:
        raise DataError(
            f"Noise levels are standard deviations from 0 to {_HIGHEST:g}, not {bad[0]:g}: give --noise 0,0.2,0.4."
        )
    return sorted({0.0, *given})


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
    packed = struct.pack("<qqd", seed, timestep, level) + sample.encode()
    key = int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest(), "little")
    generator = np.random.Generator(np.random.Philox(key=key))
    drawn = generator.standard_normal(tuple(shape), dtype=np.float32)
    drawn *= np.float32(level)
    return drawn
