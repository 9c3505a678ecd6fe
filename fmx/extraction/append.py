"""Running what an append still lacks: new samples at every level, old samples at new levels and for new layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fmx.adapter import Capture, resolve
from fmx.errors import StoreError
from fmx.extraction.feed import Fed
from fmx.extraction.pipeline import Course, Meter
from fmx.extraction.settle import Settled, output_shapes
from fmx.extraction.sinks import StoreSink
from fmx.extraction.streaming import Stop, open_feed, open_session, stream
from fmx.store import AppendPart, AppendPlan, AppendWriter, Place, append_plan, finish_append

__all__ = ["append"]


@dataclass(frozen=True)
class _Piece:
    """Samples that are run in a row: where they are in the source, and what of which unit they are for."""

    run: range
    unit: range
    part: AppendPart
    first: bool
    last: bool


def append(settled: Settled, place: Place, meter: Meter, stop: Stop) -> None:
    """Add to a finished store what the settled extraction has more than it, or go on doing so."""
    request = settled.request
    wanted = settled.plan(_attributes(settled), output_shapes(settled))
    plan = append_plan(place, wanted, restart=request.overwrite)
    ours, pieces = _pieces(settled, plan)
    if pieces and not _stopped_at(ours, place, pieces, meter, stop):
        pieces = []
    if not pieces:
        finish_append(place)


def _attributes(settled: Settled) -> dict[str, Any]:
    """Describe the samples that are there, to see that they are still the same, and all of them as they will be."""
    index = {sample.id: i for i, sample in enumerate(settled.source.samples)}
    old = [str(sample) for sample in _stored(settled)["samples"]]
    about = settled.provenance() | {"skipped": settled.skipped}
    if not set(old) <= set(index):
        # Samples that are not there any more can't be compared.
        return {key: value for key, value in about.items() if key != "data"} | {"grown": {"data": ""}}
    before = [index[sample] for sample in old]
    added = [i for sample, i in index.items() if sample not in set(old)]
    signature = settled.source.subset
    return about | {"data": signature(before).signature(), "grown": {"data": signature(before + added).signature()}}


def _pieces(settled: Settled, plan: AppendPlan) -> tuple[Settled, list[_Piece]]:
    """List what is run, and settle it anew for the samples, layers and levels that this takes."""
    index = {sample.id: i for i, sample in enumerate(settled.source.samples)}
    order: list[int] = []
    pieces: list[_Piece] = []
    keys: set[str] = set()
    for unit in plan.units:
        for number, part in enumerate(unit.parts):
            run = range(len(order), len(order) + len(part.samples))
            order += [index[plan.samples[i]] for i in part.samples]
            keys |= set(part.keys)
            pieces.append(_Piece(run, unit.unit, part, number == 0, number == len(unit.parts) - 1))
    layers = resolve(settled.model.layers, [name for name in plan.layers if name in keys]) if pieces else settled.layers
    source = settled.source.subset(order) if pieces else settled.source
    return replace(settled, source=source, layers=layers, levels=plan.noise), pieces


def _stopped_at(settled: Settled, place: Place, pieces: Sequence[_Piece], meter: Meter, stop: Stop) -> bool:
    """Run the pieces; say whether it was stopped before the last one."""
    meter.total = len(settled.source.samples)
    by_start = {piece.run.start: piece for piece in pieces}
    course = Course(settled.rows_per_sample, lambda run: by_start[run.start].part.levels)
    with (
        open_session(settled, str(_stored(settled)["engine"])) as session,
        open_feed(settled, [piece.run for piece in pieces]) as feed,
        AppendWriter(place) as writer,
    ):
        stream(session, feed, [_AppendSink(settled, writer, meter, by_start)], course, meter, stop)
    return meter.done < meter.total


def _stored(settled: Settled) -> dict[str, Any]:
    if settled.stored is None:
        raise StoreError(f"There is no store {settled.request.to} to append to.")
    return dict(settled.stored)


class _AppendSink(StoreSink):
    """Puts what a unit lacks into it, piece by piece."""

    _writer: AppendWriter

    def __init__(self, settled: Settled, writer: AppendWriter, meter: Meter, pieces: dict[int, _Piece]) -> None:
        super().__init__(settled, writer, meter)
        self._pieces = pieces

    def start(self, unit: range) -> None:
        """Begin a piece, and the unit with its first one."""
        piece = self._pieces[unit.start]
        if piece.first:
            super().start(piece.unit)

    def take(self, fed: Fed, capture: Capture) -> None:
        """Put what is missing of a batch."""
        piece = self._pieces[fed.unit.start]
        before = piece.part.samples.start - piece.unit.start
        each, frames = self._settled.rows_per_sample, self._settled.frames
        pictures = fed.pictures if "inputs" in piece.part.keys else None
        rows, picture_rows = _shift(fed.rows, before * each), _shift(fed.picture_rows, before * frames)
        moved = replace(fed, rows=rows, picture_rows=picture_rows, pictures=pictures)
        layers = {name: block for name, block in capture.items() if name in piece.part.keys}
        outputs = {name: block for name, block in capture.outputs.items() if f"outputs/{name}" in piece.part.keys}
        super().take(moved, Capture(layers, outputs))

    def finish(self, unit: range) -> None:
        """End a piece, and the unit with its last one."""
        piece = self._pieces[unit.start]
        if piece.last:
            super().finish(piece.unit)


def _shift(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
