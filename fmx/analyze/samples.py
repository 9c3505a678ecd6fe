"""Which samples of one store, or of two with the same samples, an analysis looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.parts import check_complete, find_level, noise_levels
from fmx.errors import FmxError, StoreError
from fmx.store import Store

__all__ = ["check_least", "noise_positions", "same_samples"]

Rows = NDArray[np.int64]


def same_samples(a: Store, b: Store | None = None, *, allow_partial: bool = False) -> tuple[list[str], list[Rows]]:
    """Find the samples that are analysed: those of one store, or those of two, paired by their ids.

    Returns
    -------
    list of str
        Ids in the order of the first store.
    list of array (sample,) of int64
        Their positions in each store.

    Raises
    ------
    FmxError
        A store is not finished and `allow_partial` is false, or the stores have different samples.
    """
    stores = [a] if b is None else [a, b]
    for store in stores:
        check_complete(store, allow_partial)
    ids = np.asarray(a.samples, dtype=object)
    rows = np.flatnonzero(a.complete)
    if b is None:
        return [str(i) for i in ids[rows]], [rows]
    if set(a.samples) != set(b.samples):
        raise StoreError(_differ(a, b))
    at = {name: i for i, name in enumerate(b.samples)}
    other = np.array([at[str(name)] for name in ids[rows]], dtype=np.int64)
    both = b.complete[other]
    if not both.any():
        raise StoreError(f"No sample is complete in both {a.path} and {b.path}: finish them with fmx extract.")
    return [str(i) for i in ids[rows[both]]], [rows[both], other[both]]


def _differ(a: Store, b: Store) -> str:
    only = [[s for s in x.samples if s not in set(y.samples)] for x, y in ((a, b), (b, a))]
    parts = [
        f"{len(names)} only in {store.path} ({names[0]}{', …' if len(names) > 1 else ''})"
        for store, names in zip((a, b), only, strict=True)
        if names
    ]
    return f"The stores have different samples, {' and '.join(parts)}: extract both from the same data."


def check_least(count: int, least: int, what: str) -> None:
    """Refuse fewer samples than something takes.

    Raises
    ------
    FmxError
    """
    if count < least:
        have = f"there {'is' if count == 1 else 'are'} {count}"
        raise FmxError(f"{what} takes at least {least} samples, and {have}: extract more of them.")


def noise_positions(store: Store, noise: float | Sequence[float] | str | None) -> dict[float, int]:
    """Find noise levels: the first where none are named, all for ``"all"``.

    Returns
    -------
    dict of float to int
        Where each level is on the noise axis.

    Raises
    ------
    FmxError
        The store has no such level.
    """
    levels = [float(v) for v in noise_levels(store)]
    if noise is None:
        return {levels[0]: 0}
    if isinstance(noise, str):
        if noise != "all":
            raise FmxError(f"Noise levels are numbers or all, not '{noise}'.")
        return {level: i for i, level in enumerate(levels)}
    wanted = [float(noise)] if isinstance(noise, int | float) else [float(v) for v in noise]
    return {levels[i]: i for i in (find_level(store, level) for level in wanted)}
