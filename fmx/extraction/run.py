"""Extraction: a model's activations for every sample and noise level, streamed into a store."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fmx.adapter import Capture, Model, Session, choose_layers, load
from fmx.data import ArraySource, PictureSource, Preprocess, noise_levels, open_source
from fmx.errors import DataError
from fmx.extraction.feed import Fed, Feed
from fmx.extraction.prepare import PictureOptions, choose_preprocess, fit_input
from fmx.layers import LayerInfo
from fmx.store import Store, StorePlan, StoreWriter, open_store, prepare_place

__all__ = ["Extraction", "Progress", "extract", "prepare"]

Progress = Callable[[int, int], None]
DEFAULT_BATCH = 32
_FEW_RUNS = 8


@dataclass(frozen=True)
class Extraction:
    """An extraction that is settled and can run.

    Attributes
    ----------
    model : Model
        For the shape that the samples have.
    layers : list of LayerInfo
    source : PictureSource or ArraySource
    preprocess : Preprocess or None
    noise : list of float
    skipped : list of str
        Ids of pictures that can't be read and are left out.
    notes : list of str
        What had to be assumed, for the user.
    """

    model: Model
    layers: list[LayerInfo]
    source: PictureSource | ArraySource
    preprocess: Preprocess | None
    noise: list[float]
    skipped: list[str]
    notes: list[str]
    seed: int
    batch_size: int
    device: str
    engine: str
    outputs: bool
    path: Path
    overwrite: bool

    def run(self, progress: Progress | None = None) -> Store:
        """Run the model over all samples and return the finished store."""
        session = self.model.session(self.layers, device=self.device, engine=self._engine(), outputs=self.outputs)
        with session:
            plan = self._plan()
            with self._feed(plan) as feed:
                # The first batch settles the engine; only then there is something to write down.
                batches = iter(feed)
                first = next(batches)
                captured = [(first, session.run(first.values))]
                rest = ((fed, session.run(fed.values)) for fed in batches)
                plan = replace(plan, attributes=self._attributes(session))
                with StoreWriter(self.path, plan, overwrite=self.overwrite) as writer:
                    self._stream(chain(captured, rest), writer, progress or _silent)
        return open_store(self.path)

    def _engine(self) -> str:
        """Take the reference where choosing an engine would take longer than it could save."""
        runs = len(self.source.samples) * len(self.noise) / self.batch_size
        return "eager" if self.engine == "auto" and runs < _FEW_RUNS else self.engine

    def _feed(self, plan: StorePlan) -> Feed:
        return Feed(
            self.source,
            self.preprocess,
            units=plan.units(),
            batch_size=self.batch_size,
            noise=self.noise,
            seed=self.seed,
        )

    def _stream(self, captured: Iterable[tuple[Fed, Capture]], writer: StoreWriter, progress: Progress) -> None:
        total, last = len(self.source.samples), len(self.noise) - 1
        progress(0, total)
        for fed, capture in captured:
            if fed.rows.start == 0 and fed.level == 0:
                writer.start_unit()
            _put(writer, fed, capture)
            if fed.level == last:
                progress(fed.unit.start + fed.rows.stop, total)
                if fed.rows.stop == len(fed.unit):
                    writer.finish_unit(fed.unit)

    def _plan(self) -> StorePlan:
        samples = self.source.samples
        picture = None
        if self.preprocess is not None and self.preprocess.crop is not None:
            picture = (*self.preprocess.crop, self.preprocess.channels)
        return StorePlan(
            samples=[s.id for s in samples],
            paths=[s.path for s in samples],
            labels=[s.label for s in samples],
            noise=self.noise,
            layers=self.layers,
            attributes={},
            batch=self.batch_size,
            picture=picture,
            outputs=self._output_shapes() if self.outputs else {},
        )

    def _output_shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Run one blank sample to learn what the model puts out."""
        info = self.model.inputs[0]
        with self.model.session(self.layers[:1], device=self.device, outputs=True) as session:
            outputs = session.run(np.zeros((1, *info.shape), info.dtype)).outputs
        return {name: (tuple(array.shape[1:]), str(array.dtype)) for name, array in outputs.items()}

    def _attributes(self, session: Session) -> dict[str, Any]:
        model = self.model
        prepared = None if self.preprocess is None else self.preprocess.settings()
        return {
            "model": model.source,
            "fingerprint": model.fingerprint,
            "adapter": model.adapter,
            "engine": session.engine,
            "engine_notes": list(session.engine_notes),
            "device": self.device,
            "layers": [layer.name for layer in self.layers],
            "input_shape": list(model.inputs[0].shape),
            "preprocessing": prepared or "none: arrays are the model's input",
            "noise_kind": "gaussian",
            "noise_space": "input" if self.preprocess is None else "pixel, black 0 and white 1, not clipped",
            "seed": self.seed,
            "batch_size": self.batch_size,
            "skipped": self.skipped,
            "notes": self.notes,
            "versions": _versions(),
        }


def _silent(_done: int, _total: int) -> None:
    return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("fmx", "torch", "onnxruntime-gpu", "onnxruntime", "numpy", "zarr"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _put(writer: StoreWriter, fed: Fed, capture: Capture) -> None:
    for name, block in capture.items():
        writer.put(name, fed.rows, block, noise=fed.level)
    for name, block in capture.outputs.items():
        writer.put(f"outputs/{name}", fed.rows, block, noise=fed.level)
    if fed.pictures is not None:
        writer.put("inputs", fed.rows, fed.pictures)


def prepare(
    model: Any,
    data: Any,
    *,
    to: str | Path,
    layers: str | Iterable[str] = "auto",
    noise: Sequence[float] = (0.0,),
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    device: str = "cpu",
    engine: str = "auto",
    outputs: bool = False,
    pictures: PictureOptions | None = None,
    weights: str | Path | None = None,
    allow_partial: bool = False,
    input_shape: Sequence[int] | None = None,
    on_error: str = "fail",
    overwrite: bool = False,
) -> Extraction:
    """Settle an extraction without running it; takes what `extract` takes.

    Raises
    ------
    FmxError
        Anything about model, data, layers or store that would not work.
    """
    path = Path(to)
    prepare_place(path, overwrite=overwrite)
    if batch_size < 1:
        raise DataError(f"A batch has at least one sample, not {batch_size}: correct --batch-size.")
    if on_error not in {"fail", "skip"}:
        raise DataError(f"There is no way to handle errors called {on_error}: use fail or skip.")
    if not -(2**63) <= seed < 2**63:
        raise DataError(f"--seed {seed} is too large: use a number of at most 18 digits.")
    options = pictures or PictureOptions()
    levels = noise_levels(noise)
    source = open_source(data)
    opened = _open(model, source, options, input_shape, {"weights": weights, "allow_partial": allow_partial})
    preprocess = choose_preprocess(opened, source, options)
    opened = fit_input(opened, source, preprocess)
    chosen = choose_layers(opened, layers)
    skipped: list[str] = []
    if on_error == "skip" and isinstance(source, PictureSource):
        source, skipped = source.readable()
    return Extraction(
        model=opened,
        layers=chosen,
        source=source,
        preprocess=preprocess,
        noise=levels,
        skipped=skipped,
        notes=_notes(opened, preprocess),
        seed=seed,
        batch_size=batch_size,
        device=device,
        engine=engine,
        outputs=outputs,
        path=path,
        overwrite=overwrite,
    )


def _open(
    model: Any,
    source: PictureSource | ArraySource,
    options: PictureOptions,
    input_shape: Sequence[int] | None,
    asked: dict[str, Any],
) -> Model:
    if isinstance(model, Model):
        return model
    shape = input_shape or options.input_shape()
    if shape is None and isinstance(source, ArraySource) and not options.given:
        shape = source.shape
    return load(model, input_shape=shape, layout=options.layout, **asked)


def _notes(model: Model, preprocess: Preprocess | None) -> list[str]:
    """Say what was assumed, in words for the user."""
    notes = [model.notes] if model.notes else []
    assumed = model.inputs[0].assumed
    if preprocess is not None and preprocess.source == "assumed":
        notes.append(
            f"The model does not say how its pictures are prepared; assumed: {preprocess.describe()} "
            "(change it with --size, --crop, --mean, --std, --range, --channels, --layout)"
        )
    elif assumed:
        notes.append(f"The model does not say what it takes; assumed: {assumed} (change it with --input-shape)")
    return notes


def extract(
    model: Any,
    data: Any,
    *,
    to: str | Path,
    layers: str | Iterable[str] = "auto",
    noise: Sequence[float] = (0.0,),
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH,
    device: str = "cpu",
    engine: str = "auto",
    outputs: bool = False,
    pictures: PictureOptions | None = None,
    weights: str | Path | None = None,
    allow_partial: bool = False,
    input_shape: Sequence[int] | None = None,
    on_error: str = "fail",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Stream the activations of a model into a store.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : str, path, array or sequence of paths
        A picture, a folder of pictures (subfolders are labels), an ``.npy`` file or an array (sample, …native), or a
        list of pictures. Arrays are taken as model input as they are, unless `pictures` says how to prepare them.
    to : str or path
        Where the store is made.
    layers : str or iterable of str
        See `fmx.layers.select_layers`.
    noise : sequence of float
        Standard deviations of Gaussian noise: of pixels that run from 0 (black) to 1 (white), or of the model's input
        for arrays. 0, the clean pass, is always there and comes first.
    seed : int
        With the sample's id, the timestep and the level it settles the noise, whatever the batch size.
    batch_size : int
        Samples that the model runs at once.
    device : str
        ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    engine : str
        ``auto`` takes the fastest engine whose values on the first batch agree with the reference's within 1e-4 of
        each layer's largest value; ``eager`` is the reference; a model lists the others when it is given a wrong one.
    outputs : bool
        Keep the model's outputs too.
    pictures : PictureOptions, optional
        Overrules how pictures are prepared.
    weights, allow_partial, input_shape
        See `fmx.load`.
    on_error : {"fail", "skip"}
        What to do about pictures that can't be read; ``skip`` looks at every picture first and lists in the store
        what it left out.
    overwrite : bool
        Replace a store that is there already.
    progress : callable, optional
        Called with the number of samples done and the number in all.

    Returns
    -------
    Store

    Raises
    ------
    FmxError
        With one sentence that says what was wrong and what to do.
    """
    settled = prepare(
        model,
        data,
        to=to,
        layers=layers,
        noise=noise,
        seed=seed,
        batch_size=batch_size,
        device=device,
        engine=engine,
        outputs=outputs,
        pictures=pictures,
        weights=weights,
        allow_partial=allow_partial,
        input_shape=input_shape,
        on_error=on_error,
        overwrite=overwrite,
    )
    return settled.run(progress)
