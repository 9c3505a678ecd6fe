"""What one process does of an extraction, be it the user's or a worker: from the feed through the model to sinks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from fmx.adapter import Batch, Capture, Session, run_all, sharing
from fmx.extraction.estimate import buffers_within, check_room, compressed_bytes
from fmx.extraction.feed import Fed, Feed
from fmx.extraction.pipeline import Course, Handover, Meter, Sink
from fmx.extraction.reduction import ReduceSink
from fmx.extraction.settle import Settled, output_shapes
from fmx.extraction.sinks import StoreSink, kept_block
from fmx.store import DISK_RATE, NETWORK_RATE, Place, StorePlan, UnitWriter, choose_codecs, place_of

__all__ = [
    "Stop",
    "choose_engine",
    "fill_units",
    "fitted",
    "open_feed",
    "open_session",
    "stream",
    "stream_into",
]

# Bytes of a batch from which on writing them keeps processors as busy as the model does.
_MUCH = 64 * 2**20
Stop = Callable[[], bool]


def open_session(settled: Settled, engine: str) -> Session:
    """Prepare the model for the layers."""
    request = settled.request
    return settled.model.session(
        settled.layers,
        device=request.device,
        engine=engine,
        outputs=request.outputs,
        precision=request.precision,
        expected_batches=settled.batches,
    )


def open_feed(settled: Settled, units: Iterable[range]) -> Feed:
    """Read and prepare the samples of some units."""
    return Feed(
        settled.source,
        settled.preprocess,
        units=units,
        batch_size=settled.request.batch_size,
        noise=settled.levels,
        seed=settled.request.seed,
        perturbation=settled.perturbation,
        clip=settled.clip,
    )


def choose_engine(settled: Settled) -> dict[str, Any]:
    """Settle what the first batch tells: ``engine``, ``engine_notes``, the ``codec``, and the shapes of ``outputs``."""
    outputs = output_shapes(settled)
    plan = settled.plan({}, outputs)
    with open_session(settled, settled.request.engine) as session, open_feed(settled, plan.units()[:1]) as feed:
        first = next(iter(feed))
        codec = fitted(settled, plan, first, session.run(first.values)).codec
        engine, notes = session.engine, list(session.engine_notes)
    return {"engine": engine, "engine_notes": notes, "outputs": outputs, "codec": codec}


def fitted(settled: Settled, plan: StorePlan, first: Fed, capture: Capture) -> StorePlan:
    """Choose how each array is compressed by what the first batch gave, if that was left open.

    Raises
    ------
    StoreError
        A store of that size does not fit its disk.
    """
    if settled.request.reduce:
        return plan
    blocks = {layer.name: kept_block(settled, layer, capture, first)[0] for layer in settled.layers}
    blocks |= {f"outputs/{name}": block for name, block in capture.outputs.items()}
    if first.pictures is not None:
        blocks["inputs"] = first.pictures
    if settled.request.codec == "auto":
        local = place_of(settled.request.to).local is not None
        plan = replace(plan, codec=choose_codecs(plan, blocks, disk_rate=DISK_RATE if local else NETWORK_RATE))
    check_room(settled, compressed_bytes(plan, blocks))
    return plan


def fill_units(
    settled: Settled,
    session: Session,
    place: Place,
    units: Iterable[range],
    *,
    meter: Meter | None = None,
    stop: Stop | None = None,
) -> None:
    """Compute units of a store that is there; they are asked for one by one, as batches of them are read."""
    buffers = buffers_within(settled, settled.plan({}, output_shapes(settled)))
    with open_feed(settled, units) as feed, UnitWriter(place, buffers=buffers) as writer:
        stream_into(settled, session, writer, feed, meter or Meter(), stop or _never)


def stream_into(
    settled: Settled,
    session: Session,
    writer: UnitWriter,
    batches: Iterable[Fed],
    meter: Meter,
    stop: Stop,
    begun: list[tuple[Fed, Capture]] | None = None,
) -> None:
    """Run batches into a store, and into reducers where summaries are wanted."""
    # A unit counts as done once the store's sink has ended it, which therefore comes last.
    sinks: list[Sink] = [ReduceSink(settled, writer.place, meter)] if settled.request.reduce else []
    sinks.append(StoreSink(settled, writer, meter))
    levels = range(len(settled.levels))
    course = Course(settled.rows_per_sample, lambda _unit: levels)
    with sharing(session) if _batch_bytes(settled) >= _MUCH else nullcontext():
        stream(session, batches, sinks, course, meter, stop, begun)


def _batch_bytes(settled: Settled) -> int:
    """Give the bytes that a batch brings into the store."""
    plan = settled.plan({}, {})
    rows = min(settled.request.batch_size, plan.unit * settled.rows_per_sample)
    return plan.sample_bytes * rows // (settled.rows_per_sample * len(settled.levels))


def stream(
    session: Session,
    batches: Iterable[Fed],
    sinks: Sequence[Sink],
    course: Course,
    meter: Meter,
    stop: Stop,
    begun: list[tuple[Fed, Capture]] | None = None,
) -> None:
    """Run batches and hand what they give to sinks, until there are no more or `stop` says so before a unit.

    What was run before, `begun`, comes first; the list is emptied, so that nothing holds on to it.
    """
    with Handover(sinks, meter, course) as out:
        for fed in out.stream(_captured(session, batches, course, meter, stop, begun or [])):
            if course.completes(fed):
                meter.add((fed.rows.stop - fed.rows.start) / course.rows)


def _captured(
    session: Session,
    batches: Iterable[Fed],
    course: Course,
    meter: Meter,
    stop: Stop,
    done: list[tuple[Fed, Capture]],
) -> Iterator[tuple[Fed, Capture]]:
    """Run batches, as many at once as the session likes, and give each with what it was made of; `done` come first."""
    begun: deque[Fed] = deque()
    if done and stop():
        return
    while done:
        yield done.pop(0)

    def values() -> Iterator[Batch]:
        waiting = filter(course.wants, batches)
        while True:
            with meter.stage("decode", inside="model"):
                fed = next(waiting, None)
            if fed is None or (course.starts(fed) and stop()):
                return
            begun.append(fed)
            yield fed.values

    captures = run_all(session, values())
    while True:
        with meter.stage("model"):
            capture = next(captures, None)
        if capture is None:
            return
        yield begun.popleft(), capture


def _never() -> bool:
    return False
