"""Labels that results are kept apart by: the dims of a layer, and the classes of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches

__all__ = ["Groups", "check_dims", "groups_of", "kept_coords"]


@dataclass(frozen=True)
class Groups:
    """Samples by their label.

    Attributes
    ----------
    names : list of str
        Labels in alphabetical order.
    numbers : array (sample,) of int64
        Which of them each sample has.
    """

    names: list[str]
    numbers: NDArray[np.int64]


def check_dims(by: str | Sequence[str], dims: Sequence[str], layer: str) -> list[str]:
    """Check dims to keep; ``label`` in them stands for the samples of each label.

    Returns
    -------
    list of str

    Raises
    ------
    FmxError
        The layer has no such dim, or samples are to be kept apart and put together at once.
    """
    wanted = [by] if isinstance(by, str) else list(by)
    for dim in wanted:
        if dim not in (*dims, "label"):
            raise FmxError(f"{layer} has no axis {dim}: {near_matches(dim, [*dims, 'label'], most=8)}")
    if {"sample", "label"} <= set(wanted):
        raise FmxError(
            "Each sample has one label, so that sample and label can't both be kept apart: take one of them."
        )
    return wanted


def groups_of(data: xr.Dataset | xr.DataArray, what: Any) -> Groups:
    """Group the samples by their label.

    Raises
    ------
    FmxError
        There are no labels.
    """
    found = [str(name) for name in data["label"].values] if "label" in data.coords else []
    if found and not any(found):
        found = []
    if not found:
        raise FmxError(
            f"The samples of {what} have no labels: extract pictures from a folder of subfolders, one a label."
        )
    names, numbers = np.unique(found, return_inverse=True)
    return Groups([str(name) for name in names], numbers.astype(np.int64))


def kept_coords(array: xr.DataArray, dims: Sequence[str], groups: Groups | None) -> dict[Any, Any]:
    """Give the coordinates of what is kept."""
    coords: dict[Any, Any] = {
        n: c for n, c in array.coords.items() if set(c.dims) <= set(dims) and (c.dims or n in dims)
    }
    return coords if groups is None else coords | {"label": ("label", np.asarray(groups.names, dtype=object))}
