"""State dicts: read as data, and loaded whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from fmx.errors import ModelError, near_matches

__all__ = ["apply_weights", "is_safetensors", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def is_safetensors(head: bytes) -> bool:
    """Say whether a file that begins like this is in the safetensors format: the length of a JSON header, then that."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**30


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict as data; a pickle that would run code is refused.

    A wrapper (``{"state_dict": …}``, ``{"model": …}``) and the prefix ``module.`` are taken off.

    Raises
    ------
    ModelError
        The file is missing, damaged, or holds something other than a state dict.
    """
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"There are no weights {path}: {near_matches(path.name, siblings)}")
    loaded = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, no state dict: save model.state_dict().")
    return {str(k).removeprefix("module."): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}


def _read(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(16)
    try:
        if is_safetensors(head):
            from safetensors.torch import load_file

            return load_file(path)
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
    module.load_state_dict(fitting, strict=False)
    return f"weights fit in part only: {said}" if said else ""


def _some(keys: list[str], what: str) -> str:
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
