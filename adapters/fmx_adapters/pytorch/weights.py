"""State dicts: read as data, and loaded whole or not at all."""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch

from fmx.errors import ModelError, near_files
from fmx_adapters._archives import check_archive

__all__ = ["Weights", "apply_weights", "is_safetensors", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def is_safetensors(head: bytes) -> bool:
    """Say whether a file that begins like this is in the safetensors format: the length of a JSON header, then that."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30


class Weights(dict[str, torch.Tensor]):
    """Tensors by name, and the versions of modules that torch keeps beside them, where there are any."""

    def __init__(self, loaded: Mapping[object, object]) -> None:
        super().__init__({str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)})
        kept = getattr(loaded, "_metadata", None)
        self.versions = {
            "" if name == "module" else str(name).removeprefix("module."): {"version": about["version"]}
            for name, about in (kept.items() if isinstance(kept, Mapping) else ())
            if isinstance(about, Mapping) and isinstance(about.get("version"), int)
        }


def read_state_dict(path: Path) -> Weights:
    """Read a state dict as data; a pickle that would run code is refused.

    A wrapper (``{"state_dict": …}``, ``{"model": …}``) and the prefix ``module.`` are taken off.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds something other than a state dict.
    """
    if not path.is_file():
        if path.is_dir():
            raise ModelError(f"{path} is a folder: give a file with weights.")
        raise ModelError(f"There are no weights {path}: {near_files(path)}")
    loaded = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, no state dict: save model.state_dict().")
    return Weights(loaded)


def _read(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK") and any("/code/" in name for name in check_archive(path)):
        raise ModelError(f"{path} is a TorchScript model: open it as the model, without --weights.")
    if head[:1] == b"\x08":
        raise ModelError(f"{path} is an ONNX model: open it as the model, without --weights.")
    if not head.startswith((b"PK", b"\x80")) and not is_safetensors(head):
        raise ModelError(f"{path} holds no weights: give a state dict (.pth, .pt) or a .safetensors file.")
    try:
        if is_safetensors(head):
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            # What torch has to say about odd pickles is advice to read them unsafely.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than weights, or is damaged: fmx reads weights as data only and runs no code from a "
            "file; save the model's state_dict() instead."
        ) from None
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} can't be read as weights ({reason}): copy or save it again.") from None


def apply_weights(module: torch.nn.Module, weights: str | None, *, allow_partial: bool = False) -> str:
    """Load a state dict into a module.

    Returns
    -------
    str
        What did not fit, for the user; empty where all did.

    Raises
    ------
    ModelError
        Something does not fit and `allow_partial` is not set; lists what.
    """
    if weights is None:
        return ""
    state = read_state_dict(Path(weights))
    own = module.state_dict()
    wrong = [k for k, v in own.items() if k in state and state[k].shape != v.shape]
    lists = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": wrong,
    }
    said = "; ".join(_some(keys, what) for what, keys in lists.items() if keys)
    fitting = {k: v for k, v in state.items() if k in own and k not in wrong}
    if said and not (allow_partial and fitting):
        hint = " Name the architecture that it was saved from" + (", or add --allow-partial." if fitting else ".")
        raise ModelError(f"{weights} does not fit the model: {said}.{hint}")
    given = OrderedDict(fitting)
    # Some modules load by the version that saved; what says none is taken for their own.
    given._metadata = getattr(own, "_metadata", {}) | state.versions  # type: ignore[attr-defined]
    module.load_state_dict(given, strict=False)
    return f"weights fit in part only: {said}" if said else ""


def _some(keys: list[str], what: str) -> str:
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
