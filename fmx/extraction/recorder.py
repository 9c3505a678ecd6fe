"""Recording activations of a network while it runs elsewhere, such as in a training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Model, choose_layers, load
from fmx.errors import DataError, ModelError
from fmx.extraction.keep import Keep
from fmx.extraction.versions import versions
from fmx.layers import LayerInfo
from fmx.store import (
    AppendWriter,
    Place,
    Store,
    StoreLock,
    StorePlan,
    UnitWriter,
    append_plan,
    create_store,
    finish_append,
    finish_store,
    open_store,
    pending_units,
    prepare_place,
)

__all__ = ["Recorder"]

_FLUSH_BYTES = 64 * 2**20
Values = dict[str, NDArray[Any]]


@runtime_checkable
class Recordable(Protocol):
    """A model whose passes can be listened to while they run elsewhere."""

    def recording(
        self,
        wanted: Callable[[], bool],
        choose: Callable[[Model], Sequence[LayerInfo]],
        take: Callable[[Values], None],
    ) -> AbstractContextManager[Any]: ...


class Recorder:
    """Records activations of every so many-th pass of a network into a store; a context manager.

    The network is run by whoever trains it and stays as it is. Passes that are not recorded meet one hook at the root,
    and no others. What is recorded is copied and written in the background; in the store samples are labelled with
    ``epoch`` and ``step``, and everything up to the last write is there even if the process dies.

    Parameters
    ----------
    model : torch.nn.Module
        The very object that is run.
    layers : str or iterable of str
        See `fmx.layers.select_layers`.
    to : str, path or Place
        Where the store is made.
    every : int
        Record one pass in so many.
    samples : int, optional
        Samples of each recorded batch that are kept, from the first on; all if left out.
    training_only : bool
        Leave passes in evaluation mode out, and don't count them.
    channels, space, dtype
        What is kept; see `fmx.extract`.
    meta : mapping of str to str, optional
        Notes of your own, kept in the store.
    overwrite : bool
        Replace a store that is there already.

    Attributes
    ----------
    epoch : int
        Label of what is recorded; set it in the loop.
    step : int
        Number of passes so far, the current one included.

    Raises
    ------
    FmxError
        The model is no torch module that is run as it is, or there is no place for a store.

    Examples
    --------
    >>> with fmx.Recorder(net, "layer1,layer4", to="training.zarr", every=100) as recorder:  # doctest: +SKIP
    ...     for recorder.epoch in range(10):
    ...         for x, y in loader:
    ...             loss = criterion(net(x), y)
    """

    def __init__(
        self,
        model: Any,
        layers: Any = "auto",
        *,
        to: str | Path | Place,
        every: int = 1,
        samples: int | None = None,
        training_only: bool = True,
        channels: Sequence[str] | Mapping[str, Sequence[int]] = (),
        space: str = "full",
        dtype: str | None = None,
        meta: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        if every < 1 or (samples is not None and samples < 1):
            raise DataError("A recorder records every pass or every so many-th, and at least one sample of it.")
        opened = model if isinstance(model, Model) else load(model)
        if not isinstance(opened, Recordable):
            raise ModelError("Only torch modules that you run yourself can be recorded: use fmx.extract for files.")
        self.epoch = 0
        self.step = 0
        self._model: Any = opened
        self._patterns = layers
        self._place = prepare_place(to, overwrite=overwrite)
        self._overwrite = overwrite
        self._every = every
        self._samples = samples
        self._training_only = training_only
        self._kept: tuple[Sequence[str] | Mapping[str, Sequence[int]], str, str | None] = (channels, space, dtype)
        self._meta = dict(meta or {})
        self._layers: list[LayerInfo] = []
        self._keep = Keep()
        self._plan: StorePlan | None = None
        self._pending: list[tuple[Values, int, int]] = []
        self._pending_bytes = 0
        self._writing: Future[None] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(StoreLock(self._place))
            self._writer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="fmx-record"))
            stack.enter_context(self._model.recording(self._wanted, self._choose, self._take))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            # What was recorded is worth keeping, whatever ended the loop.
            self._flush()
            self._wait()

    @property
    def store(self) -> Store:
        """What has been written so far.

        Raises
        ------
        StoreError
            Nothing has been written yet.
        """
        return open_store(self._place)

    # -- listening -------------------------------------------------------------------------------------

    def _wanted(self) -> bool:
        if self._training_only and not self._model.module.training:
            return False
        self.step += 1
        return (self.step - 1) % self._every == 0

    def _choose(self, model: Model) -> Sequence[LayerInfo]:
        """Choose layers on the first recorded pass; later ones have to have the same."""
        chosen = choose_layers(model, self._patterns)
        if self._layers and chosen != self._layers:
            raise DataError(
                f"The input has another size ({model.inputs[0].shape}) than in the first recorded pass: record passes "
                "of one size."
            )
        if not self._layers:
            channels, space, _ = self._kept
            self._layers, self._keep = chosen, Keep.of(chosen, channels, space)
            self._about = self._attributes(model)
        return chosen

    def _take(self, values: Values) -> None:
        kept = {
            layer.name: np.ascontiguousarray(self._keep.summarise(layer, values[layer.name][: self._samples]))
            for layer in self._layers
        }
        self._pending.append((kept, self.epoch, self.step))
        self._pending_bytes += sum(block.nbytes for block in kept.values())
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    # -- writing ---------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Hand what was recorded to the writing thread, once that is done with what it had before."""
        self._wait()
        if self._pending:
            passes, self._pending, self._pending_bytes = self._pending, [], 0
            self._writing = self._writer.submit(self._write, passes)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, passes: Sequence[tuple[Values, int, int]]) -> None:
        counts = [len(next(iter(values.values()))) for values, _, _ in passes]
        epochs = [p[1] for p, n in zip(passes, counts, strict=True) for _ in range(n)]
        steps = [p[2] for p, n in zip(passes, counts, strict=True) for _ in range(n)]
        ids = [f"step {p[2]} #{i}" for p, n in zip(passes, counts, strict=True) for i in range(n)]
        blocks = {name: np.concatenate([values[name] for values, _, _ in passes]) for name in passes[0][0]}
        plan = self._planned(ids, {"epoch": epochs, "step": steps})
        if self._plan is None:
            place = create_store(self._place, plan, overwrite=self._overwrite)
            with UnitWriter(place) as writer:
                for unit in pending_units(place):
                    _fill(writer, unit, unit, blocks)
            finish_store(place)
        else:
            self._append(plan, blocks)
        self._plan = plan

    def _append(self, plan: StorePlan, blocks: Values) -> None:
        wanted = append_plan(self._place, plan)
        old = wanted.old[0]
        with AppendWriter(self._place) as writer:
            for unit in wanted.units:
                for part in unit.parts:
                    _fill(writer, unit.unit, part.samples, blocks, old)
        finish_append(self._place)

    def _planned(self, ids: Sequence[str], labels: Mapping[str, Sequence[int]]) -> StorePlan:
        return StorePlan(
            samples=ids,
            paths=[""] * len(ids),
            labels=[""] * len(ids),
            more_labels=labels,
            noise=[0.0],
            layers=[self._keep.over_space(layer) for layer in self._layers],
            attributes=self._about,
            batch=len(ids),
            dtype=self._kept[2],
            channels=self._keep.channels,
        )

    def _attributes(self, model: Model) -> dict[str, Any]:
        """Describe how the values come about; the fingerprint is that of the weights at the first recorded pass."""
        return {
            "model": model.source,
            "fingerprint": model.fingerprint,
            "adapter": model.adapter,
            "engine": "recorded as it was run",
            "engine_notes": [],
            "device": "as it was run",
            "batch_size": 0,
            "layers": [layer.name for layer in self._layers],
            "space": self._keep.space,
            "reduced": [],
            "outputs": False,
            "input_shape": list(model.inputs[0].shape),
            "preprocessing": "none: recorded as it was run",
            "noise_kind": "none",
            "noise_space": "none",
            "seed": 0,
            "frames": 1,
            "stride": 1,
            "every": self._every,
            "skipped": [],
            "notes": [],
            "meta": self._meta,
            "source": {},
            "versions": versions(),
        }


def _fill(writer: UnitWriter, unit: range, samples: range, blocks: Values, before: int = 0) -> None:
    """Put samples of a unit; `blocks` begin with the sample at position `before`."""
    writer.start_unit(unit)
    rows = slice(samples.start - unit.start, samples.stop - unit.start)
    for name, block in blocks.items():
        writer.put(name, rows, block[samples.start - before : samples.stop - before], noise=0)
    writer.finish_unit(unit)
