"""Saved results as plots: each analysis has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fmx.errors import FmxError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from fmx.cli.plot_jobs import Drawn
    from fmx.cli.plot_wanted import Wanted

__all__ = ["from_saved"]

_JOIN: Any = {"coords": "minimal", "compat": "override", "join": "override"}


def from_saved(wanted: Wanted, saved: Iterable[str], names: Sequence[str]) -> Drawn:
    """Draw saved results, each as the plot that goes with its analysis.

    Raises
    ------
    FmxError
        There are no such results, no plot of them, or they lack what it shows.
    """
    from fmx.store import open_analysis

    tree = wanted.store.tree
    for name in saved:
        results = open_analysis(tree, name)
        about = tree[f"analysis/{name}"].attrs
        chosen = {info.name for info in wanted.store.select(wanted.layers)}
        own = {layer: found.load() for layer, found in results.items() if layer in chosen or wanted.layers == "all"}
        if not own:
            raise FmxError(f"{name} holds no results of these layers: choose among {', '.join(list(results)[:4])}.")
        plot, drawn = _of_saved(wanted, name, str(about.get("analysis", "")), own)
        if names and plot not in names:
            raise FmxError(f"{name} holds results for a plot of {plot}: leave --plots out, or ask for that.")
        for figure, labels in drawn:
            yield figure, {"plot": plot, **labels, "analysis": name}


def _of_saved(
    wanted: Wanted, name: str, analysis: str, results: Mapping[str, xr.Dataset]
) -> tuple[str, Iterable[tuple[Figure, dict[str, str]]]]:
    from fmx.render import plots

    look: Any = {"facts": wanted.facts, "width": wanted.width}

    def whole(draw: Callable[..., Figure]) -> Iterable[tuple[Figure, dict[str, str]]]:
        yield draw(results, **look), {}

    def each(draw: Callable[..., Figure], *, facts: bool = True) -> Iterable[tuple[Figure, dict[str, str]]]:
        own = look if facts else {"width": wanted.width}
        for layer, dataset in results.items():
            yield draw(dataset, **own), {"layer": layer}

    if analysis == "stats":
        return _of_stats(wanted, name, results, look)
    if analysis == "similarity":
        import xarray as xr

        # Saved layer by layer, in the order of their names.
        order = [str(n) for n in next(iter(results.values()))["other_layer"].values]
        rows = sorted(results, key=lambda layer: order.index(layer) if layer in order else len(order))
        whole_matrix = xr.concat([results[n] for n in rows], "layer", combine_attrs="override", **_JOIN)
        return "similarity", [(plots.similarity_matrix(whole_matrix, width=wanted.width), {})]
    kinds: dict[str, tuple[str, Callable[[], Any]]] = {
        "hist": ("distribution", lambda: each(plots.distribution)),
        "robustness": ("robustness", lambda: whole(plots.noise_robustness)),
        "temporal": ("temporal", lambda: whole(plots.temporal_curves)),
        "health": ("health", lambda: whole(plots.health_summary)),
        "compare": ("differences", lambda: whole(plots.model_differences)),
        "class-sums": ("class-sums", lambda: each(plots.class_sums, facts=False)),
        "top-samples": ("top-samples", lambda: _of_top_samples(wanted, results)),
    }
    if analysis not in kinds:
        raise FmxError(
            f"{name} holds results of fmx {analysis or 'something else'}, of which there is no plot: there are "
            f"plots of {', '.join(['stats', 'similarity', *kinds])}."
        )
    plot, draw = kinds[analysis]
    return plot, draw()


def _of_top_samples(wanted: Wanted, results: Mapping[str, xr.Dataset]) -> Iterable[tuple[Figure, dict[str, str]]]:
    for layer, dataset in results.items():
        yield wanted.draw_top_samples(dataset), {"layer": layer}


def _of_stats(
    wanted: Wanted, name: str, results: Mapping[str, xr.Dataset], look: dict[str, Any]
) -> tuple[str, Iterable[tuple[Figure, dict[str, str]]]]:
    """Draw statistics by channel, by position or of whole layers, at one noise level."""
    from fmx.render import plots

    one = {layer: wanted.one_level(dataset) for layer, dataset in results.items()}
    kept = {str(dim) for dataset in one.values() for dim in dataset["mean"].dims}
    if not kept:
        return "layers", [(plots.layer_comparison(one, **look), {})]
    kinds: dict[str, tuple[str, Callable[..., Figure]]]
    kinds = {"channel": ("channels", plots.channel_statistics), "y,x": ("spatial", plots.spatial_patterns)}
    for dims, (plot, draw) in kinds.items():
        if kept == set(dims.split(",")):
            return plot, ((draw(dataset, **look), {"layer": layer}) for layer, dataset in one.items())
    raise FmxError(
        f"{name} holds statistics by {', '.join(sorted(kept))}, of which there is no plot: make them by channel, "
        "by y,x, or of whole layers."
    )
