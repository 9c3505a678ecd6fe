"""What channels look for, where the model is at hand: their top samples through a deconvnet, and maximization."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fmx.analyze import ReceptiveField
from fmx.errors import FmxError
from fmx.layers import LayerInfo
from fmx.render.overlay import rgb_of
from fmx.render.selection import has_maps
from fmx.render.sheet import signed_rgb
from fmx.report.album import Album, Picture
from fmx.report.charts import number
from fmx.report.findings import LayerFindings
from fmx.report.pictures import small
from fmx.store import Store, open_analysis, saved_analyses

if TYPE_CHECKING:
    from fmx.adapter import Model

__all__ = ["Feature", "Maker", "measured_fields", "saved_features"]

SIDE = 128
STEPS = 96
PICTURE = 96
TOP = 3
_SAVED = "maximization"


@dataclass
class Feature:
    """What is shown of one channel: pairs of crop and projection, and the picture that maximizes it."""

    channel: int
    projections: list[tuple[Picture, Picture]] = field(default_factory=list)
    maximized: Picture | None = None
    told: str = ""


def measured_fields(model: Model, layers: Sequence[LayerInfo]) -> dict[str, ReceptiveField]:
    """Measure what neurons see, of all layers with maps whose gradient gets to the input."""
    from fmx.analyze import receptive_field

    module, last = model.torch_module(), model.inputs[0].layout == "HWC"
    shape = model.inputs[0].shape
    shape = (shape[2], *shape[:2]) if last and len(shape) == 3 else shape
    found = {}
    for info in layers:
        if has_maps(info):
            try:
                found[info.name] = receptive_field(module, info.name, shape, channels_last=last)
            except FmxError:
                continue  # the box is then in proportion to the map
    return found


class Maker:
    """Makes features with a model, until its time is up.

    Parameters
    ----------
    store : Store
    model : Model
    seconds : float
        No layer is begun after so many.
    device : str

    Raises
    ------
    FmxError
        The model can't be differentiated, or does not take the store's pictures.
    """

    def __init__(self, store: Store, model: Model, *, seconds: float, device: str = "cpu") -> None:
        from fmx.project import Deconvnet, stored_pictures

        self.pictures = stored_pictures(model, store)
        self.notes = list(self.pictures.notes)
        self.network = Deconvnet(self.pictures, device=device)
        self.device = device
        self.ends = time.monotonic() + seconds
        self.late: list[str] = []

    def of(self, layer: LayerFindings, channels: Sequence[int], album: Album) -> tuple[list[Feature], list[str]]:
        """Make the features of some channels of a layer, and say what could not be made."""
        found, notes = {channel: Feature(channel) for channel in channels}, []
        if time.monotonic() > self.ends:
            self.late.append(layer.info.name)
            return [], []
        parts: list[tuple[str, Callable[..., None]]] = [
            ("no deconvnet", self._projected),
            ("no maximization", self._maximized),
        ]
        for name, part in parts:
            try:
                part(layer, found, album)
            except FmxError as error:
                notes.append(f"{name}: {error}")
        return [one for one in found.values() if one.projections or one.maximized], notes

    def _projected(self, layer: LayerFindings, found: Mapping[int, Feature], album: Album) -> None:
        from fmx.project import project_top

        if layer.top is None or not has_maps(layer.info) or self.pictures.kept is None:
            return
        top = layer.top.isel(rank=slice(0, TOP))
        alive = [c for c in found if bool((top["value"].sel(channel=c) > 0).any())]
        if not alive:
            return
        done = project_top(self.network, layer.info.name, top, alive)
        for channel in alive:
            one = done.sel(channel=channel)
            for value, projection, picture in zip(
                one["value"].values, one["projection"].values, one["picture"].values, strict=True
            ):
                if value > 0:
                    signed = signed_rgb(
                        projection.transpose(1, 2, 0) if len(projection) == 3 else projection.sum(axis=0)
                    )
                    pair = (album.photo(small(rgb_of(picture), SIDE)), album.photo(small(signed, SIDE)))
                    found[channel].projections.append(pair)

    def _maximized(self, layer: LayerFindings, found: Mapping[int, Feature], album: Album) -> None:
        from fmx.maximize import maximize

        side = min(PICTURE, *self.pictures.shape[1:])
        made = maximize(
            self.pictures.model,
            layer.info.name,
            list(found),
            size=side,
            steps=STEPS,
            preprocess=self.pictures.preprocess,
            device=self.device,
        )
        _take(made[layer.info.name], found, album, f"{STEPS} steps")


def saved_features(store: Store, layer: LayerFindings, most: int, album: Album) -> list[Feature]:
    """Show pictures that a store holds from ``fmx maximize``."""
    if _SAVED not in saved_analyses(store.place):
        return []
    results = open_analysis(store.tree, _SAVED).get(layer.info.name)
    if results is None or "channel" not in results.dims:
        return []
    order = layer.strongest(layer.info.shape[layer.info.dims.index("channel")])
    there = [int(c) for c in results["channel"].values]
    found = {c: Feature(c) for c in [*(c for c in order if c in there), *(c for c in there if c not in order)][:most]}
    _take(results.sel(channel=list(found)).load(), found, album, "saved")
    return list(found.values())


def _take(results: xr.Dataset, found: Mapping[int, Feature], album: Album, how: str) -> None:
    for channel in found:
        one = results.sel(channel=channel)
        status = str(one["status"].item())
        found[channel].told = f"{number(float(one['activation']))} ({how})" if status == "ok" else status
        found[channel].maximized = album.photo(small(rgb_of(np.asarray(one["picture"].values)), SIDE))
