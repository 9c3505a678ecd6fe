"""Batches on their way into a session: checked, overlapped, and beside other work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fmx.adapter.contract import Batch, Capture, Session
from fmx.adapter.source import InputInfo
from fmx.errors import ModelError

__all__ = ["check_batch", "check_inputs", "run_all", "sharing"]


def run_all(session: Session, batches: Iterable[Batch]) -> Iterator[Capture]:
    """Run batches one after the other, overlapped where the session can: it has a method of this name then.

    At most one batch more than those given back has been taken from `batches`.

    Yields
    ------
    Capture
        What ``session.run`` gives for each batch, in their order.
    """
    overlapped = getattr(session, "run_all", None)
    yield from overlapped(batches) if overlapped is not None else map(session.run, batches)


def sharing(session: Session) -> AbstractContextManager[None]:
    """Give a context in which a session shares the processor with other threads of this process that have much to do.

    A session that can has a method of this name. What it computes stays the same.
    """
    found = getattr(session, "sharing", None)
    return nullcontext() if found is None else cast("AbstractContextManager[None]", found())


def check_inputs(batch: Batch, inputs: Sequence[InputInfo], source: str) -> dict[str, NDArray[Any]]:
    """Check a batch against a model's inputs, and give it by the names of the inputs.

    Raises
    ------
    ModelError
        An input is missing, unknown, or has another shape; says what the model takes.
    """
    if isinstance(batch, Mapping):
        given = dict(batch)
    elif len(inputs) == 1:
        given = {inputs[0].name: batch}
    else:
        given = {}
    names = [info.name for info in inputs]
    if sorted(given) != sorted(names):
        raise ModelError(f"{source} takes the inputs {', '.join(names)}: give a mapping with an array for each.")
    for info in inputs:
        check_batch(given[info.name], info.shape, source if len(inputs) == 1 else f"{source} as {info.name}")
    return {name: _plain(given[name]) for name in names}


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Give numbers as processors have them; frameworks refuse other orders of bytes, or read other numbers."""
    dtype = np.dtype(array.dtype).newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    return np.asarray(array, dtype)


def check_batch(batch: NDArray[Any], shape: Sequence[int], source: str) -> None:
    """Check that a batch is (sample, …shape).

    Raises
    ------
    ModelError
        It is not; says what the model takes and what it was given.
    """
    if batch.ndim != len(shape) + 1 or tuple(batch.shape[1:]) != tuple(shape):
        raise ModelError(
            f"{source} takes samples of shape {_shape(shape)}, but the data has {_shape(batch.shape[1:])}: "
            "prepare the data for the model, or give its input with --input-shape."
        )


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"
