"""Format 1 of the store: what is where, under which name, and in which chunks.

A store is a Zarr v3 hierarchy that ``xr.open_datatree(path, engine="zarr")`` opens without fmx:

- root: the coordinates ``sample``, ``noise`` and ``timestep``; ``path``, ``label``, ``complete`` and further labels
  along ``sample``; attributes that say how the values came about;
- ``layers/<key>``: ``activation`` with dims (sample, noise, timestep, …native) and its native coordinates;
  ``channel`` numbers the layer's channels, some of which may have been left out;
- ``inputs``: ``picture``, the preprocessed pictures (sample, timestep, y, x, band) as uint8;
- ``outputs``: the model's outputs, where asked for; ``analysis/<name>``: saved results.

Where layers have timesteps of their own, ``timestep`` stands in each group instead of at the root, in frames of the
input.

**Values** are stored in each layer's own type, or in the one that was asked for. ``bfloat16``, which Zarr's readers
don't know, is stored as float32 rounded to bfloat16's precision; the array's attribute ``precision`` says so.
``nan``, ``inf`` and ``overflow`` (sample, noise) beside an activation count its values that are not finite, and those
that became infinite when they were stored; where they hold only zeros, nothing of them is written.

**Units.** The samples are written in units: the same number of samples in every array, and a whole number of chunks
in each. ``complete`` has one chunk a unit and is written after everything else of that unit, so that a unit counts as
done only when all of it is there, without two writers ever touching the same chunk. A chunk of ``complete`` exists if
and only if its unit is done. The root's attribute ``completeness`` becomes ``complete`` when all are.

**Chunks** hold little-endian numbers, compressed by Blosc (or not at all), with a CRC-32C at the end. Every chunk of
a unit is written, also one that holds only fill values: the attribute ``every_chunk_is_written`` says that what is
missing is a loss. Older stores of format 1 lack it, the counts, and checksums of labels.

**The root's metadata** holds that of everything below it (consolidated metadata), is written last when a store is
made and in one piece when anything changes: it alone decides what a reader sees. An array's own ``zarr.json`` may be
ahead of it while an append is being finished.

Names that begin with ``.fmx-`` are no part of the hierarchy: ``.fmx-making`` while a store is being made,
``.fmx-lock`` while it is being written, ``.fmx-append/`` while something is added, ``.fmx-partial-…`` for writes in
progress.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import quote

__all__ = [
    "APPENDING",
    "COUNTS",
    "EVERY_CHUNK",
    "FORMAT",
    "FORMAT_KEY",
    "LEADING_DIMS",
    "LOCK",
    "MAKING",
    "PARTIAL",
    "ROOT",
    "SAMPLE_LABELS",
    "chunk_shape",
    "layer_key",
    "samples_per_chunk",
    "split_units",
    "unit_size",
]

FORMAT = 1
FORMAT_KEY = "fmx_format"
LEADING_DIMS = ("sample", "noise", "timestep")
SAMPLE_LABELS = ("sample", "path", "label")
ROOT = "zarr.json"
# Attribute of stores in which a missing chunk is a loss, as every chunk is written.
EVERY_CHUNK = "every_chunk_is_written"
LOCK = ".fmx-lock"
MAKING = ".fmx-making"
APPENDING = ".fmx-append"
PARTIAL = ".fmx-partial-"
COUNTS = {
    "nan": "values that are not a number",
    "inf": "infinite values",
    "overflow": "values too large for the type they are stored as; they are infinite in the store",
}

CHUNK_BYTES = 2 * 2**20
UNIT_BYTES = 64 * 2**20
MOST_UNIT_BYTES = 256 * 2**20
MOST_UNIT_SAMPLES = 512


def layer_key(name: str) -> str:
    """Turn a layer's name into its group's: letters, digits, ``.``, ``-`` and ``_`` stay, the rest is quoted.

    A group can't be called as an axis that it inherits, so that the first letter of such a name is quoted, too.
    """
    return f"%{ord(name[0]):02X}{name[1:]}" if name in LEADING_DIMS else quote(name, safe="")


def _power_of_two_above(value: int) -> int:
    return 1 << (max(value, 1) - 1).bit_length()


def _power_of_two_below(value: float) -> int:
    return 1 << max(int(math.log2(max(value, 1))), 0)


def unit_size(sample_bytes: int, samples: int, batch: int = 1) -> int:
    """Choose how many samples are written together: a power of two.

    A unit takes about `UNIT_BYTES`; it grows up to `MOST_UNIT_BYTES` to hold a whole batch, which can't cross units.

    Parameters
    ----------
    sample_bytes : int
        Bytes of one sample over all layers, noise levels and timesteps.
    samples : int
        Number of samples in all.
    batch : int
        Samples that the model runs at once.
    """
    usual, most = (_power_of_two_below(size / max(sample_bytes, 1)) for size in (UNIT_BYTES, MOST_UNIT_BYTES))
    fits = max(usual, min(_power_of_two_above(batch), most))
    return min(fits, _power_of_two_above(samples), MOST_UNIT_SAMPLES)


def split_units(samples: int, unit: int) -> list[range]:
    """List the units of so many samples as ranges of positions; the last may be shorter."""
    return [range(start, min(start + unit, samples)) for start in range(0, samples, unit)]


def samples_per_chunk(sample_bytes: int, unit: int) -> int:
    """Choose how many whole samples make a chunk of about `CHUNK_BYTES`: a power of two within a unit."""
    return min(_power_of_two_below(CHUNK_BYTES / max(sample_bytes, 1)), unit)


def chunk_shape(
    dims: Sequence[str], shape: Sequence[int], itemsize: int, unit: int, *, chunk_bytes: int | None = None
) -> tuple[int, ...]:
    """Choose a layer's chunks so that one channel of many samples and all channels of one sample both read little.

    Parameters
    ----------
    dims, shape : sequence
        Native dims and shape of the layer.
    itemsize : int
        Bytes of a value.
    unit : int
        Samples in a write unit; the chunk's length along sample divides it.
    chunk_bytes : int, optional
        Bytes that a chunk should have (default: `CHUNK_BYTES`).

    Returns
    -------
    tuple of int
        (sample, 1, 1, …native)
    """
    channels = shape[dims.index("channel")] if "channel" in dims else 1
    map_bytes = itemsize * math.prod(shape) // max(channels, 1)
    maps = max((chunk_bytes or CHUNK_BYTES) // max(map_bytes, 1), 1)
    # As many samples as channels, as far as there are that many channels.
    samples = min(_power_of_two_below(max(math.sqrt(maps), maps / max(channels, 1))), unit)
    per_chunk = min(max(maps // samples, 1), channels)
    even = math.ceil(channels / math.ceil(channels / per_chunk)) if channels else 1
    native = [even if d == "channel" else n for d, n in zip(dims, shape, strict=True)]
    return (samples, 1, 1, *(max(n, 1) for n in native))
