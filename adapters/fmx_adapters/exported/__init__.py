"""Exported programs: ``.pt2`` files of ``torch.export.save``, and ``torch.export.ExportedProgram`` objects."""

from __future__ import annotations

import sys

from fmx.adapter import Model, ModelSource, OpenOptions

__all__ = ["ExportedAdapter"]


class ExportedAdapter:
    """Opens what ``torch.export.save`` wrote, and exported programs."""

    name = "exported"
    formats = "a .pt2 file of torch.export.save"

    def can_open(self, source: ModelSource) -> bool:
        """See `fmx.adapter.Adapter`."""
        if source.path is not None:
            return any(map(_is_telling, source.members))
        export = sys.modules.get("torch.export")
        return export is not None and isinstance(source.spec, export.ExportedProgram)

    def open(self, source: ModelSource, options: OpenOptions) -> Model:
        """See `fmx.adapter.Adapter`."""
        from fmx_adapters.exported.model import open_exported

        return open_exported(source, options)


def _is_telling(member: str) -> bool:
    """Say whether a file of this name is in archives of exported or compiled programs only.

    Up to torch 2.7 there was no folder around the files.
    """
    return member.partition("/")[2] == "archive_format" or member == "serialized_exported_program.json"
