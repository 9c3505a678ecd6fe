"""Occlusion: what a network says while a patch hides a part of the picture (Zeiler & Fergus 2014, figure 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.adapter import choose_layers, run_all
from fmx.errors import FmxError, LayerError, near_matches
from fmx.layers import LayerInfo
from fmx.prepare import PictureOptions
from fmx.project.inputs import Pictures, open_pictures
from fmx.project.occlusion_maps import SCORES, OcclusionMaps, Target
from fmx.project.patches import FILLS, Patches, fill_of
from fmx.project.results import ZEILER_FERGUS, about

__all__ = ["FILLS", "SCORES", "occlude", "occlude_pictures"]

Progress = Callable[[int, int], None]


def occlude(
    model: Any,
    data: Any,
    *,
    patch: int | tuple[int, int] = 32,
    stride: int = 16,
    fill: str = "zero",
    classes: str | int | Sequence[int | str] = "auto",
    layers: str | Iterable[str] = (),
    channels: str | int | Sequence[int | str] = "auto",
    scores: str = "auto",
    pictures: PictureOptions | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    engine: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Hide one part of a picture after the other, and record what the model makes of the rest.

    Nothing is differentiated, so that any model that runs will do, a quantized one too.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : anything that `fmx.extract` takes
        Pictures, or arrays that are the model's input.
    patch : int or (int, int)
        Side of the patch, or (y, x), in pixels of the model's input.
    stride : int
        Pixels from one place to the next, at most the patch. The first and the last place are equally far out; what
        lies beyond the border is cut off, so that every pixel is covered.
    fill : str
        What the patch shows, one of FILLS.
    classes : "auto", "none", int or sequence of them
        Classes whose probability is mapped; ``auto`` is the most probable one of each whole picture. With ``none``
        the model runs only as far as the last of the layers.
    layers : str or iterable of str
        Layers with feature maps to be mapped, selected as for `fmx.extract`; none if left out.
    channels : "auto", "all", int or sequence of them
        Feature maps of each layer; ``auto`` is the one with the largest activation in each whole picture, of several (a
        ReLU6 has an upper limit) the one with the largest sum.
    scores : str
        What counts as probability, one of SCORES.
    pictures : PictureOptions, optional
        How pictures are prepared, where not as the model says.
    batch_size : int
    device, engine : str
        As for `fmx.extract`.
    progress : callable, optional
        Called with the number of passes done and the number in all.

    Returns
    -------
    xarray.Dataset
        ``value`` (sample, target, y, x): what is left of each target with the patch at (y, x), the centre of the
        patch in pixels. ``whole`` (sample, target): the same without a patch. ``number`` (sample, target): the class or
        channel that is meant. ``most_probable`` (sample, y, x): the class that the model takes the rest for, and
        ``highest`` its probability; ``whole_class`` (sample): that of the whole picture. Coordinates ``kind`` and
        ``layer`` of the targets.

    Raises
    ------
    FmxError
        A patch that is larger than the picture, a stride larger than the patch, an unknown fill, class or channel,
        nothing to map, or a model that gives no scores of classes.
    """
    ask = {"patch": patch, "stride": stride, "fill": fill, "classes": classes, "layers": layers, "channels": channels}
    how = {"scores": scores, "batch_size": batch_size, "device": device, "engine": engine, "progress": progress}
    return occlude_pictures(open_pictures(model, data, pictures=pictures), **ask, **how)  # type: ignore[arg-type]


def occlude_pictures(
    pictures: Pictures,
    *,
    patch: int | tuple[int, int] = 32,
    stride: int = 16,
    fill: str = "zero",
    classes: str | int | Sequence[int | str] = "auto",
    layers: str | Iterable[str] = (),
    channels: str | int | Sequence[int | str] = "auto",
    scores: str = "auto",
    batch_size: int = 32,
    device: str = "cpu",
    engine: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Do what `occlude` does for pictures that are open already."""
    for what, asked, known in (("fill", fill, FILLS), ("scores", scores, SCORES)):
        if asked not in known:
            raise FmxError(f"--{what} takes {', '.join(known)}, not {asked}: {near_matches(asked, known)}")
    if batch_size < 1:
        raise FmxError(f"A batch has at least one picture, not {batch_size}: correct --batch-size.")
    sides = (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
    patches = Patches(pictures.shape[1:], sides, stride)
    infos = choose_layers(pictures.model, layers) if layers else []
    wanted = [Target("probability", "", number) for number in _numbers("--class", classes, "none")]
    for info in infos:
        numbers = _channels(info, channels)
        wanted += [Target(kind, info.name, number) for number in numbers for kind in ("strongest", "total")]
    if not wanted:
        raise FmxError("There is nothing to map: give a class, or a layer with --layer.")
    result = OcclusionMaps(pictures, patches, wanted, {info.name: info for info in infos}, scores)
    passes = _Passes(pictures, patches, fill, batch_size)
    with pictures.model.session(
        infos, device=device, engine=engine, outputs=result.wants_classes, expected_batches=len(passes)
    ) as session:
        done = 0
        for rows, capture in zip(passes.rows(), run_all(session, passes.batches()), strict=True):
            result.take(rows, capture)
            done += len(rows)
            if progress is not None:
                progress(done, passes.total)
        settings = {"patch": list(sides), "stride": stride, "fill": fill, "fill_definition": FILLS[fill]}
        return result.dataset(about(pictures, "occlusion", ZEILER_FERGUS, **settings, engine=session.engine))


def _numbers(option: str, asked: str | int | Sequence[int | str], nothing: str) -> list[int | None]:
    """Read which classes or channels are meant; None for what is to be found."""
    parts: Sequence[int | str] = [asked] if isinstance(asked, str | int) else list(asked)
    if parts == [nothing]:
        return []
    found: list[int | None] = []
    for part in parts:
        if part == "auto":
            found.append(None)
        elif isinstance(part, int) or part.isdecimal():
            found.append(int(part))
        else:
            raise FmxError(f"{option} takes auto, {nothing} or numbers from 0 on, not '{part}'.")
    return list(dict.fromkeys(found))


def _channels(info: LayerInfo, asked: str | int | Sequence[int | str]) -> list[int | None]:
    if "channel" not in info.dims:
        raise LayerError(f"{info.name} has no feature maps, only {' '.join(info.dims)}: choose another --layer.")
    count = info.shape[info.dims.index("channel")]
    if asked in ("all", ["all"], ("all",)):
        return list(range(count))
    numbers = _numbers("--channels", asked, "all")
    for number in numbers:
        if number is not None and not 0 <= number < count:
            raise LayerError(f"{info.name} has no channel {number}: it has {count}, numbered from 0.")
    return numbers


class _Passes:
    """The forward passes: for each sample the whole picture, and then one pass for each place of the patch."""

    def __init__(self, pictures: Pictures, patches: Patches, fill: str, batch_size: int) -> None:
        self._pictures = pictures
        self._patches = patches
        self._fill = fill
        self._batch_size = batch_size
        self.total = len(pictures) * (len(patches.places) + 1)

    def __len__(self) -> int:
        return math.ceil(self.total / self._batch_size)

    def rows(self) -> Iterator[list[tuple[int, int]]]:
        """Give (sample, place) for each row of each batch; place -1 is the whole picture."""
        each = range(-1, len(self._patches.places))
        coming = ((sample, place) for sample in range(len(self._pictures)) for place in each)
        while rows := list(islice(coming, self._batch_size)):
            yield rows

    def batches(self) -> Iterator[NDArray[Any]]:
        """Give the model's input for each batch."""
        read = -1
        values: NDArray[Any] = np.empty(0)
        hidden = values
        for rows in self.rows():
            batch = np.empty((len(rows), *self._pictures.model.inputs[0].shape), self._pictures.model.inputs[0].dtype)
            for row, (sample, place) in enumerate(rows):
                if sample != read:
                    values = self._pictures.values(sample)
                    hidden = fill_of(self._fill, self._pictures, values, self._patches.patch)
                    read = sample
                batch[row] = values
                if place >= 0:
                    at = self._patches.places[place]
                    covered = at if self._pictures.channels_last else (slice(None), *at)
                    batch[row][covered] = hidden[covered]
            yield batch
