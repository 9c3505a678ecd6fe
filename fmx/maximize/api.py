"""Activation maximization: pictures that excite chosen channels, neurons, classes or directions most."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmx.errors import StoreError
from fmx.maximize.keep import Keep, differing_settings, keep_for, settings_of
from fmx.maximize.objectives import Objective
from fmx.maximize.targets import Target, targets_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    import xarray as xr
    from numpy.typing import NDArray

    from fmx.adapter import Model
    from fmx.data import Preprocess
    from fmx.maximize.methods import Settings
    from fmx.maximize.network import Network
    from fmx.maximize.transforms import Transforms

__all__ = ["maximize"]

# What a kill loses at most, beside the batch at hand.
_SAVE_SECONDS = 20.0


def maximize(
    model: Model | Any,
    wanted: str | Objective | Sequence[Objective | str],
    channels: str | int | Iterable[int] | None = None,
    *,
    method: str = "fourier",
    size: int | None = None,
    steps: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    pictures: int = 1,
    transforms: Transforms | bool = True,
    tv: float = 0.0,
    l2: float = 0.0,
    blur: float = 0.0,
    decay: float = 1.0,
    decorrelate: bool = True,
    factor: float | None = None,
    scales: int | None = None,
    spectrum: Any = None,
    contrast: float | None = None,
    restarts: int = 3,
    batch_size: int = 16,
    every: int | None = None,
    preprocess: Preprocess | None = None,
    device: str = "cpu",
    to: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, xr.Dataset]:
    """Make pictures that maximize objectives, by gradient ascent from noise.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    wanted : str, Objective, or sequence of them
        A layer's name, whose `channels` are wanted, or objectives: `channel`, `neuron`, `logit`, `direction`,
        `diversity` and their sums, or their text, such as ``"layer3:5 - 0.5*logit:281"``.
    channels : "all", int or iterable of int, optional
        Channels of the layer; all where a layer is given alone.
    method : {"fourier", "pixels", "multi-scale", "maco"}
        How a picture is written down; see `fmx.maximize.images` and ``docs/maximization.md``.
    size : int, optional
        Side of the picture in pixels: 128, or the model's own size if that is smaller. With multi-scale, of the first
        picture: 33.
    steps, rate : optional
        Steps of ascent and learning rate of Adam: 512 and 0.05; multi-scale 20 at each scale and 0.2; MACO 256 and
        0.05.
    seed : int
        Of all random numbers. Those of a picture depend on the seed and on what it is of, not on the batch.
    pictures : int
        How many of each objective, each from noise of its own.
    transforms : Transforms or bool
        Random shifts, scales and turns in each step, Lucid's unless told, and the sides at which the network sees the
        picture, by turns: by default from its own up to the model's (see `Transforms.settled`). False for none.
    tv, l2, blur : float
        Weights of penalties on the picture; see `fmx.maximize.penalties`.
    decay : float
        Power of the frequency by which Fourier numbers are divided.
    decorrelate : bool
        Decorrelated colours, for three bands.
    factor, scales : optional
        With multi-scale: by which the picture grows, 1.2, and how many sizes it has, 20.
    spectrum : path or array, optional
        With MACO: pictures whose mean spectrum is taken; from the model's answers to noise where none are given.
    contrast : float, optional
        With MACO: standard deviation of the waves before the sigmoid.
    restarts : int
        How often a picture whose objective never moves is begun anew, from stronger noise of another seed.
    batch_size : int
        Objectives that are optimised at once. It changes results by rounding only.
    every : int, optional
        Keep the picture after every so many steps: those of no step, or as in the results that are there already,
        unless given.
    preprocess : Preprocess, optional
        Range, mean, std and layout of the model's input: the model's own, or the usual ones, unless given.
    device : str
    to : str or path, optional
        A store, which gets the results as ``analysis/maximization``, or a folder for ``.npz`` files. Channels that are
        there already, with the same settings, are not made again: run the same call to go on after an interruption.
    overwrite : bool
        Replace results that were made with other settings.
    progress : callable, optional
        Given how many pictures' steps are done and how many there are.

    Returns
    -------
    dict of str to xarray.Dataset
        By layer (``objectives`` for anything but whole channels): ``picture`` (channel, y, x, band) uint8,
        ``activation`` and ``start`` (channel): the objective of the finished picture, without transforms, and of the
        noise it began with; ``status`` (channel): ``ok``, ``flat`` where it never moved, ``not finite``; ``restarts``;
        ``curve`` (channel, step); ``frame`` (channel, frame_step, y, x, band) with `every`; ``alpha`` (channel, y, x)
        with MACO. The axis is called ``target`` for anything but whole channels with a picture each.

    Raises
    ------
    LayerError
        A layer, channel or position that is not there; the range is named.
    ModelError
        The model is not differentiable, takes no pictures, or does not run on pictures of this size.
    StoreError
        There are results with other settings already, or `to` can't be written.
    FmxError
        An option that can't be.

    Notes
    -----
    Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network"; Olah, Mordvintsev and Schubert 2017,
    "Feature Visualization"; Fel et al. 2023, "Unlocking Feature Visualization" (MACO).
    """
    from fmx.adapter import Model, load
    from fmx.allocator import memory_is_kept
    from fmx.errors import FmxError
    from fmx.maximize.methods import settings_for
    from fmx.maximize.network import Network, picture_preprocess
    from fmx.maximize.penalties import Penalties
    from fmx.maximize.transforms import Transforms

    if batch_size < 1 or (every is not None and every < 1):
        raise FmxError("--batch-size and --every take numbers of at least 1.")
    opened = model if isinstance(model, Model) else load(model)
    targets = targets_of(wanted, channels, opened.layers, pictures)
    prepare = preprocess or picture_preprocess(opened)
    network = Network(
        opened,
        list(dict.fromkeys(name for target in targets for name in target.objective.layers)),
        output=any(target.objective.needs_output for target in targets),
        preprocess=prepare,
        device=device,
    )
    look = {True: Transforms(), False: Transforms.none()}[transforms] if isinstance(transforms, bool) else transforms
    settings = settings_for(
        method,
        network.own_size,
        size=size,
        steps=steps,
        rate=rate,
        seed=seed,
        transforms=look,
        penalties=Penalties(tv, l2, blur),
        decay=decay,
        decorrelate=decorrelate,
        factor=factor,
        scales=scales,
        contrast=contrast,
        restarts=restarts,
        spectrum=("the model" if spectrum is None else f"{spectrum}" if isinstance(spectrum, str | Path) else "given")
        if method == "maco"
        else "",
    )
    sides = settings.height, settings.width
    as_they_are = network.fit(*look.for_size(*sides).window(*sides))
    # Where the size has to stay what it is there are no turns.
    fixed = method == "multi-scale" or not as_they_are or any(target.objective.placed for target in targets)
    own = 0 if fixed else min(network.own_size)
    settings = replace(settings, transforms=look.settled(min(sides), own))
    about = settings.plain() | {"pictures": pictures, "model": opened.fingerprint, "preprocess": prepare.settings()}
    about |= {"every": every or 0}
    kept = keep_for(to, opened.fingerprint)
    work = _Work(network, settings, about, kept, batch_size, every, progress, overwrite)
    with memory_is_kept():
        return work.run(targets, lambda: _magnitude(network, settings, spectrum))


def _magnitude(network: Network, settings: Settings, spectrum: Any) -> torch.Tensor | None:
    from fmx.maximize.spectrum import spectrum_of_model, spectrum_of_pictures

    if settings.method != "maco":
        return None
    size, mixing = (settings.height, settings.width), settings.decorrelate
    if spectrum is None:
        return spectrum_of_model(network, *size, seed=settings.seed, decorrelate=mixing)
    return spectrum_of_pictures(spectrum, network.bands, *size, decorrelate=mixing)


@dataclass
class _Work:
    """Makes what is not there yet, batch by batch, and keeps it."""

    network: Network
    settings: Settings
    about: Mapping[str, Any]
    kept: Keep | None
    batch_size: int
    every: int | None
    progress: Callable[[int, int], None] | None
    overwrite: bool
    found: dict[str, xr.Dataset] = field(default_factory=dict)
    _frames: dict[str, int] = field(default_factory=dict)

    def run(self, targets: Sequence[Target], magnitude: Callable[[], torch.Tensor | None]) -> dict[str, xr.Dataset]:
        """Make all targets, and give their results by layer, in the order asked for."""
        missing = self._missing(targets)
        self._total, self._done = len(targets), len(targets) - len(missing)
        drawn = magnitude() if missing else None
        unsaved: set[str] = set()
        saved = time.monotonic()
        self._tell(0, 0)
        try:
            for batch in self._batches(missing):
                unsaved |= self._make(batch, drawn)
                self._done += len(batch)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self._save(unsaved)
                    saved = time.monotonic()
        finally:
            self._save(unsaved)
        return {layer: self._chosen(layer, targets) for layer in dict.fromkeys(t.layer for t in targets)}

    def _missing(self, targets: Sequence[Target]) -> list[Target]:
        """List what is not there with the same settings.

        Raises
        ------
        StoreError
            What is there was made with other settings.
        """
        if self.kept is None:
            return list(targets)
        there: set[tuple[str, str, int]] = set()
        for layer in dict.fromkeys(target.layer for target in targets):
            before = self.kept.load(layer)
            if before is None:
                continue
            frames = settings_of(before).get("every", 0)
            about = self.about if self.every is not None else {**self.about, "every": frames}
            differing = differing_settings(before, about)
            if differing and not self.overwrite:
                raise StoreError(
                    f"{self.kept.where} holds pictures of {layer} that were made with other settings "
                    f"({'; '.join(differing)}): add --overwrite to replace them, or give another place."
                )
            if not differing:
                self.found[layer] = before
                self._frames[layer] = frames
                there |= {(layer, *key) for key in _keys(before)}
        return [t for t in targets if (t.layer, *_key(t)) not in there]

    def _batches(self, missing: Sequence[Target]) -> Iterator[list[Target]]:
        """Give batches of one layer each, in which the pictures of an objective stay together."""
        batch: list[Target] = []
        for group in _groups(missing):
            if batch and (len(batch) + len(group) > self.batch_size or batch[0].layer != group[0].layer):
                yield batch
                batch = []
            batch = batch + group
        if batch:
            yield batch

    def _make(self, batch: list[Target], magnitude: torch.Tensor | None) -> set[str]:
        from fmx.maximize.ascent import Group
        from fmx.maximize.batch import maximize_batch
        from fmx.maximize.draw import Draw
        from fmx.maximize.results import as_dataset, joined

        groups = [
            Group(group[0].objective, tuple(Draw(self.settings.seed, target.key) for target in group))
            for group in _groups(batch)
        ]
        layer = batch[0].layer
        every = self.every or self._frames.get(layer, 0)
        frames: dict[int, NDArray[np.uint8]] = {}
        made = maximize_batch(
            self.network,
            groups,
            self.settings,
            magnitude=magnitude,
            every=every,
            frames=frames,
            tell=lambda step: self._tell(step, len(batch)),
        )
        about = json.dumps({**self.about, "every": every})
        fresh = as_dataset(batch, made, frames).assign_attrs({"settings": about})
        before = self.found.get(layer)
        self.found[layer] = fresh if before is None else joined(before, fresh)
        return {layer}

    def _save(self, layers: set[str]) -> None:
        if self.kept is not None:
            for layer in sorted(layers):
                self.kept.save(layer, self.found[layer])
        layers.clear()

    def _tell(self, step: int, pictures: int) -> None:
        if self.progress is not None:
            steps = self.settings.total_steps
            self.progress(self._done * steps + step * pictures, self._total * steps)

    def _chosen(self, layer: str, targets: Sequence[Target]) -> xr.Dataset:
        found = self.found[layer]
        places = {key: i for i, key in enumerate(_keys(found))}
        rows = [places[_key(target)] for target in targets if target.layer == layer]
        return found.isel({str(found["activation"].dims[0]): rows})


def _groups(targets: Sequence[Target]) -> list[list[Target]]:
    """Put the pictures of an objective together; they follow each other."""
    groups: list[list[Target]] = []
    for target in targets:
        if not groups or groups[-1][0].label != target.label:
            groups.append([])
        groups[-1].append(target)
    return groups


def _key(target: Target) -> tuple[str, int]:
    """Say what a picture is known by in its layer's results."""
    if target.channel >= 0 and target.pictures == 1:
        return str(target.channel), 0
    return target.label, target.variant


def _keys(results: xr.Dataset) -> list[tuple[str, int]]:
    if "channel" in results.dims:
        return [(str(channel), 0) for channel in results["channel"].values]
    pairs = zip(results["target"].values, results["variant"].values, strict=True)
    return [(str(label), int(variant)) for label, variant in pairs]
