"""What becomes of values that are NaN or infinite: they are always counted, and either skipped or kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError

__all__ = ["NAN", "check_nan", "check_products", "without_spoiled"]

NAN = ("skip", "keep")


def check_nan(nan: str) -> None:
    """See that there is such a way to treat values that are not finite.

    Raises
    ------
    FmxError
        There is none.
    """
    if nan not in NAN:
        raise FmxError(f"Values that are not finite are left out (skip) or make results NaN (keep), not '{nan}'.")


def check_products(products: NDArray[np.float64], what: str) -> None:
    """See that sums of products of finite values did not overflow.

    Raises
    ------
    FmxError
        They did.
    """
    # Infinite ones of both signs add up to no number.
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(products.sum())
    if not whole and not np.isfinite(products).all():
        raise FmxError(f"The values of {what} are too large to be multiplied: scale the model's inputs.")


def without_spoiled(
    results: xr.Dataset, nan: str, counts: Sequence[str] = ("nan", "inf"), *, but: Collection[str] = ()
) -> xr.Dataset:
    """Make results NaN that have values that are not finite among theirs, if such values are kept.

    Parameters
    ----------
    results : xarray.Dataset
    nan : str
        ``skip`` changes nothing.
    counts : sequence of str
        Variables that count such values. A result is NaN where any of them is not 0; of counts that have more axes than
        the result, anywhere along these.
    but : collection of str
        Variables that stay as they are, beside those that are no floats.
    """
    if nan == "skip":
        return results
    lost = sum((results[name] for name in counts), xr.zeros_like(results[counts[0]])) > 0
    marked = {}
    for name, variable in results.data_vars.items():
        if variable.dtype.kind == "f" and name not in but:
            own = lost.any([dim for dim in lost.dims if dim not in variable.dims])
            marked[name] = variable.where(~own).transpose(*variable.dims).assign_attrs(variable.attrs)
    return results.assign(marked)
