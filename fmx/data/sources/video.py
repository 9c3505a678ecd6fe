"""Reading chosen frames of a video, exactly those, without decoding the whole of it.

A video is first looked through without decoding: its packets tell when each frame is shown and from which frames on
decoding can start (keyframes). Frames are counted in the order in which they are shown.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import DataError

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["Decoder", "VideoIndex", "index_video"]

# Playlists and the like would make FFmpeg read other files; only formats that hold the video itself are opened.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,mpegvideo,h264,hevc,av1,ivf,gif"
_WORTH_SEEKING = 8


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What is known of a video before any of it is decoded.

    Attributes
    ----------
    path : str
    frames : int
        Number of frames, as the file says or as it holds, whichever is more: those that are missing from a truncated
        file fail when they are read.
    fps : float
        Average frame rate, 0 where it is unknown.
    shown : tuple of int
        When each frame is shown, in ticks of the stream; empty where the file does not say.
    keys : tuple of int
        Positions of the frames that decoding can start at.
    """

    path: str
    frames: int
    fps: float
    shown: tuple[int, ...]
    keys: tuple[int, ...]


def index_video(path: str) -> VideoIndex:
    """Look through a video without decoding it.

    Raises
    ------
    DataError
        It can't be read, or holds no video.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        shown, keys, timed, packets = [], [], True, 0
        for packet in _packets(container, path):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packet.pts is None:
                timed = False
            else:
                shown.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        rate = float(stream.average_rate or 0)
        declared = stream.frames
    shown.sort()
    if not packets:
        raise DataError(f"{path} can't be read: it holds no frames.")
    if not timed or any(a == b for a, b in pairwise(shown)):
        return VideoIndex(path, packets, rate, (), (0,))
    position = {ticks: i for i, ticks in enumerate(shown)}
    return VideoIndex(path, max(declared, packets), rate, tuple(shown), tuple(sorted(position[k] for k in keys)))


def _open(path: str) -> InputContainer:
    import av

    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file", "format_whitelist": _FORMATS})
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path} can't be read: it holds no video.")
    return container


def _packets(container: InputContainer, path: str) -> Iterator[Any]:
    import av

    try:
        yield from container.demux(container.streams.video[0])
    except av.EOFError:
        return
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception, where: str = "") -> DataError:
    if not Path(path).is_file():
        return DataError(f"{path} can't be read: it is not there any more.")
    said = getattr(error, "strerror", None) or str(error) or "it is damaged"
    return DataError(f"{path} can't be read as a video{where}: {said}.")


class Decoder:
    """An open video that gives frames by their positions, and goes on from where it is where that is cheaper.

    Not for several threads at once.

    Attributes
    ----------
    at : int
        Position of the frame that comes next.
    """

    def __init__(self, index: VideoIndex) -> None:
        self.index = index
        self.at = 0
        self._damaged = False
        self._decoded: Iterator[tuple[int, Any]] = iter(())
        self._open()

    def close(self) -> None:
        """Close the file."""
        self._decoded = iter(())
        self._container.close()

    def read(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Decode frames at rising positions.

        Returns
        -------
        array of uint8, dims (timestep, y, x, band)
            RGB, turned upright where the file says how.

        Raises
        ------
        DataError
            A frame is missing or damaged; says which. The decoder can't be used any more.
        """
        frames = [self._frame(n) for n in positions]
        if any(f.shape != frames[0].shape for f in frames):
            raise DataError(f"{self.index.path} can't be read: its frames change their size after {positions[0]}.")
        return np.stack(frames)

    def _frame(self, number: int) -> NDArray[np.uint8]:
        if number < self.at or self._key(number) - self.at >= _WORTH_SEEKING:
            self._seek(number)
        for position, frame in self._decoded:
            self.at = position + 1
            # What is damaged spoils all that is predicted from it, up to the next keyframe.
            self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
            if position >= number:
                if position > number or self._damaged:
                    break
                pixels = frame.to_ndarray(format="rgb24")
                return np.rot90(pixels, frame.rotation // 90) if frame.rotation else pixels
        raise DataError(f"{self.index.path} can't be read: frame {number} is missing or damaged.")

    def _key(self, number: int) -> int:
        """Give the last frame up to this one that decoding can start at."""
        keys = self.index.keys
        return keys[max(bisect_right(keys, number) - 1, 0)] if keys else 0

    def _seek(self, number: int) -> None:
        """Go to where the frame can be reached from: the nearest keyframe, the one before it, or the beginning."""
        near, self._damaged = self._key(number), False
        for key in dict.fromkeys((near, self._key(near - 1))):
            if key > 0:
                self._container.seek(self.index.shown[key], stream=self._container.streams.video[0])
                self._decoded = self._decode(None)
                # Some files lead to a later keyframe than the one asked for.
                first = next(self._decoded, None)
                if first is not None and first[0] <= number:
                    self._decoded = chain([first], self._decoded)
                    return
        self._container.close()
        self._open()

    def _open(self) -> None:
        self._container = _open(self.index.path)
        self._container.streams.video[0].thread_type = "AUTO"
        self._decoded = self._decode(0)

    def _decode(self, start: int | None) -> Iterator[tuple[int, Any]]:
        """Give frames with their positions; `start` is the first one's, for files that don't say it of each."""
        import av

        shown, counted = self.index.shown, start or 0
        try:
            for frame in self._container.decode(self._container.streams.video[0]):
                if shown and frame.pts is not None:
                    position = bisect_left(shown, frame.pts)
                    if position == len(shown) or shown[position] != frame.pts:
                        continue
                    counted = position
                yield counted, frame
                counted += 1
        except av.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            raise _unreadable(self.index.path, error, f" after frame {self.at - 1}") from None
