"""Which versions of what took part, for the store."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that values may depend on."""
    found = {"python": platform.python_version()}
    for name in ("fmx", "torch", "onnxruntime-gpu", "onnxruntime", "numpy", "zarr"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
