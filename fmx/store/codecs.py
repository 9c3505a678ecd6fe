"""Which lossless compression suits each array, by measuring how small its first values become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.store.chunks import Chunker
from fmx.store.encode import CODECS, Encoder, codec_metadata
from fmx.store.layout import StoredArray
from fmx.store.plan import ArraySpec, StorePlan

__all__ = ["DISK_RATE", "NETWORK_RATE", "choose_codecs", "encoded_ratio"]

# Bytes a second that this machine's disk takes, and what is reached over a network. These and the seconds of one core a
# byte, measured on ReLU maps of a ResNet-18, stand here and are not measured anew in each run, so that the same command
# always makes the same store.
DISK_RATE = 500e6
NETWORK_RATE = 200e6
_SECONDS_PER_BYTE = {"none": 0.04e-9, "lz4-plain": 0.37e-9, "lz4": 0.73e-9, "lz4-bits": 0.69e-9, "zstd": 1.98e-9}


def choose_codecs(
    plan: StorePlan, blocks: Mapping[str, NDArray[Any]], *, disk_rate: float = DISK_RATE
) -> dict[str, str]:
    """Choose the codec of each array that takes the least time to compress and to write.

    The time is that of one core for compressing, which depends on the codec, and that of the disk for what is left,
    which depends on the values: what a codec makes of the first chunk is measured.

    Parameters
    ----------
    plan : StorePlan
    blocks : mapping of str to array (row, …native)
        First blocks by what `StorePlan.arrays` calls them; what is missing keeps the usual codec.
    disk_rate : float
        Bytes a second that the disk or the network takes.

    Returns
    -------
    dict of str to str
        Names from `fmx.store.encode.CODECS`, for `StorePlan.codec`.
    """
    arrays = plan.arrays()
    chosen = {}
    for key, block in blocks.items():
        chunk = _first_chunk(key, arrays[key], plan.channels.get(key), block)
        times = {name: _SECONDS_PER_BYTE[name] + encoded_ratio(name, chunk) / disk_rate for name in CODECS}
        chosen[key] = min(times, key=lambda name: times[name])
    return chosen


def encoded_ratio(codec: str, chunk: NDArray[Any]) -> float:
    """Give the size of an encoded chunk as a part of its size before."""
    encoder = Encoder.of([{"name": "bytes"}, *codec_metadata(codec, chunk.itemsize)])
    return sum(len(part) for part in encoder.encode(chunk)) / max(chunk.nbytes, 1)


def _first_chunk(key: str, spec: ArraySpec, kept: Any, block: NDArray[Any]) -> NDArray[Any]:
    """Make the first chunk as it would be in the store, without what would only fill it up."""
    steps = spec.shape[spec.dims.index("timestep")]
    samples = max(min(len(block) // steps, spec.chunks[0]), 1)
    codecs = ({"name": "bytes"}, *codec_metadata("none", np.dtype(spec.dtype).itemsize))
    array = StoredArray(
        spec.path, spec.dims, spec.shape, spec.chunks, np.dtype(spec.dtype), codecs, spec.fill, spec.precision
    )
    array = replace(array, chunks=(samples, *spec.chunks[1:]))
    chunker = Chunker(key, array, None if kept is None else np.asarray(kept), counted=False)
    piece = next(chunker.pieces(slice(0, len(block)), block, 0))
    return chunker.chunk(piece.values, 0)[0]
