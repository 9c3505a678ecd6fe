"""``--arrays FILE``: the numbers behind the pictures, labelled for xarray, whole or not at all."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

from fmx.cli import options as opt
from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Arrays", "Put", "array_file", "check_array_file", "write_arrays"]

Put = Callable[..., None]

SUFFIXES = (".nc", ".zarr", ".npz")
# These are put together in memory.
MOST_BYTES = 2 * 2**30


def _arrays(path: str | None) -> str | None:
    """Refuse a name before anything runs."""
    if path is not None and (Path(path).suffix not in SUFFIXES or "://" in path):
        raise FmxError(f"--arrays takes a file whose name ends in {', '.join(SUFFIXES)}, not '{path}'.")
    return path


Arrays = Annotated[
    str | None,
    opt.option(
        opt.OUT,
        "Write the values too, with their labels: .zarr or .nc for xarray, .npz for NumPy.",
        "--arrays",
        metavar="FILE",
        callback=_arrays,
    ),
]


def check_array_file(path: str | None, *, overwrite: bool) -> None:
    """Make sure that nothing is lost where a file of values will be.

    Raises
    ------
    FmxError
        Something is there that is not to be replaced, or that fmx has not written there.
    """
    target = Path(path or "")
    if path is None or not target.exists():
        return
    if not overwrite:
        raise FmxError(f"{path} is already there: choose another name, or replace it with --overwrite.")
    if target.is_dir() != (target.suffix == ".zarr") or (target.is_dir() and not _is_of_values(target)):
        raise FmxError(f"{path} was not written by --arrays, and is not replaced: choose another name.")


def _is_of_values(folder: Path) -> bool:
    try:
        about = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    # A store of activations says of what model it is, too, but has no method.
    return {"method", "fingerprint"} <= set(about)


@contextmanager
def array_file(path: str | None, lead: Mapping[str, Sequence[str]], *, overwrite: bool = False) -> Iterator[Put]:
    """Give ``put(found, **at)``, which takes results one after the other; without a path it does nothing.

    Results go to the disk as they come. The file takes its name if all goes well, and what was there before stays if
    not.

    Parameters
    ----------
    path : str or None
        Ends in .nc (NetCDF), .zarr or .npz.
    lead : mapping of str to sequence of str
        Leading axes and their labels: sample and layer. ``put`` is told the position along each.
    overwrite : bool
        Replace values that are there already.

    Raises
    ------
    FmxError
        See `check_array_file`; the file can't be written, or has to be put together in memory and is too large for it.
    """
    if path is None:
        yield lambda *_args, **_at: None
        return
    from fmx.cli.array_parts import ArrayParts

    check_array_file(path, overwrite=overwrite)
    target = Path(path)
    unfinished = _beside(target)
    try:
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            parts = ArrayParts(unfinished, lead, None if target.suffix == ".zarr" else MOST_BYTES)

        def put(found: xr.Dataset, **at: int) -> None:
            with _writing(target):
                parts.put(found, **at)

        yield put
        with _writing(target):
            parts.finish()
        _hand_over(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_arrays(found: xr.Dataset, path: str, *, overwrite: bool = False) -> None:
    """Write a result that is all there; see `array_file`."""
    check_array_file(path, overwrite=overwrite)
    target = Path(path)
    if target.suffix != ".zarr":
        _write_file(found, target)
        return
    unfinished = _beside(target)
    try:
        with _writing(target):
            to_zarr(found, unfinished)
        _hand_over(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def to_zarr(found: xr.Dataset, place: Path) -> None:
    """Write or add variables to a Zarr store, text in the form that every reader of Zarr knows."""
    plain = _with_text(found, object).drop_encoding()
    with warnings.catch_warnings():
        # Zarr says of all its readers that they may not know consolidated metadata; those that don't need none.
        warnings.filterwarnings("ignore", "Consolidated metadata", category=UserWarning)
        plain.to_zarr(place, mode="a", zarr_format=3, consolidated=True)


def _hand_over(zarr: Path, target: Path) -> None:
    """Make the file of a finished Zarr store, or let it take the file's name."""
    import xarray as xr

    if target.suffix != ".zarr":
        with xr.open_dataset(zarr, engine="zarr", chunks=None) as made:
            _write_file(made.load(), target)
        return
    with _writing(target):
        old = _beside(target)
        if target.exists():
            target.rename(old)
        zarr.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _write_file(found: xr.Dataset, target: Path) -> None:
    import numpy as np

    from fmx.render.sinks import whole_file

    # NumPy keeps objects as pickles, which nobody should have to trust.
    found = _with_text(found, str).drop_encoding()
    with whole_file(target) as unfinished:
        if target.suffix == ".nc":
            # This NetCDF has no unsigned bytes, but a convention to mark them.
            bytes_ = {name: v for name, v in found.data_vars.items() if v.dtype == np.uint8}
            signed = {n: v.copy(data=v.values.view(np.int8)).assign_attrs(_Unsigned="true") for n, v in bytes_.items()}
            found.assign(signed).to_netcdf(unfinished, engine="scipy")
            return
        about = {
            "dims": {str(name): list(v.dims) for name, v in found.variables.items()},
            "coords": [str(name) for name in found.coords],
            "attributes": found.attrs,
            "descriptions": {str(name): v.attrs for name, v in found.variables.items()},
        }
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        for name, variable in found.variables.items():
            arrays[str(name)] = variable.values
        with unfinished.open("wb") as stream:
            np.savez_compressed(stream, **arrays)


def _with_text(found: xr.Dataset, kind: type) -> xr.Dataset:
    """Give text one of the several types that NumPy has for it."""
    texts = {name: v for name, v in found.variables.items() if v.dtype.kind in "OTU"}
    return found.assign_coords({n: v.copy(data=v.values.astype(object).astype(kind)) for n, v in texts.items()})


def _beside(target: Path) -> Path:
    return target.with_name(f".{uuid4().hex}.tmp")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FmxError(f"{target} can't be written: {error.strerror or error}.") from error
