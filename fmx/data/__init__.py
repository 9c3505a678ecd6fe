"""Samples, how they are prepared for a model, and the noise that is added to them."""

from fmx.data.noise import gaussian_noise, noise_levels
from fmx.data.perturb import Perturbation, perturbation, perturbation_kinds
from fmx.data.preprocess import Preprocess
from fmx.data.sources import (
    ArraySource,
    ClipSource,
    ItemSource,
    NamedArrays,
    PictureSource,
    Sample,
    Source,
    StreamSource,
    open_source,
    readable,
)

__all__ = [
    "ArraySource",
    "ClipSource",
    "ItemSource",
    "NamedArrays",
    "Perturbation",
    "PictureSource",
    "Preprocess",
    "Sample",
    "Source",
    "StreamSource",
    "gaussian_noise",
    "noise_levels",
    "open_source",
    "perturbation",
    "perturbation_kinds",
    "readable",
]
