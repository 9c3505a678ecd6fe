"""Frames as encoders of films take them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmx.render.frame import Frame

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["SharedPalette", "four_bytes", "gray_bits", "gray_values"]

OPAQUE = 255
# Of every so many pixels along both sides, so many are nearer to their colours than the error says.
_EVERY, _WORST = 3, 0.998
# A palette is given up where its error is so many times that on the frame it was made for, and so many levels more.
_WORSE, _LITTLE = 1.5, 8.0
# Colours that are kept as they are, such as the white of the paper.
_FREQUENT = 8


def gray_bits(picture: Frame) -> int:
    """Give the bits of a gray value; 0 for a picture in colour."""
    gray = picture.palette is None and picture.pixels.ndim == 2
    return 8 * picture.pixels.itemsize if gray else 0


def gray_values(picture: Frame) -> VideoFrame:
    """Give gray values of 8 or 16 bits as they are."""
    import av

    names = {8: "gray", 16: "gray16le" if sys.byteorder == "little" else "gray16be"}
    values: Any = np.ascontiguousarray(picture.pixels)
    return av.VideoFrame.from_ndarray(values, format=names[gray_bits(picture)])


def _in_8_bits(picture: Frame) -> NDArray[np.uint8]:
    """Give indices or gray values (y, x), or RGB (y, x, 3)."""
    pixels = picture.pixels if picture.pixels.dtype == np.uint8 else picture.pixels >> 8
    return pixels.astype(np.uint8, copy=False)


def _palette(picture: Frame) -> NDArray[np.uint8]:
    if picture.palette is not None:
        return picture.palette
    return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def four_bytes(picture: Frame, width: int, height: int) -> VideoFrame:
    """Write the colours into a frame of blue, green, red and an unused byte, the edges repeated where it is larger.

    Written here, in one go from palette indices: the codec's own conversion from RGB costs as much as a third of FFV1.
    """
    import av

    frame = av.VideoFrame(width, height, "bgr0")
    plane = frame.planes[0]
    target = np.frombuffer(plane, dtype=np.uint32).reshape(plane.height, plane.line_size // 4)  # type: ignore[call-overload]
    x, y = picture.size
    pixels = _in_8_bits(picture)
    if pixels.ndim == 2:
        colours = np.full((256, 4), OPAQUE, dtype=np.uint8)
        colours[:, :3] = _palette(picture)[:, ::-1]
        np.take(colours.view(np.uint32)[:, 0], pixels, out=target[:y, :x], mode="clip")
    else:
        channels = target.view(np.uint8).reshape(*target.shape, 4)[:y, :x]
        for band in range(3):
            channels[:, :, 2 - band] = pixels[:, :, band]
        channels[:, :, 3] = OPAQUE
    if x < width:
        target[:y, x:width] = target[:y, x - 1 : x]
    if y < height:
        target[y:, :] = target[y - 1, :]
    return frame


class SharedPalette:
    """Colours for frames that have more than 256: found once, and anew when frames come that are not made of them.

    Finding them takes many times longer than choosing the nearest for each pixel, and colours that stay don't flicker.
    """

    def __init__(self) -> None:
        self._colours: Image.Image | None = None
        self._error = 0.0

    def indexed(self, picture: Frame) -> VideoFrame:
        """Give palette indices with their palette: exact for up to 256 colours."""
        import av

        pixels = np.ascontiguousarray(_in_8_bits(picture))
        table = _palette(picture)
        if pixels.ndim == 3:
            nearest = self._nearest(pixels)
            pixels, table = np.asarray(nearest), np.array(nearest.getpalette(), dtype=np.uint8).reshape(-1, 3)
        # PyAV takes a palette of alpha, red, green and blue.
        palette = np.full((256, 4), OPAQUE, dtype=np.uint8)
        palette[: len(table), 1:] = table
        both: Any = (pixels, palette)
        return av.VideoFrame.from_ndarray(both, format="pal8")

    def _nearest(self, pixels: NDArray[np.uint8]) -> Image.Image:
        picture = Image.fromarray(pixels)
        # No dithering: its pattern would flicker from frame to frame.
        if picture.getcolors(256) is not None:
            return picture.quantize(256, dither=Image.Dither.NONE)
        if self._colours is not None:
            found = picture.quantize(palette=self._colours, dither=Image.Dither.NONE)
            if _error(pixels, found) <= max(_WORSE * self._error, self._error + _LITTLE):
                return found
        self._colours = _chosen_colours(pixels)
        found = picture.quantize(palette=self._colours, dither=Image.Dither.NONE)
        self._error = _error(pixels, found)
        return found


def _chosen_colours(pixels: NDArray[np.uint8]) -> Image.Image:
    """Choose 256 colours for a picture: the most frequent as they are, and those that come near to all others.

    A colour counts with the root of how often it is there, so that bars of colours and small hot regions get theirs.
    """
    packed = (pixels.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(axis=2, dtype=np.uint32)
    found, counts = np.unique(packed, return_counts=True)
    colours = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1).astype(np.uint8)
    often = colours[np.argsort(-counts, kind="stable")[:_FREQUENT]]
    # Pillow takes colours of the same upper six bits for one.
    often = often[np.sort(np.unique(often // 4, axis=0, return_index=True)[1])]
    weighted = np.repeat(colours, np.ceil(np.sqrt(counts)).astype(np.int64), axis=0)
    near = np.array(Image.fromarray(weighted[None]).quantize(256 - len(often)).getpalette(), np.uint8).reshape(-1, 3)
    other = ~(near[:, None] // 4 == often // 4).all(axis=2).any(axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([often, near[other]]).ravel().tolist()[: 3 * 256])
    return palette


def _error(pixels: NDArray[np.uint8], found: Image.Image) -> float:
    """Say how far the worst pixels are from their colours; the few hot ones of a map count as much as all others."""
    some = np.asarray(found)[::_EVERY, ::_EVERY]
    table = np.array(found.getpalette(), dtype=np.int16).reshape(-1, 3)
    apart = np.abs(pixels[::_EVERY, ::_EVERY].astype(np.int16) - table[some]).max(axis=2)
    return float(np.quantile(apart, _WORST))
