"""Plots: pure functions from results of analyses to matplotlib figures of one style, and what writes them."""

from __future__ import annotations

from fmx.render.plots.ascent import ascent_curves
from fmx.render.plots.channels import channel_statistics
from fmx.render.plots.class_sums import class_sums
from fmx.render.plots.differences import model_differences
from fmx.render.plots.distribution import distribution
from fmx.render.plots.health import health_summary
from fmx.render.plots.layers import layer_comparison
from fmx.render.plots.matrices import dissimilarity_matrix, similarity_matrix
from fmx.render.plots.rates import rate_bars
from fmx.render.plots.robustness import noise_robustness
from fmx.render.plots.save import save_figure
from fmx.render.plots.spatial import spatial_patterns
from fmx.render.plots.temporal import temporal_curves
from fmx.render.plots.top_samples import top_samples

__all__ = [
    "ascent_curves",
    "channel_statistics",
    "class_sums",
    "dissimilarity_matrix",
    "distribution",
    "health_summary",
    "layer_comparison",
    "model_differences",
    "noise_robustness",
    "rate_bars",
    "save_figure",
    "similarity_matrix",
    "spatial_patterns",
    "temporal_curves",
    "top_samples",
]
