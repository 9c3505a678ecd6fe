"""A sheet of pictures with captions, and the colours of values that lie about 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.errors import FmxError
from fmx.render.frame import Frame
from fmx.render.text import INK, SOFT_INK, line_height, middle_ellipsis, paragraph, wrap

__all__ = ["picture_sheet", "signed_rgb"]

# Room for a short caption below a picture that is smaller.
NARROWEST = 72
NARROWEST_SHEET = 240
CAPTION_LINES = 2
SHARE = 99.5

Pixels = NDArray[np.uint8]


def picture_sheet(
    pictures: Sequence[Pixels],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    row_titles: Sequence[str] = (),
    scale: int = 1,
) -> Frame:
    """Lay pictures of one size out in rows, each with its caption below it.

    Parameters
    ----------
    pictures : sequence of ndarray of uint8
        Gray (y, x) or RGB (y, x, 3), all of one height and width.
    captions : sequence of str
        A caption each, of at most two lines; what doesn't fit is shortened in its middle. None where empty.
    columns : int, optional
        Pictures in a row; as many as make the sheet a little wider than high where not given, or as the titles of
        the rows ask for.
    title : str
        The heading of the sheet.
    notes : sequence of str
        Facts about all pictures, below the heading.
    labels : mapping of str to str, optional
        What the frame shows.
    row_titles : sequence of str
        A heading above each row.
    scale : int
        Enlarges each picture by whole pixels, without smoothing.

    Returns
    -------
    Frame
        RGB, (y, x, 3), on white.

    Raises
    ------
    FmxError
        No pictures, or of different sizes or another type; more captions than pictures or titles than rows.
    """
    shown = [_rgb(picture, scale) for picture in pictures]
    columns = _checked(shown, captions, columns, row_titles)
    width = shown[0].shape[1]
    cell = max(width, NARROWEST) if any(captions) else width
    size = min(max(cell // 14, 11), 20)
    gap = max(size // 2, width // 24)
    sheet_width = max(columns * (cell + gap) - gap, NARROWEST_SHEET if title or notes or any(row_titles) else 0)
    strips = _heading(title, notes, sheet_width, size)
    for row, first in enumerate(range(0, len(shown), columns)):
        if strips:
            strips.append(_blank(max(gap, size * 3 // 4), sheet_width))
        if row < len(row_titles) and row_titles[row]:
            lines = wrap(row_titles[row].split(), sheet_width, size, separator=" ")
            strips += [_coloured(paragraph(lines, sheet_width, size, INK)), _blank(size // 4, sheet_width)]
        texts = [_lines(text, cell, size) for text in captions[first : first + columns]]
        strips.append(_row(shown[first : first + columns], texts, (cell, gap, sheet_width), size))
    margin = max(size, gap)
    sheet = np.pad(np.concatenate(strips), ((margin,) * 2, (margin,) * 2, (0, 0)), constant_values=255)
    return Frame(sheet, labels=dict(labels or {}))


def signed_rgb(values: NDArray[Any]) -> Pixels:
    """Colour values that lie about 0, such as a projection: 0 is mid-grey, both ends are equally far from it.

    Parameters
    ----------
    values : ndarray
        (y, x), or (y, x, 3) for the three colours of the input. The 99.5th percentile of the absolute values becomes
        black or white; what is further out is cut off. NaN draws as 0.

    Returns
    -------
    ndarray of uint8
        RGB, (y, x, 3).

    Raises
    ------
    FmxError
        The values have other axes, or none.
    """
    values = np.asarray(values)
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[2] not in {1, 3}) or not values.size:
        raise FmxError(f"Values to colour are (y, x) or (y, x, 3), at least one: these have the shape {values.shape}.")
    exact = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=-np.inf)
    sizes = np.abs(exact[np.isfinite(exact)])
    reach = float(np.percentile(sizes, SHARE)) if sizes.size else 0.0
    # A few bright points on nothing: the percentile is 0, the points are what there is to see.
    reach = reach or float(sizes.max(initial=0.0)) or 1.0
    gray = np.round(127.5 + 127.5 * np.clip(exact / reach, -1, 1)).astype(np.uint8)
    if gray.ndim == 2:
        gray = gray[:, :, None]
    return np.ascontiguousarray(np.broadcast_to(gray, (*gray.shape[:2], 3)))


def _checked(shown: Sequence[Pixels], captions: Sequence[str], columns: int | None, row_titles: Sequence[str]) -> int:
    """Make sure that all fits together, and give the number of columns."""
    if not shown:
        raise FmxError("A sheet needs at least one picture.")
    sizes = sorted({(p.shape[1], p.shape[0]) for p in shown})
    if len(sizes) > 1:
        (width, height), (other_width, other_height) = sizes[:2]
        raise FmxError(
            f"The pictures of a sheet have one size: these are {width}×{height} and {other_width}×{other_height}."
        )
    if len(captions) > len(shown):
        raise FmxError(f"There are {len(captions)} captions for {len(shown)} pictures.")
    if columns is not None and columns < 1:
        raise FmxError(f"A sheet has at least one column, not {columns}.")
    if columns is None and row_titles:
        columns = -(-len(shown) // len(row_titles))
    height, width = shown[0].shape[:2]
    columns = columns or max(1, round(math.sqrt(len(shown) * 1.4 * height / width)))
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    if len(row_titles) > rows:
        raise FmxError(f"There are {len(row_titles)} titles for {rows} rows.")
    return columns


def _heading(title: str, notes: Sequence[str], width: int, size: int) -> list[Pixels]:
    large = size * 5 // 4
    strips = []
    if title:
        strips.append(_coloured(paragraph(wrap(title.split(), width, large, separator=" "), width, large, INK)))
    if notes:
        # Facts that are wider than the sheet are broken between words.
        lines = [line for text in _fitting(notes, width, size) for line in text]
        strips.append(_coloured(paragraph(lines, width, size, SOFT_INK)))
    return strips


def _fitting(notes: Sequence[str], width: int, size: int) -> list[list[str]]:
    return [wrap(note.split(), width, size, separator=" ") for note in notes if note]


def _lines(text: str, width: int, size: int) -> list[str]:
    lines = wrap(text.split(), width, size, separator=" ")
    if len(lines) <= CAPTION_LINES:
        return lines
    return [*lines[: CAPTION_LINES - 1], middle_ellipsis(" ".join(lines[CAPTION_LINES - 1 :]), width, size)]


def _row(shown: Sequence[Pixels], texts: Sequence[list[str]], widths: tuple[int, int, int], size: int) -> Pixels:
    cell, gap, sheet_width = widths
    height, width = shown[0].shape[:2]
    most = max(map(len, texts), default=0)
    row = _blank(height + (most * line_height(size) + size // 4 if most else 0), sheet_width)
    for i, picture in enumerate(shown):
        left = i * (cell + gap)
        row[:height, left : left + width] = picture
        if i < len(texts) and texts[i]:
            drawn = _coloured(paragraph(texts[i], cell, size, SOFT_INK))
            top = height + size // 4
            row[top : top + drawn.shape[0], left : left + cell] = drawn
    return row


def _rgb(picture: Pixels, scale: int) -> Pixels:
    picture = np.asarray(picture)
    shaped = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)
    if picture.dtype != np.uint8 or not shaped or not picture.size:
        raise FmxError(
            "A picture of a sheet is uint8 (y, x) or (y, x, 3), at least one pixel: "
            f"this is {picture.dtype} of shape {picture.shape}."
        )
    if scale < 1:
        raise FmxError(f"Pictures are enlarged by whole pixels, at least 1, not {scale}.")
    return (_coloured(picture) if picture.ndim == 2 else picture).repeat(scale, axis=0).repeat(scale, axis=1)


def _coloured(gray: Pixels) -> Pixels:
    return np.repeat(gray[:, :, None], 3, axis=2)


def _blank(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), 255, dtype=np.uint8)
