"""How a chunk becomes bytes: little-endian numbers, compressed without loss, with a checksum at the end.

Chunks are encoded here and not by zarr's own pipeline, which costs several times as much processor time for the same
bytes (see `fmx.store.unit_writer`). What is written is plain Zarr v3: the codecs stand in each array's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from fmx.errors import StoreError, near_matches

__all__ = ["CODECS", "DEFAULT_CODEC", "Encoder", "codec_metadata"]

DEFAULT_CODEC = "lz4"
# Names for the user, and what they mean for Blosc.
CODECS: Mapping[str, Mapping[str, Any] | None] = {
    "none": None,
    "lz4-plain": {"cname": "lz4", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0},
    "lz4": {"cname": "lz4", "clevel": 1, "shuffle": "shuffle", "blocksize": 0},
    "lz4-bits": {"cname": "lz4", "clevel": 1, "shuffle": "bitshuffle", "blocksize": 0},
    "zstd": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 2**18},
}
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


def codec_metadata(name: str, itemsize: int) -> list[dict[str, Any]]:
    """Give the codecs of a name as Zarr's metadata has them, after the one that makes bytes.

    Raises
    ------
    StoreError
        There is no such codec.
    """
    if name not in CODECS:
        raise StoreError(f"There is no codec {name}: {near_matches(name, CODECS)}")
    settings = CODECS[name]
    checksum = {"name": "crc32c"}
    if settings is None:
        return [checksum]
    return [{"name": "blosc", "configuration": {**settings, "typesize": itemsize}}, checksum]


@dataclass(frozen=True)
class Encoder:
    """Encodes chunks of an array.

    Attributes
    ----------
    blosc : mapping or None
        Blosc's settings; None stores the numbers as they are.
    """

    blosc: Mapping[str, Any] | None

    @classmethod
    def of(cls, codecs: Sequence[Mapping[str, Any]]) -> Encoder:
        """Read the codecs in an array's metadata.

        Raises
        ------
        StoreError
            They are none of fmx's.
        """
        names = [codec["name"] for codec in codecs]
        if names not in (["bytes", "crc32c"], ["bytes", "blosc", "crc32c"]):
            raise StoreError(f"The store has arrays with codecs {', '.join(names)}, which fmx can't write.")
        return cls(codecs[1]["configuration"] if len(names) == 3 else None)

    def encode(self, chunk: NDArray[Any]) -> tuple[bytes | NDArray[np.uint8], bytes]:
        """Encode a contiguous chunk; the second part is the checksum of the first."""
        data = chunk.reshape(-1).view(np.uint8) if self.blosc is None else self._compress(chunk)
        return data, int(google_crc32c.value(data)).to_bytes(4, "little")

    def decode(self, data: bytes, nbytes: int) -> bytes:
        """Decode a chunk that has so many bytes.

        Raises
        ------
        ValueError
            It is not what was encoded; says what is wrong with it.
        """
        if len(data) < self._encoded_size(data, nbytes):
            raise ValueError("truncated")
        payload = data[:-4]
        if int(google_crc32c.value(payload)).to_bytes(4, "little") != data[-4:]:
            raise ValueError("altered")
        decoded = payload if self.blosc is None else bytes(_blosc("lz4", 1, "shuffle", 1, 0).decode(payload))
        if len(decoded) != nbytes:
            raise ValueError(f"of {len(decoded)} bytes where {nbytes} belong")
        return decoded

    def _encoded_size(self, data: bytes, nbytes: int) -> int:
        """Give the size that a whole chunk has; Blosc says it in its head."""
        if self.blosc is None:
            return nbytes + 4
        return int.from_bytes(data[12:16], "little") + 4 if len(data) >= 16 else 20

    def _compress(self, chunk: NDArray[Any]) -> bytes:
        assert self.blosc is not None
        settings = self.blosc
        made = _blosc(
            settings["cname"],
            settings["clevel"],
            settings["shuffle"],
            settings.get("typesize", chunk.itemsize),
            settings.get("blocksize", 0),
        )
        encoded: bytes = made.encode(chunk)
        return encoded


@lru_cache
def _blosc(cname: str, clevel: int, shuffle: str, typesize: int, blocksize: int) -> Blosc:
    return Blosc(cname=cname, clevel=clevel, shuffle=_SHUFFLES[shuffle], typesize=typesize, blocksize=blocksize)
