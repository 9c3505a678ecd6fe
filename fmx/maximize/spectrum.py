"""Magnitudes of frequencies, for pictures of which only phases are optimised: of photographs, or as a model asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fmx.data import Preprocess, open_source
from fmx.errors import DataError
from fmx.maximize.colour import colour_axes, unmixed
from fmx.maximize.draw import Draw
from fmx.maximize.images import Fourier, frequencies
from fmx.maximize.network import Network

__all__ = ["spectrum_of_model", "spectrum_of_pictures"]

# Pixels are taken into the sigmoid's domain, which has no black and no white.
_DARKEST = 0.02
_NOISE_PICTURES = 16


def spectrum_of_pictures(data: Any, bands: int, height: int, width: int, *, decorrelate: bool = True) -> Tensor:
    """Average the magnitudes of pictures' frequencies.

    Pictures are resized and cut to the size; what is transformed is logit(pixel) on decorrelated colours, less its
    mean, under a Hann window, so that the borders of the pictures leave no cross.

    Parameters
    ----------
    data : str, path or array (sample, y, x, band)
        Whatever `fmx.data.open_source` takes for pictures.
    bands, height, width : int

    Returns
    -------
    tensor (axis, fy, fx), with a mean of 1

    Raises
    ------
    DataError
        There are no pictures.
    """
    axes = colour_axes(bands) if decorrelate else None
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    total, count = torch.zeros(bands, height, width // 2 + 1), 0
    for pixels in _pictures(data, bands, height, width):
        picture = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
        waves = unmixed(torch.logit(picture.clamp(_DARKEST, 1 - _DARKEST)), axes)[0]
        waves = waves - waves.mean((1, 2), keepdim=True)
        total += torch.fft.rfft2(waves * window, norm="ortho").abs()
        count += 1
    return _without_mean(total / count)


def _pictures(data: Any, bands: int, height: int, width: int) -> Iterable[NDArray[np.uint8]]:
    if bands not in {1, 3, 4}:
        raise DataError(f"The model takes {bands} channels, and pictures have 1, 3 or 4: leave --spectrum out.")
    source = open_source(data)
    if not len(source.samples):
        raise DataError(f"There are no pictures in {data}: give a folder with some.")
    prepare = Preprocess(resize=max(height, width), crop=(height, width), channels=bands)
    for i in range(len(source.samples)):
        for read in source.read_run(range(i, i + 1)):
            picture = read if isinstance(read, Image.Image) else _as_picture(read, source.samples[i].path)
            # The shorter side fills the picture whatever its shape is.
            scale = max(height / picture.height, width / picture.width)
            size = (max(round(picture.height * scale), height), max(round(picture.width * scale), width))
            yield replace(prepare, resize=size).picture(picture)


def _as_picture(read: Any, path: str) -> Image.Image:
    array = np.asarray(read)
    if array.dtype != np.uint8 or array.ndim not in {2, 3}:
        raise DataError(f"{path} holds {array.dtype} of shape {array.shape}: a spectrum is made of pictures.")
    return Image.fromarray(array)


def spectrum_of_model(
    network: Network, height: int, width: int, *, seed: int = 0, decorrelate: bool = True, layers: Sequence[str] = ()
) -> Tensor:
    """Estimate which frequencies a model responds to, from noise alone.

    The mean magnitude, over pictures of noise whose power falls with the frequency as that of photographs does, of the
    frequencies in the gradient of the layers' mean square; each divided by its frequency, as photographs have them.

    Returns
    -------
    tensor (axis, fy, fx), with a mean of 1
    """
    names = list(layers or [*network.layers, *(["output"] if network.output else [])])
    image = Fourier(network.bands, height, width, spread=0.5, decorrelate=decorrelate)
    total = torch.zeros(network.bands, height, width // 2 + 1)
    for i in range(_NOISE_PICTURES):
        waves = image.begin([Draw(seed, f"spectrum {i}")])
        picture = image.picture(waves).detach().requires_grad_()
        values = network.values(picture)
        energy = sum((values[name].square().mean() for name in names), start=torch.zeros((), device=network.device))
        (gradient,) = torch.autograd.grad(energy, picture)
        axes = image.axes
        along = gradient if axes is None else torch.einsum("ba,nbyx->nayx", axes.to(gradient), gradient)
        total += torch.fft.rfft2(along[0], norm="ortho").abs().cpu()
    side = max(height, width)
    return _without_mean(total / frequencies(height, width).clamp_min(1 / side))


def _without_mean(magnitude: Tensor) -> Tensor:
    """Scale to a mean of 1, without the picture's mean brightness, which is no texture."""
    magnitude[:, 0, 0] = 0
    return magnitude / magnitude.mean().clamp_min(1e-12)
