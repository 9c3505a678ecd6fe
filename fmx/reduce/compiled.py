"""Compiling a function with numba: without the interpreter's lock, and kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import numba

__all__ = ["entry", "part", "sums"]

F = TypeVar("F", bound=Callable[..., Any])


def entry(function: F) -> F:
    """Compile a function when it is first called, and keep the machine code.

    It is kept beside the module, or in the user's cache folder where the package can't be written to; where that can't
    be written either, every process compiles for itself. What is kept is renewed when the function's own file changes
    and not when another one does: an entry and its parts, and the constants they use, stay in one module.
    """
    try:
        made = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # there is no folder to keep it in
        return cast("F", numba.njit(nogil=True)(function))
    kept = getattr(made, "_cache", None)  # without compiling there is none
    for name in ("load_overload", "save_overload") if kept is not None else ():
        setattr(kept, name, _if_possible(getattr(kept, name)))
    return cast("F", made)


def _if_possible(keep: Callable[..., Any]) -> Callable[..., Any]:
    """Do without what is kept where the disk is full or the folder has gone: the machine code is there, too."""

    def tried(*given: Any) -> Any:
        with suppress(OSError):
            return keep(*given)
        return None

    return tried


def part(function: F, *, fastmath: bool | set[str] = False) -> F:
    """Compile a function as a part of those that call it.

    It is compiled into them. A process that compiles would otherwise call a copy that stands by itself, and one that
    reads what is kept another copy, which may add the terms of a sum in another order.
    """
    return cast("F", numba.njit(nogil=True, forceinline=True, fastmath=fastmath)(function))


# Sums may be split over the lanes of a vector. Nothing lets the compiler assume that values are finite.
sums = partial(part, fastmath={"reassoc", "contract", "nsz"})
