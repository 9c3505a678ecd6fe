"""From findings to the page: what its template is given, and how it is rendered."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmx.analyze import ReceptiveField
from fmx.errors import FmxError
from fmx.report import charts
from fmx.report.album import Album, Picture
from fmx.report.facts import class_names, store_facts
from fmx.report.features import Maker, measured_fields, saved_features
from fmx.report.findings import Findings
from fmx.report.layer_part import LayerPart, layer_part
from fmx.report.pictures import picture_of
from fmx.report.summaries import layers_of
from fmx.store import Store

if TYPE_CHECKING:
    from fmx.adapter import Model

__all__ = ["MARK", "PageSettings", "page_of", "render_page"]

# By which a folder is known to hold a report.
MARK = '<meta name="generator" content="fmx report">'
TEMPLATES = Path(__file__).with_name("templates")
# Channels with their top samples on the whole page, and of one layer.
MOST_SHOWN, FEWEST_OF_LAYER, MOST_OF_LAYER = 160, 3, 12
MOST_WITH_FEATURES = 8
MOST_CLASSES = 40
MOST_OF_TITLE = 80
_PARTS = {"top": "top samples", "robustness": "noise"}


@dataclass
class PageSettings:
    """What is shown; see `fmx.report.write_report`."""

    sample: str | int = 0
    channels: int | None = None
    features: int = 2
    seconds: float = 60.0
    device: str = "cpu"
    fields: dict[str, ReceptiveField] = field(default_factory=dict)

    def check(self, store: Store) -> None:
        """Find what is wrong before anything is read.

        Raises
        ------
        FmxError
        """
        if self.channels is not None and self.channels < 1:
            raise FmxError(f"At least one channel of each layer is shown, not {self.channels}: correct --top.")
        if self.features < 1:
            raise FmxError(f"At least one channel is projected and maximized, not {self.features}: correct --features.")
        self.sample_id(store)

    def sample_id(self, store: Store) -> str:
        """Find the sample whose maps are drawn: of an unfinished store by default the first that is there."""
        if self.sample == 0 and store.complete.any():
            return store.samples[int(np.flatnonzero(store.complete)[0])]
        return store.find_sample(str(self.sample))

    def measured(self, store: Store, model: Model, layers: str | Iterable[str]) -> dict[str, ReceptiveField]:
        """Measure what the neurons of the store's layers see."""
        if store.frames > 1 or not isinstance(store.attributes.get("preprocessing"), Mapping):
            raise FmxError(f"{store.path} is not of single pictures, which are needed with --model: leave it out.")
        names = {info.name for info in model.layers}
        chosen = layers_of(store, layers)
        if not names & {info.name for info in chosen}:
            raise FmxError(f"{model.source} has none of the layers of {store.path}: give the model it was made with.")
        # What neurons see is drawn into pictures, which come with activations.
        return {} if not store.layers else measured_fields(model, [info for info in chosen if info.name in names])

    def count(self, layers: int) -> int:
        """Say how many channels of each layer are shown with their top samples."""
        return self.channels or max(min(MOST_SHOWN // max(layers, 1), MOST_OF_LAYER), FEWEST_OF_LAYER)


@dataclass
class Page:
    """What the template is given."""

    title: str
    facts: dict[str, dict[str, str]]
    tiles: list[tuple[str, str]]
    layers: list[LayerPart]
    sample: str
    sample_picture: Picture | None
    partial: str
    noise: float
    similarity: Any = None
    similarity_told: str = ""
    classes: Any = None
    classes_told: str = ""
    robustness: Any = None
    flipped: str = ""
    course_axis: str = ""
    course_told: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def summarised(self) -> bool:
        """Whether the store keeps summaries and no activations."""
        return "maps" in self.missing


def page_of(found: Findings, album: Album, settings: PageSettings, model: Model | None) -> Page:
    """Draw what the findings say, and gather it for the template."""
    store = found.store
    with found.timed("features"):
        maker = None
        if model is not None:
            maker = Maker(store, model, seconds=settings.seconds, device=settings.device)
    chosen = _spread([one.info.name for one in found.layers if one.top is not None], MOST_WITH_FEATURES)
    count = settings.count(len(found.layers))
    kept: dict[tuple[int, int], Picture] = {}
    sample = settings.sample_id(store)
    parts = []
    for number_, layer in enumerate(found.layers, start=1):
        features: list[Any] = []
        notes: list[str] = []
        with found.timed("features"):
            if maker is not None and layer.info.name in chosen:
                features, notes = maker.of(layer, layer.strongest(settings.features), album)
            elif maker is None and layer.top is not None:
                features = saved_features(store, layer, settings.features * 2, album)
        with found.timed("pictures"):
            parts.append(layer_part(found, layer, number_, album, kept, sample=sample, count=count))
        parts[-1].features, parts[-1].feature_notes = features, notes
    done, total = int(store.complete.sum()), len(store.samples)
    page = Page(
        title=_title(store),
        facts=store_facts(store),
        tiles=_tiles(found, parts),
        layers=parts,
        sample=sample,
        sample_picture=picture_of(store, sample, album),
        partial=f"{done} of {total} samples" if done < total else "",
        noise=found.noise,
        missing=found.missing,
    )
    _course_of_page(found, page)
    if page.summarised:
        page.notes.append(
            "The store keeps summaries and no activations, so that there are no maps, no pictures of top samples, and "
            "no saturated and duplicate channels are looked for: extract without --reduce to see them"
        )
        page.notes += [found.missing["top"].rstrip(".")] if "top" in found.missing else []
    if found.reused:
        told = [f"{_PARTS.get(part, part)}: {name}" for part, name in found.reused.items()]
        page.notes.append(f"Some is taken from saved results: {'; '.join(told)}")
    if maker is not None:
        page.notes += maker.notes
        if maker.late:
            page.notes.append(
                f"After {settings.seconds:g} s no further layer was projected or maximized; left out: "
                f"{', '.join(maker.late)}"
            )
        elif len(chosen) < sum(one.top is not None for one in found.layers):
            page.notes.append(f"Projected and maximized are channels of {', '.join(chosen)}")
    with found.timed("page"):
        _matrices(found, page)
    return page


def render_page(page: Page, *, embedded: bool) -> str:
    """Render the page; names from files are escaped by the template engine.

    Parameters
    ----------
    page : Page
    embedded : bool
        Whether pictures are part of the page, so that it may load nothing else.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: charts.number(float(value)) if np.isfinite(value) else "–"
    environment.filters["figures"] = lambda value: charts.figures(float(value)) if np.isfinite(value) else "–"
    environment.filters["percent"] = lambda value: f"{100 * value:.0f} %" if np.isfinite(value) else "–"
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        page=page,
        version=version("fmx"),
        mark=Markup(MARK),
        infinity=float("inf"),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:{'' if embedded else ' file: * '}; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    )


def _title(store: Store) -> str:
    """Name the model: the end of a path says enough."""
    name = str(store.attributes.get("model", "")) or PurePath(str(store.path)).stem
    return charts.shortened(PurePath(name).name if "/" in name else name, MOST_OF_TITLE)


def _tiles(found: Findings, parts: list[LayerPart]) -> list[tuple[str, str]]:
    store = found.store
    flagged = sum(part.flagged for part in parts)
    channels = sum(one.channels.sizes["channel"] for one in found.layers if one.channels is not None)
    counts = {
        "layer": len(parts),
        "channel": channels,
        "sample": int(store.complete.sum()),
        "class": len(class_names(store)),
        "noise level": store.tree.sizes.get("noise", 1),
    }
    tiles = [_counted(what, count) for what, count in counts.items() if count]
    lost = sum(int(one.whole["nan"] + one.whole["inf"]) for one in found.layers)
    if lost:
        tiles.append(("NaN or infinite", str(lost)))
    return [*tiles, (f"{_counted('layer', flagged)[0]} with findings", str(flagged))]


def _counted(what: str, count: int) -> tuple[str, str]:
    """Name what is counted, in the plural unless there is one."""
    many = f"{what}es" if what.endswith("s") else f"{what}s"
    return (what if count == 1 else many), str(count)


def _course_of_page(found: Findings, page: Page) -> None:
    """Say what the curves of layers are along."""
    course = next((one.course for one in found.layers if one.course is not None), None)
    if course is None:
        return
    axis = str(course["mean"].dims[0])
    page.course_axis = "noise level" if axis == "noise" else axis
    if found.points is not None and len(found.points.epochs):
        page.course_told = "; lines where epochs begin"


def _matrices(found: Findings, page: Page) -> None:
    names = [one.info.name for one in found.layers]
    links = [part.id for part in page.layers]
    if found.similarity is not None:
        values = found.similarity["similarity"].isel(noise=0, other_noise=0).values
        unsaid = found.similarity["undefined"].isel(noise=0, other_noise=0).values
        about = found.similarity.attrs
        page.similarity = charts.matrix(names, names, np.where(unsaid, np.nan, values), links=links)
        page.similarity_told = f"{about['estimator']}, {about['samples']} samples, {about['space']} features"
        if np.isnan(values).any() or unsaid.any():
            page.similarity_told += "; hatched: a layer that does not vary, or has values that are NaN or infinite"
    ranked = [
        (part, one.classes) for part, one in zip(page.layers, found.layers, strict=True) if one.classes is not None
    ]
    if ranked:
        held = "precision_held_out" in ranked[0][1]
        score = "precision_held_out" if held else "precision"
        labels = [str(v) for v in ranked[0][1]["label"].values][:MOST_CLASSES]
        best = np.stack([_best(one, score)[: len(labels)] for _, one in ranked], axis=1)
        page.classes = charts.matrix(
            labels, [part.name for part, _ in ranked], best, links=[part.id for part, _ in ranked], square=False
        )
        chance = float(ranked[0][1]["chance"].values.max())
        how = "on samples that had no part in choosing the channel" if held else "on the samples that chose it"
        page.classes_told = f"{how}; by chance up to {chance:.2f}"
        if len(ranked[0][1]["label"]) > len(labels):
            page.classes_told += f". The first {len(labels)} of {len(ranked[0][1]['label'])} classes are shown"
    noisy = [
        (part, one.robustness)
        for part, one in zip(page.layers, found.layers, strict=True)
        if one.robustness is not None
    ]
    if noisy:
        levels = [f"{v:g}" for v in noisy[0][1]["noise"].values]
        values = np.stack([one["cosine"].values for _, one in noisy])
        names = [part.name for part, _ in noisy]
        page.robustness = charts.matrix(names, levels, values, square=False, axis="noise level")
        page.flipped = _told([f"{100 * share:.0f} % at {level:g}" for level, share in sorted(found.flipped.items())])


def _told(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _best(classes: Any, score: str) -> NDArray[np.float64]:
    """Take the score of each class's first channel (label,)."""
    values: NDArray[np.float64] = np.asarray(classes[score].values[:, 0], np.float64)
    return np.where(classes["channel"].values[:, 0] >= 0, values, np.nan)


def _spread(names: list[str], most: int) -> list[str]:
    """Choose evenly spaced names, the last one among them."""
    if len(names) <= most:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, most).round().astype(int)]
