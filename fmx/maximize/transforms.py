"""Random shifts, scales and turns, so that a picture excites the network robustly and not by one pattern of pixels.

All of them together are one affine map, and so cost one interpolation; each picture of a batch has its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Transforms"]

GREY = 0.5
# Sides at which pictures are seen lie so far apart, as most networks halve them five times, and reach so far.
_APART, _LARGEST = 32, 1.75


@dataclass(frozen=True)
class Transforms:
    """What is done to a picture before the network sees it, at random in each step.

    The defaults are Lucid's: a border of mid-grey, a shift, a scale, a turn about the middle, and another shift. The
    network sees a window as large as the picture and its border less what shifts take away; the border is as wide as
    shifts can take away, so that the window is as large as the picture.

    Attributes
    ----------
    pad : int
        Border in pixels.
    jitter : int
        Pixels by which the picture is shifted at most, before it is scaled: uniformly drawn whole pixels.
    scale : tuple of float
        Least and largest scale.
    rotate : float
        Degrees by which it is turned at most, either way.
    jitter_after : int
        Pixels by which it is shifted at most, after all.
    views : tuple of int, optional
        Sides in pixels to which the window is enlarged, by turns from step to step (the shorter side, where they
        differ); none: the network sees it as it is. None stands for what `settled` gives.
    """

    pad: int = 6
    jitter: int = 8
    scale: tuple[float, float] = (0.9, 1.1)
    rotate: float = 10.0
    jitter_after: int = 4
    views: tuple[int, ...] | None = None

    @classmethod
    def none(cls) -> Transforms:
        """Give transforms that leave a picture as it is."""
        return cls(0, 0, (1.0, 1.0), 0.0, 0, ())

    def settled(self, side: int, own: int) -> Transforms:
        """Settle at which sides pictures are seen, where nothing was said.

        By turns their own and every multiple of 32 up to the model's own, or 1.75 times theirs if that is less: what
        excites a network at one size only excites it little at another.
        """
        if self.views is not None:
            return self
        larger = range((side // _APART + 1) * _APART, min(own, int(side * _LARGEST)) + 1, _APART)
        return replace(self, views=(side, *larger) if larger else ())

    def zoom(self, step: int, height: int, width: int) -> float:
        """Say how much a picture is enlarged in a step, from 0."""
        return self.views[step % len(self.views)] / min(height, width) if self.views else 1.0

    def for_size(self, height: int, width: int) -> Transforms:
        """Shrink border and shifts for pictures below 128 pixels, in proportion."""
        share = min(1.0, min(height, width) / 128)
        if share == 1:
            return self
        before, after = (2 * round(pixels * share / 2) for pixels in (self.jitter, self.jitter_after))
        # So much wider than the shifts as it was.
        more = round((self.pad - (self.jitter + self.jitter_after) / 2) * share)
        return replace(self, pad=max((before + after) // 2 + more, 0), jitter=before, jitter_after=after)

    @property
    def identity(self) -> bool:
        """Whether they do nothing."""
        return replace(self, views=()) == Transforms.none()

    def window(self, height: int, width: int, zoom: float = 1.0) -> tuple[int, int]:
        """Give the size that the network sees."""
        more = 2 * self.pad - self.jitter - self.jitter_after
        return max(round((height + more) * zoom), 1), max(round((width + more) * zoom), 1)

    def draw(self, generator: torch.Generator, zoom: float = 1.0) -> tuple[float, ...]:
        """Draw the map of one picture, (a, b, dx, c, d, dy), from places in the window to those in the picture.

        Both count in pixels from the middle. Shifts are in pixels of the picture, whatever it is enlarged by.
        """
        shifts = [self._shift(self.jitter, generator) for _ in "xy"]
        low, high = self.scale
        scale = low + (high - low) * float(torch.rand((), generator=generator))
        angle = math.radians(self.rotate) * (2 * float(torch.rand((), generator=generator)) - 1)
        after = [self._shift(self.jitter_after, generator) for _ in "xy"]
        # Backwards: undo the last shift, the turn and the scale, then the first shift.
        a, b = math.cos(angle) / scale, math.sin(angle) / scale
        dx, dy = (-(a * after[0] + b * after[1]) - shifts[0], -(-b * after[0] + a * after[1]) - shifts[1])
        return a / zoom, b / zoom, dx, -b / zoom, a / zoom, dy

    @staticmethod
    def _shift(most: int, generator: torch.Generator) -> float:
        """Draw whole pixels, about 0."""
        return float(torch.randint(0, most + 1, (), generator=generator)) - most / 2

    def apply(self, pictures: Tensor, maps: Sequence[Sequence[float]], zoom: float = 1.0) -> Tensor:
        """Look at pictures through their maps.

        Parameters
        ----------
        pictures : tensor (picture, band, y, x)
            Pixels from 0 to 1.
        maps : sequence
            What `draw` gave for each.
        zoom : float
            With which it did.

        Returns
        -------
        tensor (picture, band, y, x)
            Of the size of the window; mid-grey where there is no picture.
        """
        if self.identity and zoom == 1:
            return pictures
        height, width = pictures.shape[2:]
        size = self.window(height, width, zoom)
        device = pictures.device
        if device.type == "cpu" and pictures.dtype == torch.float32:
            from fmx.maximize.sampling import looked_at

            return looked_at(pictures, torch.tensor(list(maps), dtype=torch.float64), size, GREY)
        # In grid_sample's units the picture runs from -1 to 1, edge to edge, and so does the window.
        to_window = torch.tensor([size[1] / 2, size[0] / 2, 1.0])
        to_picture = torch.tensor([2 / width, 2 / height])
        theta = torch.tensor(list(maps)).reshape(-1, 2, 3) * to_window * to_picture[:, None]
        grid = torch.nn.functional.affine_grid(theta.to(device), [len(pictures), 1, *size], align_corners=False).to(
            pictures.dtype
        )
        # About grey, because what lies outside counts as 0.
        looked = torch.nn.functional.grid_sample(
            pictures - GREY, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        return looked + GREY
