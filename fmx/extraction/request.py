"""What a user asks of an extraction, in one value that the command line, Python and workers hand on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fmx.errors import DataError, near_matches
from fmx.prepare import PictureOptions

__all__ = ["DEFAULT_BATCH", "REDUCERS", "Request"]

DEFAULT_BATCH = 32
REDUCERS = ("stats", "hist", "quantiles", "top-samples")
_WAYS = {
    "on_error": ("--on-error", ("fail", "skip")),
    "dtype": ("--dtype", (None, "float32", "float16", "bfloat16")),
    "precision": ("--precision", (None, "float32", "float16", "bfloat16")),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that settles an extraction; see `fmx.extract` for what each part means.

    Raises
    ------
    DataError
        A value that no extraction could have.
    """

    model: Any
    data: Any
    to: Any
    layers: str | Iterable[str] = "auto"
    noise: Sequence[float] = (0.0,)
    perturb: str = "gaussian"
    noise_space: str | None = None
    seed: int = 0
    batch_size: int = DEFAULT_BATCH
    device: str = "cpu"
    engine: str = "auto"
    precision: str | None = None
    outputs: bool = False
    frames: int | None = None
    stride: int = 1
    clips: bool = False
    pictures: PictureOptions = field(default_factory=PictureOptions)
    weights: Any = None
    allow_partial: bool = False
    input_shape: Any = None
    trust: bool = False
    operators: Sequence[Any] = ()
    channels: Sequence[str] | Mapping[str, Sequence[int]] = ()
    space: str = "full"
    dtype: str | None = None
    codec: str = "auto"
    reduce: Sequence[str] = ()
    on_error: str = "fail"
    overwrite: bool = False
    resume: bool = False
    append: bool = False
    repair: bool = False
    memory: int | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    workers: int = 0
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DataError(f"A batch has at least one sample, not {self.batch_size}: correct --batch-size.")
        for name, (option, known) in _WAYS.items():
            if getattr(self, name) not in known:
                *others, last = (str(k) for k in known if k)
                words = f"{', '.join(others)} or {last}"
                raise DataError(f"There is no {option} {getattr(self, name)}: use {words}.")
        if not -(2**63) <= self.seed < 2**63:
            raise DataError(f"--seed {self.seed} is too large: use a number of at most 18 digits.")
        if self.workers < 0:
            raise DataError(f"--workers takes a number from 1 on, not {self.workers}.")
        for name in self.reduce:
            if name not in REDUCERS:
                raise DataError(f"There is no --reduce {name}: {near_matches(name, REDUCERS)}")
        self._check_ways()

    def _check_ways(self) -> None:
        ways = {
            "--overwrite": self.overwrite,
            "--resume": self.resume,
            "--append": self.append,
            "--repair": self.repair,
        }
        asked = [option for option, given in ways.items() if given]
        # Together they forget an append that was interrupted.
        if len(asked) > 1 and asked != ["--overwrite", "--append"]:
            raise DataError(f"{asked[0]} and {asked[1]} exclude each other: give one of them.")
        if self.reduce and (self.append or self.repair):
            raise DataError(f"--reduce keeps no activations that {asked[0]} could go on with: leave one of them out.")
