"""Running a session over a source and streaming what it captures into a store."""

from fmx.extraction.bench import bench
from fmx.extraction.prepare import PictureOptions
from fmx.extraction.run import Extraction, extract, prepare

__all__ = ["Extraction", "PictureOptions", "bench", "extract", "prepare"]
