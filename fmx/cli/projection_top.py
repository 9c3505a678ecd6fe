"""The figure of the paper, for ``fmx deconv --top``: channels' top samples in a store, beside their projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fmx.adapter import Model, choose_layers
from fmx.analyze import ReceptiveField, receptive_field, top_samples
from fmx.analyze.receptive import add_boxes
from fmx.cli.output import progress
from fmx.cli.projection_figures import top_sheet
from fmx.cli.projection_jobs import filed, pages
from fmx.errors import FmxError
from fmx.project import Deconvnet, project_top
from fmx.store import Store, open_analysis, saved_analyses

if TYPE_CHECKING:
    from fmx.cli.arrays import Put
    from fmx.render import PictureFolder

__all__ = ["layers_of", "project_top_samples"]

# What `fmx extract --reduce top-samples` calls what it saves.
_SAVED = "top-samples"


def layers_of(store: Store, model: Model, layers: str) -> list[str]:
    """Choose layers of which a store has activations, or top samples that were found while the model ran.

    Raises
    ------
    FmxError
        There are none.
    """
    if store.layers or _SAVED not in saved_analyses(store.place):
        return [info.name for info in store.select(layers)]
    saved = open_analysis(store.tree, _SAVED)
    chosen = [info.name for info in choose_layers(model, layers) if info.name in saved]
    if not chosen:
        raise FmxError(f"{store.path} has top samples of {', '.join(saved)} only: choose some of these with --layers.")
    return chosen


def project_top_samples(
    network: Deconvnet,
    folder: PictureFolder,
    store: Store,
    layers: Sequence[str],
    channels: Sequence[int] | None,
    top: int,
    *,
    keep: Put,
) -> list[dict[str, Any]]:
    """Draw top samples of channels beside their projections: sheets a layer."""
    pictures = network.pictures
    rows = []
    with progress("projecting") as update:
        for done, layer in enumerate(layers):
            module = pictures.model.torch_module()
            field = receptive_field(module, layer, pictures.shape, channels_last=pictures.channels_last)
            found = project_top(network, layer, _listed(store, layer, field, top), channels)
            keep(found, layer=done)
            for part, page in pages(found.sizes["channel"]):
                shown = found.isel(channel=part)
                labels = {"layer": layer, "method": "deconvnet", "top": str(top)}
                sheet = top_sheet(shown, title=f"{layer} · deconvnet", notes=[_note(top)], labels=labels)
                rows += filed(_rows(shown, layer), folder.save(sheet, "top", layer, *page))
            update(done + 1, len(layers))
    return rows


def _note(top: int) -> str:
    which = f"the {top} samples that excite" if top > 1 else "the sample that excites"
    return f"{which} each channel most, cropped to what the neuron sees; channel and largest activation"


def _listed(store: Store, layer: str, field: ReceptiveField, top: int) -> xr.Dataset:
    """Look the top samples of a layer's channels up, with the boxes that the neurons see."""
    if top < 1:
        raise FmxError(f"At least one top sample is shown, not {top}: correct --top.")
    if store.layers:
        return top_samples(store, k=top, layers=[layer], fields={layer: field})[layer]
    kept = open_analysis(store.tree, _SAVED)[layer].isel(noise=0).load()
    if top > kept.sizes["rank"]:
        raise FmxError(f"{store.path} keeps {kept.sizes['rank']} top samples of each channel, not {top}: lower --top.")
    found = kept.isel(rank=slice(top)).assign_coords(rank=np.arange(1, top + 1))
    ids = np.asarray([*store.samples, ""], dtype=object)
    found["sample_id"] = (found["sample_index"].dims, ids[found["sample_index"].values])
    return add_boxes(found, field) if {"y", "x"} <= set(found.variables) else found


def _rows(found: xr.Dataset, layer: str) -> list[dict[str, Any]]:
    rows = []
    for i, channel in enumerate(found["channel"].values):
        for j, rank in enumerate(found["rank"].values):
            one = found.isel(channel=i, rank=j)
            if one["sample_id"].item():
                row = {
                    "layer": layer,
                    "channel": int(channel),
                    "rank": int(rank),
                    "sample": str(one["sample_id"].item()),
                }
                rows.append(row | {"value": float(one["value"]), "y": int(one["at_y"]), "x": int(one["at_x"])})
    return rows
