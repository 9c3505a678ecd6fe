"""Running a settled extraction: a new store, or what is missing of one that is there."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from fmx.allocator import memory_is_kept
from fmx.errors import StoreError
from fmx.extraction.estimate import buffers_within
from fmx.extraction.pipeline import Meter, Progress, Status
from fmx.extraction.reduction import finish_reduction
from fmx.extraction.settle import Settled, output_shapes
from fmx.extraction.streaming import Stop, fill_units, fitted, open_feed, open_session, stream_into
from fmx.extraction.versions import versions
from fmx.store import (
    Place,
    Store,
    StoreLock,
    UnitWriter,
    building_place,
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

__all__ = ["run"]


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
            plan = fitted(settled, plan, first, captured)
            buffers = buffers_within(settled, plan)
            place = self._create(plan, {"engine": session.engine, "engine_notes": list(session.engine_notes)})
            with UnitWriter(place, buffers=buffers) as writer:
                begun = [(first, captured)]
                del first, captured  # which would stay in memory until the end
                stream_into(settled, session, writer, batches, self.meter, self.stop, begun)
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


def _silent(_status: Status) -> None:
    return None
