"""torch.compile for graphs: compiled once for batches of any size."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from fmx.errors import ModelError

__all__ = ["SMALLEST_BATCH", "compiled", "has_compiler"]

# Torch compiles a batch of one for itself; filled up to two, a sample is computed as it is among others.
SMALLEST_BATCH = 2

# What torch says while it compiles about things that it can do without.
_CHATTY = ("torch.utils.cpp_extension", "torch._inductor", "torch._dynamo")


def has_compiler() -> bool:
    """Say whether there is a C++ compiler where torch looks for one."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))


def compiled(module: torch.nn.Module) -> Callable[..., Any]:
    """Compile a module for inputs whose first axis is the batch, of any length from `SMALLEST_BATCH` on.

    Compiling happens at the first call and takes tens of seconds. Torch keeps what it has compiled in its own cache,
    which ``TORCHINDUCTOR_CACHE_DIR`` can move.

    Raises
    ------
    ModelError
        There is no C++ compiler; the call raises it too, where torch can't compile the module.
    """
    if sys.platform == "win32" or not has_compiler():
        raise ModelError("torch.compile needs a C++ compiler, g++ or clang++")
    run = torch.compile(module)

    def call(*inputs: torch.Tensor) -> Any:
        for tensor in inputs:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            with _quiet():
                return run(*inputs)
        except TorchDynamoException as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = next((line for line in lines if "Error" in line or "Unsupported" in line), "".join(lines[:1]))
            raise ModelError(f"torch.compile fails: {said or type(error).__name__}") from error

    return call


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
