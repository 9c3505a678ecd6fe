"""Compiled loops of 3×3 convolutions by Winograd's minimal filtering, written for the vectors of the processor.

Pixels have their channels last, so that a vector holds some channels of one pixel. Compilers don't make vector code of
a transform between 36 places, nor keep a block of a product in registers. The pieces on which the time is spent are
therefore put together instruction by instruction (`_transform`, `_choose`, `_multiply`), for the width that there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from fmx.reduce.compiled import entry, part

__all__ = ["FAR", "LANES", "NEAR", "PANEL", "ROWS", "SPOTS", "convolve"]

# It has no types.
cgutils: Any = _cgutils


def _has(feature: str) -> bool:
    """Tell what the processor can do; not every system says."""
    try:
        return bool(llvm.get_host_cpu_features().get(feature))
    except RuntimeError:
        return False


# Besides 0 and ∞ the points are ±NEAR and ±FAR: of those that were tried they lose the fewest digits.
NEAR, FAR = 0.5**0.5, 2.0**0.5
SPOTS = 36
# Floats of a vector; tiles and channels whose sums fill the registers together.
LANES, ROWS = (16, 14) if _has("avx512f") else (8, 6)
PANEL = 2 * LANES
_UNROLLED = 4
# A product and the sum that takes it may be one instruction.
_FUSED = ("contract",)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class _Lanes:
    """A vector in code that is being put together: operators write instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.builder, self.builder.fadd(self.value, other.value, flags=_FUSED))

    def __sub__(self, other: _Lanes) -> _Lanes:
        return _Lanes(self.builder, self.builder.fsub(self.value, other.value, flags=_FUSED))

    def __rmul__(self, factor: float) -> _Lanes:
        times = ir.Constant(_FLOATS, [float(np.float32(factor))] * LANES)
        return _Lanes(self.builder, self.builder.fmul(self.value, times, flags=_FUSED))


def _inward(d: Sequence[Any]) -> list[Any]:
    """Transform 6 pixels in a row, before the product."""
    near, far = NEAR**2, FAR**2
    first, last = (near * far * d[i] - (near + far) * d[i + 2] + d[i + 4] for i in (0, 1))
    found = [first]
    for point, square in ((NEAR, far), (FAR, near)):
        even, odd = d[4] - square * d[2], point * (d[3] - square * d[1])
        found += [even + odd, even - odd]
    return [*found, last]


def _outward(m: Sequence[Any]) -> list[Any]:
    """Transform 6 products to 4 pixels in a row."""
    near, far = NEAR**2, FAR**2
    (even, odd), (more, rest) = ((m[i] + m[i + 1], m[i] - m[i + 1]) for i in (1, 3))
    odd, rest = NEAR * odd, FAR * rest
    return [m[0] + even + more, odd + rest, near * even + far * more, near * odd + far * rest + m[5]]


def _load(builder: Any, address: Any, kind: Any) -> Any:
    found = builder.load(builder.inttoptr(address, kind.as_pointer()))
    found.align = 1
    return found


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def _fetch(builder: Any, address: Any) -> None:
    """Have a line of memory brought into the second cache."""
    place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
    fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(fetch, [builder.inttoptr(address, place), number(0), number(2), number(1)])


def _splat(builder: Any, value: Any) -> Any:
    """Fill a vector with one value."""
    nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _moved(builder: Any, address: Any, *steps: tuple[Any, int]) -> Any:
    """Give an address so many steps, in bytes, further on."""
    for step, times in steps:
        address = builder.add(address, builder.mul(step, step.type(times)))
    return address


def _instructions(write: Callable[..., None]) -> Any:
    """Make a function, which compiled code can call with a tuple of numbers, of one that writes its instructions."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        write(builder, *cgutils.unpack_tuple(builder, args[0]))
        return ir.IntType(64)(0)

    def typed(_context: Any, given: Any) -> Any:
        return types.int64(given), emit

    return intrinsic(typed)


def _transform(one: Callable[[Sequence[Any]], list[Any]], floor: bool) -> Any:
    """Transform one vector of 6×6 places along both axes.

    ``(to, to_row, to_column, at, at_row, at_column, least)``: addresses, and steps between rows and columns in bytes;
    with a floor nothing below `least` comes out.
    """

    def write(
        builder: Any, to: Any, to_row: Any, to_column: Any, at: Any, at_row: Any, at_column: Any, least: Any
    ) -> None:
        rows = [
            [
                _Lanes(builder, _load(builder, _moved(builder, at, (at_row, y), (at_column, x)), _FLOATS))
                for x in range(6)
            ]
            for y in range(6)
        ]
        lowest = _splat(builder, least)
        columns = [one(column) for column in zip(*rows, strict=True)]
        for y, row in enumerate(zip(*columns, strict=True)):
            for x, found in enumerate(one(row)):
                value = found.value
                if floor:
                    value = builder.select(builder.fcmp_unordered(">=", value, lowest), value, lowest)
                _store(builder, value, _moved(builder, to, (to_row, y), (to_column, x)))

    return _instructions(write)


def _choose(builder: Any, to: Any, values: Any, codes: Any, code: Any) -> None:
    """Write a vector of values where their codes are the one given, and 0 elsewhere."""
    same = builder.icmp_signed("==", _load(builder, codes, _BYTES), _splat(builder, builder.trunc(code, ir.IntType(8))))
    _store(builder, builder.select(same, _load(builder, values, _FLOATS), ir.Constant(_FLOATS, None)), to)


def _multiply(vectors: int) -> Any:
    """Multiply ROWS rows (depth) by a panel (depth, `vectors` · LANES).

    ``(to, to_row, at, at_row, panel, depth, ahead)``: addresses, and steps between rows in bytes. What lies ahead is
    brought into the cache meanwhile: as many bytes as are a quarter of the panel.
    """

    def write(builder: Any, to: Any, to_row: Any, at: Any, at_row: Any, panel: Any, depth: Any, ahead: Any) -> None:
        nothing = ir.Constant(_FLOATS, None)
        sums = [[cgutils.alloca_once_value(builder, nothing) for _ in range(vectors)] for _ in range(ROWS)]
        wide, four = ir.IntType(64)(4 * LANES), ir.IntType(64)(4)
        with cgutils.for_range_slice(builder, depth.type(0), depth, depth.type(_UNROLLED), depth.type) as (i, _):
            from_panel, from_rows = _moved(builder, panel, (i, vectors * 4 * LANES)), _moved(builder, at, (i, 4))
            for line in range(vectors * _UNROLLED // 4):
                _fetch(builder, _moved(builder, ahead, (i, vectors * LANES), (wide, line)))
            for k in range(_UNROLLED):
                places = [_moved(builder, from_panel, (wide, vectors * k + j)) for j in range(vectors)]
                ours = [_load(builder, place, _FLOATS) for place in places]
                for r, row in enumerate(sums):
                    one = _load(builder, _moved(builder, from_rows, (at_row, r), (four, k)), ir.FloatType())
                    times = _splat(builder, one)
                    for some, total in zip(ours, row, strict=True):
                        more = builder.fmul(times, some, flags=_FUSED)
                        builder.store(builder.fadd(builder.load(total), more, flags=_FUSED), total)
        for r, row in enumerate(sums):
            for j, total in enumerate(row):
                _store(builder, builder.load(total), _moved(builder, to, (to_row, r), (wide, j)))

    return _instructions(write)


_inwards = _transform(_inward, False)
_outwards = _transform(_outward, True)
_chosen = _instructions(_choose)
_narrow_product = _multiply(1)
_product = _multiply(2)


@part
def _gather(values: Any, codes: Any, patch: Any, n: int, y: int, x: int) -> None:
    """Copy 6×6 pixels that begin at (y, x) into a patch, 0 where there are none; unpooled on the way with codes."""
    height, width, channels = values.shape[1:]
    deep = patch.shape[2]
    pooled = codes.size > 0
    zero = np.float32(0)
    for i in range(6):
        for j in range(6):
            row = (y + i) >> 1 if pooled else y + i
            column = (x + j) >> 1 if pooled else x + j
            if row < 0 or column < 0 or row >= height or column >= width:
                for c in range(deep):
                    patch[i, j, c] = zero
            elif pooled:
                code = ((y + i) & 1) * 2 + ((x + j) & 1)
                to = patch[i, j].ctypes.data
                source = values[n, row, column].ctypes.data
                switches = codes[row, column].ctypes.data
                for c in range(0, channels, LANES):
                    _chosen((to + 4 * c, source + 4 * c, switches + c, code))
            else:
                for c in range(channels):
                    patch[i, j, c] = values[n, row, column, c]


@part
def _all_inward(values: Any, codes: Any, edge: int, tiles: Any, spread: Any, patch: Any) -> None:
    """Transform the pixels of some tiles: first, behind the last, and how many stand along y and x."""
    height, width, channels = values.shape[1:]
    deep = spread.shape[2]
    first, behind, down, across = tiles
    step = spread[0].size * 4
    plain = codes.size == 0 and channels == deep
    base = spread.ctypes.data
    for t in range(first, behind):
        n, place = divmod(t, down * across)
        y, x = divmod(place, across)
        y = 4 * y - edge
        x = 4 * x - edge
        to = base + (t - first) * deep * 4
        if plain and y >= 0 and x >= 0 and y + 6 <= height and x + 6 <= width:
            at = values[n, y, x].ctypes.data
            row = width * channels * 4
            column = channels * 4
        else:
            _gather(values, codes, patch, n, y, x)
            at = patch.ctypes.data
            row = 6 * deep * 4
            column = deep * 4
        for c in range(0, deep * 4, LANES * 4):
            _inwards((to + c, 6 * step, step, at + c, row, column, np.float32(0)))


@part
def _all_products(spread: Any, weights: Any, made: Any, count: int) -> None:
    depth = spread.shape[2]
    panels, _, wide = weights.shape[1:]
    row = made.shape[2] * 4
    for spot in range(SPOTS):
        for p in range(panels):
            panel = weights[spot, p].ctypes.data
            ahead = panel + depth * wide * 4
            for t in range(0, count, ROWS):
                to = made[spot, t].ctypes.data + p * wide * 4
                at = spread[spot, t].ctypes.data
                if wide == PANEL:
                    _product((to, row, at, depth * 4, panel, depth, ahead))
                else:
                    _narrow_product((to, row, at, depth * 4, panel, depth, ahead))
                ahead += depth * wide


@part
def _all_outward(made: Any, found: Any, tiles: Any, patch: Any, least: Any) -> None:
    height, width, channels = found.shape[1:]
    deep = made.shape[2]
    first, behind, down, across = tiles
    step = made[0].size * 4
    base = made.ctypes.data
    for t in range(first, behind):
        n, place = divmod(t, down * across)
        y, x = divmod(place, across)
        y *= 4
        x *= 4
        at = base + (t - first) * deep * 4
        whole = channels % LANES == 0 and y + 4 <= height and x + 4 <= width
        to = found[n, y, x].ctypes.data if whole else patch.ctypes.data
        row = width * channels * 4 if whole else 6 * deep * 4
        column = channels * 4 if whole else deep * 4
        for c in range(0, channels * 4, LANES * 4):
            _outwards((to + c, row, column, at + c, 6 * step, step, least))
        if not whole:
            for i in range(min(4, height - y)):
                for j in range(min(4, width - x)):
                    for c in range(channels):
                        found[n, y + i, x + j, c] = patch[i, j, c]


@entry
def convolve(
    values: Any, codes: Any, weights: Any, found: Any, edge: int, least: Any, spread: Any, made: Any, patch: Any
) -> None:
    """Convolve with 3×3 kernels that were transformed.

    Parameters
    ----------
    values : array of float32 (signal, y, x, channel)
    codes : array of uint8 (y, x, channel)
        Where in its 2×2 window each value stood before it was pooled, 2·y + x; empty where nothing was pooled.
    weights : array of float32 (SPOTS, panel, depth, PANEL)
        Depth: the channels, filled up with 0 to a multiple of LANES.
    found : array of float32 (signal, y, x, channel)
        Takes what comes out.
    edge : int
        Pixels of 0 around the values.
    least : float32
        Nothing below it comes out.
    spread, made : arrays of float32 (SPOTS, tile, depth), (SPOTS, tile, PANEL · panel)
        Working memory, for a multiple of ROWS tiles.
    patch : array of float32 (6, 6, channel)
        Working memory, as deep as the deeper of the two.
    """
    down = (found.shape[1] + 3) // 4
    across = (found.shape[2] + 3) // 4
    total = values.shape[0] * down * across
    most = spread.shape[1]
    inside = patch.ravel()[: 36 * spread.shape[2]].reshape((6, 6, spread.shape[2]))
    outside = patch.ravel()[: 36 * made.shape[2]].reshape((6, 6, made.shape[2]))
    inside[:] = 0
    for first in range(0, total, most):
        tiles = (first, min(first + most, total), down, across)
        _all_inward(values, codes, edge, tiles, spread, inside)
        _all_products(spread, weights, made, tiles[1] - first)
        _all_outward(made, found, tiles, outside, least)
