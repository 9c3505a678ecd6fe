"""Questions to a store: Dataset → Dataset, lazy on Dask, from mergeable reducers."""

from fmx.analyze.aggregate import aggregate
from fmx.analyze.class_profile import class_profile
from fmx.analyze.class_sums import class_sums
from fmx.analyze.compare import compare
from fmx.analyze.decomposition import DECOMPOSITIONS, decompose
from fmx.analyze.export import export_activations, export_results
from fmx.analyze.health import health
from fmx.analyze.hist import hist
from fmx.analyze.information import INFORMATION_ESTIMATORS, TARGETS, information
from fmx.analyze.likeness import COMPARISONS, DISTANCES, ESTIMATORS, METHODS, rdm, similarity
from fmx.analyze.rank import rank
from fmx.analyze.receptive import ReceptiveField, receptive_field
from fmx.analyze.robustness import robustness
from fmx.analyze.stats import layer_stats, stats, to_rows
from fmx.analyze.temporal import temporal
from fmx.analyze.top_samples import top_samples

__all__ = [
    "COMPARISONS",
    "DECOMPOSITIONS",
    "DISTANCES",
    "ESTIMATORS",
    "INFORMATION_ESTIMATORS",
    "METHODS",
    "TARGETS",
    "ReceptiveField",
    "aggregate",
    "class_profile",
    "class_sums",
    "compare",
    "decompose",
    "export_activations",
    "export_results",
    "health",
    "hist",
    "information",
    "layer_stats",
    "rank",
    "rdm",
    "receptive_field",
    "robustness",
    "similarity",
    "stats",
    "temporal",
    "to_rows",
    "top_samples",
]
