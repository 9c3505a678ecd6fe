"""TorchScript archives and ScriptModules, traced or scripted."""

from __future__ import annotations

import sys

from fmx.adapter import Model, ModelSource, OpenOptions

__all__ = ["TorchScriptAdapter"]


class TorchScriptAdapter:
    """Opens what ``torch.jit.save`` wrote, and ScriptModules."""

    name = "torchscript"
    formats = "a TorchScript archive"

    def can_open(self, source: ModelSource) -> bool:
        """See `fmx.adapter.Adapter`."""
        if source.path is not None:
            names = source.members
            return any("/code/" in name for name in names) and any(n.endswith("/data.pkl") for n in names)
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(source.spec, torch.jit.ScriptModule)

    def open(self, source: ModelSource, options: OpenOptions) -> Model:
        """See `fmx.adapter.Adapter`."""
        from fmx_adapters.torchscript.model import open_torchscript

        return open_torchscript(source, options)
