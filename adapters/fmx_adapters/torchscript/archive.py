"""Reading TorchScript archives from somewhere else, as data and as computations that touch nothing but numbers.

``torch.jit.load`` runs no Python, but it compiles and may run the archive's own code (``__setstate__``), in which
``torch.save`` writes files, and it believes the archive about sizes, so that a short record lets a tensor read foreign
memory. An archive is therefore looked through before it is loaded.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from fmx.errors import ModelError
from fmx_adapters._archives import check_archive
from fmx_adapters._operators import missing_operator

__all__ = ["load_archive"]

# The folder of each pickle's tensors.
_PICKLES = {"data.pkl": "data", "constants.pkl": "constants"}
_PLAIN_MODULES = {"torch", "torch._utils", "torch.jit._pickle", "torch.serialization", "collections"}
_NAMESPACES = {"aten", "prim", "torchvision", "quantized", "_quantized", "prepacked", "mkldnn", "onednn", "sparse"}
_CLASSES = {"quantized", "sparse", "rnn", "xnnpack", "mkldnn"}

_TEXT = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|#[^\n]*""")
# Between a dot and a name TorchScript, like Python, takes white space and continued lines.
_TOUCHES_FILES = re.compile(r"\.[\s\\]*(save|from_file|rpc_sync|rpc_async|rpc_remote)\b")
_GETATTR = re.compile(r'\bgetattr\(([\w.()]+), "([\w-]*)"\)')
_OPS = re.compile(r"(?<![\w.])ops\b(?:\.(\w+)\.(\w+))?")
# Classes of torch and of this archive are written out as __torch__.torch.nn.…; a part of such a name may be a detour.
_PARTIAL_NAME = re.compile(r"\b__torch__(?:\.torch)?\b(?!\.\w)")
_UNKNOWN_OPERATOR = re.compile(r"Unknown builtin op: ([\w:]+)")
_TORCH_CLASS = re.compile(r"\b__torch__\.torch\.classes\b(?:\.(\w+))?")


def load_archive(path: Path, *, trust: bool = False) -> torch.jit.ScriptModule:
    """Load an archive onto the CPU.

    Parameters
    ----------
    path : Path
    trust : bool
        Let its code use operators of libraries and such as touch files.

    Raises
    ------
    ModelError
        It is damaged, inconsistent, would do more than compute, or needs an operator that is not there.
    """
    _check_content(path, check_archive(path), trust)
    with warnings.catch_warnings():
        # torch.jit is deprecated upstream; the files are there all the same.
        warnings.simplefilter("ignore")
        try:
            loaded: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
            return loaded
        except (RuntimeError, ValueError) as error:
            unknown = _UNKNOWN_OPERATOR.search(str(error))
            if unknown:
                raise missing_operator(str(path), [unknown[1]], trust=trust) from None
            reason = next((line for line in str(error).splitlines() if line.strip()), "").rstrip(".")
            raise ModelError(f"{path} can't be read as TorchScript ({reason}): export it again.") from None


def _check_content(path: Path, names: list[str], trust: bool) -> None:
    root = names[0].partition("/")[0]
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        for name in names:
            if name.lower().endswith(".py") and not trust:
                _check_code(path, archive.read(name).decode(errors="replace"))
        for name in names:
            folder = _PICKLES.get(name.lower().removeprefix(f"{root.lower()}/"))
            if folder is not None:
                _check_pickle(path, name, archive.read(name), f"{root}/{folder}", sizes)


# -- code ------------------------------------------------------------------------------------------


def _check_code(path: Path, code: str) -> None:
    """Refuse operators that touch files or that come from other libraries, however the code spells them."""
    # torch writes getattr(self, "0") for names that are no identifiers. Once these are dotted names like any other,
    # no getattr may be left.
    count = 1
    while count:
        code, count = _GETATTR.subn(lambda found: f"{found[1]}.{found[2] if found[2].isidentifier() else '_'}", code)
    if '"""' in code or "'''" in code:
        raise _refused(path, "text over several lines")
    code = _TEXT.sub(" ", code)
    if re.search(r"""\bgetattr\b|['"]""", code):
        raise _refused(path, "getattr with something other than a name")
    found = _TOUCHES_FILES.search(code)
    if found:
        raise _refused(path, f"aten::{found[1]}")
    _check_operators(path, code)
    if _PARTIAL_NAME.search(code):
        raise _refused(path, "a part of a class name")
    for found in _TORCH_CLASS.finditer(code):
        if found[1] not in _CLASSES:
            raise _refused(path, f"torch.classes.{found[1]}")


def _check_operators(path: Path, code: str) -> None:
    for found in _OPS.finditer(code):
        if not found[1]:
            raise _refused(path, "ops without an operator")
        if found[1] not in _NAMESPACES:
            raise missing_operator(str(path), [f"{found[1]}::{found[2]}"], trust=False)


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(
        f"{path} uses {what}, which may do more than compute: fmx loads such a file only with --trust, "
        "which lets its code do what it wants."
    )


# -- pickles ---------------------------------------------------------------------------------------


class _Inert:
    """Stands for every object of a pickle that is only looked at."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an element, as the list that this stands for would."""

    def extend(self, _: Any) -> None:
        """Take elements, as the list that this stands for would."""


class _Storage(_Inert):
    """Stands for a run of numbers in the archive."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


class _Reader(pickle._Unpickler):
    """Goes through a pickle without making or calling anything that it asks for; see how much it wants to read."""

    def __init__(self, data: bytes, folder: str, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(data))
        self._folder = folder
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        parts = module.split(".")
        of_archive = parts[0] == "__torch__" and (parts[1:3] != ["torch", "classes"] or bool(_CLASSES & {*parts[3:4]}))
        if not of_archive and module not in _PLAIN_MODULES:
            raise _AsksForCode(f"{module}.{name}")
        if name in {"_rebuild_tensor_v2", "_rebuild_qtensor"}:
            return _rebuilt
        return name if name.endswith("Storage") else _Inert

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid
        size = self._sizes.get(f"{self._folder}/{key}")
        if size is None or count * _width(kind) > size:
            raise ValueError(f"a tensor wants {count} numbers of {self._folder}/{key}, which has {size or 0} bytes")
        return _Storage(count)

    def get_extension(self, code: int) -> None:
        raise _AsksForCode(f"extension {code}")


class _AsksForCode(Exception):  # noqa: N818 - it is no error but a finding
    """The pickle asks for something that is no part of a TorchScript archive."""


def _rebuilt(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Inert:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and (min((offset, *size, *stride)) < 0 or last >= storage.count):
        raise ValueError(f"a tensor of shape {size} does not fit into its {storage.count} numbers")
    return _Inert()


def _width(kind: str) -> int:
    """Give the bytes of one number; a storage of unknown kind is taken to have at least one."""
    dtype = getattr(getattr(torch, kind, None), "_dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 1


def _check_pickle(path: Path, name: str, data: bytes, folder: str, sizes: dict[str, int]) -> None:
    name = name.rpartition("/")[2]
    try:
        _Reader(data, folder, sizes).load()
    except _AsksForCode as found:
        raise ModelError(
            f"{path} is no TorchScript archive as torch writes them: its {name} asks for {found}, "
            "and fmx runs no code from a file."
        ) from None
    except Exception as error:  # whatever a damaged or hand-made pickle leads to
        reason = str(error) or type(error).__name__
        raise ModelError(f"{path} is damaged: its {name} can't be read ({reason}); export it again.") from None
