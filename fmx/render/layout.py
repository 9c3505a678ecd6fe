"""Where the maps of a grid lie on its page."""

from __future__ import annotations

from dataclasses import dataclass

from fmx.render.text import line_height

__all__ = ["GridLayout"]

NARROWEST = 320
NUMBERED_FROM = 40


@dataclass(frozen=True)
class GridLayout:
    """Where the maps of a page lie: places and lengths in pixels, y before x."""

    rows: int
    columns: int
    shape: tuple[int, ...]
    scale: int
    legend: bool

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a map on the page."""
        return self.shape[0] * self.scale, self.shape[1] * self.scale

    @property
    def gap(self) -> int:
        return max(2, self.tile[1] // 28)

    @property
    def number_size(self) -> int:
        """Font size of the channel numbers, 0 where there are none."""
        return min(max(self.tile[1] // 7, 10), 16) if self.legend and min(self.tile) >= NUMBERED_FROM else 0

    @property
    def strip(self) -> int:
        """Height of the strip above each map for its number."""
        return line_height(self.number_size) if self.number_size else 0

    @property
    def pitch(self) -> tuple[int, int]:
        """Distance from one map to the next: the map, the gap and the number above it."""
        return self.strip + self.tile[0] + self.gap, self.tile[1] + self.gap

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of all maps, from the strip of the first to the end of the last."""
        return self.rows * self.pitch[0] - self.gap, self.columns * self.pitch[1] - self.gap

    @property
    def width(self) -> int:
        """Width of the page without its margins: that of the maps, but never too narrow for text."""
        return max(self.extent[1], NARROWEST) if self.legend else self.extent[1]

    @property
    def text_size(self) -> int:
        """Font size of the header, such that a page printed at any width reads alike."""
        return min(max(self.width // 50, 12), 36)

    @property
    def margin(self) -> int:
        """Width of the white edge of the page."""
        return max(10, self.text_size * 2 // 3) if self.legend else 0

    @property
    def header_space(self) -> int:
        """Distance between the header and the maps, or the first numbers."""
        return self.text_size // 2 if self.strip else self.text_size * 3 // 4

    def origin(self, place: int) -> tuple[int, int]:
        """Top left corner of a map, counted along the rows, from the corner of `extent`."""
        row, column = divmod(place, self.columns)
        return row * self.pitch[0] + self.strip, column * self.pitch[1]
