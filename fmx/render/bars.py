"""Values without spatial axes: one bar a channel, in rows on pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.render.frame import Frame
from fmx.render.header import page_header
from fmx.render.normalise import Ranges, quantise
from fmx.render.palette import LEVELS, PAPER, gray_indices, page_palette
from fmx.render.text import SOFT_INK, line_height, number, number_range, text_picture
from fmx.render.tone import PLAIN, Tone
from fmx.render.unusual import WORDS, find_unusual, hatched

__all__ = ["bar_pages"]

IN_A_ROW, ROWS = 64, 16
BAR, GAP, HEIGHT = 8, 2, 64
SIZE = 12
_AXIS = int(gray_indices(np.array(120, dtype=np.uint8)))


def bar_pages(
    values: NDArray[Any],
    *,
    labels: Mapping[str, str],
    reduced: str,
    channels: Sequence[int],
    ranges: Ranges,
    numbers: Sequence[int],
    cmap: str = "viridis",
    tone: Tone = PLAIN,
    legend: bool = True,
    title: str = "",
) -> Iterator[Frame]:
    """Draw one bar a channel, up or down from 0, for layers that have no maps.

    Parameters
    ----------
    values : ndarray
        (channel,)
    labels : mapping of str to str
        Where they come from: ``layer``, ``sample``, ….
    reduced : str
        Why these are bars, as the end of a sentence.
    channels : sequence of int
        Positions of those that are shown, in order.
    ranges : Ranges
        What colours stand for; the height of a bar is in proportion to its value, on all pages alike.
    numbers : sequence of int
        What each channel is called, (channel,).
    cmap, tone, legend, title
        As for `fmx.render.grid.grid_pages`.

    Yields
    ------
    Frame
        A page of up to 1024 bars; a value that is not finite is hatched over the whole height.
    """
    shown_all = np.asarray(values, np.float64)
    finite = shown_all[np.isfinite(shown_all)]
    low, high = min(finite.min(initial=0), 0.0), max(finite.max(initial=0), 0.0)
    indices = quantise(shown_all[:, None, None], ranges, tone=tone, levels=LEVELS)[:, 0, 0]
    pages = [list(channels[i : i + IN_A_ROW * ROWS]) for i in range(0, len(channels), IN_A_ROW * ROWS)]
    for i, shown in enumerate(pages):
        called = [numbers[c] for c in shown]
        unusual = find_unusual(shown_all[shown][:, None, None])
        named = dict(labels) | {"drawn": f"bars, {reduced}", "channels": number_range(called, len(values))}
        named |= {"page": f"{i + 1} of {len(pages)}", "low": number(low), "high": number(high)}
        named |= {k: v for k, v in unusual.labels(called).items() if k != "constant"}
        if len(finite) > 1 and np.ptp(finite) == 0:
            which = "value" if len(finite) == len(shown_all) else "finite value"
            named["constant"] = f"every {which} is {number(finite[0])}"
        rows = [shown[a : a + IN_A_ROW] for a in range(0, len(shown), IN_A_ROW)]
        drawn = [_row(shown_all[row], indices[row], (low, high)) for row in rows]
        strips = [_numbered(one, [numbers[c] for c in row], legend) for one, row in zip(drawn, rows, strict=True)]
        page = np.concatenate(strips)
        yield Frame(_titled(page, named, tone, title or named["layer"]) if legend else page, page_palette(cmap), named)


def _row(values: NDArray[np.float64], indices: NDArray[np.uint8], ends: tuple[float, float]) -> NDArray[np.uint8]:
    canvas = np.full((HEIGHT, IN_A_ROW * (BAR + GAP) - GAP), PAPER, dtype=np.uint8)
    low, high = ends
    width = high - low or 1.0
    zero = round((high / width) * (HEIGHT - 1))
    canvas[zero] = _AXIS
    for i, (value, index) in enumerate(zip(values, indices, strict=True)):
        at = slice(i * (BAR + GAP), i * (BAR + GAP) + BAR)
        if not np.isfinite(value):
            canvas[:, at] = hatched((HEIGHT, BAR))
            continue
        end = round(((high - value) / width) * (HEIGHT - 1))
        canvas[min(zero, end) : max(zero, end) + 1, at] = index if value else _AXIS
    return canvas


def _numbered(row: NDArray[np.uint8], numbers: Sequence[int], legend: bool) -> NDArray[np.uint8]:
    """Write the number of every eighth channel below its bar."""
    strip = np.full((line_height(SIZE) + 6 if legend else GAP * 4, row.shape[1]), PAPER, dtype=np.uint8)
    if legend:
        for i in range(0, len(numbers), 8):
            drawn = gray_indices(text_picture(str(numbers[i]), SIZE, SOFT_INK))
            left = i * (BAR + GAP)
            strip[: drawn.shape[0], left : left + drawn.shape[1]] = drawn[:, : strip.shape[1] - left]
    return np.concatenate([row, strip])


def _titled(page: NDArray[np.uint8], labels: Mapping[str, str], tone: Tone, title: str) -> NDArray[np.uint8]:
    pieces = [f"{key} {labels[key]}" for key in ("sample", "noise", "timestep", "channels") if key in labels]
    pieces += [labels["drawn"]] + ([f"page {labels['page']}"] if labels["page"] != "1 of 1" else [])
    pieces += [f"{key} {value}" for key, value in tone.labels.items()]
    pieces += [f"{word} {labels[key]}" for key, word in WORDS.items() if key in labels]
    header = page_header(title, pieces, (f"bars  {labels['low']}", labels["high"]), page.shape[1], SIZE)
    space = np.full((SIZE, page.shape[1]), PAPER, dtype=np.uint8)
    return np.pad(np.concatenate([header, space, page]), SIZE, constant_values=PAPER)
