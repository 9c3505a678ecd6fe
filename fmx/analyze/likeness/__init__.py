"""How alike layers, models and noise levels are."""

from fmx.analyze.likeness.distances import COMPARISONS, DISTANCES
from fmx.analyze.likeness.measure import ESTIMATORS, METHODS, rdm, similarity

__all__ = ["COMPARISONS", "DISTANCES", "ESTIMATORS", "METHODS", "rdm", "similarity"]
