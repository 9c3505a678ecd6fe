"""How channels are ranked: by what, for which classes, and which samples have a part in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmx.analyze.labels import Groups, groups_of
from fmx.analyze.not_finite import check_nan
from fmx.analyze.parts import Part, check_complete, find_level, split_samples
from fmx.errors import FmxError, near_matches
from fmx.store import Store

__all__ = ["METRICS", "OF_CLASSES", "Ranking", "settle"]

METRICS = {
    "max": "largest value of the sample",
    "mean": "mean over the sample's positions and timesteps",
    "sum": "sum over the sample's positions and timesteps",
    "variance": "population variance over the sample's positions and timesteps",
    "sparsity": "share of the sample's values that are exactly 0",
    "selectivity": "class selectivity index; precision and votes go by the mean, values below 0 taken as 0",
    "precision": "class precision; it and votes go by the mean, values below 0 taken as 0",
}
# Scores of classes, which one sample has not.
OF_CLASSES = ("selectivity", "precision")


@dataclass
class Ranking:
    """How channels are ranked, settled against a store; see `class_profile` for what the settings mean."""

    store: Store
    metric: str
    groups: Groups | None
    used: Part
    held: NDArray[np.bool_] | None
    n_each_image: int
    keep_nan: bool

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each class that are used (label,)."""
        return self._sizes(~self.held if self.held is not None else None)

    @property
    def held_sizes(self) -> NDArray[np.int64]:
        """Samples of each class that are held out (label,)."""
        return self._sizes(self.held)

    @property
    def names(self) -> list[str]:
        """Labels; an empty one where there are none."""
        return self.groups.names if self.groups else [""]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Which label each complete sample has (sample,)."""
        return self.groups.numbers if self.groups else np.zeros(int(self.store.complete.sum()), np.int64)

    def _sizes(self, chosen: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        numbers = self.numbers if chosen is None else self.numbers[chosen]
        return np.bincount(numbers, minlength=len(self.names)).astype(np.int64)


def settle(
    store: Store,
    *,
    metric: str = "max",
    n_each_image: int = 10,
    noise: float | None = None,
    held_out: float = 0,
    seed: int = 0,
    nan: str = "skip",
    need_classes: bool = True,
    allow_partial: bool = False,
) -> Ranking:
    """Check how channels are to be ranked; see `class_profile`."""
    if metric not in METRICS:
        raise FmxError(f"Channels can't be ranked by {metric}: {near_matches(metric, METRICS, most=len(METRICS))}")
    if n_each_image < 1:
        raise FmxError(f"At least one channel of each sample is counted, not {n_each_image}.")
    check_nan(nan)
    check_complete(store, allow_partial)
    labels = [str(name) for name in store.tree.to_dataset()["label"].values[store.complete]]
    groups = None
    if need_classes or metric in OF_CLASSES or held_out or len({label for label in labels if label}) > 1:
        groups = groups_of(store.tree.to_dataset().isel(sample=np.flatnonzero(store.complete)), store.path)
        if len(groups.names) < 2:
            raise FmxError(f"All samples of {store.path} have the label {groups.names[0]}: classes take two labels.")
    held = split_samples(labels, held_out, seed)[1] if held_out else None
    return Ranking(store, metric, groups, Part(level=find_level(store, noise)), held, n_each_image, nan == "keep")
