"""Samples, how they are prepared for a model, and the noise that is added to them."""

from fmx.data.noise import gaussian_noise, noise_levels
from fmx.data.preprocess import Preprocess
from fmx.data.sources import ArraySource, PictureSource, Sample, Source, open_source

__all__ = [
    "ArraySource",
    "PictureSource",
    "Preprocess",
    "Sample",
    "Source",
    "gaussian_noise",
    "noise_levels",
    "open_source",
]
