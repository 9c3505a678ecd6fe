"""What a user names as a model, what can be told of it unopened, and what may be said beside it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fmx.errors import ModelError

__all__ = ["InputInfo", "ModelSource", "OpenOptions"]


@dataclass(frozen=True, slots=True)
class InputInfo:
    """An input of a model.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Shape of one sample, without the batch axis.
    dtype : str
        NumPy name of the element type.
    layout : str
        ``"CHW"`` or ``"HWC"`` for a picture, empty for anything else.
    assumed : str
        What had to be assumed about the shape because the file does not say; empty when it is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = ""
    assumed: str = ""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What a user may say when a model is opened.

    Attributes
    ----------
    weights : str or None
        File with a state dict, or the name of a published set of weights, for sources that name an architecture.
    input_shape : tuple of int or None
        Shape of one sample (without the batch axis), for models of one input whose file does not say.
    inputs : tuple of InputInfo
        The inputs by name, for models of several; empty where `input_shape` or nothing was given.
    layout : str or None
        ``"NCHW"`` or ``"NHWC"``: the axes of the picture the model takes; None to find out.
    allow_partial : bool
        Load weights that fit in part only.
    trust : bool
        Run code that comes with the model: libraries in `operators`, TorchScript that may do more than compute.
    operators : tuple of str
        Shared libraries with operators that the model needs; none without `trust`.
    """

    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    inputs: tuple[InputInfo, ...] = ()
    layout: str | None = None
    allow_partial: bool = False
    trust: bool = False
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSource:
    """A model source with what can be told about it without opening it.

    Attributes
    ----------
    spec : object
        What the user gave: a path, a name such as ``torchvision:resnet18``, or a model object.
    """

    spec: Any
    _names: list[str] = field(default_factory=list, repr=False)

    @property
    def text(self) -> str:
        """The source as a user would write it."""
        return str(self.spec) if isinstance(self.spec, str | Path) else type(self.spec).__qualname__

    @cached_property
    def path(self) -> Path | None:
        """The file, if the source is one that exists."""
        if not isinstance(self.spec, str | Path):
            return None
        path = Path(self.spec)
        return path if path.is_file() else None

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the file."""
        if self.path is None:
            return b""
        with self.path.open("rb") as file:
            return file.read(64)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """Names inside the file if it is a zip archive.

        Raises
        ------
        ModelError
            The file begins as a zip archive but its directory is gone: it is truncated.
        """
        if self.path is None or not self.head.startswith(b"PK\x03\x04"):
            return ()
        try:
            with zipfile.ZipFile(self.path) as archive:
                # What is cut off inside a nested archive would pass for that archive.
                if min((member.header_offset for member in archive.infolist()), default=0) > 0:
                    raise zipfile.BadZipFile
                return tuple(archive.namelist())
        except zipfile.BadZipFile:
            raise ModelError(
                f"{self.path} is truncated or damaged: it begins as an archive but does not end as one; "
                "copy or export it again."
            ) from None
