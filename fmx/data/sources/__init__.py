"""Where samples come from: pictures, videos, arrays and iterables. Every sample has an id that stays the same."""

from fmx.data.sources.arrays import ArraySource, NamedArrays
from fmx.data.sources.base import Sample, Source, readable
from fmx.data.sources.clips import ClipSource
from fmx.data.sources.opening import open_source
from fmx.data.sources.pictures import PictureSource
from fmx.data.sources.streams import ItemSource, StreamSource

__all__ = [
    "ArraySource",
    "ClipSource",
    "ItemSource",
    "NamedArrays",
    "PictureSource",
    "Sample",
    "Source",
    "StreamSource",
    "open_source",
    "readable",
]
