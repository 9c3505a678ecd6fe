"""Going through results of each sample where they are read, so that only what is made of them has to stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmx.analyze.layer_work import LayerWork, SampleFold
from fmx.analyze.parts import WHOLE, Part
from fmx.analyze.threads import compute_alone
from fmx.store import Store

__all__ = ["SampleFold", "sample_folds"]


def sample_folds(store: Store, folds: Mapping[str, SampleFold], *, part: Part = WHOLE) -> dict[str, Any]:
    """Run reducers over layers, keeping samples and channels apart, and fold the states where they arise.

    States are there for some samples at a time and go no further than Dask's tasks; what the folds make of them is
    joined in a tree, so that memory stays flat however many samples there are.

    Parameters
    ----------
    store : Store
    folds : mapping of str to SampleFold
        By layer, all of which are read together; each says by what its layer is reduced.
    part : Part

    Returns
    -------
    dict of str to object
        By layer, what its fold finished with.
    """
    works = {
        name: LayerWork.of(store, name, {"s": fold.reducer}, ("sample", "channel"), part=part, finalize=False)
        for name, fold in folds.items()
    }
    return dict(
        zip(works, compute_alone(store, [works[name].folded(fold) for name, fold in folds.items()]), strict=True)
    )
