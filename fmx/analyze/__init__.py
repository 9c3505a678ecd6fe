"""Questions to a store: Dataset → Dataset, lazy on Dask, from mergeable reducers."""

from fmx.analyze.stats import layer_stats, stats, to_rows

__all__ = ["layer_stats", "stats", "to_rows"]
