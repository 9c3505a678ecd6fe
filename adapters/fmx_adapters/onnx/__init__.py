"""ONNX files and ``onnx.ModelProto`` objects, run by ONNX Runtime."""

from __future__ import annotations

import sys

from fmx.adapter import Model, ModelSource, OpenOptions

__all__ = ["OnnxAdapter"]


class OnnxAdapter:
    """Opens ONNX graphs."""

    name = "onnx"
    formats = "an ONNX file"

    def can_open(self, source: ModelSource) -> bool:
        """See `fmx.adapter.Adapter`."""
        if source.path is None:
            onnx = sys.modules.get("onnx")
            return onnx is not None and isinstance(source.spec, onnx.ModelProto)
        # ONNX has no magic number: a ModelProto begins with its first field, the version of the format.
        if source.head[:1] == b"\x08" and source.head[1:2] < b"\x20":
            return True
        return source.path.suffix == ".onnx" and not source.members and source.path.stat().st_size > 0

    def open(self, source: ModelSource, options: OpenOptions) -> Model:
        """See `fmx.adapter.Adapter`."""
        from fmx_adapters.onnx.model import open_onnx

        return open_onnx(source, options)
