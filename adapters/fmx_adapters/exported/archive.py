"""Reading ``.pt2`` archives as data.

torch's own loader trusts the file: it unpickles sample inputs and constants, evaluates the texts of symbolic lengths,
looks operations up by any name inside torch, writes names into the code that it makes, and starts compiled code. So it
is never given the file. Its parts are read and checked here, and torch is given a new archive in memory that holds just
those parts that are data: the graph, as `fmx_adapters.exported.checks` lets it through, and the bytes of the weights.
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from torch.export import ExportedProgram

from fmx.errors import ModelError
from fmx_adapters._archives import check_archive
from fmx_adapters._operators import missing_operator
from fmx_adapters.exported.checks import UnknownOperatorError, UnsafeProgramError, checked_payload, checked_program

__all__ = ["read_program"]

_PAYLOADS = {"weights": "weight", "constants": "tensor"}
_PICKLES = {"data/weights/model.pt", "data/constants/model.pt"}


def read_program(path: Path, *, trust: bool = False) -> ExportedProgram:
    """Read the exported program in an archive; nothing in the file is run.

    Parameters
    ----------
    path : Path
    trust : bool
        Let the graph use operators of libraries.

    Raises
    ------
    ModelError
        The archive is damaged, compiled, made by another version of torch, or holds more than a graph and weights.
    """
    parts = _read_parts(path)
    _check_kind(path, parts)
    try:
        clean = _clean_parts(path, parts, trust)
    except UnknownOperatorError as error:
        raise missing_operator(str(path), [error.name], trust=trust) from None
    except UnsafeProgramError as error:
        raise ModelError(f"{path} is not opened: {error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as an exported program ({_reason(error)}): export it again.") from None
    parts.clear()
    return _load(path, clean)


def _read_parts(path: Path) -> dict[str, bytes]:
    """Read all files of the archive by their names inside the folder that torch puts around them."""
    try:
        names = check_archive(path)
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2]: archive.read(name) for name in names}
    except (zlib.error, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is truncated or damaged ({_reason(error)}): copy or export it again.") from None


def _check_kind(path: Path, parts: Mapping[str, bytes]) -> None:
    """Refuse archives that hold something else than one exported program in the layout that is read here."""
    if any(name.startswith("data/aotinductor/") for name in parts):
        raise ModelError(
            f"{path} is compiled by AOTInductor: it holds machine code, which fmx does not run; "
            "give the file of torch.export.save from before the compilation."
        )
    if "archive_format" not in parts or not parts.keys().isdisjoint(_PICKLES):
        raise ModelError(
            f"{path} was saved by torch 2.8 or older, in a layout that relies on pickles: "
            "load it with that torch and save it again with torch 2.9 or newer."
        )
    version = parts.get("archive_version", b"").decode(errors="replace")
    if parts["archive_format"] != b"pt2" or version != "0":
        raise ModelError(
            f"{path} is an archive of version {version or 'unknown'}, and fmx knows version 0 of pt2: "
            "save it again with the torch that is installed here."
        )
    models = [name for name in parts if name.startswith("models/")]
    if models != ["models/model.json"]:
        raise ModelError(
            f"{path} holds {len(models)} programs ({', '.join(models) or 'none'}), and fmx opens archives of one "
            "called model: save it with torch.export.save."
        )


def _clean_parts(path: Path, parts: Mapping[str, bytes], trust: bool) -> dict[str, bytes]:
    """Make the parts of the new archive."""
    clean = {"archive_format": b"pt2", "archive_version": b"0", ".data/version": b"6\n", "byteorder": b"little"}
    if parts.get("byteorder", b"little") != b"little":
        raise UnsafeProgramError("its weights are in another byte order; export it on a little-endian machine")
    clean["data/sample_inputs/model.pt"] = b""
    program = checked_program(json.loads(parts["models/model.json"]), trust=trust)
    clean["models/model.json"] = json.dumps(program).encode()
    for folder, prefix in _PAYLOADS.items():
        name = f"data/{folder}/model_{folder}_config.json"
        config = checked_payload(json.loads(_part(path, parts, name)), prefix)
        clean[name] = json.dumps(config).encode()
        for entry in config["config"].values():
            file = f"data/{folder}/{entry['path_name']}"
            clean[file] = _part(path, parts, file)
            if math.prod(size["as_int"] for size in entry["tensor_meta"]["sizes"]) > len(clean[file]):
                raise ModelError(f"{path} was saved without some of its weights ({file}): save it with them.")
    return clean


def _part(path: Path, parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise ModelError(f"{path} is incomplete, {name} is missing: copy or export it again.")
    return parts[name]


def _load(path: Path, clean: dict[str, bytes]) -> ExportedProgram:
    try:
        from torch.export.pt2_archive._package import load_pt2
    except ImportError:
        raise ModelError(f"{path} needs torch 2.9 or newer.") from None
    made_by = re.sub(r"[^\w.+]", "", str(json.loads(clean["models/model.json"]).get("torch_version", "unknown")))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        while clean:  # so that there are never more than two copies of the weights
            name, data = clean.popitem()
            archive.writestr(f"model/{name}", data)
    buffer.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: ExportedProgram = load_pt2(buffer).exported_programs["model"]
            return loaded
    except Exception as error:  # a graph that contradicts itself fails anywhere inside torch
        raise ModelError(
            f"{path} can't be read as an exported program ({_reason(error)}); it was made by torch {made_by[:20]}: "
            "export it again with the torch that is installed here."
        ) from None


def _reason(error: BaseException) -> str:
    """Give the line of a message that says what was wrong: where torch wraps a traceback, the last one."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wrapped = any(line.startswith("Traceback") or "Original exception" in line for line in lines)
    chosen = (lines[-1] if wrapped else lines[0]) if lines else type(error).__name__
    return chosen[:200].rstrip(".:")
