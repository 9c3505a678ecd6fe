"""Labels that results are kept apart by: the dims of a layer, and the labels of its samples, such as classes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches

__all__ = ["Groups", "check_dims", "groups_of", "kept_coords", "sample_labels"]

# Coordinates of samples that are no labels of theirs.
_OTHERS = {"sample", "complete"}


@dataclass(frozen=True)
class Groups:
    """Samples by one label of theirs, or by all combinations of several.

    Attributes
    ----------
    labels : mapping of str to array
        The values that each label has, in order.
    numbers : array (sample,) of int64
        Which of them each sample has; of several labels, which of the combinations, the last one changing fastest.
    """

    labels: Mapping[str, NDArray[Any]]
    numbers: NDArray[np.int64]

    @property
    def names(self) -> list[str]:
        """The groups' names."""
        return [", ".join(map(str, values)) for values in itertools.product(*self.labels.values())]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each label has."""
        return tuple(len(values) for values in self.labels.values())


def sample_labels(data: xr.Dataset | xr.DataArray) -> list[str]:
    """List the labels that samples may have: ``label``, and further ones such as ``epoch`` and ``step``."""
    own = [str(name) for name, c in data.coords.items() if c.dims == ("sample",) and name not in _OTHERS]
    return list(dict.fromkeys(["label", *own]))


def check_dims(by: str | Sequence[str], data: xr.DataArray, layer: str) -> list[str]:
    """Check dims to keep; a label in them stands for the samples that have it in common.

    Returns
    -------
    list of str

    Raises
    ------
    FmxError
        The layer has no such dim, or samples are to be kept apart and put together at once.
    """
    wanted = [by] if isinstance(by, str) else list(by)
    labels = set(sample_labels(data))
    known = [*map(str, data.dims), *sorted(labels)]
    for dim in wanted:
        if dim not in known:
            raise FmxError(f"{layer} has no axis {dim}: {near_matches(dim, known, most=12)}")
    both = labels.intersection(wanted)
    if both and "sample" in wanted:
        name = min(both)
        raise FmxError(
            f"Each sample has one {name}, so that sample and {name} can't both be kept apart: take one of them."
        )
    return list(dict.fromkeys(wanted))


def groups_of(data: xr.Dataset | xr.DataArray, what: Any, by: Sequence[str] = ("label",)) -> Groups:
    """Group the samples by their label, or by other labels.

    Raises
    ------
    FmxError
        There are no labels.
    """
    found, numbers = {}, np.zeros(data.sizes["sample"], np.int64)
    for name in by:
        values = data[name].values if name in data.coords else np.asarray([])
        if values.dtype.kind not in "iuf":
            values = np.asarray([str(value) for value in values], dtype=object)
        if not len(values) or (values.dtype == object and not any(values)):
            hint = ": extract pictures from a folder of subfolders, one a label" if name == "label" else ""
            raise FmxError(f"The samples of {what} have no {'labels' if name == 'label' else name}{hint}.")
        found[name], own = np.unique(values, return_inverse=True)
        numbers = numbers * len(found[name]) + own
    return Groups(found, numbers)


def kept_coords(array: xr.DataArray, dims: Sequence[str], groups: Groups | None) -> dict[Any, Any]:
    """Give the coordinates of what is kept."""
    coords: dict[Any, Any] = {
        n: c for n, c in array.coords.items() if set(c.dims) <= set(dims) and (c.dims or n in dims)
    }
    return coords if groups is None else coords | {name: (name, values) for name, values in groups.labels.items()}
