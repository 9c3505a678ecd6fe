"""PyTorch modules: objects, ``torchvision:NAME`` and ``package.module:factory``, with a state dict beside them."""

from __future__ import annotations

import re
import sys

from fmx.adapter import Model, ModelSource, OpenOptions

__all__ = ["PyTorchAdapter"]

_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class PyTorchAdapter:
    """Opens torch modules, and sources that name how to build one."""

    name = "pytorch"
    formats = "torchvision:NAME, timm:NAME or package.module:factory with --weights STATE_DICT (PyTorch)"

    def can_open(self, source: ModelSource) -> bool:
        """See `fmx.adapter.Adapter`."""
        if source.path is not None:
            return _is_pickle(source)
        if isinstance(source.spec, str):
            return _NAMED.fullmatch(source.spec) is not None
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(source.spec, torch.nn.Module) and not _is_script(source)

    def open(self, source: ModelSource, options: OpenOptions) -> Model:
        """See `fmx.adapter.Adapter`."""
        from fmx_adapters.pytorch.sources import open_pytorch

        return open_pytorch(source, options)


def _is_script(source: ModelSource) -> bool:
    return isinstance(source.spec, sys.modules["torch"].jit.ScriptModule)


def _is_pickle(source: ModelSource) -> bool:
    """Say whether the file holds weights: a zip with a pickle and no code, a bare pickle, or safetensors."""
    if len(source.head) > 9 and source.head[8:9] == b"{" and int.from_bytes(source.head[:8], "little") < 2**30:
        return True
    names = source.members
    if names:
        roots = {name.split("/", 1)[0] for name in names}
        return any(f"{root}/data.pkl" in names for root in roots) and not any("/code/" in n for n in names)
    return source.head[:1] == b"\x80" and source.head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}
