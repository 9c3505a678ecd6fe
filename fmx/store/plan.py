"""What a store is to hold: settled before the first sample is run, and enough to make the whole hierarchy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmx.errors import StoreError, near_matches
from fmx.layers import LayerInfo
from fmx.store.encode import DEFAULT_CODEC
from fmx.store.schema import LEADING_DIMS, chunk_shape, layer_key, samples_per_chunk, split_units, unit_size

__all__ = ["DTYPES", "ArraySpec", "StorePlan"]

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array of the store that has an entry for every sample.

    Attributes
    ----------
    group : str
        Group in the store, such as ``layers/relu``.
    variable : str
    dims, shape : tuple
        All dims and the shape, sample first.
    dtype : str
        Of the values in the store.
    chunks : tuple of int
    codec : str
        One of `fmx.store.encode.CODECS`.
    precision : str
        ``bfloat16`` where float32 values are rounded to its 8 significant bits, else empty.
    counts : tuple of str
        Which unusual values are counted, of `fmx.store.schema.COUNTS`.
    attributes, group_attributes : mapping
    coordinates : mapping of str to array
        Coordinates of the group, by their dim.
    """

    group: str
    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    codec: str = DEFAULT_CODEC
    precision: str = ""
    counts: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    group_attributes: Mapping[str, Any] = field(default_factory=dict)
    coordinates: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Path of the array in the store."""
        return f"{self.group}/{self.variable}"

    @property
    def fill(self) -> float:
        """What was never written reads as not a number instead of as a silent zero, where there is one."""
        return float("nan") if np.dtype(self.dtype).kind == "f" else 0


@dataclass(frozen=True)
class StorePlan:
    """Everything about a store that is settled before the first sample is run.

    Attributes
    ----------
    samples, paths, labels : sequence of str
        One of each a sample.
    noise : sequence of float
    layers : sequence of LayerInfo
        As the model has them.
    attributes : mapping
        Provenance, as plain values.
    timesteps : int
        Of the input, and of every layer that `layer_timesteps` does not name.
    batch : int
        Samples that are run at once.
    picture : tuple of int or None
        (y, x, band) of the pictures kept beside the activations.
    outputs : mapping of str to (shape, dtype)
        The model's outputs that are kept.
    dtype : {"float32", "float16", "bfloat16"} or None
        What floating-point activations are stored as; None keeps each layer's own.
    codec : str or mapping of str to str
        Lossless compression, one of `fmx.store.encode.CODECS`, of everything or by what `arrays` calls it.
    channels : mapping of str to sequence of int
        Channels that are kept of a layer, by its name; all of them where it is not named.
    layer_timesteps : mapping of str to sequence of float
        Timesteps of a layer (or of all ``outputs``), in frames of the input, where they are not 0, 1, ….
    more_labels : mapping of str to sequence of int, float or str
        Further labels of the samples, such as ``epoch``.
    noise_words : str
        What a level on the noise axis means.
    """

    samples: Sequence[str]
    paths: Sequence[str]
    labels: Sequence[str]
    noise: Sequence[float]
    layers: Sequence[LayerInfo]
    attributes: Mapping[str, Any]
    timesteps: int = 1
    batch: int = 1
    picture: tuple[int, ...] | None = None
    outputs: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    dtype: str | None = None
    codec: str | Mapping[str, str] = DEFAULT_CODEC
    channels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    layer_timesteps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    more_labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    noise_words: str = "standard deviation of the added noise"

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise StoreError(f"Activations can't be stored as {self.dtype}: {near_matches(self.dtype, DTYPES)}")

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample with everything that is kept of it, before compression."""
        return sum(math.prod(s.shape[1:]) * np.dtype(s.dtype).itemsize for s in self._arrays(1).values())

    @property
    def unit(self) -> int:
        """Samples in a write unit."""
        return unit_size(self.sample_bytes, len(self.samples), self.batch)

    def units(self) -> list[range]:
        """List the units as ranges of sample positions."""
        return split_units(len(self.samples), self.unit)

    def arrays(self, unit: int | None = None) -> dict[str, ArraySpec]:
        """List the arrays by what fills them: a layer's name, ``inputs``, or ``outputs/<name>``."""
        return self._arrays(unit or self.unit)

    @property
    def shared_timesteps(self) -> bool:
        """Whether all arrays have the same timesteps, so that these stand at the root."""
        return not self.layer_timesteps

    def _arrays(self, unit: int) -> dict[str, ArraySpec]:
        specs = {layer.name: self._layer(layer, unit) for layer in self.layers}
        if self.picture is not None:
            specs["inputs"] = self._inputs(self.picture, unit)
        for name, (native, dtype) in self.outputs.items():
            specs[f"outputs/{name}"] = self._output(name, native, dtype, unit)
        return specs

    def _lead(self, key: str) -> tuple[int, int, int]:
        steps = self.layer_timesteps.get(key)
        return len(self.samples), len(self.noise), self.timesteps if steps is None else len(steps)

    def _coordinates(self, key: str) -> dict[str, Any]:
        if self.shared_timesteps:
            return {}
        steps = self.layer_timesteps.get(key, range(self.timesteps))
        return {"timestep": np.asarray(steps, dtype=np.float64)}

    def _codec(self, key: str) -> str:
        return self.codec if isinstance(self.codec, str) else self.codec.get(key, DEFAULT_CODEC)

    def _inputs(self, picture: tuple[int, ...], unit: int) -> ArraySpec:
        samples, _, steps = self._lead("inputs")
        return ArraySpec(
            group="inputs",
            variable="picture",
            dims=("sample", "timestep", "y", "x", "band"),
            shape=(samples, steps, *picture),
            dtype="uint8",
            chunks=(samples_per_chunk(math.prod(picture), unit), 1, *picture),
            codec=self._codec("inputs"),
            attributes={"long_name": "picture as the model sees it, before scaling and noise"},
            coordinates=self._coordinates("inputs"),
        )

    def _output(self, name: str, native: tuple[int, ...], dtype: str, unit: int) -> ArraySpec:
        key = layer_key(name)
        # Outputs share a group, so that axes of several outputs need names of their own.
        axes = tuple(f"{key}_{i}" for i in range(len(native)))
        if len(self.outputs) == 1 and len(native) == 1:
            axes = ("unit",)
        size = math.prod(native) * np.dtype(dtype).itemsize
        return ArraySpec(
            group="outputs",
            variable=key,
            dims=(*LEADING_DIMS, *axes),
            shape=(*self._lead("outputs"), *native),
            dtype=dtype,
            chunks=(samples_per_chunk(size, unit), 1, 1, *(max(n, 1) for n in native)),
            codec=self._codec(f"outputs/{name}"),
            coordinates=self._coordinates("outputs"),
        )

    def _layer(self, layer: LayerInfo, unit: int) -> ArraySpec:
        dtype, precision = self._stored(layer.dtype)
        kept = self.channels.get(layer.name)
        native = layer.shape
        coordinates = self._coordinates(layer.name)
        if "channel" in layer.dims:
            axis = layer.dims.index("channel")
            numbers = np.arange(native[axis]) if kept is None else np.asarray(kept, dtype=np.int64)
            native = (*native[:axis], len(numbers), *native[axis + 1 :])
            coordinates["channel"] = numbers
        about: dict[str, Any] = {"layer": layer.name, "kind": layer.kind, "native_shape": list(layer.shape)}
        long_name = {"long_name": f"activation of {layer.name}"}
        return ArraySpec(
            group=f"layers/{layer_key(layer.name)}",
            variable="activation",
            dims=(*LEADING_DIMS, *layer.dims),
            shape=(*self._lead(layer.name), *native),
            dtype=dtype,
            chunks=chunk_shape(layer.dims, native, np.dtype(dtype).itemsize, unit),
            codec=self._codec(layer.name),
            precision=precision,
            counts=self._counts(layer.dtype, dtype, precision),
            attributes=long_name | ({"precision": precision} if precision else {}),
            group_attributes=about,
            coordinates=coordinates,
        )

    def _stored(self, dtype: str) -> tuple[str, str]:
        """Give the type in the store, and the precision where it is less than the type's.

        Zarr has no bfloat16 that plain readers know. A float32 whose last 16 bits are zero holds the same values, and
        behind a byte shuffle the zeros take no room.
        """
        if self.dtype is None or np.dtype(dtype).kind != "f":
            return dtype, ""
        return ("float32", "bfloat16") if self.dtype == "bfloat16" else (self.dtype, "")

    @staticmethod
    def _counts(dtype: str, stored: str, precision: str) -> tuple[str, ...]:
        if np.dtype(dtype).kind != "f":
            return ()
        return ("nan", "inf", "overflow") if precision or stored != dtype else ("nan", "inf")
