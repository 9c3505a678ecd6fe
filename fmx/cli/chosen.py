"""Options of the commands that compare layers: which samples, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fmx.cli import options as opt

__all__ = ["Drawn"]


@dataclass(frozen=True)
class Drawn:
    """What is drawn at random."""

    subsample: Annotated[
        int | None, opt.option(opt.WHAT, "Take so many samples only, drawn at random.", "--subsample", metavar="N")
    ] = None
    seed: opt.Seed = 0
