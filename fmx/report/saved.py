"""Results that a store holds already, where they are what the report would compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from fmx.store import Store, open_analysis, saved_analyses

__all__ = ["saved_results"]


def saved_results(
    store: Store,
    analysis: str,
    layers: Sequence[str],
    settings: Mapping[str, Any],
    fits: Callable[[str, xr.Dataset], bool],
) -> tuple[str, dict[str, xr.Dataset]] | None:
    """Find saved results of an analysis that was made with these settings, for all of these layers.

    Parameters
    ----------
    store : Store
    analysis : str
        What made them, such as ``robustness``.
    layers : sequence of str
    settings : mapping
        What must have been recorded with them.
    fits : callable
        Tells of a layer and its results whether they are of all samples.

    Returns
    -------
    (str, dict of str to xarray.Dataset) or None
        Their name, and they by layer, in memory.
    """
    for name in saved_analyses(store.place):
        about = store.tree[f"analysis/{name}"].attrs
        if about.get("analysis") != analysis or any(about.get(key) != value for key, value in settings.items()):
            continue
        found = open_analysis(store.tree, name)
        if set(layers) <= set(found):
            own = {layer: found[layer].load() for layer in layers}
            if all(fits(layer, one) for layer, one in own.items()):
                return name, own
    return None
