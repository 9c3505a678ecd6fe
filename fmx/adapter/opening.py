"""Opening a model of any format: the adapters are asked in turn, by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from fmx.adapter.contract import Adapter, Model
from fmx.adapter.source import InputInfo, ModelSource, OpenOptions
from fmx.errors import ModelError, near_files

__all__ = ["adapters", "load"]

ENTRY_POINT_GROUP = "fmx.adapters"


def adapters() -> list[Adapter]:
    """Load every registered adapter, in the order of their names."""
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return [point.load()() for point in found]


def load(
    source: Any,
    *,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int | str]] | None = None,
    layout: str | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    operators: Sequence[str | Path] = (),
) -> Model:
    """Open a model of any format.

    Parameters
    ----------
    source : str, path or model object
        A TorchScript, ``.pt2`` or ONNX file, ``torchvision:NAME``, ``timm:NAME``, ``package.module:factory``, a
        ``torch.nn.Module``, a ScriptModule, an ``ExportedProgram`` or an ``onnx.ModelProto``.
    weights : str or path, optional
        State dict for a source that names an architecture.
    input_shape : sequence of int, or mapping of str to sequence, optional
        Shape of one sample without the batch axis, such as ``(3, 32, 32)``, for models that don't say; for models of
        several inputs the shape of each by its name. A shape may begin with the name of an element type:
        ``{"tokens": ("int64", 16), "scale": (1,)}``.
    layout : {"NCHW", "NHWC"}, optional
        Axes of the picture that the model takes.
    allow_partial : bool
        Load weights that fit in part only, and say in the model's notes what did not.
    trust : bool
        Run code that comes with the model. Without it a file's code runs only where it can do nothing but compute.
        What ``package.module:factory`` names is the user's own code, and runs in any case.
    operators : sequence of str or path
        Shared libraries with operators that the model needs: for ONNX Runtime (which export ``RegisterCustomOps``)
        or for torch. Loading one runs its code, so that it takes `trust`.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        Nothing can open the source, or its adapter can't; a library without `trust`.
    """
    if layout not in {None, "NCHW", "NHWC"}:
        raise ModelError(f"There is no layout {layout}: use NCHW or NHWC.")
    libraries = tuple(_library(path, trust=trust) for path in operators)
    candidate = ModelSource(source)
    named = input_shape if isinstance(input_shape, Mapping) else {}
    single = None if input_shape is None or named else tuple(int(n) for n in input_shape)
    options = OpenOptions(
        weights=None if weights is None else str(weights),
        input_shape=single,
        inputs=tuple(_named_input(name, shape) for name, shape in named.items()),
        layout=layout,
        allow_partial=allow_partial,
        trust=trust,
        operators=libraries,
    )
    known = adapters()
    for adapter in known:
        if adapter.can_open(candidate):
            return adapter.open(candidate, options)
    raise _unknown(candidate, known)


def _library(path: str | Path, *, trust: bool) -> str:
    """Look a library of operators up; one that is only a name would be searched for in other places."""
    if not trust:
        raise ModelError(f"{path} holds machine code, which runs when it is loaded: add --trust if you trust it.")
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no library {path}: {near_files(file)}")
    return str(file.resolve())


def _named_input(name: str, shape: Sequence[int | str]) -> InputInfo:
    """Read ``("int64", 16)`` or ``(3, 32, 32)``."""
    dtype = shape[0] if shape and isinstance(shape[0], str) else ""
    lengths = tuple(int(n) for n in (shape[1:] if dtype else shape))
    try:
        return InputInfo(name, lengths, np.dtype(dtype or "float32").name)
    except TypeError:
        raise ModelError(f"There is no element type {dtype}: use float32, int64 and the like.") from None


def _unknown(source: ModelSource, known: Sequence[Adapter]) -> ModelError:
    formats = "; ".join(adapter.formats for adapter in known)
    if source.path is not None:
        if source.path.stat().st_size == 0:
            return ModelError(f"{source.path} is empty: copy or export it again.")
        return ModelError(f"{source.path} is in none of the formats that fmx opens, or is damaged: {formats}.")
    if isinstance(source.spec, str | Path):
        path = Path(source.spec)
        if path.is_dir():
            return ModelError(f"{path} is a folder, not a model: give {formats}.")
        hint = f"fmx opens {formats}." if ":" in str(source.spec) else near_files(path)
        return ModelError(f"There is no model {source.spec}: {hint}")
    return ModelError(f"A {source.text} is no model that fmx opens: {formats}.")
