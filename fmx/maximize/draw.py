"""Random numbers that belong to a picture: a function of seed, key, attempt and purpose, and of nothing else."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import torch

__all__ = ["Draw"]


@dataclass(frozen=True)
class Draw:
    """What a picture's random numbers depend on, so that no batch and no other picture changes them.

    Attributes
    ----------
    seed : int
    key : str
        What the picture is of, such as ``layer3:5`` and its number where there are several.
    attempt : int
        How often it was begun anew.
    """

    seed: int
    key: str
    attempt: int = 0

    def generator(self, purpose: str) -> torch.Generator:
        """Give a generator for one purpose."""
        packed = struct.pack("<qq", self.seed, self.attempt) + self.key.encode()
        digest = hashlib.blake2b(packed, digest_size=8, person=purpose.encode()[:16]).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
