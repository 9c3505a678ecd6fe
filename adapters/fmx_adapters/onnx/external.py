"""Weights that an ONNX file keeps in other files: only inside the model's own folder, and read where they lie.

A path in a model file is somebody else's word. One that is absolute, goes up, or leads through a link out of the folder
would make fmx read, and hand on, any file of the user's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from fmx.errors import ModelError

__all__ = ["check_external", "external_bytes", "is_external"]

_BLOCK = 2**24


def is_external(tensor: onnx.TensorProto) -> bool:
    """Say whether a tensor's values lie in another file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def check_external(model: onnx.ModelProto, file: Path) -> None:
    """Check that all external data of a model is there, inside the model's folder.

    Raises
    ------
    ModelError
        A tensor's data is missing, too short, or outside the folder.
    """
    for tensor in _tensors(model.graph):
        if is_external(tensor):
            place, offset, length = _place(tensor, file.parent)
            if not place.is_file():
                raise ModelError(f"{file} keeps weights in {place.name}, which is not beside it: copy that file too.")
            if offset + (length or 0) > place.stat().st_size:
                raise ModelError(f"{place} is truncated: copy or export it again.")


def external_bytes(tensor: onnx.TensorProto, folder: Path) -> Iterator[bytes]:
    """Read a tensor's external data block by block."""
    place, offset, length = _place(tensor, folder)
    left = place.stat().st_size - offset if length is None else length
    with place.open("rb") as file:
        file.seek(offset)
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            left -= len(block)
            yield block


def _place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int | None]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    place = folder / location
    inside = location and not Path(location).is_absolute() and ".." not in Path(location).parts
    if not inside or not place.resolve().is_relative_to(folder.resolve()) or _has_link(folder, place):
        raise ModelError(
            f"The model keeps weights in '{location}', outside its own folder: fmx reads no files from elsewhere; "
            "put them beside the model."
        )
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise ModelError(f"The model says wrongly where in '{location}' its weights are: export it again.") from None
    if offset < 0 or (length is not None and length < 0):
        raise ModelError(f"The model says wrongly where in '{location}' its weights are: export it again.")
    return place, offset, length


def _has_link(folder: Path, place: Path) -> bool:
    parts = [place, *place.parents]
    return any(part.is_symlink() for part in parts[: parts.index(folder)])


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for inner in [attribute.g, *attribute.graphs]:
                yield from _tensors(inner)
