"""Random numbers that belong to a sample: a function of (seed, sample id, timestep, level) and of nothing else."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

__all__ = ["generator"]


def generator(*, seed: int, sample: str, timestep: int, level: float, kind: str = "") -> np.random.Generator:
    """Give a counter-based generator (Philox) keyed by the hash of all of these.

    Parameters
    ----------
    seed : int
    sample : str
        Id of the sample.
    timestep : int
    level : float
    kind : str
        What is drawn; empty for Gaussian noise.
    """
    packed = struct.pack("<qqd", seed, timestep, level) + sample.encode()
    key = hashlib.blake2b(packed, digest_size=16, person=kind.encode()[:16]).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
