"""Films: frames written one after the other, in the memory of a few, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.sinks import unfinished_name
from fmx.render.video_frames import SharedPalette, four_bytes, gray_bits, gray_values

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["VIDEO_SUFFIXES", "VideoWriter", "write_video"]

BT709, LIMITED_RANGE = 1, 1
FASTEST, SLOWEST = 1000, Fraction(1, 100)


@dataclass(frozen=True)
class _Format:
    """How a suffix is written: container, codec and what the codec takes.

    `grays` are what the codec calls pictures without colour, by the bits of a value, where they are kept so; `even`
    says that sides must be even, `fastest` how many frames a second readers of the format still show.
    """

    container: str
    codec: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    grays: Mapping[int, str] = field(default_factory=dict)
    even: bool = False
    fastest: int = FASTEST


_FORMATS = {
    ".avi": _Format("avi", "ffv1", "bgr0", grays={8: "gray", 16: "gray16le"}),
    ".mp4": _Format("mp4", "libx264", "yuv420p", {"crf": "16"}, {"movflags": "faststart"}, even=True),
    ".webm": _Format(
        "webm", "libvpx-vp9", "yuv420p", {"crf": "20", "b": "0", "row-mt": "1", "deadline": "realtime", "cpu-used": "6"}
    ),
    ".gif": _Format("gif", "gif", "pal8", fastest=50),
    ".apng": _Format(
        "apng", "apng", "rgb24", {"compression_level": "1"}, {"plays": "0"}, grays={8: "gray", 16: "gray16be"}
    ),
}
VIDEO_SUFFIXES = tuple(_FORMATS)


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[Frame | NDArray[np.uint8]],
    *,
    fps: float = 10,
    overwrite: bool = False,
) -> Path:
    """Write frames as a film, one at a time, whole or not at all.

    Parameters
    ----------
    path : path
        The file; its suffix says how it is written. ``.avi``: FFV1, lossless. ``.apng``: lossless. Both keep gray
        values of 16 bits, of which the others show the upper 8. ``.gif``: lossless for frames of up to 256 colours;
        otherwise 256, which stay the same as long as frames are near to them. ``.mp4``: H.264, an odd width or height
        gets one more column or row, like its last. ``.webm``: VP9. The last two store colour at half the resolution.
        GIF and APNG repeat for ever.
    frames : iterable of Frame, or of arrays of uint8 (y, x) or (y, x, 3)
        All of one size. Taken one by one, as they are encoded.
    fps : float
        Frames a second, 0.01 to 1000, for GIF at most 50.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FmxError
        The suffix is none of these, the file exists, there are no frames, they differ in size, the first are gray and
        a later one is not, or the file can't be written there. What `frames` raises comes through; no file is left in
        any of these cases.
    """
    with VideoWriter(path, fps=fps, overwrite=overwrite) as film:
        for frame in frames:
            film.add(frame)
    return film.path


class VideoWriter:
    """A film that frames are added to: `write_video` for frames that arise one at a time, as in a loop.

    A context manager: the file appears at the end of the ``with`` block, and doesn't when the block raises.

    Parameters
    ----------
    path : path
    fps : float
    overwrite : bool
        As `write_video` takes them.

    Attributes
    ----------
    path : Path
        The file.
    frames : int
        Number of frames added so far.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float = 10, overwrite: bool = False) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in _FORMATS:
            raise FmxError(f"{self.path} doesn't say how to write the film: end its name in {', '.join(_FORMATS)}.")
        self._format = _FORMATS[suffix]
        fastest = self._format.fastest
        if not SLOWEST <= fps <= fastest:
            raise FmxError(
                f"A {suffix} film can show 0.01 to {fastest} frames a second, not {fps:g}: give another fps."
            )
        if self.path.exists() and not overwrite:
            raise FmxError(f"{self.path} is there already: give another name, or --overwrite (overwrite=True).")
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1000)
        self._unfinished = unfinished_name(self.path)
        self._container: Any = None
        self._palette = SharedPalette()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def add(self, frame: Frame | NDArray[np.uint8]) -> None:
        """Encode one more frame.

        Raises
        ------
        FmxError
            It has another size than the first, or colours where the first had none; or the file can't be written.
        """
        picture = frame if isinstance(frame, Frame) else Frame(np.asarray(frame))
        with self._errors():
            if self._container is None:
                self._start(picture)
        if picture.size != self._size:
            raise FmxError(
                f"Frame {self.frames} of {self.path.name} is {picture.size[0]}×{picture.size[1]} pixels, those before "
                f"it are {self._size[0]}×{self._size[1]}: all frames of a film need one size."
            )
        if self._gray and gray_bits(picture) != self._gray:
            what = f"gray of {gray_bits(picture)} bits" if gray_bits(picture) else "in colour"
            raise FmxError(
                f"Frame {self.frames} of {self.path.name} is {what}, those before it are gray of {self._gray} bits: "
                "give all of them alike."
            )
        with self._errors():
            encodable = self._encodable(picture)
            encodable.pts = self.frames
            self._container.mux(self._stream.encode(encodable))
        self.frames += 1

    def _start(self, first: Frame) -> None:
        """Open the file for frames like the first one."""
        import av

        how = self._format
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened as a plain file, so that no name is taken for a pattern or an address.
        self._container = av.open(
            f"file:{self._unfinished}", "w", format=how.container, options=dict(how.container_options)
        )
        self._size = width, height = first.size
        self._gray = gray_bits(first) if gray_bits(first) in how.grays else 0
        self._stream = stream = self._container.add_stream(how.codec, rate=self._fps, options=dict(how.options))
        stream.width, stream.height = (width + width % 2, height + height % 2) if how.even else (width, height)
        stream.pix_fmt = how.grays.get(self._gray, how.pixels)
        if how.pixels == "yuv420p":
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
            context.thread_type = "AUTO"

    def _encodable(self, picture: Frame) -> VideoFrame:
        """Give a frame in a form that the codec takes."""
        if self._gray:
            return gray_values(picture)
        if self._format.pixels == "pal8":
            return self._palette.indexed(picture)
        full = four_bytes(picture, self._stream.width, self._stream.height)
        if self._format.pixels == "yuv420p":
            return full.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        return full

    def _finish(self) -> None:
        if self._container is None:
            raise FmxError(f"{self.path} is not written: there are no frames.")
        with self._errors():
            self._container.mux(self._stream.encode())
            container, self._container = self._container, None
            container.close()
            self._unfinished.replace(self.path)

    def _discard(self) -> None:
        """Close and remove what is unfinished; nothing is there any more after a film is finished."""
        import av

        container, self._container = self._container, None
        if container is not None:
            # What matters has been raised already; this file goes.
            with suppress(OSError, av.FFmpegError):
                container.close()
        with suppress(OSError):
            self._unfinished.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except av.codec.codec.UnknownCodecError as error:
            raise FmxError(
                f"{self.path} can't be written: this PyAV has no encoder {self._format.codec}; choose another of "
                f"{', '.join(_FORMATS)}."
            ) from error
        except (OSError, av.FFmpegError) as error:
            raise FmxError(f"{self.path} can't be written: {error.strerror or error}.") from error
