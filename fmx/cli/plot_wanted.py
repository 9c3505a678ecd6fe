"""What ``fmx render plots`` is asked for, and the results that several plots need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from fmx.store import Store

__all__ = ["Wanted"]


@dataclass
class Wanted:
    """A store, and what is to be drawn of it; results that several plots need are kept."""

    store: Store
    layers: str = "all"
    by: str | None = None
    channels: tuple[int, ...] = ()
    noise: float | None = None
    other: Store | None = None
    width: float = 180.0
    allow_partial: bool = False
    missed: list[str] = field(default_factory=list)
    _kept: dict[Any, dict[str, xr.Dataset]] = field(default_factory=dict)

    @property
    def levels(self) -> list[float]:
        """Noise levels of the store."""
        return [float(v) for v in self.store.tree.to_dataset()["noise"].values]

    @property
    def level(self) -> int:
        """Position of the noise level that is drawn where only one is."""
        from fmx.analyze.parts import find_level

        return find_level(self.store, self.noise)

    @property
    def facts(self) -> list[str]:
        """Say of how many samples plots are."""
        count = int(self.store.complete.sum())
        return [f"{count} sample{'s' * (count != 1)}"]

    def named(self, *dims: str) -> list[str]:
        """Choose the layers that have certain axes."""
        return [info.name for info in self.store.select(self.layers) if set(dims) <= set(info.dims)]

    def stats(self, by: Sequence[str], names: Sequence[str], quantiles: Sequence[float] = ()) -> dict[str, xr.Dataset]:
        """Describe layers, noise levels apart."""
        from fmx.analyze import stats

        key = ("stats", tuple(by), tuple(names), tuple(quantiles))
        if key not in self._kept:
            settings: Any = {"quantiles": quantiles, "allow_partial": self.allow_partial}
            self._kept[key] = stats(self.store, layers=list(names), by=["noise", *by], **settings)
        return self._kept[key]

    def top_samples(self) -> dict[str, xr.Dataset]:
        """Find the top samples of all layers that have channels, once."""
        from fmx.analyze import top_samples

        if "top-samples" not in self._kept:
            settings: Any = {"noise": self.noise, "allow_partial": self.allow_partial}
            self._kept["top-samples"] = top_samples(self.store, layers=self.named("channel"), **settings)
        return self._kept["top-samples"]

    def draw_top_samples(self, found: xr.Dataset) -> Figure:
        """Draw top samples, computed now or saved before, beside the pictures that the store keeps."""
        from fmx.render.plots import top_samples
        from fmx.render.selection import read_picture

        def picture(sample: str, timestep: int) -> NDArray[np.uint8]:
            return read_picture(self.store, sample, timestep)

        return top_samples(found, picture, channels=self.channels or None, facts=self.facts, width=self.width)

    def one_level(self, dataset: xr.Dataset) -> xr.Dataset:
        """Take the wanted noise level of results that have several."""
        return dataset.isel(noise=self.level) if "noise" in dataset.dims else dataset
