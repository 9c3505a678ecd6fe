"""Running a settled extraction: a new store, or what is missing of one that is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

from fmx.adapter import Batch, Capture, Session, run_all, sharing
from fmx.allocator import memory_is_kept
from fmx.errors import StoreError
from fmx.extraction.estimate import buffers_within, check_room, compressed_bytes
from fmx.extraction.feed import Fed, Feed
from fmx.extraction.pipeline import Course, Handover, Meter, Progress, Sink, Status
from fmx.extraction.reduction import ReduceSink, finish_reduction
from fmx.extraction.settle import Settled, output_shapes
from fmx.extraction.sinks import StoreSink, kept_block
from fmx.extraction.versions import versions
from fmx.store import (
    DISK_RATE,
    NETWORK_RATE,
    Place,
    Store,
    StoreLock,
    StorePlan,
    UnitWriter,
    building_place,
    choose_codecs,
    create_store,
    differences,
    finish_store,
    mark_for_repair,
    open_store,
    pending_units,
    place_of,
    plan_settings,
    read_layout,
    relabel,
    stored_settings,
    verify_store,
)

__all__ = ["Stop", "choose_engine", "fill_units", "open_feed", "open_session", "run", "stream"]

# Bytes of a batch from which on writing them keeps processors as busy as the model does.
_MUCH = 64 * 2**20
Stop = Callable[[], bool]


def run(settled: Settled, progress: Progress | None = None, stop: Stop | None = None) -> Store:
    """Run the model over all samples that are not in the store yet.

    Parameters
    ----------
    settled : Settled
    progress : callable, optional
        Called with a `Status` after every batch.
    stop : callable, optional
        Asked at the end of each write unit whether to end there.

    Returns
    -------
    Store
        Complete, or partial if `stop` said so; running the same again goes on.
    """
    final = place_of(settled.request.to)
    with memory_is_kept(), StoreLock(final) as lock:

        def ends() -> bool:
            lock.check()
            return stop is not None and stop()

        job = _Job(settled, progress or _silent, ends)
        if settled.request.append:
            job.append(final)
        elif settled.request.repair:
            job.repair(final)
        elif settled.stored is not None:
            job.resume(building_place(final, overwrite=settled.request.overwrite))
        elif settled.request.workers or settled.request.scheduler:
            job.begin_on_cluster()
        else:
            job.begin()
    return open_store(final)


class _Job:
    """One run of a settled extraction, with its progress."""

    def __init__(self, settled: Settled, progress: Progress, stop: Stop) -> None:
        self.settled = settled
        self.stop = stop
        self.meter = Meter(progress=progress, total=len(settled.source.samples))

    def begin(self) -> None:
        """Make the store once the first batch has settled the engine, and fill it."""
        settled = self.settled
        plan = settled.plan({}, output_shapes(settled))
        with ExitStack() as stack:
            session = stack.enter_context(open_session(settled, settled.request.engine))
            feed = stack.enter_context(open_feed(settled, plan.units()))
            batches = iter(feed)
            first = next(batches)
            captured = session.run(first.values)
            plan = _fitted(settled, plan, first, captured)
            buffers = buffers_within(settled, plan)
            place = self._create(plan, {"engine": session.engine, "engine_notes": list(session.engine_notes)})
            with UnitWriter(place, buffers=buffers) as writer:
                begun = [(first, captured)]
                del first, captured  # which would stay in memory until the end
                _stream(settled, session, writer, batches, self.meter, self.stop, begun)
        self._finish(place)

    def begin_on_cluster(self) -> None:
        """Make the store once a worker has settled the engine, and let the workers fill it."""
        from fmx.extraction.distributed import cluster_for

        settled = self.settled
        with cluster_for(settled.request) as cluster:
            chosen = cluster.settle_engine()
            plan = replace(settled.plan({}, chosen.pop("outputs")), codec=chosen.pop("codec"))
            place = self._create(plan, chosen)
            cluster.fill(place, pending_units(place), chosen["engine"], self.meter.add, self.stop)
        self._finish(place)

    def resume(self, place: Place) -> None:
        """Compute the units that are missing, with the engine and the batches that the store records."""
        units = pending_units(place)
        engine = read_layout(place).attributes["engine"]
        self.meter.add(len(self.settled.source.samples) - sum(map(len, units)))
        if units and (self.settled.request.workers or self.settled.request.scheduler):
            from fmx.extraction.distributed import cluster_for

            with cluster_for(self.settled.request) as cluster:
                cluster.fill(place, units, engine, self.meter.add, self.stop)
        elif units:
            with open_session(self.settled, engine) as session:
                fill_units(self.settled, session, place, units, meter=self.meter, stop=self.stop)
        self._finish(place)

    def repair(self, place: Place) -> None:
        """Look for damage, and make anew what it hit."""
        plan = self.settled.plan(self.settled.provenance(), output_shapes(self.settled))
        mark_for_repair(place, verify_store(place), plan)
        if found := differences(stored_settings(place), plan_settings(plan)):
            raise StoreError(f"{place} was made in another way ({'; '.join(found)}): repair it with its own command.")
        self.resume(place)

    def append(self, place: Place) -> None:
        """Add what is new to a finished store."""
        from fmx.extraction.append import append

        append(self.settled, place, self.meter, self.stop)

    def _create(self, plan: Any, chosen: dict[str, Any]) -> Place:
        settled = self.settled
        about = settled.provenance() | settled.circumstances() | chosen | {"versions": versions()}
        return create_store(settled.request.to, replace(plan, attributes=about), overwrite=settled.request.overwrite)

    def _finish(self, place: Place) -> None:
        if not pending_units(place):
            if self.settled.source.streamed:
                # What the samples of an iterable are called is known once they have been read.
                relabel(place, [sample.label for sample in self.settled.source.samples])
            if self.settled.request.reduce and read_layout(place).attributes["completeness"] != "complete":
                finish_reduction(self.settled, place)
            finish_store(place)


# -- what one process does, be it the user's or a worker -------------------------------------------------


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
        codec = _fitted(settled, plan, first, session.run(first.values)).codec
        engine, notes = session.engine, list(session.engine_notes)
    return {"engine": engine, "engine_notes": notes, "outputs": outputs, "codec": codec}


def _fitted(settled: Settled, plan: StorePlan, first: Fed, capture: Capture) -> StorePlan:
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
        _stream(settled, session, writer, feed, meter or Meter(), stop or _never)


def _stream(
    settled: Settled,
    session: Session,
    writer: UnitWriter,
    batches: Iterable[Fed],
    meter: Meter,
    stop: Stop,
    begun: list[tuple[Fed, Capture]] | None = None,
) -> None:
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


def _silent(_status: Status) -> None:
    return None


def _never() -> bool:
    return False
