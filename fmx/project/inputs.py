"""Pictures as a model's input, one after the other, prepared as an extraction prepares them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.adapter import Model, check_batch, load
from fmx.data import Preprocess, Source, open_source
from fmx.errors import DataError, ModelError
from fmx.prepare import PictureOptions, as_pixels, choose_preprocess, fit_input

__all__ = ["Pictures", "open_pictures"]

_COLOURS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


@dataclass(frozen=True)
class Pictures:
    """Samples and the model that takes them.

    Attributes
    ----------
    model : Model
        For the shape that the samples have.
    source : Source
    preprocess : Preprocess or None
        None where samples are the model's input already.
    notes : list of str
        What had to be assumed, in words for the user.
    """

    model: Model
    source: Source
    preprocess: Preprocess | None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.source.samples)

    @property
    def samples(self) -> list[str]:
        """Ids of the samples."""
        return [sample.id for sample in self.source.samples]

    @cached_property
    def channels_last(self) -> bool:
        """Whether the model takes (y, x, colour)."""
        if self.preprocess is not None:
            return self.preprocess.layout == "HWC"
        return self.model.inputs[0].layout == "HWC"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The model's input as (colour, y, x)."""
        a, b, c = self.model.inputs[0].shape
        return (c, a, b) if self.channels_last else (a, b, c)

    @property
    def colours(self) -> list[Any]:
        """Names of the input's channels where it is a picture, else their numbers."""
        count = self.shape[0]
        known = self.preprocess is not None and count in _COLOURS
        return list(_COLOURS[count]) if known else list(range(count))

    def picture(self, index: int) -> NDArray[np.uint8] | None:
        """Give a picture as the model sees it, uint8 (y, x, band); None for arrays that are model input.

        Raises
        ------
        DataError
            It can't be read.
        """
        if self.preprocess is None:
            return None
        read = self.source.read(index)
        if isinstance(read, Image.Image):
            return self.preprocess.picture(read)
        return self.preprocess.picture(Image.fromarray(as_pixels(read, self.source.samples[index].path)))

    def values(self, index: int, picture: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Give a sample as model input, in the model's own layout.

        Parameters
        ----------
        index : int
        picture : array of uint8 (y, x, band), optional
            What `picture` gave for it, to read it once only.

        Raises
        ------
        DataError
            It can't be read.
        ModelError
            It doesn't have the shape that the model takes.
        """
        if self.preprocess is not None:
            shown = self.picture(index) if picture is None else picture
            assert shown is not None
            values: NDArray[Any] = self.preprocess.numbers(shown)
        else:
            values = np.asarray(self.source.read(index), dtype=self.model.inputs[0].dtype)
        check_batch(values[None], self.model.inputs[0].shape, self.model.source)
        return values

    def colour_first(self, maps: NDArray[Any]) -> NDArray[Any]:
        """Bring values at the input, (…, model's layout), into the order (…, colour, y, x)."""
        return np.moveaxis(maps, -1, -3) if self.channels_last else maps


def open_pictures(model: Any, data: Any, *, pictures: PictureOptions | None = None) -> Pictures:
    """Open pictures for a model.

    Parameters
    ----------
    model : Model, or anything that `fmx.load` opens
    data : anything that `fmx.extract` takes
        A picture, a folder, a list of files, an array (sample, …), ….
    pictures : PictureOptions, optional
        How pictures are prepared, where not as the model says.

    Raises
    ------
    DataError
        Nothing there, clips, or nothing that settles the size of pictures.
    ModelError
        The model doesn't take pictures, or none of this size.
    """
    options = pictures or PictureOptions()
    source = open_source(data)
    if source.timesteps > 1:
        raise DataError("Projections are of single pictures, and these are clips: give pictures.")
    if source.streamed:
        raise DataError("Projections read samples by their position: give a list of files, a folder or an array.")
    opened = model if isinstance(model, Model) else _opened(model, source, options)
    if len(opened.inputs) != 1:
        names = ", ".join(info.name for info in opened.inputs)
        raise ModelError(f"{opened.source} takes several inputs ({names}): projections are for models of one picture.")
    preprocess = choose_preprocess(opened, source, options)
    fitted = fit_input(opened, source, preprocess)
    shape = fitted.inputs[0].shape
    if len(shape) != 3:
        text = "×".join(map(str, shape)) or "one number"
        raise ModelError(f"{opened.source} takes samples of shape {text}: projections are for models of one picture.")
    notes = [opened.notes] if opened.notes else []
    if preprocess is not None and preprocess.source == "assumed":
        notes.append(f"The model does not say how its pictures are prepared; assumed: {preprocess.describe()}")
    return Pictures(fitted, source, preprocess, notes + source.notes)


def _opened(model: Any, source: Source, options: PictureOptions) -> Model:
    shape = options.input_shape()
    if shape is None and not source.pictures and not options.given:
        shape = source.shape
    return load(model, input_shape=shape, layout=options.layout)
