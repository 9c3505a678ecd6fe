"""What ``fmx maximize`` leaves behind: pictures with an index, sheets, films, curves, and the rows of its table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render import Frame, PictureFolder, write_video
from fmx.render.sheet import picture_sheet
from fmx.render.video import VIDEO_SUFFIXES
from fmx.store import is_fmx_store

__all__ = ["Drawing", "check_film", "check_plot", "check_store", "draw", "rows_of", "said_of", "shown_pixels"]

# Pictures on one sheet.
_PAGE = 64
_MOST_FILMED = 64
# Smaller ones are enlarged on sheets and films, where they would be narrower than what stands below them.
_SIDE_ON_SHEETS = 128
# Above this share of the gradients that reached a picture it is drawn opaque.
_OPAQUE = 80


@dataclass
class Drawing:
    """Where pictures go, and which.

    Attributes
    ----------
    out : str
        Folder of all models.
    model : str
    name : str or None
        Of the run's folder.
    film : str or None
    plot : str or None
        File for a figure of the objectives during the ascent.
    curve : bool
    overwrite : bool
    results : Path
        Folder for results that no store takes, the same for every run of a model.
    """

    out: str
    model: str
    name: str | None
    film: str | None = None
    plot: str | None = None
    curve: bool = False
    overwrite: bool = False
    results: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = PictureFolder(self.out, self.model, self.name, overwrite=self.overwrite)
        if self.folder.place.exists() and not self.overwrite:
            raise FmxError(f"{self.folder.place} is already there: choose another --name, or add --overwrite.")
        self.results = self.folder.place.parent / "results"


def check_store(path: str) -> None:
    """Refuse a store that is not there.

    Raises
    ------
    FmxError
    """
    if not is_fmx_store(path):
        raise FmxError(f"{path} is no store: make one with fmx extract, or leave --store out.")


def check_film(path: str, count: int, *, overwrite: bool) -> None:
    """Refuse a film that can't be written, before hours are spent on its frames.

    Raises
    ------
    FmxError
    """
    if Path(path).suffix.lower() not in VIDEO_SUFFIXES:
        raise FmxError(f"--film takes a file that ends in {', '.join(VIDEO_SUFFIXES)}, not '{path}'.")
    if count > _MOST_FILMED:
        raise FmxError(
            f"A film shows at most {_MOST_FILMED} pictures, not {count}: leave --film out, or choose channels."
        )
    _check_new(path, overwrite=overwrite)


def check_plot(path: str, *, overwrite: bool) -> None:
    """Refuse a figure that can't be written.

    Raises
    ------
    FmxError
    """
    from fmx.render.plots.save import check_format

    check_format(Path(path).suffix.lower().removeprefix("."))
    _check_new(path, overwrite=overwrite)


def _check_new(path: str, *, overwrite: bool) -> None:
    if Path(path).exists() and not overwrite:
        raise FmxError(f"{path} is already there: choose another name, or replace it with --overwrite.")
    above = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise FmxError(f"{path} can't be written, as {above} is no folder that takes files: choose another place.")


def rows_of(found: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Make a row of each picture."""
    rows: list[dict[str, Any]] = []
    for layer, results in found.items():
        for i, label in enumerate(_labels(layer, results)):
            row: dict[str, Any] = {"layer": layer, "target": label, "variant": 0}
            if "channel" in results.dims:
                row["channel"] = int(results["channel"].values[i])
            else:
                row["variant"] = int(results["variant"].values[i])
            row |= {key: float(results[key].values[i]) for key in ("activation", "start")}
            rows.append(
                row | {"status": str(results["status"].values[i]), "restarts": int(results["restarts"].values[i])}
            )
    return rows


def said_of(found: Mapping[str, xr.Dataset]) -> list[str]:
    """Say what did not work."""
    said = []
    for status, why in (
        ("flat", "never moved, whatever noise they began with: dead channels, or beyond the reach of noise"),
        ("not finite", "were stopped by NaN or infinity"),
    ):
        names = [row["target"] for row in rows_of(found) if row["status"] == status]
        if names:
            more = f", … ({len(names)} in all)" if len(names) > 8 else ""
            said.append(f"{', '.join(names[:8])}{more} {why}")
    return said


def draw(found: Mapping[str, xr.Dataset], drawing: Drawing) -> Path:
    """Write every picture, a sheet of each layer's, and film, curves and their figure if they are wanted.

    Returns
    -------
    Path
        The folder.
    """
    with drawing.folder as folder:
        for layer, results in found.items():
            captions = _captions(layer, results)
            pixels = shown_pixels(results)
            for i, label in enumerate(_labels(layer, results)):
                about = {"layer": layer, "target": label, "status": str(results["status"].values[i])}
                about |= {"activation": f"{results['activation'].values[i]:.6g}"}
                variant = [f"{results['variant'].values[i]:02d}"] if "variant" in results.coords else []
                folder.save(Frame(pixels[i], labels=about), *label.split(":"), *variant)
            for page, sheet in enumerate(_sheets(layer, results, _enlarged(pixels), captions), start=1):
                folder.save(sheet, "sheet", layer, *([f"{page:03d}"] if len(captions) > _PAGE else []))
            if drawing.curve:
                file = folder.path("curve", layer, suffix=".csv")
                _write_curve(file, layer, results)
                folder.add(file, {"layer": layer})
    if drawing.film:
        # Where numbers of other lengths would break captions elsewhere, names stand alone.
        sizes = {frame.pixels.shape for frame in _film_frames(found)}
        frames = _film_frames(found, numbers=len(sizes) == 1)
        write_video(drawing.film, frames, fps=12, overwrite=drawing.overwrite)
    if drawing.plot:
        from fmx.render.plots import ascent_curves, save_figure

        save_figure(
            ascent_curves(found, title=_whole_title(found), facts=_about(next(iter(found.values())), opacity=False)),
            drawing.plot,
        )
    return drawing.folder.place


def shown_pixels(results: xr.Dataset, step: int | None = None) -> NDArray[np.uint8]:
    """Give pictures as they are shown, (picture, y, x) or (picture, y, x, 3).

    Pictures of one channel are grey, of more than three their first three; with `alpha` they fade to mid-grey where few
    gradients came (Fel et al. 2023).
    """
    pixels = results["picture"].values if step is None else results["frame"].sel(frame_step=step).values
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    if "alpha" not in results or step is not None:
        return np.ascontiguousarray(pixels)
    alpha = results["alpha"].values.astype(np.float64)
    full = np.percentile(alpha, _OPAQUE, axis=(1, 2), keepdims=True)
    share = np.clip(alpha / np.maximum(full, 1e-12), 0, 1)
    share = share[..., None] if pixels.ndim == 4 else share
    return np.round(128 + (pixels - 128.0) * share).astype(np.uint8)


def _labels(layer: str, results: xr.Dataset) -> list[str]:
    if "channel" in results.dims:
        return [f"{layer}:{channel}" for channel in results["channel"].values]
    return [str(label) for label in results["target"].values]


def _captions(layer: str, results: xr.Dataset) -> list[str]:
    names = _labels(layer, results)
    if "channel" in results.dims:
        names = [f"channel {channel}" for channel in results["channel"].values]
    made = []
    for name, value, status in zip(names, results["activation"].values, results["status"].values, strict=True):
        made.append(f"{name}: {value:.4g}" if status == "ok" else f"{name}: {status}")
    return made


def _about(results: xr.Dataset, *, opacity: bool = True) -> list[str]:
    settings = json.loads(results.attrs["settings"])
    scales = f" at each of {settings['scales']} scales" if settings["method"] == "multi-scale" else ""
    how = [f"{settings['method']}, {settings['steps']} steps{scales}, seed {settings['seed']}"]
    if opacity and "alpha" in results:
        how.append("opacity: absolute gradients on the pixels, summed over the steps")
    return how


def _sheets(
    layer: str, results: xr.Dataset, pixels: Sequence[NDArray[np.uint8]], captions: Sequence[str]
) -> Iterator[Frame]:
    pages = -(-len(pixels) // _PAGE)
    for page in range(pages):
        rows = slice(page * _PAGE, (page + 1) * _PAGE)
        notes = _about(results) + ([f"page {page + 1} of {pages}"] if pages > 1 else [])
        yield picture_sheet(pixels[rows], captions[rows], title=_title(layer), notes=notes, labels={"layer": layer})


def _title(layer: str) -> str:
    return "Maximized objectives" if layer == "objectives" else f"{layer}: maximized channels"


def _whole_title(found: Mapping[str, xr.Dataset]) -> str:
    return _title(next(iter(found))) if len(found) == 1 else "Maximized objectives"


def _enlarged(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    factor = max(_SIDE_ON_SHEETS // max(pixels.shape[1:3]), 1)
    return list(pixels.repeat(factor, 1).repeat(factor, 2))


def _film_frames(found: Mapping[str, xr.Dataset], *, numbers: bool = True) -> Iterator[Frame]:
    """Make a sheet of all pictures after each number of steps, with their objectives if `numbers` are wanted."""
    first = next(iter(found.values()))
    title = _whole_title(found)
    for step in map(int, first["frame_step"].values):
        captions, pixels = [], []
        for layer, results in found.items():
            names = (
                [f"channel {c}" for c in results["channel"].values]
                if len(found) == 1 and "channel" in results
                else None
            )
            reached = results["curve"].sel(step=step).values
            pixels += _enlarged(shown_pixels(results, step))
            pairs = zip(names or _labels(layer, results), reached, strict=True)
            captions += [f"{name}: {value:.4g}" if numbers else name for name, value in pairs]
        yield picture_sheet(pixels, captions, title=title, notes=[f"step {step} of {first.sizes['step']}"])


def _write_curve(file: Path, layer: str, results: xr.Dataset) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        names = _labels(layer, results)
        if "variant" in results.coords:
            names = [f"{n} #{v}" for n, v in zip(names, results["variant"].values, strict=True)]
        writer.writerow(["step", *names])
        for step, values in zip(results["step"].values, results["curve"].values.T, strict=True):
            writer.writerow([int(step), *(f"{v:.6g}" for v in values)])
