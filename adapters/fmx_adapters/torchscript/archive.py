"""Reading TorchScript archives."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from fmx.errors import ModelError
from fmx_adapters._archives import check_archive

__all__ = ["load_archive"]


def load_archive(path: Path) -> torch.jit.ScriptModule:
    check_archive(path)
    with warnings.catch_warnings():
        # torch.jit is deprecated upstream; the files are there all the same.
        warnings.simplefilter("ignore")
        try:
            loaded: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return loaded
        except (RuntimeError, ValueError) as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "").rstrip(".")
            raise ModelError(f"{path} can't be read as TorchScript ({reason}): export it again.") from None
