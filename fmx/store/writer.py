"""Writing a store unit by unit, in the background, from buffers of its own."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from fmx.errors import StoreError
from fmx.layers import LayerInfo
from fmx.store.schema import FORMAT, FORMAT_KEY, LEADING_DIMS, chunk_shape, layer_key, samples_per_chunk, unit_size

__all__ = ["ArraySpec", "StorePlan", "StoreWriter", "prepare_place"]


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
    chunks : tuple of int
    attributes, group_attributes : mapping
    """

    group: str
    variable: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    group_attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Path of the array in the store."""
        return f"{self.group}/{self.variable}"


@dataclass(frozen=True)
class StorePlan:
    """Everything about a store that is settled before the first sample is run.

    Attributes
    ----------
    samples, paths, labels : sequence of str
        One of each a sample.
    noise : sequence of float
    timesteps : int
    batch : int
        Samples that are run at once.
    layers : sequence of LayerInfo
    picture : tuple of int or None
        (y, x, band) of the pictures kept beside the activations.
    outputs : mapping of str to (shape, dtype)
        The model's outputs that are kept.
    attributes : mapping
        Provenance, as plain values.
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

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample with everything that is kept of it, before compression."""
        each = sum(layer.nbytes for layer in self.layers)
        each += sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.outputs.values())
        return (each * len(self.noise) + math.prod(self.picture or (0,))) * self.timesteps

    @property
    def unit(self) -> int:
        """Samples in a write unit."""
        return unit_size(self.sample_bytes, len(self.samples), self.batch)

    def units(self) -> list[range]:
        """List the units as ranges of sample positions."""
        total = len(self.samples)
        return [range(start, min(start + self.unit, total)) for start in range(0, total, self.unit)]

    def arrays(self) -> dict[str, ArraySpec]:
        """List the arrays by what fills them: a layer's name, ``inputs``, or ``outputs/<name>``."""
        lead = (len(self.samples), len(self.noise), self.timesteps)
        specs = {layer.name: self._layer(layer, lead) for layer in self.layers}
        if self.picture is not None:
            shape = (lead[0], lead[2], *self.picture)
            dims = ("sample", "timestep", "y", "x", "band")
            chunks = (samples_per_chunk(math.prod(self.picture), self.unit), 1, *self.picture)
            about = {"long_name": "picture as the model sees it, before scaling and noise"}
            specs["inputs"] = ArraySpec("inputs", "picture", dims, shape, "uint8", chunks, about)
        for name, (native, dtype) in self.outputs.items():
            specs[f"outputs/{name}"] = self._output(name, native, dtype, lead)
        return specs

    def _output(self, name: str, native: tuple[int, ...], dtype: str, lead: tuple[int, int, int]) -> ArraySpec:
        key = layer_key(name)
        # Outputs share a group, so that axes of several outputs need names of their own.
        axes = tuple(f"{key}_{i}" for i in range(len(native)))
        if len(self.outputs) == 1 and len(native) == 1:
            axes = ("unit",)
        size = math.prod(native) * np.dtype(dtype).itemsize
        chunks = (samples_per_chunk(size, self.unit), 1, 1, *native)
        return ArraySpec("outputs", key, (*LEADING_DIMS, *axes), (*lead, *native), dtype, chunks)

    def _layer(self, layer: LayerInfo, lead: tuple[int, int, int]) -> ArraySpec:
        chunks = chunk_shape(layer.dims, layer.shape, np.dtype(layer.dtype).itemsize, self.unit)
        about = {"layer": layer.name, "kind": layer.kind, "native_shape": list(layer.shape)}
        return ArraySpec(
            group=f"layers/{layer_key(layer.name)}",
            variable="activation",
            dims=(*LEADING_DIMS, *layer.dims),
            shape=(*lead, *layer.shape),
            dtype=layer.dtype,
            chunks=chunks,
            attributes={"long_name": f"activation of {layer.name}"},
            group_attributes=about,
        )


def prepare_place(path: Path, *, overwrite: bool) -> None:
    """See that a store can be made at `path`.

    Raises
    ------
    StoreError
        Something is there already, and is not a store or may not be overwritten.
    """
    if "://" in str(path) or str(path).startswith("s3:/"):
        raise StoreError(f"{path} is an address, and stores are folders: give a path with -o.")
    if not path.exists():
        return
    is_store = path.is_dir() and is_fmx_store(path)
    if not is_store and not (path.is_dir() and not any(path.iterdir())):
        raise StoreError(f"{path} is there and is no fmx store: choose another name with -o.")
    if is_store and not overwrite:
        raise StoreError(f"{path} is there already: choose another name with -o, or add --overwrite to replace it.")


def is_fmx_store(path: Path) -> bool:
    """Say whether a folder holds an fmx store, whole or not."""
    try:
        return FORMAT_KEY in zarr.open_group(path, mode="r").attrs
    except (FileNotFoundError, KeyError, ValueError):
        return False


@contextmanager
def _written_to(path: Path) -> Iterator[None]:
    """Turn what the system says about writing into a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} can't be written ({error.strerror or error}): choose another place.") from error


def _consolidate(path: Path) -> None:
    """Gather all metadata in one place, without which xarray opens a store slowly and with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


class StoreWriter:
    """Makes a store and fills it; a context manager that waits for the last write.

    Blocks are copied into the buffer of their unit; full units are written by a thread while the next one fills, so
    that at most two units are in memory.
    """

    def __init__(self, path: Path, plan: StorePlan, *, overwrite: bool = False) -> None:
        prepare_place(path, overwrite=overwrite)
        self.path = path
        self.plan = plan
        self._specs = plan.arrays()
        with _written_to(path):
            self._create_all(overwrite)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fmx-write")
        self._pending: Future[None] | None = None
        self._buffers: dict[str, NDArray[Any]] = {}
        self._spare: list[dict[str, NDArray[Any]]] = []

    def _create_all(self, overwrite: bool) -> None:
        """Make the whole hierarchy, with nothing in it but the labels.

        What is to be replaced stays until all of the new store is there.
        """
        self._place = self.path
        if overwrite and self.path.exists():
            self._place = self.path.with_name(f".{self.path.name}.new")
            shutil.rmtree(self._place, ignore_errors=True)
        about = {
            FORMAT_KEY: FORMAT,
            **self.plan.attributes,
            "completeness": "partial",
            # xarray's mark for what labels the axes without being an axis itself.
            "coordinates": "path label complete",
        }
        self._root = zarr.create_group(self._place, zarr_format=3, attributes=about)
        self._write_labels()
        self._arrays = {key: self._create(spec) for key, spec in self._specs.items()}
        _consolidate(self._place)

    def start_unit(self) -> None:
        """Take a buffer for the next unit."""
        self._buffers = self._spare.pop() if self._spare else self._new_buffers()

    def put(
        self, key: str, samples: slice, block: NDArray[Any], *, noise: int | None = None, timestep: int = 0
    ) -> None:
        """Copy a block (sample, …native) into the unit, at positions relative to its start."""
        if noise is None:
            self._buffers[key][samples, timestep] = block
        else:
            self._buffers[key][samples, noise, timestep] = block

    def finish_unit(self, unit: range) -> None:
        """Hand the full unit to the writing thread; waits while the one before is still being written."""
        self._wait()
        buffers, self._buffers = self._buffers, {}
        self._pending = self._thread.submit(self._write, unit, buffers)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _new_buffers(self) -> dict[str, NDArray[Any]]:
        return {key: np.empty((self.plan.unit, *s.shape[1:]), s.dtype) for key, s in self._specs.items()}

    def _write(self, unit: range, buffers: dict[str, NDArray[Any]]) -> None:
        region = slice(unit.start, unit.stop)
        with _written_to(self.path):
            for key, buffer in buffers.items():
                self._arrays[key][region] = buffer[: len(unit)]
            self._complete[region] = True
        self._spare.append(buffers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
                with _written_to(self.path):
                    self._root.attrs["completeness"] = "complete"
                    _consolidate(self._place)
                    self._take_place()
        finally:
            self._thread.shutdown()
            if self._place != self.path:
                shutil.rmtree(self._place, ignore_errors=True)

    def _take_place(self) -> None:
        """Put the finished store where the one that it replaces is."""
        if self._place != self.path:
            shutil.rmtree(self.path.resolve())
            self._place.rename(self.path.resolve())
            self._place = self.path

    # -- making the hierarchy ----------------------------------------------------------------------

    def _write_labels(self) -> None:
        plan = self.plan
        self._label("sample", np.asarray(plan.samples, dtype=object), "sample", str)
        self._label("path", np.asarray(plan.paths, dtype=object), "sample", str)
        self._label("label", np.asarray(plan.labels, dtype=object), "sample", str)
        noise = np.asarray(plan.noise, dtype=np.float64)
        self._label("noise", noise, "noise", "float64", {"long_name": "standard deviation of the added noise"})
        self._label("timestep", np.arange(plan.timesteps), "timestep", "int64")
        self._complete = self._root.create_array(
            "complete",
            shape=(len(plan.samples),),
            dtype="bool",
            chunks=(plan.unit,),
            dimension_names=("sample",),
            attributes={"long_name": "everything of this sample is in the store"},
        )

    def _label(self, name: str, values: Any, dim: str, dtype: Any, about: Mapping[str, Any] | None = None) -> None:
        made = self._root.create_array(
            name,
            shape=(len(values),),
            dtype=dtype,
            chunks=(max(len(values), 1),),
            dimension_names=(dim,),
            attributes=dict(about or {}),
        )
        made[:] = values

    def _create(self, spec: ArraySpec) -> Any:
        group = self._root.require_group(spec.group)
        group.attrs.update(spec.group_attributes)
        if "channel" in spec.dims:
            channels = spec.shape[spec.dims.index("channel")]
            made = group.create_array(
                "channel", shape=(channels,), dtype="int64", chunks=(channels,), dimension_names=("channel",)
            )
            made[:] = np.arange(channels)
        return group.create_array(
            spec.variable,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            compressors=[BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"), Crc32cCodec()],
            # What was never written reads as not a number instead of as a silent zero.
            fill_value=float("nan") if np.dtype(spec.dtype).kind == "f" else 0,
            dimension_names=spec.dims,
            attributes=dict(spec.attributes),
        )
