"""What ``fmx deconv`` and ``fmx attribute`` do once their options are read: project, draw, and give rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from fmx.cli.output import note, progress
from fmx.cli.projection_figures import (
    attribution_sheet,
    film_frames,
    input_picture,
    projection_sheet,
)
from fmx.cli.projection_notes import say_blank
from fmx.errors import FmxError
from fmx.project import Attribution, Deconvnet, information
from fmx.render import PictureFolder, write_video
from fmx.render.text import number

if TYPE_CHECKING:
    import xarray as xr

    from fmx.cli.arrays import Put

__all__ = ["Projections", "attributed", "filed", "pages"]

MOST_ON_A_SHEET = 64


class Projections:
    """Projects every sample in one of the modes, and draws as it goes."""

    def __init__(
        self,
        network: Deconvnet,
        folder: PictureFolder,
        layers: Sequence[str],
        how: dict[str, Any],
        scores: Any,
        *,
        informed: bool,
        keep: Put,
    ) -> None:
        self.network = network
        self.pictures = network.pictures
        self.folder = folder
        self.layers = layers
        self.how = how
        self.scores = scores
        self.informed = informed
        self.keep = keep

    def together(self) -> list[dict[str, Any]]:
        """Project the top maps of each layer together: a sheet a sample."""
        rows = []
        for index, sample in self._samples():
            drawn, shown = [], None
            made: list[dict[str, Any]] = []
            for layer in self.layers:
                found = self._project(index, layer, group="together")
                shown = input_picture(self.pictures, index, _picture(found)) if shown is None else shown
                count = found.sizes["rank"]
                drawn.append((f"{layer} · {count} map{'s' * (count != 1)}", found["projection"].values))
                best = ",".join(str(c) for c in found["channel"].values[:9]) + (",…" if count > 9 else "")
                row = {"sample": sample, "layer": layer, "maps": count, "channels": best}
                row |= {"value": float(found["value"].max())}
                made += _informed([row], found) if self.informed else [row]
            assert shown is not None
            sheet = projection_sheet(shown, drawn, title="deconvnet", notes=[sample], labels=self._labels(sample))
            rows += filed(made, self.folder.save(sheet, "deconv", _stem(sample)) if _live(made) else "")
        _check_any(rows)
        return rows

    def channels(self, *, fixed: bool) -> list[dict[str, Any]]:
        """Project maps one by one: sheets a sample and layer."""
        how = {"maps": None} if fixed else {}
        rows = []
        for index, sample in self._samples():
            for layer in self.layers:
                found = self._project(index, layer, **how)
                picture = input_picture(self.pictures, index, _picture(found))
                made = _value_rows(found, {"sample": sample, "layer": layer})
                made = _informed(made, found) if self.informed else made
                drawn = [
                    (f"{row['channel']} · {number(row['value']) if row['value'] > 0 else 'nothing'}", projection)
                    for row, projection in zip(made, found["projection"].values, strict=True)
                ]
                for part, page in pages(len(drawn)):
                    labels = self._labels(sample) | {"layer": layer}
                    notes = [f"{sample} · channel and strongest activation"]
                    sheet = projection_sheet(picture, drawn[part], title=layer, notes=notes, labels=labels)
                    parts = ["deconv", _stem(sample), layer, *page]
                    rows += filed(made[part], self.folder.save(sheet, *parts) if _live(made[part]) else "")
        _check_any(rows)
        return rows

    def films(self, kind: str, steps: int, fps: float) -> list[dict[str, Any]]:
        """Project one map, then more and more of them: a film a sample and layer."""
        rows = []
        for index, sample in self._samples():
            for layer in self.layers:
                found = self._project(index, layer, group="growing", steps=steps)
                row = {"sample": sample, "layer": layer, "maps": found.sizes["rank"], "frames": found.sizes["step"]}
                row |= {"value": float(found["value"].max())}
                if not _live([row]):
                    rows.append(row | {"file": ""})
                    continue
                path = self.folder.path("deconv", _stem(sample), layer, suffix=f".{kind}")
                labels = self._labels(sample) | {"layer": layer}
                write_video(
                    path, film_frames(input_picture(self.pictures, index, _picture(found)), found, labels), fps=fps
                )
                self.folder.add(path, labels)
                made = [row]
                if self.informed:
                    made = _informed([row | {"maps": int(count)} for count in found["step"].values], found)
                rows += filed(made, path)
        _check_any(rows)
        return rows

    def _project(self, index: int, layer: str, **more: Any) -> xr.Dataset:
        how = {**self.how, "scores": self.scores[layer], **more}
        found = self.network.project(index, layer, **how)
        self.keep(found, sample=index, layer=self.layers.index(layer))
        return found

    def _samples(self) -> Iterator[tuple[int, str]]:
        with progress("projecting") as update:
            for index, sample in enumerate(self.pictures.samples):
                yield index, sample
                update(index + 1, len(self.pictures))

    def _labels(self, sample: str) -> dict[str, str]:
        how = {key: str(value) for key, value in self.how.items() if value is not None and key != "channels"}
        return {"sample": sample, "method": "deconvnet"} | how


def attributed(
    network: Attribution, folder: PictureFolder, look: dict[str, Any], *, informed: bool, keep: Put
) -> list[dict[str, Any]]:
    """Attribute the targets in each sample: sheets a sample."""
    rows: list[dict[str, Any]] = []
    blank: list[str] = []
    pictures = network.pictures
    with progress("attributing") as update:
        for index, sample in enumerate(pictures.samples):
            found = network.attribute(index)
            keep(found, sample=index)
            given = {"sample": sample} | ({"layer": network.wanted.layer} if network.wanted.layer else {})
            made = _value_rows(found, given)
            made = _informed(made, found) if informed else made
            drawn = []
            for row, values in zip(made, found["attribution"].values, strict=True):
                what = f"class {row['class']}" if "class" in row else f"channel {row['channel']}"
                drawn.append((f"{what} · {number(row['value'])}", values))
                blank += [] if values.any() else [f"{what} in {sample}"]
            picture = input_picture(pictures, index, _picture(found))
            about = [sample, *([f"maps of {network.maps_of.name}"] if network.maps_of is not None else [])]
            labels = {"sample": sample, "method": network.name}
            title = " · ".join([network.name, *([network.wanted.layer] if network.wanted.layer else [])])
            for part, page in pages(len(drawn)):
                sheet = attribution_sheet(picture, drawn[part], title=title, notes=about, labels=labels, **look)
                parts = [network.name, _stem(sample), *([network.wanted.layer] if network.wanted.layer else []), *page]
                rows += filed(made[part], folder.save(sheet, *parts))
            update(index + 1, len(pictures))
    say_blank(blank, network.name, positive=network.weighs)
    return rows


def _picture(found: xr.Dataset) -> Any:
    return found["picture"].values if "picture" in found else None


def _value_rows(found: xr.Dataset, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Give a row for each channel or class of one sample: what is known of it besides its picture."""
    count = found["value"].size
    names = {"channel": "channel", "class": "class", "value": "value", "at_y": "y", "at_x": "x"}
    names |= {"at_token": "token", "completeness_gap": "completeness_gap"}
    known = {key: found[name].values for name, key in names.items() if name in found.variables}
    return [given | {key: values[i].item() for key, values in known.items()} for i in range(count)]


def _informed(rows: Sequence[dict[str, Any]], found: xr.Dataset) -> list[dict[str, Any]]:
    """Add to the row of each projection how many bits it says about its picture, and how many come out by chance."""
    bits = information(found)
    both = zip(bits["information"].values.ravel(), bits["chance"].values.ravel(), strict=True)
    return [row | {"information": float(a), "chance": float(b)} for row, (a, b) in zip(rows, both, strict=True)]


def pages(count: int) -> list[tuple[slice, list[str]]]:
    """Split what is drawn into sheets; a single one has no number."""
    if count <= MOST_ON_A_SHEET:
        return [(slice(0, count), [])]
    starts = range(0, count, MOST_ON_A_SHEET)
    return [(slice(i, i + MOST_ON_A_SHEET), [f"page{k:03d}"]) for k, i in enumerate(starts, start=1)]


def _stem(sample: str) -> str:
    """Give a sample's name without the ending of a picture's file."""
    return str(PurePath(sample).with_suffix("")) if PurePath(sample).suffix else sample


def filed(rows: Sequence[dict[str, Any]], path: Any) -> list[dict[str, Any]]:
    """Say in each row in which file it is."""
    return [row | {"file": str(path)} for row in rows]


def _live(rows: Sequence[dict[str, Any]]) -> bool:
    """Say whether there is anything to see."""
    return any(row["value"] > 0 for row in rows)


def _check_any(rows: Sequence[dict[str, Any]]) -> None:
    """Say which maps are dead; where all are there is nothing to see."""
    dead = [row for row in rows if not row["value"] > 0]
    if not _live(rows):
        which = f"channel {dead[0]['channel']}" if "channel" in dead[0] else "the maps"
        raise FmxError(
            f"Nothing is projected: {which} of {dead[0]['layer']} has no activation above 0 for these pictures; choose "
            "other channels or other pictures."
        )
    if dead:
        which = ", ".join(f"{row.get('channel', 'all')} of {row['layer']} for {row['sample']}" for row in dead[:3])
        more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
        note(f"no activation above 0, so that nothing is projected: channel {which}{more}")
