"""How fast a model runs: bare, with values taken out, reduced, and stored, by engine, batch size and device."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Model, Session, choose_layers
from fmx.errors import DataError, ModelError
from fmx.extraction.pipeline import Status
from fmx.extraction.request import Request
from fmx.extraction.run import run
from fmx.extraction.settle import settle
from fmx.layers import LayerInfo

__all__ = ["bench"]

Progress = Callable[[int, int], None]
_FEWEST_BATCHES = 4
_SECONDS = 1.5
_MOST_BYTES = 256 * 2**20
_REDUCERS = ("stats", "hist")


@dataclass
class _Contender:
    """Something that is timed: runs once and gives images a second and what it waited for."""

    what: str
    engine: str
    asked: str
    batch_size: int
    device: str
    run: Callable[[], tuple[float, str]]


def bench(
    model: Model,
    *,
    data: Any = None,
    layers: str | Iterable[str] = "auto",
    batch_sizes: Sequence[int] = (32,),
    engines: Sequence[str] = ("eager", "auto"),
    devices: Sequence[str] = ("cpu",),
    rounds: int = 5,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Time the bare model, the capture of layers, and whole extractions, in turn within each round.

    Parameters
    ----------
    model : Model
    data : anything that `fmx.extract` takes, optional
        What is extracted, so that decoding counts too; random input if left out. Passes that keep nothing always run on
        random input.
    layers : str or iterable of str
        What is captured.
    batch_sizes : sequence of int
    engines, devices : sequence of str
    rounds : int
        Timed rounds, after one that warms up. A round is one batch, and a second or so of whole extractions.
    progress : callable, optional
        Called with the number of rounds done and the number in all.

    Returns
    -------
    list of dict
        A row for each contender: ``what``, ``engine``, ``batch_size``, ``device``, ``images_per_s`` (the median round),
        ``ratio`` to the first row's bare forward pass (the median of the ratios within the rounds) and, for whole
        extractions, ``bottleneck``: what the rest waited for.
    """
    if min(batch_sizes, default=0) < 1 or rounds < 1:
        raise DataError("A benchmark needs at least one round of one sample: correct --batch-sizes or --rounds.")
    if len(model.inputs) != 1:
        raise ModelError(f"{model.source} takes {len(model.inputs)} inputs: only models of one input can be timed.")
    chosen = choose_layers(model, layers)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_scratch()))
        contenders = [
            contender
            for device, batch_size, engine in product(devices, batch_sizes, engines)
            for contender in _contenders(stack, model, chosen, data, batch_size, engine, device, folder)
        ]
        rates, waits = _rounds(contenders, rounds, progress or (lambda _done, _total: None))
    base = rates[0]
    return [
        {
            "what": each.what,
            "engine": each.engine,
            "asked": each.asked,
            "batch_size": each.batch_size,
            "device": each.device,
            "images_per_s": median(taken),
            "ratio": median(rate / b for rate, b in zip(taken, base, strict=True)),
            "bottleneck": waited,
        }
        for each, taken, waited in zip(contenders, rates, waits, strict=True)
    ]


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for the extractions that are timed, on the disk where one works."""
    try:
        return tempfile.TemporaryDirectory(prefix="fmx-bench-", dir=".")
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"Extractions are timed into the current folder, which can't be written ({why}).") from error


def _contenders(
    stack: ExitStack,
    model: Model,
    layers: Sequence[LayerInfo],
    data: Any,
    batch_size: int,
    engine: str,
    device: str,
    folder: Path,
) -> Iterable[_Contender]:
    info = model.inputs[0]
    batch = np.random.default_rng(0).random((batch_size, *info.shape)).astype(info.dtype)
    settled_on = engine
    for what, wanted, outputs in (
        ("bare forward", [], True),
        (f"{layers[0].name} alone", layers[:1], False),
        (f"capture of {len(layers)} layers", layers, False),
    ):
        session = stack.enter_context(model.session(wanted, device=device, engine=engine, outputs=outputs))
        session.run(batch)  # settles the engine
        settled_on = session.engine
        yield _Contender(what, settled_on, engine, batch_size, device, _timed(session, batch))
    extracted = np.concatenate([batch] * _batches(session, batch)) if data is None else data
    for what, reduce in (("capture + reduce", _REDUCERS), ("capture + store", ())):
        request = Request(
            model=model,
            data=extracted,
            to=folder / f"{device}-{batch_size}-{engine}.zarr".replace(":", "-"),
            layers=[layer.name for layer in layers],
            batch_size=batch_size,
            engine=settled_on,
            device=device,
            reduce=reduce,
            overwrite=True,
        )
        yield _Contender(what, settled_on, engine, batch_size, device, _extracting(request))


def _batches(session: Session, batch: NDArray[Any]) -> int:
    """Choose how many batches make an extraction of a second or so, in 256 MB at most."""
    start = time.perf_counter()
    session.run(batch)
    wanted = math.ceil(_SECONDS / (time.perf_counter() - start))
    return max(min(wanted, _MOST_BYTES // batch.nbytes), _FEWEST_BATCHES)


def _timed(session: Session, batch: NDArray[Any]) -> Callable[[], tuple[float, str]]:
    def once() -> tuple[float, str]:
        start = time.perf_counter()
        session.run(batch)
        return len(batch) / (time.perf_counter() - start), ""

    return once


def _extracting(request: Request) -> Callable[[], tuple[float, str]]:
    def once() -> tuple[float, str]:
        marks: list[tuple[float, Status]] = []
        run(settle(request), lambda status: marks.append((time.perf_counter(), status)))
        # What is done once for each run, such as setting the engine up, is over with the first batch.
        start, first = marks[0]
        return (marks[-1][1].done - first.done) / (time.perf_counter() - start), marks[-1][1].bottleneck

    return once


def _rounds(contenders: Sequence[_Contender], rounds: int, progress: Progress) -> tuple[list[list[float]], list[str]]:
    rates: list[list[float]] = [[] for _ in contenders]
    waits = [""] * len(contenders)
    for number in range(rounds + 1):
        for i, contender in enumerate(contenders):
            rate, waits[i] = contender.run()
            if number:  # the first round warms up
                rates[i].append(rate)
        progress(number, rounds)
    return rates, waits
