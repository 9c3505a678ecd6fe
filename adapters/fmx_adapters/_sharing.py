"""Sharing the processor with threads that write while the model runs.

Torch's threads wait for each other by asking again and again for some milliseconds. Alone they are the faster for it.
Beside threads that compress and write, the one that has been held up is then waited for by all others with the
processors that it could use: a pass over large maps takes up to three times the processor time. GNU's OpenMP asks
only a few times, and sleeps, as long as it knows of more threads than there are processors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["waiting_asleep"]

# Elements enough for torch to share the work among all its threads.
_MANY = 2**20


@contextmanager
def waiting_asleep() -> Iterator[None]:
    """Let torch's threads sleep while they wait, where they are GNU's and as many as there are processors."""
    ready, over = threading.Event(), threading.Event()

    def hold() -> None:
        # The threads that help with this belong to this thread, and are there as long as it is.
        torch.ones(_MANY).neg_()
        ready.set()
        over.wait()

    holder = threading.Thread(target=hold, name="fmx-hold", daemon=True)
    holder.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        holder.join()
