"""Options of the commands that compare layers: which noise levels, and which samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from fmx.cli import options as opt
from fmx.errors import FmxError

__all__ = ["Drawn", "Levels", "levels", "one_of"]

Levels = Annotated[str | None, typer.Option(help="Noise levels such as 0,0.2, or all (default: the first).")]


@dataclass(frozen=True)
class Drawn:
    """What is drawn at random."""

    samples: Annotated[int | None, typer.Option(help="Take so many samples only, drawn at random.")] = None
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.")] = 0


def levels(text: str | None) -> list[float] | str | None:
    """Read noise levels: numbers separated by commas, or all."""
    return "all" if text == "all" else opt.numbers("--noise", text)


def one_of(option: str, word: str, words: tuple[str, ...]) -> None:
    """Refuse a word that an option does not know.

    Raises
    ------
    FmxError
    """
    if word not in words:
        raise FmxError(f"{option} takes {' or '.join(words)}, not '{word}'.")
