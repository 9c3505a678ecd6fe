"""The pictures that excite channels most, with what the strongest neuron sees of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.plots.page import Page, PageLook
from fmx.render.plots.parts import layer_title, lost, need, noise_note, number
from fmx.render.plots.style import GREY, PlotFigure, in_style
from fmx.render.plots.text import line_height, plain, short

__all__ = ["MOST_CHANNELS", "top_samples"]

# The picture of a sample at a timestep, (y, x[, band]).
Pictures = Callable[[str, int], NDArray[np.uint8]]

MOST_CHANNELS = 8
_WHAT, _COMMAND = "top samples", "fmx top-samples"
_HEAD, _VALUE, _NAME = 7.0, 6.5, 5.5
_GAP, _LEAST = 1.6, 15.0
# Height in mm of a row that has no samples.
_NOTHING = 8.0
# A box that takes up as much of the picture says nothing.
_WHOLE = 0.95
_LINE, _EDGE = "#FFE100", "black"


@dataclass(frozen=True)
class _Cells:
    """Sizes in mm: of a picture, and of the steps to the next one."""

    width: float
    height: float

    @property
    def across(self) -> float:
        return self.width + _GAP

    @property
    def down(self) -> float:
        return line_height(_HEAD) + self.height + line_height(_VALUE) + line_height(_NAME) + _GAP


@in_style
def top_samples(
    top: xr.Dataset, pictures: Pictures, *, channels: Sequence[int] | None = None, **given: Unpack[PageLook]
) -> PlotFigure:
    """Draw the strongest samples of channels, a row each, with a box around what the strongest neuron sees.

    Parameters
    ----------
    top : xarray.Dataset
        Of one layer, from `fmx.analyze.top_samples`: value, sample_id and, where the layer has maps, the box y0, y1, x0
        and x1 in pixels of the model's input ((label,) channel, rank).
    pictures : callable
        Gives the picture of a sample, by its id and timestep, as the model saw it: uint8 (y, x[, band]).
    channels : sequence of int, optional
        The eight with the largest values where left out.
    **given
        See `fmx.render.plots.page.PageLook`.

    Raises
    ------
    FmxError
        The results lack something, or have no such channel.
    """
    need(top, ("value", "sample_id", "sample_number"), _WHAT, _COMMAND)
    page = Page(f"Top samples: {layer_title(top)}", **given)
    inside = page.width - 3.0
    there = np.flatnonzero(
        (top["sample_number"] >= 0).any([d for d in top["sample_number"].dims if d != "rank"]).values
    )
    found = int(there[-1]) + 1 if len(there) else 1
    ranks = min(found, max(int((inside + _GAP) // (_LEAST + _GAP)), 1))
    rows = [(row, _read(row, pictures)) for row in _rows(top.isel(rank=slice(ranks)), channels)]
    shapes = {picture.shape for _, there in rows for picture in there.values()}
    width = min((inside + _GAP) / ranks - _GAP, 30.0)
    cells = _Cells(width, width * max((shape[0] / shape[1] for shape in shapes), default=1.0))
    tops = np.cumsum([0.0, *(cells.down if there else _NOTHING for _, there in rows)])
    page.height = float(tops[-1])
    axes = page.figure.add_subplot()
    boxes = sum(_row(axes, float(at), row, there, cells) for at, (row, there) in zip(tops, rows, strict=False))
    # After the pictures, which set limits of their own.
    axes.set(xlim=(0, inside), ylim=(page.height, 0))
    axes.axis("off")
    page.note(noise_note(top), lost([top]))
    every = top["value"].sizes.get("channel", 1)
    if channels is None and every > MOST_CHANNELS:
        page.note(f"the {MOST_CHANNELS} of {every} channels with the largest values")
    page.note(f"the first {ranks} of {found} samples" if ranks < found else "")
    page.note(
        f"value: {str(top['value'].attrs['definition']).partition(';')[0]}"
        if "definition" in top["value"].attrs
        else ""
    )
    how = str(top.attrs.get("receptive_field", ""))
    page.note(f"box: what the strongest neuron sees ({how})" if boxes else "")
    return page.finish()


def _rows(top: xr.Dataset, channels: Sequence[int] | None) -> list[xr.Dataset]:
    """Give what stands in a row each: a channel, or a channel and a class."""
    numbers = top["channel"].values.tolist()
    if channels is None:
        highest = np.nan_to_num(top["value"].values.astype(np.float64), nan=-np.inf)
        highest = highest.max(axis=tuple(i for i, dim in enumerate(top["value"].dims) if dim != "channel"))
        chosen = [numbers[i] for i in np.argsort(-highest, kind="stable")[:MOST_CHANNELS]]
    else:
        chosen = list(channels)
        missing = [n for n in chosen if n not in numbers]
        if missing:
            raise FmxError(f"These top samples have no channel {missing[0]}: there are {len(numbers)}.")
    one = [top.sel(channel=n) for n in chosen]
    return [row.isel(label=i) for row in one for i in range(row.sizes["label"])] if "label" in top.dims else one


def _read(row: xr.Dataset, pictures: Pictures) -> dict[int, NDArray[np.uint8]]:
    """Read the pictures of a row, by rank; there may be fewer samples than ranks."""
    there = np.flatnonzero((row["sample_number"].values >= 0) & np.isfinite(row["value"].values))
    found = {i: pictures(str(row["sample_id"].values[i]), _step(row, i) or 0) for i in map(int, there)}
    return {i: picture[:, :, 0] if picture.shape[2:] == (1,) else picture[..., :3] for i, picture in found.items()}


def _step(row: xr.Dataset, rank: int) -> int | None:
    return int(row["at_timestep"].values[rank]) if "at_timestep" in row else None


def _row(axes: Axes, top: float, row: xr.Dataset, there: dict[int, NDArray[np.uint8]], cells: _Cells) -> int:
    """Draw a row from a height in mm on, and give the number of boxes."""
    name = f"channel {int(row['channel'])}" + (f" · {row['label'].item()}" if "label" in row.coords else "")
    look: dict[str, Any] = {"va": "top", "ha": "left"}
    axes.text(0, top, plain(name), size=_HEAD, weight="bold", gid="row", **look)
    if not there:
        below = top + line_height(_HEAD)
        axes.text(0, below, "no finite values", size=_VALUE, color=GREY, gid="empty", **look)
        return 0
    top += line_height(_HEAD)
    boxes = 0
    for rank, shown in there.items():
        left = rank * cells.across
        extent = (left, left + cells.width, top + cells.height, top)
        axes.imshow(shown, extent=extent, cmap="gray", vmin=0, vmax=255, aspect="auto", gid="picture")
        boxes += _box(axes, row, rank, shown.shape[:2], (left, top), cells)
        step = _step(row, rank)
        value = number(float(row["value"].values[rank])) + ("" if step is None else f" · frame {step}")
        below = top + cells.height + 0.3
        axes.text(left, below, short(value, cells.width, _VALUE), size=_VALUE, gid="value", **look)
        sample = plain(short(str(row["sample_id"].values[rank]), cells.width, _NAME))
        axes.text(left, below + line_height(_VALUE), sample, size=_NAME, color=GREY, gid="sample", **look)
    return boxes


def _box(
    axes: Axes, row: xr.Dataset, rank: int, shape: tuple[int, ...], corner: tuple[float, float], cells: _Cells
) -> bool:
    if "y0" not in row or int(row["y"].values[rank]) < 0:
        return False
    # What a neuron at the edge sees reaches beyond the picture.
    ends = {"y0": shape[0], "y1": shape[0], "x0": shape[1], "x1": shape[1]}
    y0, y1, x0, x1 = (min(max(float(row[name].values[rank]), 0.0), end) for name, end in ends.items())
    if y1 - y0 >= _WHOLE * shape[0] and x1 - x0 >= _WHOLE * shape[1]:
        return False
    down, across = cells.height / shape[0], cells.width / shape[1]
    place = (corner[0] + x0 * across, corner[1] + y0 * down)
    for colour, thick in ((_EDGE, 1.6), (_LINE, 0.8)):
        axes.add_patch(Rectangle(place, (x1 - x0) * across, (y1 - y0) * down, fill=False, ec=colour, lw=thick))
    return True
