"""Mergeable summaries of activations: pure array code, the same in extraction, on Dask and across machines."""

from fmx.reduce.moments import Moments
from fmx.reduce.protocol import Reducer, State

__all__ = ["Moments", "Reducer", "State"]
