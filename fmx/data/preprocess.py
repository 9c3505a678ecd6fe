"""From a picture to what the model takes, in two steps: the picture as the model sees it (uint8), and its numbers.

The first step (resize, crop) is torchvision's own code, so that its presets are followed to the bit; the second scales
to the model's range, adds noise where asked for, and normalises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.errors import DataError

__all__ = ["Preprocess"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pictures become model input.

    Attributes
    ----------
    resize : int, tuple of int or None
        Length of the shorter side in pixels, or (height, width); None keeps the size.
    crop : tuple of int or None
        (height, width) cut from the centre; None keeps all.
    interpolation : str
        ``bilinear``, ``bicubic`` or ``nearest``.
    antialias : bool
        Smooth when shrinking, as Pillow always does; only the frames of clips can do without.
    channels : int
        1 (grey), 3 (RGB) or 4 (RGBA).
    range : tuple of float
        Where black and white come to lie, before mean and std: (0, 1), (0, 255), (-1, 1).
    mean, std : tuple of float
        Subtracted and divided by, a value a channel or one for all, in units of `range`.
    layout : str
        ``CHW`` or ``HWC``; for models of whole clips ``CTHW``, ``TCHW`` or ``THWC``. Clips for a model of ``CHW`` are
        ``CTHW``, for one of ``HWC`` ``THWC``.
    source : str
        Where these settings come from, in words.
    """

    resize: int | tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    channels: int = 3
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "CHW"
    source: str = "as asked for"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Preprocess:
        """Build from plain settings, such as a store's attributes or a model's preset."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
        return cls(**values)

    @classmethod
    def for_input(cls, shape: Sequence[int], layout: str = "CHW") -> Preprocess:
        """Assume the usual where a model does not say: fill the input, scale to 0–1, ImageNet's mean and std for RGB.

        Parameters
        ----------
        shape : sequence of int
            Shape of one sample, (channel, y, x) or (y, x, channel); of a clip (channel, timestep, y, x), (timestep,
            channel, y, x) or (timestep, y, x, channel).
        layout : str
            ``CHW`` or ``HWC``; of clips it is told by where 1, 3 or 4 channels are.

        Raises
        ------
        DataError
            The input is no picture.
        """
        layout = _clip_layout(shape) if len(shape) == 4 else layout
        if len(shape) not in {3, 4} or not layout:
            text = "×".join(map(str, shape))
            raise DataError(f"The model takes samples of shape {text}, not pictures: give the data as .npy.")
        sizes = dict(zip(layout, shape, strict=True))
        channels, height, width = (sizes[axis] for axis in "CHW")
        if channels not in _MODES:
            raise DataError(f"The model takes {channels} channels, and pictures have 1, 3 or 4: give the data as .npy.")
        mean, std = _IMAGENET if channels == 3 else ((0.0,), (1.0,))
        # Networks for photographs are evaluated on the middle 7/8 of the picture: 256 to 224, 342 to 299.
        margin = 8 / 7 if channels == 3 and min(height, width) >= 160 else 1.0
        larger = (round(height * margin), round(width * margin))
        return cls(
            resize=larger if height != width else larger[0],
            crop=(height, width),
            channels=channels,
            mean=mean,
            std=std,
            layout=layout,
            source="assumed",
        )

    def settings(self) -> dict[str, Any]:
        """Give all settings as plain values that JSON holds."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def describe(self) -> str:
        """Say in a few words what is done to a picture."""
        size = "×".join(map(str, self.crop)) if self.crop else "own size"
        resized = "×".join(map(str, self.resize)) if isinstance(self.resize, tuple) else str(self.resize or "")
        if resized and resized not in {size, size.partition("×")[0]}:
            size = f"resized to {resized}, middle {size}"
        colour = {1: "grey", 3: "RGB", 4: "RGBA"}[self.channels]
        low, high = (f"{v:g}" for v in self.range)
        text = f"{size} {colour}, scaled to {low}–{high}"
        if set(self.mean) != {0.0} or set(self.std) != {1.0}:
            imagenet = (self.mean, self.std) == _IMAGENET
            numbers = "mean " + ",".join(f"{m:g}" for m in self.mean) + " std " + ",".join(f"{s:g}" for s in self.std)
            text += ", ImageNet mean and std" if imagenet else f", {numbers}"
        return text

    def picture(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop a picture.

        Returns
        -------
        array of uint8, dims (y, x, band)
        """
        from torchvision.transforms.v2 import functional as F

        image = _convert(image, _MODES[self.channels])
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            image = F.resize(image, size, interpolation=_interpolation(self.interpolation), antialias=self.antialias)
        if self.crop is not None:
            image = F.center_crop(image, list(self.crop))
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    def clip(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop the frames of a clip, each like a picture.

        Parameters
        ----------
        frames : array of uint8, dims (timestep, y, x, band)

        Returns
        -------
        array of uint8, dims (timestep, y, x, band)
        """
        if self.antialias:
            return np.stack([self.picture(Image.fromarray(frame)) for frame in frames])
        return self._unsmoothed(frames)

    def _unsmoothed(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize without smoothing, as torchvision's presets for videos do; Pillow can't."""
        import torch

        # The presets' own version; the newer one rounds differently.
        from torchvision.transforms import functional as F

        mode = _MODES[self.channels]
        bands = np.stack([np.atleast_3d(np.asarray(_convert(Image.fromarray(frame), mode))) for frame in frames])
        clip = torch.from_numpy(bands).permute(0, 3, 1, 2)
        if self.resize is not None:
            size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
            clip = F.resize(clip, size, interpolation=_interpolation(self.interpolation), antialias=False)
        if self.crop is not None:
            clip = F.center_crop(clip, list(self.crop))
        return np.ascontiguousarray(clip.permute(0, 2, 3, 1).numpy())

    def shape(self, timesteps: int | None = None) -> tuple[int, ...]:
        """Give the shape of one sample of model input, for pictures of a settled size.

        Parameters
        ----------
        timesteps : int, optional
            Frames, for a model of whole clips.

        Raises
        ------
        DataError
            Nothing settles the size.
        """
        if self.crop is None:
            raise DataError("Pictures of different sizes don't fit one store: give --size or --crop.")
        sizes = {"C": self.channels, "H": self.crop[0], "W": self.crop[1], "T": timesteps or 1}
        return tuple(sizes[axis] for axis in (self._axes if timesteps is None else self.clip_axes))

    @property
    def _axes(self) -> str:
        return self.layout.replace("T", "")

    @property
    def clip_axes(self) -> str:
        """Axes of a clip in the model's input: ``CTHW``, ``TCHW`` or ``THWC``."""
        return self.layout if "T" in self.layout else {"CHW": "CTHW", "HWC": "THWC"}[self.layout]

    def numbers(
        self,
        picture: NDArray[np.uint8],
        noise: NDArray[np.float32] | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Turn a picture into model input.

        Parameters
        ----------
        picture : array of uint8, dims (y, x, band)
        noise : array of float32, dims (channel, y, x), optional
            Added while black is 0 and white is 1; values are not clipped, so that the noise stays what it is.
        out : array of float32, optional
            Where to write.

        Returns
        -------
        array of float32, dims (channel, y, x) or (y, x, channel)
        """
        out = self._room(picture.shape) if out is None else out
        bands = self._bands(out)
        bands[...] = picture.transpose(2, 0, 1)
        bands /= np.float32(255)
        if noise is not None:
            bands += noise
        self._scale(bands)
        return out

    def scaled(self, values: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Turn a picture whose black is 0 and white 1 into model input.

        Parameters
        ----------
        values : array of float32, dims (y, x, band)
        out : array of float32, optional
            Where to write.

        Returns
        -------
        array of float32, dims (channel, y, x) or (y, x, channel)
        """
        out = self._room(values.shape) if out is None else out
        bands = self._bands(out)
        bands[...] = values.transpose(2, 0, 1)
        self._scale(bands)
        return out

    def _room(self, shape: Sequence[int]) -> NDArray[np.float32]:
        y, x, bands = shape
        return np.empty((bands, y, x) if self._axes == "CHW" else (y, x, bands), np.float32)

    def _bands(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values if self._axes == "CHW" else values.transpose(2, 0, 1)

    def _scale(self, bands: NDArray[np.float32]) -> None:
        """Scale (channel, y, x) in place, in the order and precision of torchvision's presets."""
        low, high = self.range
        if (low, high) != (0.0, 1.0):
            bands *= np.float32(high - low)
            bands += np.float32(low)
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        bands -= mean
        bands /= std


def _clip_layout(shape: Sequence[int]) -> str:
    """Tell the axes of a clip from where the channels are, empty where no axis can be that."""
    layouts = {0: "CTHW", 1: "TCHW", 3: "THWC"}
    # The longer of the first two is time where both could be channels.
    order = (1, 0, 3) if shape[0] not in _MODES or shape[1] == 3 != shape[0] else (0, 1, 3)
    return next((layouts[axis] for axis in order if shape[axis] in _MODES), "")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert to the wanted bands; 16-bit grey is scaled to 8 bit, where Pillow would clip it."""
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(deep / 257.0, 0, 255).round().astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)


def _interpolation(name: str) -> Any:
    from torchvision.transforms import InterpolationMode

    try:
        return InterpolationMode(name)
    except ValueError:
        raise DataError(f"There is no interpolation '{name}': use bilinear, bicubic or nearest.") from None
