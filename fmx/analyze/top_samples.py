"""For every channel the samples that excite it most, and those that excite it least, with the place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from fmx.analyze.labels import groups_of
from fmx.analyze.parts import Part, check_complete, find_level, noise_levels
from fmx.analyze.receptive import ReceptiveField, add_boxes, proportional_field
from fmx.analyze.store_reduce import summarise
from fmx.errors import FmxError
from fmx.reduce import Moments, TopSamples
from fmx.store import Store

__all__ = ["labelled", "top_samples"]

_ABOUT = {
    "value": "largest finite value of the sample in the channel; NaN where there are fewer samples",
    "sample_id": "id of the sample; empty where there are fewer",
    "sample_number": "position of the sample in the store; -1 where there are fewer",
    "nan": "values of the channel that are not a number",
    "inf": "values of the channel that are infinite",
}


def top_samples(
    store: Store,
    *,
    k: int = 9,
    layers: str | Iterable[str] = "all",
    per_class: bool = False,
    weakest: bool = False,
    noise: float | None = None,
    fields: Mapping[str, ReceptiveField] | None = None,
    allow_partial: bool = False,
) -> dict[str, xr.Dataset]:
    """Find for every channel the `k` samples with the largest values, in one read, with nothing sorted in full.

    A sample counts with its largest finite value over all positions and timesteps, of several such places with the
    first. Of samples with the same value the first one is listed first.

    Parameters
    ----------
    store : Store
    k : int
    layers : str or iterable of str
    per_class : bool
        For the samples of each label apart.
    weakest : bool
        The samples whose largest value is smallest instead.
    noise : float, optional
        Level; 0 where left out.
    fields : mapping of str to ReceptiveField, optional
        By layer, as `fmx.analyze.receptive_field` measures them. Layers without one get boxes in proportion to the map,
        which are only a hint.
    allow_partial : bool
        Analyse the complete samples of an unfinished store.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer: value, sample_id, sample_number and, as far as the layer has such axes, at_timestep, token, y, x, and
        for maps the box y0, y1, x0 and x1 in the model's input ((label,) channel, rank); nan and inf (channel).

    Raises
    ------
    FmxError
        No labels, level or layer of that name; an unfinished store.
    """
    if k < 1:
        raise FmxError(f"At least one sample is listed for each channel, not {k}.")
    check_complete(store, allow_partial)
    part = Part(level=find_level(store, noise))
    by = ("label", "channel") if per_class else ("channel",)
    if per_class:
        groups_of(store.tree.to_dataset(), store.path)

    def reducers(summed: tuple[str, ...]) -> dict[str, Any]:
        return {"top": TopSamples(k, summed[1:], weakest=weakest), "s": Moments()}

    found = summarise(store, reducers, layers=layers, by=by, part=part, states=True)
    result = {}
    for name, states in found.items():
        dims = [str(dim) for dim in store.activation(name).dims if dim != "channel"]
        top = TopSamples(k, dims[1:], weakest=weakest).finalize(states["top"].values)
        lost = {key: states["s"].values[key] for key in ("nan", "inf")}
        if per_class:
            lost = {key: value.sum(axis=0) for key, value in lost.items()}
        result[name] = labelled(store, name, top, lost, states, (fields or {}).get(name), part, per_class=per_class)
    return result


def labelled(
    store: Store,
    layer: str,
    top: Mapping[str, Any],
    lost: Mapping[str, Any],
    states: xr.Dataset,
    field: ReceptiveField | None,
    part: Part,
    *,
    per_class: bool = False,
) -> xr.Dataset:
    """Give what `fmx.reduce.TopSamples` found its labels; see `top_samples`.

    Parameters
    ----------
    store : Store
    layer : str
    top : mapping of str to array ((label,) channel, rank)
        Results; samples are positions among those that are complete.
    lost : mapping of str to array (channel,)
        ``nan`` and ``inf``.
    states : xarray.Dataset
        Of which coordinates and attributes are taken.
    field : ReceptiveField or None
    part : Part
    per_class : bool
        Results are for each label.
    """
    dims = (*(("label",) if per_class else ()), "channel", "rank")
    kept = np.flatnonzero(store.complete)
    ids = np.asarray([*store.samples, ""], dtype=object)
    array = store.activation(layer)
    sample = np.where(top["sample"] < 0, -1, kept[top["sample"]])
    variables: dict[str, Any] = {"value": top["value"], "sample_id": ids[sample], "sample_number": sample}
    for name in top:
        if name not in {*variables, "sample", "noise"} and not (name == "timestep" and array.sizes[name] == 1):
            variables["at_timestep" if name == "timestep" else name] = top[name]
    found = xr.Dataset(
        {
            name: (dims, values, {"definition": _ABOUT.get(name, f"position along {name.removeprefix('at_')}")})
            for name, values in variables.items()
        },
        coords={**states.coords, "rank": np.arange(1, sample.shape[-1] + 1)},
        attrs=states.attrs,
    )
    found = found.assign({k: ("channel", v, {"definition": _ABOUT[k]}) for k, v in lost.items()})
    if {"y", "x"} <= set(variables):
        size = _input_size(store)
        if store.attributes.get("space", "full") != "full":
            field = None  # measured for positions of the whole map
        if field is None and size is not None:
            field = proportional_field((array.sizes["y"], array.sizes["x"]), size)
        found = found if field is None else add_boxes(found, field)
    return found.assign_attrs(noise=float(noise_levels(store)[part.level or 0]))


def _input_size(store: Store) -> tuple[int, int] | None:
    """Give height and width of the model's input, where it is a picture."""
    prepared = store.attributes.get("preprocessing")
    shape: Sequence[int] = store.attributes.get("input_shape") or ()
    if len(shape) < 3:
        return None
    backwards = isinstance(prepared, Mapping) and prepared.get("layout") == "HWC"
    height, width = shape[:2] if backwards else shape[-2:]
    return int(height), int(width)
