"""Where a torch model runs, at which precision, and with exact arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TypeVar

import torch

from fmx.errors import ModelError

__all__ = ["devices_here", "exact_arithmetic", "parse_precision", "pick_device", "placed"]

M = TypeVar("M", bound=torch.nn.Module)

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def devices_here() -> list[str]:
    """List the devices of this machine by the names that a user gives them."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def pick_device(name: str) -> torch.device:
    """Turn a device name into a device that is there, with its index.

    Raises
    ------
    ModelError
        The name is no device, or there is none of that kind on this machine; says what there is.
    """
    here = devices_here()
    exist = f"use {', '.join(here)}." if len(here) > 1 else "use cpu."
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ModelError(f"There is no device '{name}': {exist}") from None
    if device.type not in {"cpu", "cuda", "mps"}:
        raise ModelError(f"fmx does not run on {name}: {exist}")
    if device.type == "cpu":
        return torch.device("cpu")
    # Which one "cuda" is, the user may have settled with torch.cuda.set_device.
    usual = torch.cuda.current_device() if device.type == "cuda" and torch.cuda.device_count() else 0
    index = device.index if ":" in name else usual
    known = "mps" if device.type == "mps" and not index else f"{device.type}:{index}"
    if known not in here:
        raise ModelError(f"There is no {name} here: {exist}")
    return torch.device(device.type, index)


def parse_precision(name: str | None) -> torch.dtype | None:
    """Turn the name of a precision into an element type; None, the model's own, stays None.

    Raises
    ------
    ModelError
        There is no such precision.
    """
    if name is None:
        return None
    if name not in _PRECISIONS:
        raise ModelError(f"There is no precision {name}: use {', '.join(_PRECISIONS)}.")
    return _PRECISIONS[name]


def placed(module: M, device: torch.device, dtype: torch.dtype | None = None, *, own: bool = False) -> M:
    """Give a module that lies on a device, its floating-point weights and buffers of a type; None leaves theirs.

    The module itself is returned where it is so already, and changed only where it is the caller's `own`: users'
    modules stay where they are and as they are.
    """
    state = list(chain(module.parameters(), module.buffers()))
    stays = all(tensor.device == device for tensor in state)
    if dtype is not None:
        stays = stays and all(tensor.dtype == dtype for tensor in state if tensor.is_floating_point())
    if stays:
        return module
    # Copies of TorchScript modules made with gradients on are no leaves, which moving warns about.
    with torch.no_grad():
        moved = module if own else copy.deepcopy(module)
        return moved.to(device=device) if dtype is None else moved.to(device=device, dtype=dtype)


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 inside, and the same each time; afterwards all is set as it was.

    On CUDA torch lets convolutions round to TF32 (10 bits) unless told otherwise, and may pick algorithms that add up
    in another order each time. Elsewhere there is nothing to switch.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    holders = [cudnn.conv, cudnn.rnn, matmul]  # type: ignore[attr-defined]
    precisions = [holder.fp32_precision for holder in holders]
    flags = cudnn.benchmark, cudnn.deterministic
    allowed = _tf32_flags()
    try:
        # The older switches set the newer ones too; the newer ones alone would make torch's own checks fail.
        cudnn.allow_tf32, matmul.allow_tf32 = False, False
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        if allowed is not None:
            cudnn.allow_tf32, matmul.allow_tf32 = allowed
        for holder, precision in zip(holders, precisions, strict=True):
            holder.fp32_precision = precision


def _tf32_flags() -> tuple[bool, bool] | None:
    # Torch refuses to tell where a user has set the newer switches only.
    with suppress(RuntimeError):
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    return None
