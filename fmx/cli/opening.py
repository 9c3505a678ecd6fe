"""How a model is opened and pictures are prepared for it: the options of all commands that run models on pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmx.cli import options as opt
from fmx.cli import texts

if TYPE_CHECKING:
    from fmx.adapter import Model
    from fmx.prepare import PictureOptions
    from fmx.project import Pictures

__all__ = ["Backward", "Loading", "Opening", "PictureData", "Together"]

PictureData = Annotated[
    str, typer.Argument(metavar="PICTURES", help="A picture, a folder, a glob, a list, or arrays.", show_default=False)
]


@dataclass(frozen=True)
class Together:
    """How much of a model's work is done at once, and where."""

    batch_size: opt.BatchSize = 8
    device: opt.TorchDevice = "cpu"


@dataclass(frozen=True)
class Backward(Together):
    """The same of what needs a model's gradients, and what is computed in; as `fmx.project` takes them."""

    precision: Annotated[str, opt.precision("float32, or float64, which makes formats agree where float32 rounds")] = (
        "float32"
    )

    @property
    def ways(self) -> dict[str, Any]:
        """All of them, by the names of arguments."""
        return asdict(self)


@dataclass(frozen=True)
class Loading:
    """How a model is opened, and what pixels are to it."""

    weights: opt.Weights = None
    allow_partial: opt.AllowPartialWeights = False
    trust: opt.Trust = False
    operators: opt.Operators = None
    input_shape: opt.InputShape = None
    mean: opt.Mean = None
    std: opt.Std = None
    value_range: opt.Range = None
    layout: opt.Layout = None

    @property
    def pictures(self) -> PictureOptions:
        """What was said about preparing pictures."""
        from fmx.extraction import PictureOptions

        return PictureOptions(
            mean=texts.numbers("--mean", self.mean),
            std=texts.numbers("--std", self.std),
            range=texts.numbers("--range", self.value_range),
            layout=self.layout,
        )

    @property
    def ways(self) -> dict[str, Any]:
        """What was said about the model, as `fmx.load` and `fmx.extraction.Request` take it."""
        return {
            "weights": self.weights,
            "allow_partial": self.allow_partial,
            "trust": self.trust,
            "operators": tuple(self.operators or ()),
            "input_shape": texts.shape(self.input_shape),
        }

    def load(self, model: str) -> Model:
        """Open a model."""
        from fmx.adapter import load

        ways = self.ways
        ways["input_shape"] = ways["input_shape"] or self.pictures.input_shape()
        return load(model, layout=self.layout, **ways)


@dataclass(frozen=True)
class Opening(Loading):
    """How a model is opened, and pictures become its input."""

    size: opt.Size = None
    crop: opt.Crop = None

    @property
    def pictures(self) -> PictureOptions:
        """What was said about preparing pictures."""
        return replace(super().pictures, size=self.size, crop=self.crop)

    def open(self, model: Model, pictures: str) -> Pictures:
        """Open pictures for a model."""
        from fmx.project import open_pictures

        return open_pictures(model, pictures, pictures=self.pictures)
