"""Questions to a store: Dataset → Dataset, lazy on Dask, from mergeable reducers."""

from fmx.analyze.aggregate import aggregate
from fmx.analyze.class_profile import class_profile
from fmx.analyze.class_sums import class_sums
from fmx.analyze.export import export_activations, export_results
from fmx.analyze.health import health
from fmx.analyze.hist import hist
from fmx.analyze.rank import rank
from fmx.analyze.receptive import ReceptiveField, receptive_field
from fmx.analyze.robustness import robustness
from fmx.analyze.stats import layer_stats, stats, to_rows
from fmx.analyze.temporal import temporal
from fmx.analyze.top_samples import top_samples

__all__ = [
    "ReceptiveField",
    "aggregate",
    "class_profile",
    "class_sums",
    "export_activations",
    "export_results",
    "health",
    "hist",
    "layer_stats",
    "rank",
    "receptive_field",
    "robustness",
    "stats",
    "temporal",
    "to_rows",
    "top_samples",
]
