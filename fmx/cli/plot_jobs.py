"""What ``fmx render plots`` draws: which analyses go into which plot, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fmx.cli import reading as common
from fmx.cli.plot_wanted import Wanted
from fmx.errors import FmxError, StoreError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fmx.store import Store

    Drawn = Iterator[tuple[Figure, dict[str, str]]]

__all__ = ["computed"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = 128
# Distances of more samples than can be told apart in a figure are not computed.
_MOST_SAMPLES = 1000


def computed(wanted: Wanted, names: Sequence[str], skip: Callable[[str], None]) -> Drawn:
    """Compute and draw plots; what is asked for by name has to work, of all others those that can be are drawn."""
    reasons = {name: _reason(wanted, name) for name in _JOBS if not names or name in names}
    for name, reason in reasons.items():
        if reason and names:  # before anything is computed
            raise FmxError(f"There is no plot of {name}: {reason}.")
        if reason and name != "differences":
            skip(f"no plot of {name}: {reason}")
    for name in (name for name, reason in reasons.items() if not reason):
        job = _JOBS[name]
        try:
            with common.reading(f"{name}"):
                yield from job(wanted)
        except StoreError:
            raise
        except FmxError as error:
            if names:
                raise
            skip(f"no plot of {name}: {str(error).rstrip('.')}")


def _reason(wanted: Wanted, name: str) -> str:
    """Say why there is nothing to draw."""
    store = wanted.store
    reasons: dict[str, tuple[Callable[[], bool], str]] = {
        "robustness": (
            lambda: 0.0 in wanted.levels and len(wanted.levels) > 1,
            "the store needs noise levels, 0 and others (extract it with --noise 0,0.2)",
        ),
        "temporal": (
            lambda: any(store.activation(n).sizes["timestep"] > 1 for n in wanted.named()),
            "the layers have one timestep (extract a video, or arrays with --clips)",
        ),
        "class-sums": (
            lambda: len(set(map(str, store.tree.to_dataset()["label"].values.tolist()))) > 1,
            "the samples have no labels of two classes or more (put them into a folder for each class)",
        ),
        "spatial": (lambda: bool(wanted.named("y", "x")), "none of the layers has maps (y, x)"),
        "top-samples": (
            lambda: store.pictures is not None,
            "the store keeps no pictures, as its data were arrays",
        ),
        "similarity": (lambda: int(store.complete.sum()) >= 4, "it takes four samples or more"),
        "rdm": (lambda: int(store.complete.sum()) >= 3, "it takes three samples or more"),
        "differences": (lambda: wanted.other is not None, "name the other store with --other"),
    }
    possible, text = reasons.get(name, (lambda: True, ""))
    if not possible():
        return text
    by_channel = {"channels", "robustness", "health", "class-sums", "top-samples"}
    return "none of the layers has channels" if name in by_channel and not wanted.named("channel") else ""


def _distribution(wanted: Wanted) -> Drawn:
    from fmx.analyze import hist
    from fmx.render.plots import distribution
    from fmx.render.plots.distribution import MOST_GROUPS, STEPS, is_coarse

    names = wanted.named(*(["channel"] if wanted.channels else []))
    by = "channel" if wanted.channels else wanted.by or "noise"
    apart = [by] if by not in {"noise", "whole"} else []
    settings: Any = {"bins": _BINS, "allow_partial": wanted.allow_partial}
    counts = hist(wanted.store, layers=names, by=["noise", *apart], **settings)
    coarse = [name for name in names if is_coarse(counts[name])]
    if coarse:
        # A few values far from all others leave bins of equal width to those.
        counts |= hist(wanted.store, layers=coarse, by=["noise", *apart], **(settings | {"log": True}))
    quantiles = wanted.stats(apart, names, _QUANTILES)
    for name in names:
        parts = [counts[name], quantiles[name]]
        if by != "noise" or wanted.noise is not None or len(wanted.levels) == 1:
            parts = [wanted.one_level(part) for part in parts]
        if wanted.channels:
            there = parts[0]["channel"].values.tolist()
            missing = [n for n in wanted.channels if n not in there]
            if missing:
                raise FmxError(f"{name} has no channel {missing[0]}: it has {len(there)}, from {there[0]}.")
            parts = [part.sel(channel=list(wanted.channels)) for part in parts]
        steps = parts[0].sizes.get(by, 0) if by in STEPS else 0
        facts = list(wanted.facts)
        if steps > MOST_GROUPS:  # a clip has 16 unless told, and none of them can be left out by an option
            some = [round(i * (steps - 1) / (MOST_GROUPS - 1)) for i in range(MOST_GROUPS)]
            parts = [part.isel({by: some}) for part in parts]
            facts.append(f"{MOST_GROUPS} of {steps} {'levels' if by == 'noise' else f'{by}s'}")
        yield (
            distribution(*parts, facts=facts, width=wanted.width),
            {"plot": "distribution", "layer": name} | ({"by": by} if parts[0]["count"].ndim else {}),
        )


def _channels(wanted: Wanted) -> Drawn:
    from fmx.render.plots import channel_statistics

    for name, found in wanted.stats(["channel"], wanted.named("channel")).items():
        figure = channel_statistics(wanted.one_level(found), facts=wanted.facts, width=wanted.width)
        yield figure, {"plot": "channels", "layer": name}


def _spatial(wanted: Wanted) -> Drawn:
    from fmx.render.plots import spatial_patterns

    names = wanted.named("y", "x")
    maps = wanted.stats(["y", "x"], names)
    peaks = wanted.top_samples() if wanted.named("y", "x", "channel") else {}
    for name in names:
        figure = spatial_patterns(wanted.one_level(maps[name]), peaks.get(name), facts=wanted.facts, width=wanted.width)
        yield figure, {"plot": "spatial", "layer": name}


def _top_samples(wanted: Wanted) -> Drawn:
    for name, found in wanted.top_samples().items():
        yield wanted.draw_top_samples(found), {"plot": "top-samples", "layer": name}


def _layers(wanted: Wanted) -> Drawn:
    from fmx.render.plots import layer_comparison

    found = wanted.stats([], wanted.named(), _QUANTILES)
    one = {name: wanted.one_level(dataset) for name, dataset in found.items()}
    yield layer_comparison(one, facts=wanted.facts, width=wanted.width), {"plot": "layers"}


def _robustness(wanted: Wanted) -> Drawn:
    from fmx.analyze import robustness
    from fmx.render.plots import noise_robustness

    found = robustness(wanted.store, layers=wanted.named("channel"), allow_partial=wanted.allow_partial)
    yield (
        noise_robustness(found, facts=[*wanted.facts, _noise(wanted.store)], width=wanted.width),
        {"plot": "robustness"},
    )


def _noise(store: Store) -> str:
    kind, space = (store.attributes.get(key) for key in ("noise_kind", "noise_space"))
    return f"{kind} noise ({space})" if kind and space else f"{kind} noise" if kind else ""


def _temporal(wanted: Wanted) -> Drawn:
    from fmx.analyze import temporal
    from fmx.render.plots import temporal_curves

    moving = [n for n in wanted.named() if wanted.store.activation(n).sizes["timestep"] > 1]
    found = temporal(wanted.store, layers=moving, noise=wanted.noise, allow_partial=wanted.allow_partial)
    yield temporal_curves(found, facts=wanted.facts, width=wanted.width), {"plot": "temporal"}


def _class_sums(wanted: Wanted) -> Drawn:
    from fmx.analyze import class_sums as compute
    from fmx.render.plots import class_sums

    settings: Any = {"noise": wanted.noise, "allow_partial": wanted.allow_partial}
    for name, found in compute(wanted.store, layers=wanted.named("channel"), **settings).items():
        yield class_sums(found, width=wanted.width), {"plot": "class-sums", "layer": name}


def _similarity(wanted: Wanted) -> Drawn:
    from fmx.analyze import similarity
    from fmx.render.plots import similarity_matrix

    levels = None if wanted.noise is None else [wanted.noise]
    found = similarity(wanted.store, layers=wanted.named(), noise=levels, allow_partial=wanted.allow_partial)
    yield similarity_matrix(found, width=wanted.width), {"plot": "similarity"}


def _rdm(wanted: Wanted) -> Drawn:
    from fmx.analyze import rdm
    from fmx.render.plots import dissimilarity_matrix

    settings: Any = {"noise": None if wanted.noise is None else [wanted.noise], "samples": _MOST_SAMPLES}
    drawn = "drawn at random" if wanted.store.complete.sum() > _MOST_SAMPLES else ""
    kinds = {info.name: info.kind for info in wanted.store.layers}
    for name in wanted.named():
        # One layer at a time: matrices of all layers together may not fit the memory.
        try:
            found = rdm(wanted.store, layers=[name], allow_partial=wanted.allow_partial, **settings)[name]
        except StoreError:
            raise
        except FmxError as error:
            if len(wanted.named()) == 1:
                raise
            wanted.missed.append(f"no plot of rdm of {name}: {str(error).rstrip('.')}")
            continue
        found.attrs.setdefault("kind", kinds[name])
        yield dissimilarity_matrix(found, facts=[drawn], width=wanted.width), {"plot": "rdm", "layer": name}


def _health(wanted: Wanted) -> Drawn:
    from fmx.analyze import health
    from fmx.render.plots import health_summary

    settings: Any = {"noise": wanted.noise, "allow_partial": wanted.allow_partial}
    found = health(wanted.store, layers=wanted.named("channel"), **settings)
    yield health_summary(found, facts=wanted.facts, width=wanted.width), {"plot": "health"}


def _differences(wanted: Wanted) -> Drawn:
    from fmx.analyze.compare import compare
    from fmx.render.plots import model_differences

    assert wanted.other is not None
    settings: Any = {"layers": wanted.named(), "noise": "all" if wanted.noise is None else [wanted.noise]}
    found = compare(wanted.store, wanted.other, allow_partial=wanted.allow_partial, **settings)
    yield model_differences(found, facts=wanted.facts, width=wanted.width), {"plot": "differences"}


_JOBS: dict[str, Callable[[Wanted], Drawn]] = {
    "distribution": _distribution,
    "channels": _channels,
    "spatial": _spatial,
    "top-samples": _top_samples,
    "layers": _layers,
    "robustness": _robustness,
    "temporal": _temporal,
    "class-sums": _class_sums,
    "similarity": _similarity,
    "rdm": _rdm,
    "health": _health,
    "differences": _differences,
}
