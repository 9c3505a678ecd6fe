"""A patch that slides over a picture: where it lies, and what it puts there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError, near_matches
from fmx.project.inputs import Pictures

__all__ = ["FILLS", "Patches", "fill_of"]

FILLS = {
    "zero": "0 in the model's input: the mean colour, where pictures are normalised",
    "grey": "mid-grey, half way between black and white",
    "mean": "the picture's own mean of each colour",
    "blur": "the picture, blurred by a Gaussian whose standard deviation is half the patch",
}

Place = tuple[slice, slice]


@dataclass(frozen=True)
class Patches:
    """Places of a patch, row by row.

    The first and the last place are equally far out, and what lies beyond the border is cut off, so that every pixel is
    covered at least once.

    Attributes
    ----------
    picture : tuple of int
        (y, x) of the picture in pixels.
    patch : tuple of int
        (y, x) of the patch in pixels.
    stride : int
        Pixels from one place to the next.

    Raises
    ------
    FmxError
        The patch is larger than the picture, or the stride larger than the patch.
    """

    picture: tuple[int, int]
    patch: tuple[int, int]
    stride: int

    def __post_init__(self) -> None:
        words = "×".join(map(str, self.patch))
        if min(*self.patch, self.stride) < 1:
            raise FmxError(f"A patch and its stride have at least one pixel, not {words} and {self.stride}.")
        if self.patch[0] > self.picture[0] or self.patch[1] > self.picture[1]:
            size = "×".join(map(str, self.picture))
            raise FmxError(f"A patch of {words} is larger than the picture, {size}: choose a smaller --patch.")
        if self.stride > min(self.patch):
            raise FmxError(
                f"With a stride of {self.stride} a patch of {words} misses pixels: choose a --stride of at most "
                f"{min(self.patch)}."
            )

    def _starts(self, axis: int) -> NDArray[np.int64]:
        length, patch = self.picture[axis], self.patch[axis]
        count = -(-(length - patch) // self.stride) + 1
        beyond = (count - 1) * self.stride + patch - length
        return np.arange(count) * self.stride - beyond // 2

    @property
    def shape(self) -> tuple[int, int]:
        """Number of places along y and x."""
        return len(self._starts(0)), len(self._starts(1))

    def centres(self, axis: int) -> NDArray[np.float64]:
        """Centres of the whole patches along y (0) or x (1), in pixels: that of the first pixel is 0."""
        return np.asarray(self._starts(axis) + (self.patch[axis] - 1) / 2)

    @cached_property
    def places(self) -> list[Place]:
        """What each place covers, row by row."""
        along = [
            [slice(max(int(s), 0), min(int(s) + self.patch[axis], self.picture[axis])) for s in self._starts(axis)]
            for axis in (0, 1)
        ]
        return list(product(*along))


def fill_of(
    kind: str, pictures: Pictures, values: NDArray[np.floating], patch: tuple[int, int]
) -> NDArray[np.floating]:
    """Give what the patch shows, for the whole picture.

    Parameters
    ----------
    kind : str
        One of FILLS.
    pictures : Pictures
        Where the picture comes from.
    values : array
        The picture as the model's input, in the model's layout.
    patch : tuple of int
        (y, x) in pixels.

    Returns
    -------
    array
        Like `values`, or one that broadcasts to them.

    Raises
    ------
    FmxError
        There is no such fill, or mid-grey is asked for where nothing says what grey is.
    """
    axes = (0, 1) if pictures.channels_last else (1, 2)
    if kind == "zero":
        return np.zeros_like(values)
    if kind == "mean":
        return np.broadcast_to(values.mean(axis=axes, keepdims=True), values.shape)
    if kind == "blur":
        from scipy.ndimage import gaussian_filter

        sigma = [0.0, 0.0, 0.0]
        for axis, length in zip(axes, patch, strict=True):
            sigma[axis] = length / 2
        return np.asarray(gaussian_filter(values, sigma, mode="nearest"))
    if kind != "grey":
        raise FmxError(f"There is no fill {kind}: {near_matches(kind, FILLS)}")
    if pictures.preprocess is None:
        raise FmxError(
            "Nothing says what grey is in arrays that are the model's input: take --fill zero, mean or blur."
        )
    colours, y, x = pictures.shape
    return pictures.preprocess.scaled(np.full((y, x, colours), 0.5, np.float32))
