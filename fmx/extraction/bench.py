"""How fast a model runs, bare and with values taken out, on every engine that it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmx.adapter import Model, Session, choose_layers
from fmx.errors import DataError, ModelError

__all__ = ["bench"]

Progress = Callable[[int, int], None]


def bench(
    model: Model,
    *,
    layers: str | Iterable[str] = "auto",
    batch_size: int = 32,
    engines: Sequence[str] = ("eager", "auto"),
    device: str = "cpu",
    rounds: int = 5,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Time the bare model and the capture of layers, in turn within each round, on random input.

    Parameters
    ----------
    model : Model
    layers : str or iterable of str
        What is captured.
    batch_size : int
        Samples a batch; each contender runs one batch a round.
    engines : sequence of str
    device : str
    rounds : int
        Timed rounds, after one that warms up.
    progress : callable, optional
        Called with the number of rounds done and the number in all.

    Returns
    -------
    list of dict
        A row for each contender: ``what``, ``engine``, ``images_per_s`` (from the median round) and ``ratio`` to the
        bare forward pass of the first engine (the median of the ratios within the rounds).
    """
    if batch_size < 1 or rounds < 1:
        raise DataError("A benchmark needs at least one round of one sample: correct --batch-size or --rounds.")
    batch = _random_batch(model, batch_size)
    chosen = choose_layers(model, layers)
    with ExitStack() as stack:
        contenders: dict[tuple[str, str], Session] = {}
        for engine in engines:
            for what, wanted, outputs in (
                ("bare forward", [], True),
                (f"capture of {len(chosen)} layers", chosen, False),
                (f"{chosen[0].name} alone", chosen[:1], False),
            ):
                session = model.session(wanted, device=device, engine=engine, outputs=outputs)
                contenders[what, engine] = stack.enter_context(session)
        seconds = _rounds(contenders, batch, rounds, progress or (lambda _done, _total: None))
    base = next(iter(seconds.values()))
    return [
        {
            "what": what,
            "engine": contenders[what, engine].engine if engine == "auto" else engine,
            "asked": engine,
            "images_per_s": batch_size / median(taken),
            "ratio": median(b / t for b, t in zip(base, taken, strict=True)),
        }
        for (what, engine), taken in seconds.items()
    ]


def _random_batch(model: Model, count: int) -> NDArray[Any]:
    if len(model.inputs) != 1:
        raise ModelError(f"{model.source} takes {len(model.inputs)} inputs: only models of one input can be timed.")
    info = model.inputs[0]
    return np.random.default_rng(0).random((count, *info.shape)).astype(info.dtype)


def _rounds(
    contenders: dict[tuple[str, str], Session], batch: NDArray[Any], rounds: int, progress: Progress
) -> dict[tuple[str, str], list[float]]:
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    for number in range(rounds + 1):
        for key, session in contenders.items():
            start = time.perf_counter()
            session.run(batch)
            if number:  # the first round warms up, and settles engines
                seconds[key].append(time.perf_counter() - start)
        progress(number, rounds)
    return seconds
