"""Operators that come from a user's own libraries: loaded only for who trusts them, missing ones named."""

from __future__ import annotations

from collections.abc import Sequence

from fmx.adapter import OpenOptions
from fmx.errors import ModelError

__all__ = ["load_torch_operators", "missing_operator"]


def missing_operator(source: str, names: Sequence[str], *, trust: bool) -> ModelError:
    """Say that a model needs operators, written ``domain::name``, that are not there or not to be trusted."""
    plural = len(names) > 1
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    needs = f"{source} needs the operator{'s' if plural else ''} {listed}"
    it = "them" if plural else "it"
    if trust:
        return ModelError(f"{needs}, which nothing here has: give the library that has {it} with --operators FILE.")
    return ModelError(
        f"{needs} of a library, and a library runs code of its own: "
        f"if you trust it, add --trust, and --operators FILE for the library that has {it}."
    )


def load_torch_operators(options: OpenOptions) -> None:
    """Load libraries with operators for torch; they stay loaded as long as the process runs.

    Raises
    ------
    ModelError
        A library can't be loaded.
    """
    import torch

    for library in options.operators:
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"{library} can't be loaded as a library of operators: {reason}.") from error
