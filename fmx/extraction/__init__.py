"""Running a session over a source and streaming what it captures into a store."""

from fmx.extraction.api import extract
from fmx.extraction.bench import bench
from fmx.extraction.estimate import Estimate, estimate
from fmx.extraction.pipeline import Status
from fmx.extraction.recorder import Recorder
from fmx.extraction.request import Request
from fmx.extraction.run import run
from fmx.extraction.settle import Settled, settle
from fmx.prepare import PictureOptions

__all__ = [
    "Estimate",
    "PictureOptions",
    "Recorder",
    "Request",
    "Settled",
    "Status",
    "bench",
    "estimate",
    "extract",
    "run",
    "settle",
]
