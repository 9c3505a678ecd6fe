"""How a picture is written down while it is optimised: as pixels, as frequencies, or as phases alone.

Pictures are one tensor of numbers (picture, …), begun from each one's own draws, which is what the ascent changes;
`picture` turns it into pixels between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fmx.maximize.colour import colour_axes, mixed
from fmx.maximize.draw import Draw

__all__ = ["Fourier", "Image", "Phases", "Pixels", "frequencies"]

# Lucid's number: dividing by it keeps pictures from saturating.
_CALM = 4.0


class Image(Protocol):
    """A way of writing pictures of one size (height, width) down; it holds no numbers itself."""

    size: tuple[int, int]

    def begin(self, draws: Sequence[Draw]) -> Tensor:
        """Draw the numbers to start from, (picture, …)."""
        ...

    def picture(self, numbers: Tensor) -> Tensor:
        """Give the pixels, (picture, band, y, x) from 0 to 1."""
        ...


def frequencies(height: int, width: int) -> Tensor:
    """Give the length of each frequency that ``rfft2`` lists, in cycles a pixel, (y, x // 2 + 1)."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])


class Pixels:
    """Pixels as they are, through a sigmoid.

    Parameters
    ----------
    bands, height, width : int
    spread : float
        Standard deviation of the noise to start from.
    """

    def __init__(self, bands: int, height: int, width: int, *, spread: float = 0.01) -> None:
        self.size = (height, width)
        self.shape = (bands, height, width)
        self.spread = spread

    def begin(self, draws: Sequence[Draw]) -> Tensor:
        """Draw noise about mid-grey, (picture, band, y, x)."""
        return torch.stack([torch.randn(self.shape, generator=d.generator("begin")) for d in draws]) * self.spread

    def picture(self, numbers: Tensor) -> Tensor:
        """Give the pixels."""
        return torch.sigmoid(numbers)


class Fourier:
    """Frequencies of decorrelated colours, scaled so that each counts as it does in photographs.

    picture = sigmoid(C · irfft2(numbers / max(f, 1/side)^decay) / 4), with f in cycles a pixel, an orthonormal
    transform, and C the square root of the colours' covariance (Olah et al. 2017, with Lucid's constants).

    Parameters
    ----------
    bands, height, width : int
    decay : float
        Power of the frequency by which each is divided.
    spread : float
        Standard deviation of the numbers to start from.
    decorrelate : bool
        Use axes along which colours vary apart; there are none but for three bands.
    """

    def __init__(
        self,
        bands: int,
        height: int,
        width: int,
        *,
        decay: float = 1.0,
        spread: float = 0.01,
        decorrelate: bool = True,
    ) -> None:
        self.size = (height, width)
        self.bands = bands
        self.spread = spread
        self.axes = colour_axes(bands) if decorrelate else None
        self.scale = frequencies(height, width).clamp_min(1 / max(height, width)) ** -decay / _CALM

    def begin(self, draws: Sequence[Draw]) -> Tensor:
        """Draw noise of equal strength in all numbers, (picture, axis, fy, fx, real and imaginary part)."""
        shape = (self.bands, *self.scale.shape, 2)
        return torch.stack([torch.randn(shape, generator=d.generator("begin")) for d in draws]) * self.spread

    def picture(self, numbers: Tensor) -> Tensor:
        """Give the pixels."""
        spectrum = torch.view_as_complex(numbers * self.scale[..., None].to(numbers.device))
        waves = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return torch.sigmoid(mixed(waves, self.axes))

    def numbers(self, picture: Tensor) -> Tensor:
        """Give the numbers of a picture (picture, band, y, x) with pixels between 0 and 1, without these two."""
        from fmx.maximize.colour import unmixed

        waves = unmixed(torch.logit(picture), self.axes)
        spectrum: Tensor = torch.fft.rfft2(waves, norm="ortho") / self.scale
        parts: Tensor = torch.view_as_real(spectrum)
        return parts


class Phases:
    """Phases alone, under a fixed spectrum of magnitudes (MACO: Fel et al. 2023, "Unlocking Feature Visualization").

    picture = sigmoid(C · standardised(irfft2(magnitude · exp(i·phase)))), where standardised means that the waves of a
    picture have mean 0 and standard deviation `contrast`.

    Parameters
    ----------
    magnitude : tensor (axis, fy, fx)
        Of the frequencies of ``rfft2``; see `fmx.maximize.spectrum`.
    width : int
        Of the picture.
    contrast : float
    """

    def __init__(self, magnitude: Tensor, width: int, *, contrast: float = 1.0, decorrelate: bool = True) -> None:
        self.magnitude = magnitude
        self.size = (magnitude.shape[1], width)
        self.contrast = contrast
        self.axes = colour_axes(len(magnitude)) if decorrelate else None

    def begin(self, draws: Sequence[Draw]) -> Tensor:
        """Draw phases, uniformly from -π to π, (picture, axis, fy, fx)."""
        shape = self.magnitude.shape
        uniform = [torch.rand(shape, generator=d.generator("begin")) for d in draws]
        return (torch.stack(uniform) * 2 - 1) * torch.pi

    def waves(self, numbers: Tensor) -> Tensor:
        """Give the waves of decorrelated colours, (picture, axis, y, x)."""
        magnitude, phases = self.magnitude.to(numbers), self._mirrored(numbers)
        spectrum = torch.complex(magnitude * phases.cos(), magnitude * phases.sin())
        waves = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        waves = waves - waves.mean((1, 2, 3), keepdim=True)
        deviation = waves.square().mean((1, 2, 3), keepdim=True).sqrt()
        scaled: Tensor = waves * (self.contrast / deviation.clamp_min(1e-8))
        return scaled

    def _mirrored(self, numbers: Tensor) -> Tensor:
        """Let columns that hold both of two mirrored frequencies hold opposite phases, as those of real pictures do.

        Otherwise the two would interfere, and their magnitude would not be the one that was asked for.
        """
        height, width = self.size
        rows = torch.arange(height, device=numbers.device)
        sign = torch.sign(torch.remainder(-rows, height) - rows)
        sides = [0, width // 2] if width % 2 == 0 else [0]
        columns = numbers[..., sides]
        upper = columns[..., torch.minimum(rows, torch.remainder(-rows, height)), :] * sign[:, None]
        return numbers.index_copy(-1, torch.tensor(sides, device=numbers.device), upper)

    def picture(self, numbers: Tensor) -> Tensor:
        """Give the pixels."""
        return torch.sigmoid(mixed(self.waves(numbers), self.axes))
