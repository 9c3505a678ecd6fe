"""Videos as samples: each is cut into clips of as many frames, whose frames become the timesteps."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fmx.data.sources.base import Sample, Source, in_threads
from fmx.data.sources.video import Decoder, VideoIndex, index_video
from fmx.errors import DataError

__all__ = ["DEFAULT_FRAMES", "ClipSource"]

DEFAULT_FRAMES = 16
_MOST_OPEN = 8


class ClipSource(Source):
    """Clips of videos, decoded as they are needed.

    Attributes
    ----------
    frames : int
        Frames of a clip.
    stride : int
        A clip takes every so many-th frame of the video.
    """

    pictures = True

    def __init__(self, clips: Sequence[Sample], videos: dict[str, VideoIndex], *, frames: int, stride: int) -> None:
        super().__init__(clips)
        self.frames, self.stride = frames, stride
        self.timesteps = frames
        self._videos = videos
        self._idle: dict[str, Decoder] = {}
        self._lock = threading.Lock()
        rates = sorted({round(videos[s.path].fps, 3) for s in clips})
        self.attributes = {"frames": frames, "stride": stride, "fps": rates[0] if len(rates) == 1 else rates}

    @classmethod
    def cut(
        cls, videos: Sequence[Sample], *, frames: int | None = None, stride: int = 1, skip: bool = False
    ) -> ClipSource:
        """Cut videos into consecutive clips that don't overlap; what is left at the end of a video is left out.

        Parameters
        ----------
        videos : sequence of Sample
        frames : int, optional
            Frames of a clip, 16 unless told.
        stride : int
            Take every so many-th frame.
        skip : bool
            Leave out videos that can't be read or are shorter than a clip, and list them in `skipped`.

        Raises
        ------
        DataError
            A video can't be read or is shorter than a clip, or none is left.
        """
        length = DEFAULT_FRAMES if frames is None else frames
        for option, value in (("--frames", length), ("--stride", stride)):
            if value < 1:
                raise DataError(f"{option} is at least 1, not {value}.")
        span, samples, indices = (length - 1) * stride + 1, [], {}
        skipped, rest = [], 0
        for video, index in zip(videos, in_threads(_look, [v.path for v in videos]), strict=True):
            problem = index if isinstance(index, DataError) else _too_short(index, span, length, stride)
            if problem is not None:
                if not skip:
                    raise problem
                skipped.append(video.id)
                continue
            assert isinstance(index, VideoIndex)
            indices[video.path] = index
            starts = range(0, index.frames - span + 1, length * stride)
            rest += index.frames - min(starts[-1] + length * stride, index.frames) > 0
            samples += [Sample(f"{video.id}#{k}", video.path, video.label, first) for k, first in enumerate(starts)]
        if not samples:
            raise DataError(f"None of the {len(skipped)} videos can be read as clips of {length} frames.")
        source = cls(samples, indices, frames=length, stride=stride)
        source.skipped = skipped
        if rest:
            source.notes.append(
                f"The last frames of {rest} of {len(indices)} videos make no whole clip of {length} frames "
                "and are left out (change it with --frames, --stride)"
            )
        return source

    def positions(self, index: int) -> range:
        """Give the frames of a clip, as positions in its video."""
        start = self.samples[index].start
        return range(start, start + self.frames * self.stride, self.stride)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode a clip, uint8 (timestep, y, x, band)."""
        path = self.samples[index].path
        with self._lock:
            decoder = self._idle.pop(path, None)
        decoder = decoder or Decoder(self._videos[path])
        try:
            clip = decoder.read(self.positions(index))
        except BaseException:
            decoder.close()
            raise
        self._put_back(path, decoder)
        return clip

    def runs(self, indices: range) -> list[range]:
        """Keep the clips of one video together: they are decoded in a row."""
        found: list[range] = []
        for i in indices:
            if found and self.samples[i].path == self.samples[i - 1].path:
                found[-1] = range(found[-1].start, i + 1)
            else:
                found.append(range(i, i + 1))
        return found

    def stamp(self, index: int) -> str:
        """Digest a little of the video's file."""
        path = self.samples[index].path
        known: dict[str, str] = self.__dict__.setdefault("_stamps", {})
        if path not in known:
            known[path] = super().stamp(index)
        return known[path]

    def subset(self, kept: Sequence[int]) -> Self:
        """Return the same source with some of its clips."""
        some = type(self)([self.samples[i] for i in kept], self._videos, frames=self.frames, stride=self.stride)
        some.notes, some.skipped = self.notes, self.skipped
        return some

    def close(self) -> None:
        """Close the videos that are open."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for decoder in idle.values():
            decoder.close()

    def _put_back(self, path: str, decoder: Decoder) -> None:
        """Keep a video open for the next clip, and the latest few in all."""
        surplus = []
        with self._lock:
            surplus += [d for d in (self._idle.pop(path, None),) if d is not None]
            self._idle[path] = decoder
            while len(self._idle) > _MOST_OPEN:
                surplus.append(self._idle.pop(next(iter(self._idle))))
        for old in surplus:
            old.close()


def _look(path: str) -> VideoIndex | DataError:
    try:
        return index_video(path)
    except DataError as error:
        return error


def _too_short(index: VideoIndex, span: int, frames: int, stride: int) -> DataError | None:
    if index.frames >= span:
        return None
    every = f", every {stride}th," if stride > 1 else ""
    fits = math.ceil(index.frames / stride)
    return DataError(
        f"{index.path} has {index.frames} frames, too few for a clip of {frames}{every}: give --frames {fits}."
    )
