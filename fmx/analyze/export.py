"""Writing results and activations to files that other programs read, some samples at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr

from fmx.errors import FmxError, near_matches
from fmx.file_names import file_name, unused_name
from fmx.store import Store

__all__ = ["FORMATS", "export_activations", "export_results", "tables_of"]

FORMATS = ("csv", "parquet", "npy", "h5")
# As much is in memory at once, of values as they are stored; tables of them take several times as much.
PART_BYTES = 8 * 2**20


def export_results(
    results: Mapping[str, xr.Dataset], folder: str | Path, *, format: str = "csv", store: Store | None = None
) -> list[Path]:
    """Write results to one file for each layer, and for each noise level where they are maps or values of samples.

    Files are called after layers as pictures are (see `fmx.file_names`): those of ``relu:2`` begin with ``relu-2``.
    Tables (csv, parquet) have a row for each combination of labels; variables with axes of their own that the others
    have not get a file of their own, ``<layer>.<axes>.<format>``. ``.h5`` files hold variables and labels by name.
    ``.npy`` files hold one variable, ``<layer>.<variable>.npy`` if there are several.

    Parameters
    ----------
    results : mapping of str to xarray.Dataset
        By layer, in memory or lazy: lazy ones are computed and written some samples at a time.
    folder : str or path
        Made if it is not there.
    format : str
        csv, parquet, npy or h5.
    store : Store, optional
        That lazy results come from, for what is said if it is damaged.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    FmxError
        No such format, or the folder can't be written.
    """
    if format not in FORMATS:
        raise FmxError(f"Nothing is written as {format}: {near_matches(format, FORMATS)}")
    folder, files, taken = Path(folder), [], set[str]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for layer, dataset in results.items():
            stem = unused_name(taken, file_name(layer) or "layer")
            for name, part in _by_noise(stem, dataset):
                files += _write(part, folder / name, format, store)
    except OSError as error:
        raise FmxError(
            f"{folder} can't be written ({error.strerror or error}): choose another folder with -o."
        ) from error
    return files


def export_activations(
    store: Store,
    folder: str | Path,
    *,
    format: str = "npy",
    layers: str = "all",
    noise: float | None = None,
) -> list[Path]:
    """Write activations of layers to one file for each layer and noise level, some samples at a time.

    Parameters
    ----------
    store : Store
    folder : str or path
    format : str
        csv and parquet have a row for each value and are large.
    layers : str
    noise : float, optional
        Level; all of them where left out.

    Returns
    -------
    list of Path
        The files.
    """
    from fmx.analyze.parts import find_level

    level = None if noise is None else find_level(store, noise)
    chosen = {}
    for info in store.select(layers):
        data = store.layer(info.name)
        chosen[info.name] = data if level is None else data.isel(noise=[level])
    return export_results(chosen, folder, format=format, store=store)


def tables_of(dataset: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Make tables of a dataset: one for the variables of each set of axes that is no part of another set.

    Returns
    -------
    dict of str to pandas.DataFrame
        By the axes' names; labels and variables are columns. Variables of fewer axes are repeated in the first table
        that has all of theirs.
    """
    sets: list[tuple[str, ...]] = []
    for variable in sorted(dataset.data_vars.values(), key=lambda v: -v.ndim):
        dims = tuple(str(dim) for dim in variable.dims)
        if not any(set(dims) <= set(other) for other in sets):
            sets.append(dims)
    found: dict[str, pd.DataFrame] = {}
    taken: set[str] = set()
    for dims in sets:
        own = [n for n, v in dataset.data_vars.items() if set(v.dims) <= set(dims) and n not in taken]
        taken |= {str(name) for name in own}
        found["-".join(dims)] = _frame(dataset[own], dims)
    return found


def _frame(part: xr.Dataset, dims: tuple[str, ...]) -> pd.DataFrame:
    plain = part.reset_coords([c for c in part.coords if c not in part.dims], drop=True)
    # Labels that a result has of its own, such as the label of a sample, win over those of the store.
    if not dims:
        return pd.DataFrame([{str(name): plain[name].item() for name in plain.data_vars}])
    return plain.to_dataframe(dim_order=dims).reset_index()


def _by_noise(name: str, dataset: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    if "noise" not in dataset.dims or not {"sample", "y", "x"} & set(dataset.dims):
        yield name, dataset
        return
    for level in dataset["noise"].values:
        yield f"{name}_noise{level:g}", dataset.sel(noise=[level])


def _parts(dataset: xr.Dataset, store: Store | None) -> Iterator[tuple[slice, xr.Dataset]]:
    """Compute a dataset some samples at a time, along its chunks."""
    size = dataset.sizes.get("sample", 1)
    lazy = any(variable.chunks for variable in dataset.variables.values())
    length = size
    if lazy and "sample" in dataset.dims:
        each = dataset.nbytes / max(size, 1)
        chunk = max(
            (v.chunksizes["sample"][0] for v in dataset.data_vars.values() if "sample" in v.chunksizes), default=1
        )
        length = max(chunk * int(PART_BYTES // max(each * chunk, 1)), chunk)
    for start in range(0, max(size, 1), max(length, 1)):
        rows = slice(start, min(start + length, size))
        part = dataset.isel(sample=rows) if "sample" in dataset.dims else dataset
        if lazy and store is not None:
            (part,) = store.compute(part)
        yield rows, part.compute()


def _write(dataset: xr.Dataset, path: Path, format: str, store: Store | None) -> list[Path]:
    writers: dict[str, Callable[[Path, xr.Dataset], _Writer]]
    writers = {"csv": _Csv, "parquet": _Parquet, "npy": _Npy, "h5": _H5}
    writer = writers[format](path, dataset)
    try:
        for rows, part in _parts(dataset, store):
            writer.put(rows, part)
    finally:
        writer.close()
    return writer.files


class _Writer(Protocol):
    """Files that are written some samples at a time."""

    files: list[Path]

    def put(self, rows: slice, part: xr.Dataset) -> None: ...

    def close(self) -> None: ...


class _Csv:
    """Tables as text, added to part by part."""

    suffix = "csv"

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:  # noqa: ARG002 - as all writers
        self.path = path
        self.files: list[Path] = []

    def put(self, rows: slice, part: xr.Dataset) -> None:
        """Add some samples."""
        for number, (axes, frame) in enumerate(tables_of(part).items()):
            name = self.path.name if number == 0 else f"{self.path.name}.{axes or 'layer'}"
            file = self.path.with_name(f"{name}.{self.suffix}")
            if file not in self.files:
                self.files.append(file)
            self.add(file, frame, rows.start == 0)

    def add(self, file: Path, frame: pd.DataFrame, first: bool) -> None:
        """Add rows to a file."""
        frame.to_csv(file, index=False, mode="w" if first else "a", header=first)

    def close(self) -> None:
        """Finish."""


class _Parquet(_Csv):
    """Tables in columns, a row group a part."""

    suffix = "parquet"

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:
        super().__init__(path, dataset)
        self._open: dict[Path, Any] = {}

    def add(self, file: Path, frame: pd.DataFrame, first: bool) -> None:
        """Add rows to a file."""
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet

        plain = frame.astype({name: object for name, kind in frame.dtypes.items() if kind.kind in "OTU"})
        table = pa.Table.from_pandas(plain, preserve_index=False)
        if first:
            self._open[file] = parquet.ParquetWriter(file, table.schema)
        self._open[file].write_table(table)

    def close(self) -> None:
        """Write the footers."""
        for writer in self._open.values():
            writer.close()


class _Npy:
    """One array a file."""

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:
        self.files: list[Path] = []
        self._arrays: dict[str, Any] = {}
        several = len(dataset.data_vars) > 1
        for name, variable in dataset.data_vars.items():
            file = path.with_name(f"{path.name}.{name}.npy" if several else f"{path.name}.npy")
            self.files.append(file)
            dtype = variable.dtype
            if dtype.kind in "OTU":
                dtype = np.dtype(f"U{max(map(len, map(str, variable.values.ravel())), default=1)}")
            shape = variable.shape
            if math.prod(shape):
                self._arrays[str(name)] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
            else:
                np.save(file, np.empty(shape, dtype), allow_pickle=False)

    def put(self, rows: slice, part: xr.Dataset) -> None:
        """Fill some samples."""
        for name, array in self._arrays.items():
            variable = part[name]
            array[tuple(rows if dim == "sample" else slice(None) for dim in variable.dims)] = variable.values
            array.flush()
            # What is on the disk need not stay in this process's memory, too.
            if hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let the files go."""
        self._arrays.clear()


class _H5:
    """Variables and labels by their names in one file."""

    def __init__(self, path: Path, dataset: xr.Dataset) -> None:
        import h5py

        self.files = [path.with_name(f"{path.name}.h5")]
        self._file = h5py.File(self.files[0], "w")
        self._file.attrs.update({str(k): _attribute(v) for k, v in dataset.attrs.items()})
        for name, variable in dataset.variables.items():
            text = variable.dtype.kind in "OTU"
            own = self._file.create_dataset(str(name), variable.shape, h5py.string_dtype() if text else variable.dtype)
            own.attrs["dims"] = [str(dim) for dim in variable.dims]
            own.attrs.update({str(k): _attribute(v) for k, v in variable.attrs.items()})

    def put(self, rows: slice, part: xr.Dataset) -> None:
        """Fill some samples."""
        for name, variable in part.variables.items():
            values = variable.values
            values = values.astype(object) if values.dtype.kind in "OTU" else values
            where = tuple(rows if dim == "sample" else slice(None) for dim in variable.dims)
            self._file[str(name)][where] = values

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _attribute(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else str(value)
