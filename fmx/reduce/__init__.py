"""Mergeable summaries of activations: pure array code, the same in extraction, on Dask and across machines."""

from fmx.reduce.edges import EdgeHistogram
from fmx.reduce.groups import update_groups
from fmx.reduce.histogram import Histogram
from fmx.reduce.moments import Moments
from fmx.reduce.protocol import Position, Reducer, State
from fmx.reduce.quantiles import LogHistogram, Quantiles
from fmx.reduce.series import NoisePairs, TimeSeries
from fmx.reduce.sets import ReducerSet
from fmx.reduce.top_samples import TopSamples

__all__ = [
    "EdgeHistogram",
    "Histogram",
    "LogHistogram",
    "Moments",
    "NoisePairs",
    "Position",
    "Quantiles",
    "Reducer",
    "ReducerSet",
    "State",
    "TimeSeries",
    "TopSamples",
    "update_groups",
]
