"""One layer's part of the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from fmx.analyze.health import MEANINGS
from fmx.errors import FmxError
from fmx.layers import said_layer
from fmx.report import charts
from fmx.report.album import Album, Picture
from fmx.report.findings import Findings, LayerFindings
from fmx.report.pictures import MANY, SMALL_THUMB, THUMB, Grid, Thumb, layer_grid, thumbnails

__all__ = ["Card", "LayerPart", "layer_part"]

# Rows about channels on the whole page, and of one layer.
MOST_ROWS, FEWEST_ROWS, MOST_OF_LAYER = 6000, 32, 512
_STATISTICS = ("mean", "std", "min", "max", "skewness", "kurtosis", "sparsity", "negative", "nan", "inf")


@dataclass
class Card:
    """A channel with its top samples."""

    channel: int
    id: str
    mean: float
    high: float
    thumbs: list[Thumb]


@dataclass
class LayerPart:
    """What the template is given about a layer."""

    id: str
    number: int
    name: str
    kind: str
    shape: str
    dims: str
    dtype: str
    whole: dict[str, float]
    verdict: str
    flags: list[tuple[str, str]]
    problem: bool
    spark: Markup
    histogram: Markup
    noise_spark: Markup | None = None
    noise: Markup | None = None
    noise_rows: list[dict[str, float]] = field(default_factory=list)
    course_spark: Markup | None = None
    course: list[tuple[str, Markup]] = field(default_factory=list)
    course_rows: list[dict[str, float]] = field(default_factory=list)
    quantiles: list[tuple[str, float]] = field(default_factory=list)
    quantile_names: list[str] = field(default_factory=list)
    health: dict[str, int] = field(default_factory=dict)
    grid: Grid | None = None
    grid_note: str = ""
    cards: list[Card] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    row_count: int = 0
    channel_count: int = 0
    classes: list[dict[str, Any]] = field(default_factory=list)
    class_score: str = ""
    features: list[Any] = field(default_factory=list)
    feature_notes: list[str] = field(default_factory=list)

    @property
    def bare(self) -> bool:
        """Whether the name is a number, which says little without the kind."""
        return said_layer(self.name) != self.name

    @property
    def state(self) -> str:
        """How the layer is: ``bad``, ``some`` for what is unusual, ``good``, or ``none`` where it was not judged."""
        if self.problem:
            return "bad"
        return "some" if self.flags else "good" if self.health else "none"

    @property
    def flagged(self) -> bool:
        """Whether anything is unusual."""
        return bool(self.flags)


def layer_part(
    found: Findings,
    layer: LayerFindings,
    number: int,
    album: Album,
    kept: dict[tuple[int, int], Picture],
    *,
    sample: str,
    count: int,
) -> LayerPart:
    """Gather one layer.

    Parameters
    ----------
    found : Findings
    layer : LayerFindings
    number : int
        Of the layer on the page, from 1.
    album : Album
    kept : dict
        Pictures of samples that are drawn already.
    sample : str
        Whose maps are drawn.
    count : int
        Channels with their top samples.
    """
    info = layer.info
    id_ = f"layer-{number}"
    flags = [] if layer.health is None else [f for f in layer.health.attrs["flags"].split(", ") if f]
    part = LayerPart(
        id=id_,
        number=number,
        name=info.name,
        kind=info.kind,
        shape="×".join(map(str, info.shape)),
        dims=", ".join(info.dims),
        dtype=info.dtype,
        whole={name: layer.whole[name] for name in _STATISTICS},
        verdict=_verdict(layer),
        flags=[(flag, MEANINGS.get(flag, "")) for flag in flags],
        problem=any(flag in {"not finite", "dead"} for flag in flags) or bool(layer.whole["nan"] + layer.whole["inf"]),
        spark=charts.bars(layer.counts, layer.edges),
        histogram=charts.histogram(layer.counts, layer.edges),
    )
    if "hist" in found.missing:
        part.spark = Markup("–")
        part.histogram = Markup('<p class="none">{}</p>').format(found.missing["hist"])
    if layer.health is not None:
        names = [n for n in ("dead", "always_on", "saturated", "duplicate") if n in layer.health]
        part.health = {name.replace("_", " "): int(layer.health[name]) for name in names}
    if layer.quantiles is not None:
        part.quantile_names = ["median" if q == 0.5 else f"q{q:g}" for q in layer.quantiles["quantile"].values]
        if layer.quantiles.dims == ("quantile",):
            part.quantiles = list(zip(part.quantile_names, layer.quantiles.values.tolist(), strict=True))
    if layer.channels is not None:
        part.channel_count = layer.channels.sizes["channel"]
        _noise(part, layer)
        _course(part, layer, found)
        _channels(part, layer, found, album, kept, count)
        if "maps" not in found.missing:
            _grid(part, info.name, found, album, sample)
    elif "maps" not in found.missing:
        part.grid_note = "This layer has no axis channel, so that there is nothing to show channel by channel."
    if layer.classes is not None:
        _classes(part, layer)
    return part


def _grid(part: LayerPart, layer: str, found: Findings, album: Album, sample: str) -> None:
    try:
        part.grid = layer_grid(found.store, layer, album, sample=sample, noise=found.noise, layers=len(found.layers))
    except FmxError as error:
        part.grid_note = str(error)


def _verdict(layer: LayerFindings) -> str:
    if layer.health is not None:
        return str(layer.health["verdict"].item())
    lost = int(layer.whole["nan"] + layer.whole["inf"])
    why = "no channels" if layer.channels is None else "no statistics"
    return f"{lost} values are NaN or infinite" if lost else f"not judged: {why}"


def _noise(part: LayerPart, layer: LayerFindings) -> None:
    if layer.robustness is None:
        return
    one = layer.robustness.sortby("noise")
    levels = one["noise"].values.astype(np.float64)
    told = ", ".join(f"{b:.2f} at {a:g}" for a, b in zip(levels, one["cosine"].values, strict=True))
    part.noise_spark = charts.spark_line(levels, one["cosine"].values, f"cosine with the clean activations: {told}")
    series = {"cosine": one["cosine"].values, "correlation": one["correlation"].values}
    part.noise = charts.line_chart(levels, series, "noise level")
    names = ("sqnr", "cosine", "correlation", "relative_l2")
    part.noise_rows = [
        {"noise": float(level), **{name: float(one[name].values[i]) for name in names}}
        for i, level in enumerate(levels)
    ]


def _course(part: LayerPart, layer: LayerFindings, found: Findings) -> None:
    if layer.course is None:
        return
    one = layer.course
    axis = str(one["mean"].dims[0])
    at, marks = one[axis].values.astype(np.float64), () if found.points is None else found.points.epochs
    shown = {
        "mean": one["mean"].values,
        "std": one["std"].values,
        "zeros, %": 100 * one["sparsity"].values,
        "dead channels": one["dead"].values.astype(np.float64),
    }
    word = "noise level" if axis == "noise" else axis
    part.course = [(name, charts.curve(at, values, name, word, marks)) for name, values in shown.items()]
    mean = shown["mean"]
    told = f"mean by {word}: {charts.number(mean[0])} at first, {charts.number(mean[-1])} at last"
    part.course_spark = charts.spark_line(at, mean, told, charts.span_of(mean))
    names = ("mean", "std", "sparsity", "dead")
    part.course_rows = [
        {"at": float(value), **{name: float(one[name].values[i]) for name in names}} for i, value in enumerate(at)
    ]


def _channels(
    part: LayerPart,
    layer: LayerFindings,
    found: Findings,
    album: Album,
    kept: dict[tuple[int, int], Picture],
    count: int,
) -> None:
    assert layer.channels is not None
    shown = layer.strongest(count)
    if shown and layer.top is not None:
        side = THUMB if count * len(found.layers) <= MANY else SMALL_THUMB
        thumbs = thumbnails(found.store, layer.top, shown, album, kept, side)
        for channel in shown:
            own = layer.channels.sel(channel=channel)
            part.cards.append(
                Card(channel, f"{part.id}-channel-{channel}", float(own["mean"]), float(own["max"]), thumbs[channel])
            )
    most = max(min(MOST_ROWS // len(found.layers), MOST_OF_LAYER), FEWEST_ROWS)
    every = layer.strongest(part.channel_count)
    every += [c for c in layer.channels["channel"].values.tolist() if c not in set(every)]
    listed = sorted(every[:most])
    best = (
        {}
        if layer.top is None
        else dict(zip(layer.top["channel"].values.tolist(), layer.top["sample_id"].values[:, 0].tolist(), strict=True))
    )
    cards = {card.channel for card in part.cards}
    names = ("mean", "std", "min", "max", "sparsity", "nan", "inf")
    table = {name: layer.channels[name].sel(channel=listed).values.tolist() for name in names}
    table["quantiles"] = (
        [()] * len(listed)
        if layer.quantiles is None
        else layer.quantiles.sel(channel=listed).transpose("channel", "quantile").values.tolist()
    )
    part.rows = [
        {
            "channel": channel,
            "id": "" if channel in cards else f"{part.id}-channel-{channel}",
            "link": f"{part.id}-channel-{channel}" if channel in cards else "",
            "sample": best.get(channel, ""),
            **{name: values[i] for name, values in table.items()},
        }
        for i, channel in enumerate(listed)
    ]


def _classes(part: LayerPart, layer: LayerFindings) -> None:
    assert layer.classes is not None
    one = layer.classes
    part.class_score = "precision_held_out" if "precision_held_out" in one else "precision"
    there = {row["channel"] for row in part.rows}
    for i, label in enumerate(one["label"].values.tolist()):
        listed = []
        for j, channel in enumerate(one["channel"].values[i].tolist()):
            if channel >= 0:
                score = float(one[part.class_score].values[i, j])
                link = f"{part.id}-channel-{channel}" if channel in there else ""
                listed.append({"channel": channel, "score": score, "link": link})
        part.classes.append({"label": str(label) or "(no label)", "channels": listed})
