"""Results that a store holds already, where they are what a report would compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

from fmx.store import Store, open_analysis, saved_analyses

__all__ = ["saved_result"]


def saved_result(
    store: Store, analysis: str, layer: str, settings: Mapping[str, Any], fits: Callable[[xr.Dataset], bool]
) -> tuple[str, xr.Dataset] | None:
    """Find saved results of an analysis of a layer that was made with these settings.

    Parameters
    ----------
    store : Store
    analysis : str
        What made them, such as ``robustness``.
    layer : str
    settings : mapping
        What must have been recorded with them.
    fits : callable
        Tells whether results are of all samples.

    Returns
    -------
    (str, xarray.Dataset) or None
        Their name, and they in memory.
    """
    for name in saved_analyses(store.place):
        about = store.tree[f"analysis/{name}"].attrs
        if about.get("analysis") != analysis or any(about.get(key) != value for key, value in settings.items()):
            continue
        found = open_analysis(store.tree, name)
        if layer in found and fits(found[layer]):
            return name, found[layer].load()
    return None
