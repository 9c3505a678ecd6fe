"""Settling an extraction: all that can be known, or found to be wrong, before the model runs on the first sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fmx.adapter import Model, choose_layers, load
from fmx.data import Perturbation, Preprocess, Source, open_source, perturbation, readable
from fmx.errors import StoreError
from fmx.extraction.keep import Keep
from fmx.extraction.request import Request
from fmx.layers import LayerInfo
from fmx.prepare import choose_preprocess, fit_input, takes_clips
from fmx.store import (
    DEFAULT_CODEC,
    Place,
    StorePlan,
    building_place,
    differences,
    is_fmx_store,
    place_of,
    plan_settings,
    prepare_place,
    read_layout,
    stored_settings,
)

__all__ = ["Settled", "output_shapes", "settle"]


@dataclass(frozen=True)
class Settled:
    """An extraction that is settled and can run.

    Attributes
    ----------
    request : Request
    model : Model
        For the shape that the samples have.
    layers : list of LayerInfo
        What is captured, whole.
    keep : Keep
        Which part of it is kept.
    source : Source
    preprocess : Preprocess or None
        None where the data is the model's input as it is.
    perturbation : Perturbation
    levels : list of float
        The noise axis, 0 first.
    clip : bool
        Whether the model takes whole clips, and not one frame after the other.
    stored : mapping or None
        Attributes of the store that this goes on with; None where it makes a new one.
    skipped : list of str
        Ids of samples that can't be read and are left out.
    notes : list of str
        What had to be assumed, for the user.
    """

    request: Request
    model: Model
    layers: list[LayerInfo]
    keep: Keep
    source: Source
    preprocess: Preprocess | None
    perturbation: Perturbation
    levels: list[float]
    clip: bool = False
    stored: Mapping[str, Any] | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames of a sample; 1 for what is no clip."""
        return self.source.timesteps

    @property
    def rows_per_sample(self) -> int:
        """How many positions of a batch a sample takes: its frames, or one where the model takes whole clips."""
        return 1 if self.clip else self.frames

    @property
    def batches(self) -> int:
        """How many batches all samples make."""
        rows = len(self.source.samples) * self.rows_per_sample * len(self.levels)
        return math.ceil(rows / self.request.batch_size)

    @cached_property
    def kept(self) -> list[LayerInfo]:
        """One timestep of the layers, with their maps as they are kept, and all channels."""
        return [self.keep.over_space(self.without_time(layer)) for layer in self.layers]

    def without_time(self, layer: LayerInfo) -> LayerInfo:
        """Describe one timestep of a layer: a clip model's axis z is time."""
        if not self.clip or "z" not in layer.dims:
            return layer
        axis = layer.dims.index("z")
        dims, shape = list(layer.dims), list(layer.shape)
        del dims[axis], shape[axis]
        return LayerInfo(layer.name, layer.kind, tuple(dims), tuple(shape), layer.dtype)

    def timesteps(self, layer: LayerInfo) -> list[float]:
        """Give the timesteps of a layer, in frames: a clip model's later layers have fewer, in the middle of theirs."""
        if not self.clip:
            return [float(t) for t in range(self.frames)]
        count = dict(zip(layer.dims, layer.shape, strict=True)).get("z", 1)
        return [(t + 0.5) * self.frames / count - 0.5 for t in range(count)]

    def plan(self, attributes: Mapping[str, Any], outputs: Mapping[str, tuple[tuple[int, ...], str]]) -> StorePlan:
        """Plan the store."""
        samples, request = self.source.samples, self.request
        picture = None
        if self.preprocess is not None and self.preprocess.crop is not None:
            picture = (*self.preprocess.crop, self.preprocess.channels)
        return StorePlan(
            samples=[s.id for s in samples],
            paths=[s.path for s in samples],
            labels=[s.label for s in samples],
            noise=self.levels,
            layers=[] if request.reduce else self.kept,
            attributes=attributes,
            timesteps=self.frames,
            batch=request.batch_size,
            picture=None if request.reduce else picture,
            outputs=outputs,
            dtype=request.dtype,
            codec=DEFAULT_CODEC if request.codec == "auto" else request.codec,
            channels=self.keep.channels,
            layer_timesteps=self._layer_timesteps(),
            noise_words=self.perturbation.unit,
        )

    def _layer_timesteps(self) -> dict[str, list[float]]:
        if not self.clip:
            return {}
        each = {layer.name: self.timesteps(layer) for layer in self.layers}
        return each | {"outputs": [(self.frames - 1) / 2]}

    def circumstances(self) -> dict[str, Any]:
        """Describe what does not decide the values beyond rounding, or is only good to know."""
        request = self.request
        return {
            "device": request.device,
            "batch_size": request.batch_size,
            "skipped": self.skipped,
            "notes": self.notes,
            "meta": dict(request.meta),
            "source": self.source.attributes,
        }

    def provenance(self) -> dict[str, Any]:
        """Describe how the values come about, as far as that is settled before anything ran."""
        model, request = self.model, self.request
        prepared = None if self.preprocess is None else self.preprocess.settings()
        return {
            "model": model.source,
            "fingerprint": model.fingerprint,
            "adapter": model.adapter,
            "precision": request.precision,
            "layers": [layer.name for layer in self.layers],
            "space": self.keep.space,
            "reduced": list(request.reduce),
            "outputs": request.outputs,
            "input_shape": list(model.inputs[0].shape),
            "preprocessing": prepared or "none: arrays are the model's input",
            "noise_kind": self.perturbation.kind,
            "noise_space": self.perturbation.space_words(self.preprocess is not None),
            "seed": request.seed,
            "data": self.source.signature(),
            "frames": self.frames,
            "stride": request.stride if self.frames > 1 else 1,
        } | ({"kept_channels": self.keep.named_channels()} if request.reduce else {})


def settle(request: Request) -> Settled:
    """Settle an extraction without running it.

    Raises
    ------
    FmxError
        Anything about model, data or layers that would not work.
    """
    _check_place(request)
    noise = perturbation(request.perturb, request.noise_space)
    source, model = _open_both(request)
    preprocess = choose_preprocess(model, source, request.pictures)
    model = fit_input(model, source, preprocess)
    layers = choose_layers(model, request.layers)
    skipped: list[str] = []
    if request.on_error == "skip":
        source, skipped = readable(source)
    settled = Settled(
        request=request,
        model=model,
        layers=layers,
        keep=Keep.of(layers, request.channels, request.space),
        source=source,
        preprocess=preprocess,
        perturbation=noise,
        levels=noise.levels(request.noise),
        clip=takes_clips(model, source),
        skipped=skipped,
        notes=_notes(model, preprocess) + source.notes,
    )
    return replace(settled, **_to_go_on_with(settled))


def _check_place(request: Request) -> None:
    """See what is where the store is to be, before anything takes time."""
    place = place_of(request.to)
    there = is_fmx_store(place)
    if not there:
        for option, given in (("--resume", request.resume), ("--append", request.append), ("--repair", request.repair)):
            if given:
                raise StoreError(
                    f"There is no store {place} for {option} to work on: correct the path, or leave it out."
                )
    prepare_place(place, overwrite=request.overwrite or there)


def _to_go_on_with(settled: Settled) -> dict[str, Any]:
    """Give what changes where a store is there that was begun in the same way: its batch size, and what it records.

    Raises
    ------
    StoreError
        A store is there that was made in another way; lists what differs.
    """
    request = settled.request
    place = building_place(request.to, overwrite=request.overwrite)
    if not is_fmx_store(place):
        return {}
    stored = _stored(place, damaged=request.repair)
    if request.append:
        return {"stored": stored, "request": replace(request, batch_size=stored["batch_size"])}
    settled = _in_order_of(stored, settled)
    plan = settled.plan(settled.provenance(), output_shapes(settled))
    found = differences(stored, plan_settings(plan))
    if found and request.overwrite:
        return {}
    if found:
        more = "" if request.append else ", or --append to add what is new"
        raise StoreError(
            f"{request.to} was made in another way ({'; '.join(found)}): choose another name with -o, add --overwrite "
            f"to replace it{more}."
        )
    return {
        "stored": stored,
        "request": replace(request, batch_size=stored["batch_size"]),
        "source": settled.source,
        "levels": settled.levels,
    }


def _stored(place: Place, *, damaged: bool) -> dict[str, Any]:
    """Read how a store was made; without the labels, where these may be what is damaged."""
    try:
        return stored_settings(place)
    except StoreError:
        if not damaged:
            raise
        return dict(read_layout(place).attributes)


def _in_order_of(stored: Mapping[str, Any], settled: Settled) -> Settled:
    """Take samples and levels in the order of a store; what was appended comes last there."""
    index = {sample.id: i for i, sample in enumerate(settled.source.samples)}
    if "samples" not in stored:
        return settled
    samples, levels = stored["samples"], stored["noise"]
    if list(index) != samples and sorted(index) == sorted(samples):
        settled = replace(settled, source=settled.source.subset([index[sample] for sample in samples]))
    return replace(settled, levels=levels) if sorted(levels) == settled.levels else settled


def output_shapes(settled: Settled) -> dict[str, tuple[tuple[int, ...], str]]:
    """Run one blank sample to learn what the model puts out: shape and dtype by name; empty where that is not kept."""
    if not settled.request.outputs or settled.request.reduce:
        return {}
    blank = {info.name: np.zeros((1, *info.shape), info.dtype) for info in settled.model.inputs}
    with settled.model.session(settled.layers[:1], outputs=True) as session:
        outputs = session.run(blank).outputs
    return {name: (tuple(array.shape[1:]), str(array.dtype)) for name, array in outputs.items()}


def _open_both(request: Request) -> tuple[Source, Model]:
    """Open data and model: the data's shape tells what a model takes, and its inputs' names which arrays it needs."""
    named = str(request.data).partition(":")[0].endswith((".npz", ".h5", ".hdf5", ".zarr"))
    early = request.model if isinstance(request.model, Model) else None
    if early is None and named and request.input_shape is not None:
        early = _load(request, request.input_shape)
    several = [info.name for info in early.inputs] if early is not None and len(early.inputs) > 1 else []
    source = open_source(
        request.data,
        frames=request.frames,
        stride=request.stride,
        clips=request.clips,
        inputs=several,
        on_error=request.on_error,
    )
    return source, early or _open(request, source)


def _open(request: Request, source: Source) -> Model:
    shape = request.input_shape or request.pictures.input_shape()
    if shape is None and not source.pictures and not request.pictures.given:
        shape = source.shape
    return _load(request, shape)


def _load(request: Request, shape: Any) -> Model:
    return load(
        request.model,
        weights=request.weights,
        input_shape=shape,
        layout=request.pictures.layout,
        allow_partial=request.allow_partial,
        trust=request.trust,
        operators=request.operators,
    )


def _notes(model: Model, preprocess: Preprocess | None) -> list[str]:
    """Say what was assumed, in words for the user."""
    notes = [model.notes] if model.notes else []
    assumed = model.inputs[0].assumed
    if preprocess is not None and preprocess.source == "assumed":
        notes.append(
            f"The model does not say how its pictures are prepared; assumed: {preprocess.describe()} "
            "(change it with --size, --crop, --mean, --std, --range, --picture-channels, --layout)"
        )
    elif assumed:
        notes.append(f"The model does not say what it takes; assumed: {assumed} (change it with --input-shape)")
    return notes
