"""Settling how samples become a model's input, before anything runs: what the model says, what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Model
from fmx.data import Preprocess, Source
from fmx.errors import DataError

__all__ = ["PictureOptions", "as_pixels", "choose_preprocess", "fit_input", "takes_clips"]


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """What a user said about preparing pictures; None where nothing was said.

    Attributes
    ----------
    size : int or None
        Length of the shorter side after resizing, in pixels.
    crop : int or None
        Side of the square cut from the centre; `size` if that alone is given.
    mean, std : sequence of float or None
    range : sequence of float or None
        Where black and white come to lie.
    channels : int or None
    layout : str or None
        ``NCHW`` or ``NHWC``.

    Raises
    ------
    DataError
        A value that no picture could be prepared with.
    """

    size: int | None = None
    crop: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    range: Sequence[float] | None = None
    channels: int | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        for name, pixels in (("--size", self.size), ("--crop", self.crop)):
            if pixels is not None and pixels < 1:
                raise DataError(f"{name} takes a number of pixels, not {pixels}.")
        if self.channels not in {None, 1, 3, 4}:
            raise DataError(f"Pictures have 1, 3 or 4 channels, not {self.channels}: correct --picture-channels.")
        if self.layout is not None:
            _layout(self.layout)
        for name, values in (("--mean", self.mean), ("--std", self.std), ("--range", self.range)):
            if values is not None and not np.all(np.isfinite(values)):
                raise DataError(f"{name} takes finite numbers.")
        if self.std is not None and min(self.std) <= 0:
            raise DataError("A standard deviation is greater than 0: correct --std.")
        if self.range is not None and len(set(_values("--range", self.range, {2}))) != 2:
            raise DataError("--range takes two different numbers, for black and for white.")

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return self != PictureOptions()

    def input_shape(self) -> tuple[int, ...] | None:
        """Give the shape of a sample if the options settle it."""
        side = self.crop or self.size
        if side is None:
            return None
        channels = self.channels or 3
        return (side, side, channels) if self.layout == "NHWC" else (channels, side, side)

    def apply(self, base: Preprocess) -> Preprocess:
        """Overrule a base with what was said.

        A new range without mean and std drops those of the base, which were meant for another range.

        Raises
        ------
        DataError
            A number of values that fits no channels.
        """
        channels = base.channels if self.channels is None else self.channels
        source = "as asked for" if base.source != "assumed" else "as asked for, the rest assumed"
        if not self.given:
            return base
        changes = self._sizes(base) | self._scaling(channels, keep=channels == base.channels)
        if self.layout is not None:
            changes["layout"] = _layout(self.layout)
        return replace(base, **changes, channels=channels, source=source)

    def _sizes(self, base: Preprocess) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if self.size is not None:
            changes |= {"resize": self.size, "crop": (self.size, self.size)}
        if self.crop is not None:
            changes["crop"] = (self.crop, self.crop)
            # A crop alone that is larger than what the base resizes to would be filled up with black.
            if self.size is None and base.resize is not None and min(_sides(base.resize)) < self.crop:
                changes["resize"] = self.crop
        return changes

    def _scaling(self, channels: int, *, keep: bool) -> dict[str, Any]:
        """Settle range, mean and std; those of the base stay only for its own range and channels."""
        changes: dict[str, Any] = {}
        if self.range is not None or not keep:
            changes = {"mean": (0.0,), "std": (1.0,)}
        if self.range is not None:
            changes["range"] = _values("--range", self.range, {2})
        if self.mean is not None:
            changes["mean"] = _values("--mean", self.mean, {1, channels})
        if self.std is not None:
            changes["std"] = _values("--std", self.std, {1, channels})
        return changes


def _sides(resize: int | tuple[int, ...]) -> tuple[int, ...]:
    return (resize,) if isinstance(resize, int) else resize


def _values(option: str, given: Sequence[float], counts: set[int]) -> tuple[float, ...]:
    if len(given) not in counts:
        wanted = " or ".join(map(str, sorted(counts)))
        raise DataError(f"{option} takes {wanted} numbers, not {len(given)}: separate them by commas.")
    return tuple(float(v) for v in given)


def _layout(name: str) -> str:
    layouts = {"NCHW": "CHW", "NHWC": "HWC"}
    if name not in layouts:
        raise DataError(f"There is no layout {name}: use NCHW or NHWC.")
    return layouts[name]


def choose_preprocess(model: Model, source: Source, options: PictureOptions) -> Preprocess | None:
    """Settle how samples are prepared: the model's own way, else what is usual, overruled by the options.

    Returns
    -------
    Preprocess or None
        None for arrays that are model input already.
    """
    if not source.pictures and not options.given:
        return None
    if model.preprocessing is not None:
        base = Preprocess.from_settings(model.preprocessing)
    else:
        info = model.inputs[0]
        base = Preprocess.for_input(info.shape, info.layout or "CHW")
    return options.apply(base)


def takes_clips(model: Model, source: Source) -> bool:
    """Say whether a model takes the clips of a source whole, and not one frame after the other."""
    return source.timesteps > 1 and len(model.inputs) == 1 and len(model.inputs[0].shape) == 4


def fit_input(model: Model, source: Source, preprocess: Preprocess | None) -> Model:
    """Return the model for the shape that the samples will have.

    Raises
    ------
    DataError
        Nothing settles the size of the pictures.
    ModelError
        The model does not take that shape.
    """
    clip = takes_clips(model, source)
    if source.pictures and not clip and len(model.inputs[0].shape) == 4:
        raise DataError(f"{model.source} takes clips, and these are single pictures: give videos.")
    if preprocess is not None:
        shape: tuple[int, ...] | None = preprocess.shape(source.timesteps if clip else None)
    elif clip and source.shape is not None:
        shape = (source.shape[0], source.timesteps, *source.shape[1:])
    else:
        shape = source.shape
    return model if shape is None or tuple(model.inputs[0].shape) == shape else model.with_input(shape)


def as_pixels(sample: Any, path: str) -> NDArray[np.uint8]:
    """Take an array that is to be prepared like a picture, uint8 (y, x), (y, x, band) or (band, y, x).

    Returns
    -------
    array of uint8, dims (y, x) or (y, x, band)

    Raises
    ------
    DataError
        It is nothing of the kind.
    """
    array = np.asarray(sample)
    if array.ndim == 3 and array.shape[0] in {1, 3, 4} and array.shape[2] not in {1, 3, 4}:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in {2, 3}:
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}: only uint8 pictures (y, x, band) can be prepared; "
            "leave the picture options out to take the array as model input."
        )
    return np.ascontiguousarray(array)
