"""Centred kernel alignment from Gram matrices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.likeness.collect import GramSet
from fmx.analyze.likeness.kernels import (
    centred,
    cosines,
    flat,
    median_distance,
    products,
    rbf,
    squared_distances,
)

__all__ = ["cka"]

Floats = NDArray[np.float64]


def cka(found: GramSet, *, biased: bool, width: float | None = None) -> tuple[Floats, dict[str, Floats]]:
    """Compare all pairs of layers by centred kernel alignment (Kornblith et al. 2019).

    CKA(K, L) = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)), with the biased HSIC of Gretton et al. (2005) or the unbiased
    one of Song et al. (2012).

    Parameters
    ----------
    found : GramSet
    biased : bool
    width : float, optional
        Take a Gaussian kernel, whose width is this many times the median distance of the samples; else a linear one.

    Returns
    -------
    array (table, table)
        0 where a layer does not vary.
    dict of str to array (table,)
        ``varies``: 1 where the layer's kernel does; ``width`` of Gaussian kernels.
    """
    widths: list[float] = []

    def kernels() -> Iterator[Floats]:
        for gram in found.matrices():
            kernel = gram
            if width is not None:
                squared = squared_distances(gram)
                widths.append(width * median_distance(squared))
                kernel = rbf(squared, widths[-1])
            vector = flat(centred(kernel, biased=biased))
            # Alignment does not depend on the size of values, and squares of large ones would overflow.
            vector /= np.abs(vector).max(initial=0.0) or 1.0
            yield vector

    values, varies = cosines(products(list(kernels())))
    extra = {"width": np.array(widths)} if width is not None else {}
    return values, {"varies": varies.astype(np.float64), **extra}
