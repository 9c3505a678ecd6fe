"""A perturbation: a kind, a space, the range of its levels, and what it does to a picture or to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmx.data.perturb import kinds
from fmx.data.perturb.draw import generator
from fmx.errors import DataError, near_matches

__all__ = ["Perturbation", "perturbation", "perturbation_kinds"]

Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


class _OnPicture(Protocol):
    def __call__(self, pixels: Pixels, level: float, draw: Callable[[], np.random.Generator], /) -> Values: ...


class _OnNumbers(Protocol):
    def __call__(self, values: NDArray[Any], level: float, draw: Callable[[], np.random.Generator], /) -> Values: ...


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is known of a kind of perturbation: the words for its levels, their largest, and its functions."""

    unit: str
    most: float
    example: str
    picture: _OnPicture
    numbers: _OnNumbers | None = None
    whole: bool = False
    clipped: bool = True


_KINDS = {
    "gaussian": _Kind(
        "standard deviation", 1e6, "0,0.2,0.4", kinds.gaussian_picture, kinds.gaussian_numbers, clipped=False
    ),
    "salt-and-pepper": _Kind(
        "share of pixels turned black or white", 1, "0,0.05,0.1", kinds.salt_picture, kinds.salt_numbers
    ),
    "blur": _Kind("sigma of a Gaussian blur in pixels", 100, "0,1,2", kinds.blur),
    "jpeg": _Kind("100 minus the JPEG quality", 99, "0,50,80", kinds.jpeg, whole=True),
    "brightness": _Kind("share of white added", 1, "0,0.1,0.2", kinds.brightness),
    "contrast": _Kind("share of the contrast taken away", 1, "0,0.3,0.6", kinds.contrast),
    "patch": _Kind("side of a grey square, as a share of the picture's shorter side", 1, "0,0.2,0.4", kinds.patch),
}


def perturbation_kinds() -> list[str]:
    """List the kinds of perturbation."""
    return list(_KINDS)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What is done to samples at each level; made by `perturbation`.

    Attributes
    ----------
    kind : str
    space : str
        ``pixel``: done to pictures before they are scaled for the model; ``input``: done to the model's input.
    unit : str
        What a level means.
    """

    kind: str
    space: str
    unit: str

    def levels(self, levels: Iterable[float]) -> list[float]:
        """Order levels: 0, the clean pass, always first, then rising, each once.

        Raises
        ------
        DataError
            A level that the kind does not have.
        """
        about = _KINDS[self.kind]
        given = [float(level) for level in levels]
        for level in given:
            if not 0 <= level <= about.most or (about.whole and level != int(level)):
                numbers = "whole numbers" if about.whole else "numbers"
                what = "Noise levels are standard deviations" if self.kind == "gaussian" else f"Levels of {self.kind}"
                if self.kind != "gaussian":
                    what += f" ({about.unit}) are {numbers}"
                raise DataError(f"{what} from 0 to {about.most:g}, not {level:g}: give --noise {about.example}.")
        return sorted({0.0, *given})

    def picture(
        self, pixels: NDArray[np.uint8], level: float, *, seed: int, sample: str, timestep: int = 0
    ) -> NDArray[np.float32]:
        """Perturb a picture as the model sees it, before scaling.

        Parameters
        ----------
        pixels : array of uint8, dims (y, x, band)
        level : float
        seed : int
        sample : str
            Id of the sample.
        timestep : int

        Returns
        -------
        array of float32, dims (y, x, band)
            0 is black and 1 white; Gaussian noise goes beyond, so that it stays what it is.
        """
        if not level:
            return kinds.unit_range(pixels)
        return _KINDS[self.kind].picture(pixels, level, self._draw(seed, sample, timestep, level))

    def numbers(
        self, values: NDArray[Any], level: float, *, seed: int, sample: str, timestep: int = 0
    ) -> NDArray[np.float32]:
        """Perturb the model's input, (…native).

        Raises
        ------
        DataError
            The kind is made for pictures.
        """
        change = _KINDS[self.kind].numbers
        if change is None:
            raise _needs_pictures(self.kind)
        if not level:
            return np.asarray(values, np.float32)
        return change(values, level, self._draw(seed, sample, timestep, level))

    def space_words(self, pictures: bool) -> str:
        """Say in words what levels refer to, for a store's attributes.

        Parameters
        ----------
        pictures : bool
            Whether samples are pictures that are prepared for the model.
        """
        if self.space == "input" or not pictures:
            return "input"
        return f"pixel, black 0 and white 1, {'clipped' if _KINDS[self.kind].clipped else 'not clipped'}"

    def check(self, *, pictures: bool) -> None:
        """Make sure that the samples can be perturbed in this way.

        Raises
        ------
        DataError
            They are arrays, and the kind or the space is one for pictures.
        """
        if not pictures and _KINDS[self.kind].numbers is None:
            raise _needs_pictures(self.kind)

    def _draw(self, seed: int, sample: str, timestep: int, level: float) -> Callable[[], np.random.Generator]:
        kind = "" if self.kind == "gaussian" else self.kind
        return lambda: generator(seed=seed, sample=sample, timestep=timestep, level=level, kind=kind)


def _needs_pictures(kind: str) -> DataError:
    able = " or ".join(name for name, about in _KINDS.items() if about.numbers)
    return DataError(f"The perturbation {kind} needs pictures in pixel space: for model input use {able}.")


def perturbation(kind: str = "gaussian", space: str | None = "pixel") -> Perturbation:
    """Name a perturbation.

    Parameters
    ----------
    kind : str
        ``gaussian``, ``salt-and-pepper``, ``blur``, ``jpeg``, ``brightness``, ``contrast`` or ``patch``.
    space : {"pixel", "input"} or None
        Where it is applied: to the pixels of pictures, or to the model's input; arrays are the model's input anyway.

    Raises
    ------
    DataError
        There is no such kind or space, or the kind needs pixels.
    """
    if kind not in _KINDS:
        raise DataError(f"There is no perturbation {kind}: {near_matches(kind, _KINDS, most=len(_KINDS))}")
    if space not in {None, "pixel", "input"}:
        raise DataError(f"There is no noise space {space}: use pixel or input.")
    if space == "input" and _KINDS[kind].numbers is None:
        raise _needs_pictures(kind)
    return Perturbation(kind, space or "pixel", _KINDS[kind].unit)
